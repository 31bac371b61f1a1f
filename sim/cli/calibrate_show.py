"""``thinkcap calibrate show PROFILE``: what a profile says, in words and figures.

PROFILE is a name of ``thinkcap list profiles`` or a YAML file. Figures: step time against batch and context
with the roofline beside it, prefill against tokens; with --table the measured points on the fitted lines.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sim.cli._arguments import add_json, print_json

HELP = "what a profile says: error, range, physics, and figures of step time"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    parser.add_argument("profile", metavar="PROFILE", help="a shipped profile's name, or a YAML file")
    parser.add_argument("--table", metavar="FILE", help="measurements to draw as points")
    parser.add_argument("--out", metavar="FILE", help="page to write (default: PROFILE.html here); '-' writes none")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print and draw; raise InputError for an unknown profile."""
    from calibration import measurements, profile
    from sim.cli.calibrate_fit import data_of, words

    path = Path(args.profile)
    found = profile.load(path) if path.suffix in {".yaml", ".yml"} else profile.get(args.profile)
    out = None if args.out == "-" else Path(args.out or f"{found.name}.html")
    if not args.json:
        print("\n".join(words(found)))
        low, high = found.batch
        print(
            f"  measured: batch {low} to {high}, context {found.context[0]:,} to {found.context[1]:,}, "
            f"prefill steps to {found.tokens[1]:,} tokens"
        )
        for key, value in found.provenance.items():
            print(f"  {key}: {value}")
    if out is not None:
        from sim.report.calibration import write_profile

        write_profile(found, out, measurements.read(args.table) if args.table else None)
    if args.json:
        print_json({**data_of(found), "written": None if out is None else str(out)})
    elif out is not None:
        print(f"wrote {out}")
    return 0
