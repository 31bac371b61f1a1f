"""``thinkcap calibrate compose MODEL HARDWARE``: make a profile from published kernel times, without a GPU.

Kernel times are those of the package aiconfigurator-core (``pip install 'thinkcap[kernels]'``); see
``calibration/importers/aiconfigurator.py`` for what a composed step holds and what it leaves out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sim.cli._arguments import add_json, print_json

HELP = "compose a profile of any model from published kernel times (extra: kernels)"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    parser.add_argument("model", metavar="MODEL", nargs="?", help="a model, or a config.json")
    parser.add_argument("hardware", metavar="HARDWARE", nargs="?", help="a GPU whose kernels are published")
    parser.add_argument("--tp", type=int, default=1, metavar="N", help="tensor parallel size")
    parser.add_argument("--ep", action="store_true", help="experts whole on each GPU of the TP group")
    parser.add_argument("--dtype", default="auto", help="format of the weights (default: as published)")
    parser.add_argument("--kv-cache-dtype", default="auto", help="format of the KV cache (default: 16 bits)")
    parser.add_argument("--out", metavar="PATH", help="profile to write; with --all, the folder")
    parser.add_argument("--table", metavar="FILE", help="also write the composed steps as a measurement table")
    parser.add_argument("--all", action="store_true", help="make every shipped profile again")
    parser.add_argument("--only", default="", metavar="TEXT", help="with --all: names that contain it")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Compose, fit and write; raise InputError when a kernel was not measured or the model does not fit."""
    from calibration import measurements, profile
    from calibration.architecture import architecture
    from calibration.dtypes import dtype_name
    from calibration.hardware import hardware
    from calibration.importers.aiconfigurator import compose
    from calibration.importers.shipped import one, write_all
    from sim.cli.calibrate_fit import data_of, words
    from sim.errors import InputError, Problem

    if args.all:
        made: dict[str, str] = {}
        for name, why in write_all(Path(args.out) if args.out else profile.PROFILES, only=args.only):
            made[name] = why or "written"
            print(f"{name}: {why or 'written'}", file=sys.stderr)
        if args.json:
            print_json({"profiles": made})
        else:
            print(f"{sum(what == 'written' for what in made.values())} profiles written")
        return 0
    problems = [
        Problem("missing", key=key, expected="a name, or --all")
        for key in ("model", "hardware")
        if getattr(args, key) is None
    ]
    if args.tp < 1:
        problems.append(Problem(f"{args.tp}", key="--tp", expected="at least 1"))
    if problems:
        raise InputError(problems)
    dtype = "auto" if args.dtype == "auto" else dtype_name(args.dtype)
    kv_dtype = "auto" if args.kv_cache_dtype == "auto" else dtype_name(args.kv_cache_dtype, key="kv_cache_dtype")
    found = one(args.model, args.hardware, args.tp, dtype, ep=args.ep, kv_dtype=kv_dtype)
    out = Path(args.out or f"{found.name}.yaml")
    profile.dump(found, out)
    if args.table:
        frame = compose(
            architecture(args.model),
            hardware(args.hardware),
            tp=args.tp,
            ep=args.ep,
            dtype=dtype,
            kv_dtype=kv_dtype,
        )
        measurements.write(frame, args.table, {"licence": "Apache-2.0"})
    if args.json:
        print_json({**data_of(found), "written": [str(out), *([args.table] if args.table else [])]})
        return 0
    print("\n".join([*words(found), f"wrote {out}", *([f"wrote {args.table}"] if args.table else [])]))
    return 0
