"""How the simulation of a fleet grows: with queries, with replicas, and beside the bare loop on the same requests.

    python -m benchmarks.fleet [--queries N] [--replicas N] [--router NAME] [--quick]

Production-like reasoning traffic (preset deepseek-r1-production: lengths and bursts of ServeGen's clients) at RATE a
replica. Each row runs in a process of its own, so that peak memory is its own: CPU seconds, wall seconds, peak memory.
The bare loop then serves what each replica was given, one replica after the other: no router, no tables. More requests are
simulated than queries measured: others arrive until the last measured one is answered, so rows are compared by requests a second.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.reference import Load, reference
from sim.placement import place
from sim.results.results import Results
from sim.scenario.load import load
from sim.scenario.model import Scenario
from sim.simulate import simulate

RATE = 0.5
"""Queries a second a replica: the mean over the day of scenario day_fixed."""

WIDTHS = (9, 9, 8, 8, 9, 10, 8, 11)
"""Of the printed columns."""


@dataclass(frozen=True)
class Measured:
    """One row."""

    replicas: int
    queries: int
    requests: int
    cpu_s: float
    wall_s: float
    peak_bytes: int
    bare_s: float
    """CPU seconds of the bare loops; 0: not timed."""

    @property
    def ratio(self) -> float | None:
        """CPU time over that of the bare loops."""
        return self.cpu_s / self.bare_s if self.bare_s else None


def fleet(queries: int, replicas: int, router: str = "least_outstanding_requests") -> Scenario:
    """*queries* of the preset on *replicas* of R1-Distill-Llama-70B, each on four H100."""
    pool = {
        "model": "r1-distill-llama-70b",
        "hardware": "h100-sxm",
        "tensor_parallel_size": 4,
        "replicas": replicas,
        "engine": {"async_scheduling": False},
    }
    data: dict[str, Any] = {
        "name": "fleet",
        "seed": 1,
        "workload": {"preset": "deepseek-r1-production", "rate": f"{RATE * replicas:g}/s"},
        "pools": {"pool": pool},
        "router": router,
        "measure": {"queries": queries},
    }
    return load(data)


def loads(results: Results) -> list[Load]:
    """What each replica was given, in order of arrival."""
    requests = results.tables["requests"]
    found = []
    for replica in range(int(requests["replica"].max(initial=-1)) + 1):
        rows = np.flatnonzero((requests["replica"] == replica) & (requests["finished_s"] >= 0))
        arrived = np.rint(requests["arrived_s"][rows] * 1e12).astype(np.int64)
        output = (requests["reasoning_tokens"] + requests["answer_tokens"])[rows]
        found.append(Load(arrived.tolist(), requests["prompt_tokens"][rows].tolist(), output.tolist()))
    return found


def measured(queries: int, replicas: int, router: str, bare: bool) -> Measured:
    """Simulate once in this process."""
    scenario = fleet(queries, replicas, router)
    cpu, wall = time.process_time(), time.perf_counter()
    results = simulate(scenario)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    floor_s = 0.0
    if bare:
        ((name, pool),) = scenario.pools.items()
        placed = place(name, pool, scenario)
        work = loads(results)
        begin = time.process_time()
        for one in work:
            reference(one, placed.placed.step_cost, placed.settings)
        floor_s = time.process_time() - begin
    return Measured(replicas, queries, results.summary["totals"]["requests"], cpu, wall, peak, floor_s)


def alone(*row: Any) -> Measured:
    """The same in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found: Measured = pool.apply(measured, row)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Print the table: fewer queries, fewer replicas, and the whole size beside the bare loop."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=200_000)
    parser.add_argument("--replicas", type=int, default=64)
    parser.add_argument("--router", default="least_outstanding_requests")
    parser.add_argument("--quick", action="store_true", help="the whole size alone")
    options = parser.parse_args(arguments)
    queries, replicas = options.queries, options.replicas
    rows = [(queries, replicas, True)]
    if not options.quick:
        quarter = queries // 4
        rows = [
            (quarter, max(1, replicas // 8), True),
            (quarter, replicas, True),
            (queries // 2, replicas, False),
            *rows,
        ]
    print(f"router {options.router}, {RATE:g} queries/s a replica")
    names = ("replicas", "queries", "CPU s", "wall s", "requests", "requests/s", "peak MB", "x bare loop")
    print(" ".join(f"{name:>{width}}" for name, width in zip(names, WIDTHS, strict=True)))
    for count, size, bare in rows:
        row = alone(count, size, options.router, bare)
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        told = (
            f"{size}",
            f"{count:,}",
            f"{row.cpu_s:.1f}",
            f"{row.wall_s:.1f}",
            f"{row.requests:,}",
            f"{row.requests / row.cpu_s:,.0f}",
            f"{row.peak_bytes / 1e6:,.0f}",
            ratio,
        )
        print(" ".join(f"{text:>{width}}" for text, width in zip(told, WIDTHS, strict=True)), flush=True)


if __name__ == "__main__":
    main()
