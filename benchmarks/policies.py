"""How fast the engine is under every scheduler: with room, under some and under heavy KV pressure, prefix cache off and on.

    python -m benchmarks.policies [--requests N] [--repeats N] [--only NAME,NAME]

The traffic of the main table, dressed with what schedulers look at: eight clients, a deadline each, four fifths of an output
reasoning, an oracle of lengths. Process CPU time, one core, beside the bare loop on the same requests (first come, first served
as vLLM does it). A row that takes longer than its limit is cut there and says so: then the speed is that of the requests served.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from dataclasses import dataclass, field

from benchmarks.loads import BLOCKS, SQUEEZED, TIGHT, engine_settings, requests_of, scenario
from benchmarks.reference import Load
from benchmarks.run import bare
from calibration.step_cost import StepCost
from sim.engine.replica import make_replica
from sim.engine.request import FAR_FUTURE, Request
from sim.engine.settings import EngineSettings
from sim.placement import place
from sim.policies.schedulers import scheduler as schedulers
from sim.units import PS_PER_S

PRESSURES = {"room": BLOCKS, "some pressure": TIGHT, "heavy pressure": SQUEEZED}
LIMIT_S = 5.0
"""CPU time at which a row is cut."""
GOALS = {"vllm": 12_000}
GOAL = 5_000
"""Requests a second on a quiet machine, of every other scheduler that says for how long a plan holds."""


@dataclass
class Served:
    """One row, and what came of it."""

    name: str
    pressure: str
    caching: bool
    speeds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    ended: int = 0
    preemptions: int = 0
    cut: bool = False


def dressed(load: Load) -> list[Request]:
    """The requests of *load* with all that a scheduler may look at."""
    return [
        _dressed(number, *each)
        for number, each in enumerate(zip(load.arrived_ps, load.prompt_tokens, load.output_tokens, strict=True))
    ]


def _dressed(number: int, arrived_ps: int, prompt: int, output: int) -> Request:
    request = Request(
        number,
        arrived_ps=arrived_ps,
        prompt_tokens=prompt,
        output_tokens=output,
        reasoning_tokens=output * 4 // 5,
        max_tokens=output,
        client=number % 8,
    )
    request.deadline_ps = arrived_ps + (30 << number % 3) * PS_PER_S
    return request


def drive(requests: list[Request], cost: StepCost, settings: EngineSettings, scheduler: str) -> bool:
    """Feed *requests* to one replica; False when it was cut off at the limit."""
    replica = make_replica(settings, cost, schedulers.make(scheduler))
    begin, at, count = time.process_time(), 0, len(requests)
    end = replica.next_end_ps
    turns = 0
    while True:
        turns += 1
        if not turns % 64 and time.process_time() - begin > LIMIT_S:
            return False
        if at < count and (end is None or requests[at].arrived_ps < end):
            now = requests[at].arrived_ps
        elif end is not None:
            now = end
            replica.complete(now)
        else:
            return True
        while at < count and requests[at].arrived_ps == now:
            replica.submit(requests[at], now)
            at += 1
        # NOTE: alone for a minute at the most, so that the limit is seen
        end = replica.plan(now, min(now + 60 * PS_PER_S, requests[at].arrived_ps if at < count else FAR_FUTURE))


def measure(row: Served, requests: int) -> None:
    """Time *row* once, and the bare loop beside it."""
    case = scenario(requests, caching=row.caching, blocks=PRESSURES[row.pressure], scheduler=row.name)
    ((pool_name, pool),) = case.pools.items()
    cost = place(pool_name, pool, case).placed.step_cost
    load, settings = requests_of(case, requests), engine_settings(case)
    gc.collect()
    begin = time.process_time()
    bare(load, cost, settings)
    floor_s = time.process_time() - begin
    gc.collect()
    begin = time.process_time()
    made = dressed(load)
    row.cut = not drive(made, cost, settings, row.name)
    seconds = time.process_time() - begin
    ended = [request for request in made if request.finished_ps >= 0]
    row.ended, row.preemptions = len(ended), sum(request.preemptions for request in made)
    row.speeds.append(row.ended / seconds)
    row.ratios.append(seconds / floor_s)


def policies_table(requests: int, repeats: int, names: list[str] | None = None) -> list[Served]:
    """Every scheduler at every pressure, prefix cache off and on."""
    rows = [
        Served(name, pressure, caching)
        for name in names or schedulers.names()
        for pressure in PRESSURES
        for caching in (False, True)
    ]
    print(f"\nSchedulers, engine alone: {requests:,} requests")
    print(f"  {'':<44} {'requests/s':>11} {'goal':>8} {'x bare loop':>11} {'preemptions a request':>22}", flush=True)
    for row in rows:
        for _ in range(repeats):
            measure(row, requests)
            if row.cut:
                break
        words = f"{row.name}, {row.pressure}, cache {'on' if row.caching else 'off'}"
        goal, ratio = GOALS.get(row.name, GOAL), f"{statistics.median(row.ratios):.2f}"
        note = f"  cut at {LIMIT_S:g} s: {row.ended:,} of {requests:,} served" if row.cut else ""
        print(
            f"  {words:<44} {statistics.median(row.speeds):>11,.0f} {goal:>8,} {'' if row.cut else ratio:>11} "
            f"{row.preemptions / max(1, row.ended):>22.2f}{note}",
            flush=True,
        )
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.policies", description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=2_500)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--only", default="", help="names of schedulers, divided by commas")
    options = parser.parse_args()
    policies_table(options.requests, options.repeats, options.only.split(",") if options.only else None)


if __name__ == "__main__":
    main()
