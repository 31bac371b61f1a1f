"""``thinkcap calibrate import FORMAT FILE…``: step times that others published, as a measurement table.

FORMAT is splitwise (perf_model.csv of splitwise-sim), vidur (mlp.csv and attention.csv), llmservingsim (a
folder tpN of layer tables) or steps (tables with one step a row: decode_steps, prefill_steps). ``thinkcap
calibrate fit`` makes a profile of the table; ``thinkcap calibrate compose`` uses the kernels of
aiconfigurator-core directly.
"""

from __future__ import annotations

import argparse
from typing import Any

from sim.cli._arguments import add_json, print_json

HELP = "read step times that others published: splitwise-sim, Vidur, LLMServingSim, step tables"

FORMATS = ("splitwise", "vidur", "llmservingsim", "steps")


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    parser.add_argument("format", metavar="FORMAT", choices=FORMATS, help="one of " + ", ".join(FORMATS))
    parser.add_argument("files", metavar="FILE", nargs="+", help="files, or the folder of layer tables")
    parser.add_argument("--out", required=True, metavar="FILE", help="measurement table to write, .parquet")
    parser.add_argument(
        "--model", metavar="NAME", help="vidur, llmservingsim: the model measured; others: rows of it alone"
    )
    parser.add_argument(
        "--hardware", metavar="NAME", help="vidur, llmservingsim: the GPU measured; others: rows of it alone"
    )
    parser.add_argument(
        "--tp", type=int, metavar="N", help="tensor parallel size, the same (vidur, llmservingsim: default 1)"
    )
    parser.add_argument("--dtype", default=None, help="number format, the same")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Import and write; raise InputError for files that are not of the format."""
    from calibration import measurements
    from sim.errors import InputError, Problem

    if not args.out.endswith(".parquet"):
        raise InputError(Problem(f"{args.out!r}", key="--out", expected="a file that ends in .parquet"))
    counts = {"splitwise": 1, "vidur": 2, "llmservingsim": 1}
    wanted = counts.get(args.format)
    if wanted is not None and len(args.files) != wanted:
        what = {"splitwise": "perf_model.csv", "vidur": "mlp.csv attention.csv", "llmservingsim": "a folder"}
        raise InputError(Problem(f"{len(args.files)} files", key="FILE", expected=f"{wanted}: {what[args.format]}"))
    frame = _read(args)
    stated = sorted(set(frame["licence"].dropna())) if "licence" in frame else ["MIT"]
    about: dict[str, Any] = {"licence": ", ".join(map(str, stated))}
    if args.model:
        from calibration.architecture import architecture

        about["architecture"] = architecture(args.model).to_dict()
    measurements.write(frame, args.out, about)
    keys = frame.groupby(["gpu", "model", "dtype", "tp"]).size()
    if args.json:
        names = ("gpu", "model", "dtype", "tp", "steps")
        rows = [dict(zip(names, (*key, count), strict=True)) for key, count in keys.items()]
        print_json({"steps": len(frame), "written": args.out, "combinations": rows})
        return 0
    kinds = f"{len(keys)} combination{'s' if len(keys) != 1 else ''} of GPU, model, format and TP"
    print(f"{len(frame):,} steps of {kinds} written to {args.out}")
    for (gpu, model, dtype, tp), count in list(keys.items())[:20]:
        print(f"  {model} on {gpu}, {dtype}, TP{tp}: {count:,}")
    if len(keys) > 20:
        print(f"  and {len(keys) - 20} more")
    return 0


def _read(args: argparse.Namespace) -> Any:
    from calibration.architecture import architecture
    from calibration.importers import llmservingsim, splitwise, step_tables, vidur
    from sim.errors import InputError, Problem

    if args.format == "splitwise":
        return _only(splitwise.read(args.files[0]), args)
    if args.format == "steps":
        return _only(step_tables.read(*args.files), args)
    missing = [Problem("missing", key=f"--{name}") for name in ("model", "hardware") if not getattr(args, name)]
    if missing:
        raise InputError(missing)
    arch = architecture(args.model)
    if args.format == "vidur":
        mlp, attention = args.files
        return vidur.read(mlp, attention, arch, gpu=args.hardware, tp=args.tp or 1, dtype=args.dtype or "fp16")
    dtype = args.dtype or arch.native_dtype
    return llmservingsim.read(args.files[0], arch, gpu=args.hardware, tp=args.tp or 1, dtype=dtype)


def _only(frame: Any, args: argparse.Namespace) -> Any:
    """Rows of *frame* that the options ask for; raise InputError naming what there is when there are none."""
    from calibration.architecture import architecture
    from calibration.hardware import hardware
    from sim.errors import InputError, Problem

    asked = {
        "model": architecture(args.model).name if args.model else None,
        "gpu": hardware(args.hardware).name if args.hardware else None,
        "tp": args.tp,
        "dtype": args.dtype,
    }
    for column, value in asked.items():
        if value is None:
            continue
        there = sorted(frame[column].unique().tolist())
        same = frame[column].isin([cell for cell in there if _name(cell, column) == value])
        if not same.any():
            option = "--hardware" if column == "gpu" else f"--{column}"
            raise InputError(
                Problem(f"no step of {value}", key=option, expected="one of " + ", ".join(map(str, there)))
            )
        frame = frame[same]
    return frame.reset_index(drop=True)


def _name(cell: Any, column: str) -> Any:
    """What the table calls a model or a GPU, under our name where we know it."""
    from calibration.architecture import architecture
    from calibration.hardware import hardware
    from sim.errors import ThinkcapError

    try:
        if column == "gpu":
            return hardware(cell).name
        return architecture(cell).name if column == "model" else cell
    except ThinkcapError:
        return cell
