"""Simulate the load of a benchmark of a real server and show the prediction error of every metric.

RESULTS is what `vllm bench serve --save-result --save-detailed`, guidellm, aiperf (profile_export.jsonl) or
inference-perf (per_request_lifecycle_metrics.json) wrote; SCENARIO describes the server in its first pool.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from sim.cli._arguments import add_changes, load_scenario

HELP = "simulate the load of a real benchmark run and show the error"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    parser.add_argument("results", type=Path, metavar="RESULTS", help="result file of a load generator")
    parser.add_argument("scenario", metavar="SCENARIO", help="a YAML file, or the name of a shipped one")
    add_changes(parser)
    parser.add_argument("--json", action="store_true", help="print the records as JSON")


def run(args: argparse.Namespace) -> int:
    """Run it."""
    from sim.validation.serving_replay import compare, left_out, placed_pool
    from sim.validation.serving_results import read_results

    results = read_results(args.results)
    pool = placed_pool(load_scenario(args))
    for note in filter(None, (left_out(result, pool) for result in results)):
        print(note, file=sys.stderr)
    records = [record for result in results for record in compare(result, pool)]
    if args.json:
        print(json.dumps(records, indent=1, allow_nan=False))
        return 0
    placed = pool.placed
    print(f"{placed.architecture.name} on {placed.gpus} x {placed.hardware.name}: {placed.fidelity.words()}")
    for result in results:
        exactly = "as it was sent" if result.exact else "arrivals drawn from its rate"
        print(f"\n{result.name} ({result.tool}, {len(result.load):,} requests, {exactly})")
        print(f"{'metric':<16} {'measured':>10} {'predicted':>10} {'error':>8}   with steps 3 % shorter … longer")
        for record in records:
            if record["run"] == result.name:
                print(
                    f"{record['metric']:<16} {record['measured']:>10.4g} {record['predicted']:>10.4g} "
                    f"{record['signed_error']:>+8.1%}   {record['low']:.4g} … {record['high']:.4g}"
                )
    return 0
