"""Simulate a scenario, print what came of it, and keep tables and report in a directory.

The directory is replaced as a whole at the end: when anything goes wrong, what was there before is still
there.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from sim.cli._arguments import add_scenario, load_scenario, overrides_of

if TYPE_CHECKING:
    from sim.results import Results
    from sim.scenario.model import Scenario

HELP = "simulate a scenario and write its results and report"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    add_scenario(parser)
    parser.add_argument("--out", metavar="DIR", help="where to write (default: runs/NAME, replaced)")
    parser.add_argument(
        "--stepwise", action="store_true", help="walk every engine step one by one: the same results, slowly"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="split the replicas over N processes: the same results, where the router looks at nothing (round_robin …)",
    )
    parser.add_argument("--json", action="store_true", help="print summary.json instead of text")
    parser.add_argument("--quiet", action="store_true", help="no progress, no notes")


def run(args: argparse.Namespace) -> int:
    """Run it."""
    scenario = load_scenario(args)
    target = Path(args.out) if args.out is not None else Path("runs") / folder_name(scenario.name)
    check_target(target)
    results = _simulate(scenario, args)
    results.provenance["overrides"] = overrides_of(args)
    save(results, target)
    _print(results, target, as_json=args.json)
    return 0


def _simulate(scenario: Scenario, args: argparse.Namespace) -> Results:
    from sim.cli._progress import ProgressLine
    from sim.simulate import simulate

    if args.quiet:
        return simulate(scenario, stepwise=args.stepwise, workers=args.workers)
    line = ProgressLine(scenario)
    try:
        return simulate(scenario, stepwise=args.stepwise, progress=line, workers=args.workers)
    finally:
        line.end()


def folder_name(name: str) -> str:
    """*name* as a folder: words of any script, digits, dots and dashes.

    >>> folder_name("Peak hour / EU")
    'Peak-hour-EU'
    """
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "scenario"


def check_target(target: Path) -> None:
    """Raise an InputError before the work is done when *target* must not be replaced."""
    from sim.errors import InputError, Problem

    if target.exists() and not target.is_dir():
        raise InputError(Problem(f"{target} is a file", key="--out", expected="a directory"))
    if target.is_dir() and any(target.iterdir()) and not (target / "summary.json").is_file():
        raise InputError(
            Problem(
                f"{target} exists and does not hold results (no summary.json)",
                key="--out",
                expected="a new or empty directory, or one with earlier results",
            )
        )
    above = target.absolute().parent
    while not above.exists():
        above = above.parent
    if not above.is_dir():
        raise InputError(Problem(f"{above} is a file", key="--out", expected="a directory"))


def save(results: Results, target: Path) -> None:
    """Write tables and report to *target*, all or nothing."""
    from sim.report.page import write_report
    from sim.results import replace_directory

    def write(folder: Path) -> None:
        results.save(folder)
        write_report(results, folder / "report.html")

    replace_directory(target, write)


def _print(results: Results, target: Path, *, as_json: bool) -> None:
    if as_json:
        from sim.results.results import to_json

        print(to_json(results.summary), end="")
        return
    from sim.report.text import summary

    print(summary(results))
    print(f"\nresults  {target}\nreport   {target / 'report.html'}")
