"""Replay published serving runs and say how far the predictions are off.

CASES_DIR holds cases.csv and what it names (see docs/accuracy.md); without one, the shipped table of published
figures is used. Writes accuracy.json and accuracy.html.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

FLATTERING = (
    "The shipped runs are Llama-3.1-70B and two Qwen3 on H100 and gpt-oss-120b on H200, where predictions are at their best: "
    "over all published runs at hand 1,440 of 1,756 figures were within the bars, 296 of 388 of those neither used in fitting "
    "nor in view when something was chosen "
    "(docs/accuracy.md)."
)

HELP = "replay real serving runs and report the error of every figure"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    parser.add_argument(
        "cases", nargs="?", type=Path, metavar="CASES_DIR", help="folder with cases.csv (default: the shipped table)"
    )
    parser.add_argument("--only", action="append", default=[], metavar="PREFIX", help="cases whose id begins so")
    parser.add_argument("--sample", type=int, metavar="N", help="N cases, spread over the families")
    parser.add_argument("--no-band", action="store_true", help="leave out the band of ±3 %% of step cost (3x faster)")
    parser.add_argument("--requests", type=int, metavar="N", help="shorten closed loops to about N requests")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write accuracy.json and accuracy.html")
    parser.add_argument("--json", action="store_true", help="print the records instead of a summary")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> int:
    """Run it."""
    from sim.errors import InputError, Problem
    from sim.validation.accuracy import SHIPPED, run
    from sim.validation.accuracy_summary import bar_tables, lines, skips, summarise

    for name in ("sample", "requests"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(Problem(f"{value}", key=f"--{name}", expected="at least 1"))
    report = run(
        args.cases or SHIPPED,
        only=args.only,
        sample=args.sample,
        band=not args.no_band,
        most=args.requests,
        progress=None if args.quiet else _Progress(),
    )
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(report.records, indent=1, allow_nan=False) + "\n"
        (args.out / "accuracy.json").write_text(text, encoding="utf-8")
        from sim.report.accuracy import write

        write(
            report.records,
            summarise(report.records),
            skips(report.records),
            args.out / "accuracy.html",
            bars=bar_tables(report.records),
            source=args.cases.name if args.cases else f"the shipped table of published figures. {FLATTERING}",
            wall_s=report.wall_s,
        )
    if args.json:
        print(json.dumps(report.records, indent=1, allow_nan=False))
    else:
        print("\n".join(lines(report.records)))
        print(f"{report.cases:,} cases in {report.wall_s:,.1f} s")
        if not args.cases:
            print(FLATTERING)
    return 0


class _Progress:
    """How many cases are done, on stderr, now and then."""

    def __init__(self) -> None:
        self._next = time.monotonic() + 2

    def __call__(self, done: int, total: int, case: str) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 5
            print(f"{done:,} of {total:,} cases; now {case}", file=sys.stderr)
