"""Simulate the background article's tables and set its figures beside published ones and ours.

Writes DIR/reproduce.html, one page, and DIR/reproduce.json (docs/article.md says what is in it). Finished points are
kept in DIR and used again, also after Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from sim.cli._planning import add_runner, interrupted, runner_of

HELP = "simulate the tables of the background article and judge its claims"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    parser.add_argument("--only", metavar="TABLE", action="append", default=[], help="a table; may be given often")
    parser.add_argument("--quick", action="store_true", help="few queries a run: to see the page, not the evidence")
    add_runner(parser)
    parser.set_defaults(workers=min(os.cpu_count() or 1, 8))


def run(args: argparse.Namespace) -> int:
    """Run it."""
    import json

    from sim.planning.runs import Store
    from sim.report.article import write
    from sim.report.article_text import text
    from sim.results.results import plain
    from sim.validation.article.reproduce import reproduce

    default = Path("runs") / "reproduce"
    folder = Path(args.out) if args.out is not None else default
    args.resume = args.resume or Store.holds_points(folder)
    runner = runner_of(args, default)
    try:
        found = plain(reproduce(runner, only=args.only, quick=args.quick))
    except KeyboardInterrupt:
        return interrupted(runner)
    words = json.dumps(found, indent=2, allow_nan=False)
    (folder / "reproduce.json").write_text(words + "\n", encoding="utf-8")
    write(found, folder / "reproduce.html")
    if args.json:
        print(words)
    else:
        print(text(found))
        print(f"\npage  {folder / 'reproduce.html'}")
    return 0
