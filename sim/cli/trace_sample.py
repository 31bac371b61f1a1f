"""Draw a trace from a generator: what ``thinkcap trace fit`` wrote, a scenario's workload, or a preset by
name."""

from __future__ import annotations

import argparse

from sim.cli._arguments import add_json, print_json
from sim.cli._trace import add_output, load_workload

HELP = "draw a trace from workload.yaml or from a preset"

ENDLESS = 10_000
"""Queries drawn where neither the generator nor the command line says how many."""


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    parser.add_argument("workload", metavar="WORKLOAD", help="a YAML file with a workload section, or a preset")
    add_output(parser)
    add_json(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--queries", type=int, metavar="N", help="so many (default: as many as the fitted trace had)")
    how.add_argument("--duration", metavar="TIME", help="all that arrive before, such as 2h")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the draw (default: %(default)s)")
    parser.add_argument("--rate", metavar="RATE", help="mean rate, such as 8/s (default: the generator's)")


def run(args: argparse.Namespace) -> int:
    """Draw and write."""
    from pathlib import Path

    from sim.errors import InputError, Problem
    from sim.units import UnitError, parse_per_second, parse_seconds
    from workloads.drawn import batches_of
    from workloads.formats.write import write
    from workloads.source import build

    problems = []
    if args.queries is not None and args.queries < 1:
        problems.append(Problem(f"{args.queries} is not above zero", key="--queries"))
    if args.seed < 0:
        problems.append(Problem(f"{args.seed} is negative", key="--seed"))
    changes: dict[str, object] = {}
    duration: float | None = None
    for key, text, reader in (
        ("--duration", args.duration, parse_seconds),
        ("--rate", args.rate, parse_per_second),
    ):
        if text is not None:
            try:
                value = reader(text)
                if value <= 0:
                    problems.append(Problem(f"{text!r} is not above zero", key=key))
                elif key == "--rate":
                    changes["rate"] = value
                else:
                    duration = value
            except UnitError as error:
                problems.append(Problem(error.message, key=key, expected=error.expected))
    if problems:
        raise InputError(problems)
    spec, folder = load_workload(args.workload)
    if args.queries is not None or duration is not None:
        changes["queries"] = args.queries
    source = build(spec.model_copy(update=changes), seed=args.seed, base=folder)
    if source.closed_loop is not None:
        raise InputError(Problem("a closed loop has no arrival times of its own", source=args.workload))
    queries = args.queries
    if queries is None and duration is None and source.total is None:
        queries = ENDLESS
    batches = batches_of(source, queries=queries, duration_s=duration)
    rows = write(Path(args.out), batches, name=args.to)
    if args.json:
        print_json({"queries": rows, "source": source.name, "written": args.out, "seed": args.seed})
        return 0
    print(f"{rows:,} queries of {source.name} written to {args.out} (seed {args.seed})")
    return 0
