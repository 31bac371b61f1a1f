"""Fit step costs from benchmarks of a running server, by simulating the same load.

Each RESULT is a file of `vllm bench serve`, guidellm, aiperf or inference-perf. Two runs of different load tell the
cost of a step from that of a sequence in it; one run gives the step alone. The scenario's first pool describes the
server.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from sim.cli._arguments import add_changes, load_scenario

HELP = "fit step costs from benchmarks of a running server"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULT", help="result file of a load generator")
    parser.add_argument("--scenario", required=True, metavar="SCENARIO", help="describes the server in its first pool")
    add_changes(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the profile there")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Run it."""
    from calibration.profile import dump
    from sim.errors import InputError, Problem
    from sim.validation.serving_replay import fit, left_out, placed_pool, profile_of
    from sim.validation.serving_results import read_results

    results = [result for path in args.results for result in read_results(path)]
    pool = placed_pool(load_scenario(args))
    for note in filter(None, (left_out(result, pool) for result in results)):
        print(note, file=sys.stderr)
    try:
        fitted = fit(results, pool, say=lambda text: print(text, file=sys.stderr))
    except ValueError as error:
        raise InputError(Problem(str(error), source=str(args.results[0]))) from None
    figures = {
        "step_us": fitted.step_s * 1e6,
        "row_us": fitted.row_s * 1e6,
        "front_end_ms": fitted.front_end_s * 1e3,
        "error_before": fitted.before,
        "error_after": fitted.after,
        "error_left_out": fitted.left_out,
    }
    if args.out is not None:
        command = "thinkcap calibrate serving " + " ".join(path.name for path in args.results)
        date = datetime.now(UTC).date().isoformat()
        dump(profile_of(fitted, results, name=args.out.stem, command=command, date=date), args.out)
    if args.json:
        print(json.dumps(figures, indent=1, allow_nan=False))
        return 0
    print(f"a step takes {fitted.step_s * 1e6:+,.1f} us, a sequence in it {fitted.row_s * 1e6:+,.2f} us beside what")
    fidelity = pool.placed.fidelity
    print(f"{fidelity.profile} and {fidelity.engine} say; front end {fitted.front_end_s * 1e3:.1f} ms")
    for name, before in fitted.before.items():
        unseen = f", {fitted.left_out[name]:.1%} on a run left out" if name in fitted.left_out else ""
        print(f"mean absolute error of {name}: {before:.1%} before, {fitted.after.get(name, before):.1%} after{unseen}")
    if not fitted.left_out:
        print(
            "one run: nothing is left out to predict; away from its load the error is that of the profile it starts from"
        )
    if args.out is not None:
        print(f"profile  {args.out}")
    return 0
