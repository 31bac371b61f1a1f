"""How fast the engine and the whole simulation are, beside a bare exact loop in the same run.

    python -m benchmarks.run [--gate] [--requests N] [--repeats N] [--quick]

Process CPU time, one core, imports not counted. The repeats of all rows of a table are interleaved, so that
a noisy machine is noisy for all of them, and medians are printed. ``--gate`` exits with 1 when a row under
the gate takes more than 3 times what the bare loop takes on the same requests.
"""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.loads import BLOCKS, LONGER_RATE, RATE, SQUEEZED, engine_settings, requests_of, scenario
from benchmarks.reference import Load, reference
from calibration.step_cost import StepCost
from sim.engine.replica import make_replica
from sim.engine.request import FAR_FUTURE, Request
from sim.engine.settings import EngineSettings
from sim.placement import place
from sim.policies.schedulers import scheduler as schedulers
from sim.scenario.model import Scenario
from sim.simulate import simulate

GATE = 3.0
"""Bare loops that simulate() may take."""
LONG_S = 10.0
"""CPU time from which on a row is timed once."""
GOALS = {False: 30_000, True: 18_000}
"""Requests a second of simulate() on a quiet machine, by whether the prefix cache is on."""


@dataclass
class Row:
    """One thing that is timed: *work* returns (requests served, preemptions, steps)."""

    name: str
    work: Callable[[], tuple[int, int, int]]
    floor: Row | None = None
    gated: bool = False
    goal: int = 0
    times: list[float] = field(default_factory=list)
    result: tuple[int, int, int] = (0, 0, 0)

    @property
    def seconds(self) -> float:
        """Median CPU time."""
        return statistics.median(self.times)

    @property
    def ratio(self) -> float | None:
        """CPU time over that of the bare loop, each repeat by its neighbour; the median of that."""
        if self.floor is None:
            return None
        return statistics.median(a / b for a, b in zip(self.times, self.floor.times, strict=False))


def measure(rows: list[Row], repeats: int) -> None:
    """Time every row *repeats* times, round and round; a row that takes LONG_S only once."""
    for repeat in range(repeats):
        for row in rows:
            if repeat and row.times[0] > LONG_S:
                continue
            gc.collect()
            begin = time.process_time()
            row.result = row.work()
            row.times.append(time.process_time() - begin)


def show(title: str, rows: list[Row]) -> None:
    """Print a table."""
    print(f"\n{title}")
    print(
        f"  {'':<44} {'CPU s':>8} {'requests/s':>11} {'goal':>8} {'x bare loop':>11} {'preemptions':>11} {'steps':>12}"
    )
    for row in rows:
        served, preemptions, steps = row.result
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        shown = f"{steps:,}" if steps else ""
        goal = f"{row.goal:,}" if row.goal else ""
        speed = served / row.seconds
        print(
            f"  {row.name:<44} {row.seconds:>8.3f} {speed:>11,.0f} {goal:>8} {ratio:>11} {preemptions:>11,} {shown:>12}"
        )


# ---------------------------------------------------------------------- what is timed


def bare(load: Load, cost: StepCost, settings: EngineSettings) -> tuple[int, int, int]:
    """The bare loop."""
    floor = reference(load, cost, settings)
    return len(load.arrived_ps), floor.preemptions, floor.steps


def engine(
    load: Load, cost: StepCost, settings: EngineSettings, *, scheduler: str = "vllm", stepwise: bool = False
) -> tuple[int, int, int]:
    """One replica driven by hand: no cluster, no tables."""
    requests = drive(load, cost, settings, scheduler=scheduler, stepwise=stepwise)
    return len(requests), sum(request.preemptions for request in requests), 0


def drive(
    load: Load, cost: StepCost, settings: EngineSettings, *, scheduler: str = "vllm", stepwise: bool = False
) -> list[Request]:
    """Feed *load* to one replica and run it to the end."""
    replica = make_replica(settings, cost, schedulers.make(scheduler), stepwise=stepwise)
    requests: list[Request] = []
    arrived, prompts, outputs = load.arrived_ps, load.prompt_tokens, load.output_tokens
    count, at = len(arrived), 0
    end = replica.next_end_ps
    while True:
        if at < count and (end is None or arrived[at] < end):
            now = arrived[at]
        elif end is not None:
            now = end
            replica.complete(now)
        else:
            return requests
        while at < count and arrived[at] == now:
            request = Request(
                at,
                arrived_ps=now,
                prompt_tokens=prompts[at],
                output_tokens=outputs[at],
                max_tokens=outputs[at],
            )
            requests.append(request)
            replica.submit(request, now)
            at += 1
        end = replica.plan(now, arrived[at] if at < count else FAR_FUTURE)


def whole(scenario: Scenario, save: bool) -> tuple[int, int, int]:
    """``simulate`` with its tables, and maybe written to disk."""
    results = simulate(scenario)
    if save:
        with tempfile.TemporaryDirectory() as folder:
            results.save(Path(folder) / "run")
    totals = results.summary["totals"]
    return totals["requests"], totals["preemptions"], 0


def main_table(requests: int, repeats: int, blocks: int, title: str, goals: dict[bool, int]) -> list[Row]:
    """Bare loop, engine alone and the whole job; prefix cache off and on; synchronous and not. Where there are *goals* the
    gate is for written tables, too."""
    rows: list[Row] = []
    for caching in (False, True):
        word = "prefix cache on" if caching else "prefix cache off"
        sync = scenario(requests, caching=caching, blocks=blocks)
        both = scenario(requests, caching=caching, asynchronous=True, blocks=blocks)
        ((name, pool),) = sync.pools.items()
        cost = place(name, pool, sync).placed.step_cost
        load = requests_of(sync, requests)
        settings, settings_async = engine_settings(sync), engine_settings(both)
        floor = Row(f"bare loop, {word}", partial(bare, load, cost, settings))
        rows += [
            floor,
            Row(f"engine, {word}", partial(engine, load, cost, settings), floor),
            Row(f"engine, {word}, async", partial(engine, load, cost, settings_async), floor),
            Row(f"simulate(), {word}", partial(whole, sync, False), floor, True, goals.get(caching, 0)),
            Row(f"simulate(), {word}, async", partial(whole, both, False), floor, True),
            Row(f"simulate() and save(), {word}", partial(whole, sync, True), floor, bool(goals)),
        ]
    measure(rows, repeats)
    show(title, rows)
    return rows


def growth_table(requests: int, repeats: int) -> list[Row]:
    """Time against the number of requests, and against the length of outputs at an equal mean batch."""
    rows = [
        Row(f"simulate(), {count:,} requests", partial(whole, scenario(count), False))
        for count in (requests // 4, requests // 2, requests, 2 * requests)
    ]
    longer = scenario(requests, blocks=2 * BLOCKS, rate=LONGER_RATE, stretch=2)
    rows.append(Row("simulate(), outputs and their cap doubled", partial(whole, longer, False)))
    measure(rows, repeats)
    show("Growth: requests, and output length at the rate of an equal mean batch", rows)
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; 1 when a gate is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000, help="requests of the main table")
    parser.add_argument("--repeats", type=int, default=5, help="repeats of each row")
    parser.add_argument(
        "--gate", action="store_true", help=f"exit with 1 when simulate() takes over {GATE:g} bare loops"
    )
    parser.add_argument("--quick", action="store_true", help="the main table only")
    options = parser.parse_args(arguments)
    requests, repeats = options.requests, options.repeats
    python = f"{platform.python_implementation()} {platform.python_version()}"
    print(f"{python}, {platform.machine()}, one core; medians of {repeats}")
    title = f"{requests:,} requests, Poisson {RATE}/s, {BLOCKS:,} KV blocks"
    rows = main_table(requests, repeats, BLOCKS, title, GOALS)
    if not options.quick:
        title = f"{requests // 2:,} requests, {SQUEEZED:,} KV blocks: KV pressure"
        rows += main_table(requests // 2, repeats, SQUEEZED, title, {})
        growth_table(requests, max(1, repeats // 2))
        from benchmarks.policies import policies_table  # they need this module
        from benchmarks.strategies import strategies_table

        policies_table(requests // 4, max(1, repeats // 2))
        strategies_table(requests // 2, max(1, repeats // 2))
    missed = [row for row in rows if row.gated and row.ratio is not None and row.ratio > GATE]
    for row in missed:
        print(f"over {GATE:g} x the bare loop: {row.name} ({row.ratio:.2f})", file=sys.stderr)
    return 1 if missed and options.gate else 0


if __name__ == "__main__":
    sys.exit(main())
