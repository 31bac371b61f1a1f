"""What is known of how often models are right: every shipped figure with its source."""

from __future__ import annotations

import argparse

from sim.cli._arguments import add_json, print_json

HELP = "list the shipped accuracies and their sources"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    parser.add_argument("--benchmark", metavar="NAME", help="only of this one")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print them."""
    from sim.errors import InputError, Problem, nearest
    from workloads.quality.chain_of_thought import GAINS
    from workloads.quality.published import BENCHMARKS, ROWS

    if args.benchmark is not None and args.benchmark not in BENCHMARKS:
        expected = "one of " + ", ".join(BENCHMARKS)
        found = nearest(args.benchmark, BENCHMARKS)
        raise InputError(
            Problem(f"unknown benchmark {args.benchmark!r}", key="--benchmark", expected=expected, nearest=found)
        )
    if args.json:
        from dataclasses import asdict

        wanted = [name for name in BENCHMARKS if args.benchmark in (None, name)]
        print_json(
            {
                "rows": [asdict(row) for row in ROWS if row.benchmark in wanted],
                "benchmarks": {name: asdict(BENCHMARKS[name]) for name in wanted},
                "chain_of_thought": {name: asdict(gain) for name, gain in GAINS.items()} if not args.benchmark else {},
            }
        )
        return 0
    for row in ROWS:
        if args.benchmark in (None, row.benchmark):
            cons = "" if row.consensus_64 is None else f", cons@64 {100 * row.consensus_64:.1f} %"
            print(f"{row.model:<22} {row.benchmark:<14} {100 * row.accuracy:5.1f} %{cons}  [{row.source}]")
    for name, shared in BENCHMARKS.items():
        if args.benchmark in (None, name):
            print(
                f"{name}: concentration {shared.concentration:g}, {shared.wrong_answers} wrong answers, "
                f"guess {shared.guess:g}, settles after {shared.convergence:.0%} ({shared.note})"
            )
    if args.benchmark is None:
        print(
            "\nwhat a chain of thought gains (PaLM 540B, Wei et al. 2022): the prior of accuracy without reasoning, key task"
        )
        for task, gain in GAINS.items():
            print(f"{task:<22} {100 * gain.standard:5.1f} % to {100 * gain.chain_of_thought:.1f} %, {gain.steps} steps")
    return 0
