"""Scale a trace: its traffic, which keeps its burstiness, or its lengths.

Another rate stretches time, so that gaps keep their spread and bursts stay bursts; nothing is dropped or
repeated.
"""

from __future__ import annotations

import argparse

from sim.cli._arguments import add_json, print_json
from sim.cli._trace import Input, add_input, add_output

HELP = "scale a trace's rate (burstiness kept) or its lengths"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    add_input(parser)
    add_output(parser)
    add_json(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--rate", metavar="RATE", help="mean rate to scale to, such as 8/s")
    what.add_argument("--by", type=float, metavar="FACTOR", help="so many times the traffic")
    for name, text in (
        ("prompt", "prompt tokens"),
        ("reasoning", "reasoning tokens"),
        ("answer", "answer tokens (all output where the split is not known)"),
    ):
        parser.add_argument(f"--{name}", type=float, default=1.0, metavar="FACTOR", help=f"times as many {text}")


def run(args: argparse.Namespace) -> int:
    """Scale; with a rate the trace is read twice."""
    import math
    from pathlib import Path

    from sim.errors import InputError, Problem
    from sim.units import UnitError, parse_per_second
    from workloads.formats.write import write
    from workloads.transform import extent, scale

    problems = [
        Problem(f"{getattr(args, name):g} is not above zero", key=f"--{name}")
        for name in ("by", "prompt", "reasoning", "answer")
        if getattr(args, name) is not None and not (0 < getattr(args, name) < math.inf)
    ]
    if problems:
        raise InputError(problems)
    source = Input(args.trace, args.format)
    stretch = 1.0 if args.by is None else 1.0 / args.by
    if args.rate is not None:
        try:
            rate = parse_per_second(args.rate)
        except UnitError as error:
            raise InputError(Problem(error.message, key="--rate", expected=error.expected)) from None
        now = extent(source.batches()).rate
        if not (math.isfinite(now) and rate > 0):
            message = "the rate must be above zero" if rate <= 0 else "all queries of the trace arrive at once"
            raise InputError(Problem(message, key="--rate"))
        stretch = now / rate
    batches = scale(source.batches(), stretch=stretch, prompt=args.prompt, reasoning=args.reasoning, answer=args.answer)
    rows = write(Path(args.out), batches, name=args.to)
    source.tell()
    if args.json:
        print_json({"rows": rows, "written": args.out, "stretch": stretch, "notes": source.report.lines()})
        return 0
    print(f"{rows:,} rows written to {args.out}; time stretched by {stretch:.6g}")
    return 0
