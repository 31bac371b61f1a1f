"""What sweep, compare and plan share: where points go, how many workers, progress with the time left."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.planning.point import Task
    from sim.planning.precision import Precision
    from sim.planning.runs import Progress, Runner
    from sim.scenario.model import Scenario


def add_runner(parser: argparse.ArgumentParser) -> None:
    """Declare ``--out``, ``--resume``, ``--workers``, ``--backend``, ``--address``, ``--quiet`` and ``--json``."""
    parser.add_argument("--out", metavar="DIR", help="where points and results go")
    parser.add_argument("--resume", action="store_true", help="go on with the points that DIR has")
    parser.add_argument("--workers", metavar="N", type=int, default=1, help="processes (default: 1)")
    parser.add_argument(
        "--backend", default="processes", metavar="NAME", help="processes, ray or dask (extra: cluster)"
    )
    parser.add_argument("--address", metavar="ADDRESS", help="of the Ray or Dask cluster, as these take it")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--quiet", action="store_true", help="no progress, no notes")


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Declare ``--precision``, ``--precision-of`` and ``--most-replications``."""
    parser.add_argument(
        "--precision",
        metavar="SHARE",
        help="replications until half of the 95 %% interval is at most this part of the figure, such as 5%%",
    )
    parser.add_argument(
        "--precision-of", metavar="FIGURE", help="such as p99_tta or attainment (default: that of the first target)"
    )
    parser.add_argument("--most-replications", metavar="N", type=int, default=50, help="then stop (default: 50)")


def precision_of(args: argparse.Namespace, scenario: Scenario) -> Precision | None:
    """What *args* ask for, if anything; raise an InputError for what is no share or no figure."""
    from sim.errors import InputError, Problem
    from sim.planning.precision import Precision, deciding
    from sim.units import UnitError, parse_share

    if args.precision is None:
        if args.precision_of is not None:
            raise InputError(Problem("needs --precision", key="--precision-of", expected="--precision 5%"))
        return None
    try:
        width = parse_share(args.precision)
    except UnitError:
        raise InputError(Problem(f"{args.precision!r}", key="--precision", expected="a share, such as 5%")) from None
    return Precision(width, args.precision_of or deciding(scenario), args.most_replications)


def runner_of(args: argparse.Namespace, default: Path) -> Runner:
    """The runner that *args* ask for; raise an InputError where DIR has points and ``--resume`` is missing."""
    from sim.errors import InputError, Problem, nearest
    from sim.planning.runs import BACKENDS, Runner, Store

    folder = Path(args.out) if args.out is not None else default
    problems = []
    if args.workers < 1:
        problems.append(Problem(f"{args.workers}", key="--workers", expected="at least 1"))
    if args.backend not in BACKENDS:
        near = nearest(args.backend, BACKENDS)
        problems.append(Problem(f"{args.backend!r}", key="--backend", expected=", ".join(BACKENDS), nearest=near))
    if not args.resume and Store.holds_points(folder):
        problems.append(
            Problem(f"{folder} holds finished points", key="--out", expected="--resume to use them, or another --out")
        )
    if problems:
        raise InputError(problems)
    progress = None if args.quiet else Line()
    return Runner(Store(folder), workers=args.workers, backend=args.backend, address=args.address, progress=progress)


def estimate(runner: Runner, tasks: list[Task]) -> str:
    """What *tasks* will take, from the one that promises most work, which is computed (and kept) for it."""
    from sim.units import format_bytes, format_duration

    keys = {task.key: task for task in tasks}
    missing = [task for key, task in keys.items() if runner.store.get(key) is None]
    if len(missing) < 2:
        return ""
    quiet, runner.progress = runner.progress, None
    record = runner.run([missing[len(missing) // 2]])[0]
    runner.progress = quiet
    time_s = record["wall_s"] * (len(missing) - 1) / runner.workers
    memory = (record["peak_memory_bytes"] or 0) * runner.workers
    return (
        f"{len(missing):,} points to compute, about {format_duration(time_s)} and "
        f"{format_bytes(memory)} of memory with {runner.workers} worker{'s' if runner.workers > 1 else ''}"
    )


class Line:
    """Progress on stderr: rewritten on a terminal, now and then elsewhere."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self._shown = -1e9
        self._width = 0

    def __call__(self, progress: Progress) -> None:
        """Show it, if it is time to."""
        from sim.units import format_bytes, format_duration

        last = progress.done == progress.total
        if progress.elapsed_s - self._shown < (0.2 if self.terminal else 5.0) and not (last and self.terminal):
            if not last:
                return
            if progress.elapsed_s < 5.0:
                self._shown = -1e9
                return
        self._shown = -1e9 if last else progress.elapsed_s
        left = "" if progress.left_s is None or last else f", {format_duration(progress.left_s)} left"
        failed = f", {progress.failed:,} failed" if progress.failed else ""
        text = (
            f"{progress.done:,} of {progress.total:,} points{failed}{left}, "
            f"{format_bytes(progress.peak_memory_bytes)} a worker"
        )
        if self.terminal:
            sys.stderr.write("\r" + text.ljust(self._width) + ("\n" if last else ""))
            self._width = len(text)
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()


def interrupted(runner: Runner) -> int:
    """What is said after Ctrl-C: nothing finished is lost."""
    print(
        f"\nthinkcap: interrupted; {runner.computed:,} points computed are kept in {runner.store.folder}, "
        "go on with --resume",
        file=sys.stderr,
    )
    return 130
