"""Whether two workers of a sweep are worth two cores, beside two bare loops in the same run.

    python -m benchmarks.sweep [--points N] [--repeats N] [--queries N]

Each repeat times, one after another: a bare CPU loop done twice by one process and once each by two, and a sweep of N
points by one worker and by two, every time into an empty store. Speed-ups are ratios of wall times; what counts is the
sweep's over the bare loops', the median of the repeats, since other work on the machine slows down both. The modules are
loaded before, as they would be once for any number of workers.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sim.planning import sweep
from sim.planning.runs import Runner, Store

GOAL = 0.9


def bare(rounds: int) -> int:
    """A loop that does nothing but compute."""
    total = 0
    for number in range(rounds):
        total = (total * 31 + number) & 0xFFFFFFFF
    return total


def alone(rounds: int) -> None:
    """Twice the loop, in one process."""
    bare(rounds)
    bare(rounds)


def together(rounds: int) -> None:
    """Once the loop in each of two processes."""
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=bare, args=(rounds,)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()


def swept(found: list[sweep.Point], workers: int) -> None:
    """The sweep, into a store of its own."""
    with tempfile.TemporaryDirectory() as folder:
        sweep.run(found, Runner(Store(Path(folder)), workers=workers))


def timed(work: Callable[[], None]) -> float:
    """Wall time in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Print the speed-ups and their ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip())
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--queries", type=int, default=1000, help="measured of each point")
    args = parser.parse_args()
    changes = [f"measure.queries={args.queries}", "measure.replications=1", "measure.max_drain=10 min"]
    axes = [sweep.parse_axis(f"workload.rate=0.5..1.5:{args.points}/s")]
    found = sweep.points("quickstart", changes, sweep.grid(axes))
    swept(found[:1], 1)
    rounds = 20_000_000
    ratios = []
    for number in range(args.repeats):
        loops = timed(lambda: alone(rounds)), timed(lambda: together(rounds))
        sweeps = timed(lambda: swept(found, 1)), timed(lambda: swept(found, 2))
        loops_again = timed(lambda: alone(rounds)), timed(lambda: together(rounds))
        bare_gain = (loops[0] + loops_again[0]) / (loops[1] + loops_again[1])
        gain = sweeps[0] / sweeps[1]
        ratios.append(gain / bare_gain)
        print(
            f"repeat {number + 1}: two bare loops {bare_gain:.2f}x, sweep of {args.points} points {gain:.2f}x "
            f"({sweeps[0]:.1f} s, {sweeps[1]:.1f} s), ratio {ratios[-1]:.2f}",
            flush=True,
        )
    print(f"median ratio {statistics.median(ratios):.2f} (goal: {GOAL:g})")


if __name__ == "__main__":
    main()
