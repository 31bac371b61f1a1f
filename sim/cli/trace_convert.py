"""Turn a trace of any known format into another, row by row, in constant memory.

Traces of Azure, BurstGPT, Mooncake, Qwen-Bailian, ServeGen, Splitwise, Vidur, vllm bench, ShareGPT,
guidellm, AIPerf and inference-perf, OpenAI-style usage logs and OpenTelemetry spans are recognised by their
content.
"""

from __future__ import annotations

import argparse

from sim.cli._arguments import add_json, print_json
from sim.cli._trace import Input, add_input, add_output

HELP = "turn a trace into our columns, or into the input of a load generator"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    add_input(parser)
    add_output(parser)
    add_json(parser)
    parser.add_argument("--sort", action="store_true", help="sort rows by arrival (in parts, beside FILE)")


def run(args: argparse.Namespace) -> int:
    """Convert; say what was noticed."""
    from pathlib import Path

    from workloads.formats.write import write
    from workloads.sorting import by_arrival

    source = Input(args.trace, args.format, any_order=args.sort)
    out = Path(args.out)
    batches = source.batches()
    if args.sort:
        out.parent.mkdir(parents=True, exist_ok=True)
        batches = by_arrival(batches, out.parent)
    rows = write(out, batches, name=args.to)
    source.tell()
    if args.json:
        print_json({"rows": rows, "format": source.title, "written": args.out, "notes": source.report.lines()})
        return 0
    print(f"{rows:,} rows of {source.title} written to {args.out}")
    return 0
