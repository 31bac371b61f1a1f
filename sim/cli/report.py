"""Render the report of a run again from its tables, without simulating."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from sim.cli._arguments import add_json, print_json

HELP = "render the report of a run again, without simulating"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    parser.add_argument("directory", metavar="DIR", help="results that `thinkcap run` wrote")
    parser.add_argument("--out", metavar="FILE", help="where to write (default: DIR/report.html)")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Render, then put the file in place."""
    from sim.report.page import write_report
    from sim.report.text import summary
    from sim.results import Results

    results = Results.load(args.directory)
    target = Path(args.out) if args.out else Path(args.directory) / "report.html"
    fresh = target.with_name(f".{target.name}.new")
    try:
        write_report(results, fresh)
        os.replace(fresh, target)
    finally:
        fresh.unlink(missing_ok=True)
    if args.json:
        print_json({"report": str(target), "summary": results.summary})
        return 0
    print(summary(results))
    print(f"\nreport   {target}")
    return 0
