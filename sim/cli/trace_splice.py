"""Cut traces, put them one after another, or lay them on top of each other.

thinkcap trace splice day.csv --from 2h --until 3h --out hour.csv
thinkcap trace splice quiet.csv busy.csv --out longer.csv
thinkcap trace splice chat.csv batch.csv --merge --out both.csv
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sim.cli._arguments import add_json, print_json
from sim.cli._trace import Input, add_format, add_output

if TYPE_CHECKING:
    import pyarrow as pa

HELP = "cut traces, put them one after another, or on top of each other"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    parser.add_argument("traces", metavar="TRACE", nargs="+", help="one or more trace files")
    add_format(parser)
    add_output(parser)
    add_json(parser)
    parser.add_argument(
        "--merge", action="store_true", help="on top of each other, by time (default: one after another)"
    )
    parser.add_argument("--from", dest="begin", metavar="TIME", help="cut what arrives before, in each trace")
    parser.add_argument("--until", dest="end", metavar="TIME", help="cut what arrives at or after, in each trace")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="the whole N times over")
    parser.add_argument("--gap", default="0 s", metavar="TIME", help="pause between one trace and the next")


def run(args: argparse.Namespace) -> int:
    """Splice."""
    from pathlib import Path

    from sim.errors import InputError, Problem
    from workloads.formats.write import write
    from workloads.transform import append, cut, merge

    begin, end = _seconds(args.begin, "--from", 0.0), _seconds(args.end, "--until", float("inf"))
    if end <= begin:
        raise InputError(Problem(f"nothing lies between {begin:g} s and {end:g} s", key="--until"))
    if args.repeat < 1:
        raise InputError(Problem(f"{args.repeat} times is nothing", key="--repeat", expected="1 or more"))
    if args.merge and args.repeat > 1:
        raise InputError(Problem("goes with traces one after another only", key="--repeat"))
    sources = [Input(name, args.format) for name in args.traces]

    def opened(source: Input) -> Iterator[pa.RecordBatch]:
        if begin == 0.0 and end == float("inf"):
            return source.batches()
        return cut(source.batches(), begin_s=begin, end_s=end)

    inputs = [lambda source=source: opened(source) for source in sources * args.repeat]
    batches = merge(inputs) if args.merge else append(inputs, gap_s=_seconds(args.gap, "--gap", 0.0))
    rows = write(Path(args.out), batches, name=args.to)
    sources = list({source.path: source for source in sources}.values())
    for source in sources:
        source.tell()
    if args.json:
        notes = [line for source in sources for line in source.report.lines()]
        print_json({"rows": rows, "written": args.out, "notes": notes})
        return 0
    print(f"{rows:,} rows written to {args.out}")
    return 0


def _seconds(text: str | None, key: str, otherwise: float) -> float:
    from sim.errors import InputError, Problem
    from sim.units import UnitError, parse_seconds

    if text is None:
        return otherwise
    try:
        return parse_seconds(text)
    except UnitError as error:
        raise InputError(Problem(error.message, key=key, expected=error.expected)) from None
