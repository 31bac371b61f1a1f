"""``thinkcap calibrate fit m.parquet``: turn measured step times into a profile, with its error and a check
against physics.

The table has the columns of ``calibration/measurements.py``; ``thinkcap calibrate measure`` and ``thinkcap
calibrate import`` write such tables. A profile is of one model, GPU, number format and tensor parallel size:
choose with --only.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from sim.cli._arguments import add_json, print_json

HELP = "fit a profile to measured step times, with its error on what was left out"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    parser.add_argument("table", metavar="FILE", nargs="+", help="measurements, Parquet or CSV")
    parser.add_argument("--out", required=True, metavar="FILE", help="profile to write, such as profile.yaml")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="COLUMN=VALUE",
        help="take these rows; may be given often",
    )
    parser.add_argument("--model", metavar="NAME", help="the model measured, when the table's name is not known")
    parser.add_argument("--hardware", metavar="NAME", help="the GPU, when the table's name is not known")
    parser.add_argument("--residuals", metavar="FILE", help="also draw measured against fitted, as HTML")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Fit, write and say how well; raise InputError for a table that cannot be fitted."""
    import hashlib

    import pandas as pd

    from calibration import measurements, profile
    from calibration.hardware import hardware
    from calibration.make import make
    from sim.errors import InputError, Problem

    problems = []
    if not Path(args.out).parent.is_dir():
        problems.append(Problem(f"there is no folder {str(Path(args.out).parent)!r}", key="--out"))
    if Path(args.out).suffix not in {".yaml", ".yml"}:
        problems.append(Problem(f"{args.out!r}", key="--out", expected="a file that ends in .yaml"))
    if problems:
        raise InputError(problems)
    frames = [measurements.read(path) for path in args.table]
    attrs: dict[str, Any] = {str(key): value for key, value in frames[0].attrs.items()}
    frame = pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]
    source = ", ".join(args.table)
    frame = _only(frame, args.only, source)
    digest = hashlib.sha256(b"".join(Path(path).read_bytes() for path in args.table)).hexdigest()
    provenance: dict[str, Any] = {
        "source": ", ".join(sorted(set(frame["source"]))),
        "licence": str(attrs.get("licence", "")),
        "version": ", ".join(sorted(set(frame["engine"]) - {""})),
        **{key: attrs[key] for key in ("device", "driver", "cuda", "torch", "date") if key in attrs},
        "measured_by": str(attrs.get("command", "")),
        "command": "thinkcap calibrate fit " + shlex.join([*args.table, *_only_arguments(args.only)]),
        "data_sha256": digest,
    }
    made, done = make(
        frame,
        provenance={key: value for key, value in provenance.items() if value not in ("", None)},
        arch=_architecture(args.model, frame, attrs.get("architecture"), source),
        gpu=hardware(args.hardware) if args.hardware else None,
        source=source,
    )
    profile.dump(made, args.out)
    if args.residuals:
        from sim.report.calibration import write_residuals

        write_residuals(made, done.fit, done.rows, args.residuals)
    written = [args.out, *([args.residuals] if args.residuals else [])]
    if args.json:
        print_json({**data_of(made), "written": written})
    else:
        print("\n".join([*words(made), *(f"wrote {path}" for path in written)]))
    if not made.physics:
        print(
            f"note: {made.hardware!r} is not a known GPU, so nothing was checked against its peaks "
            "(--hardware NAME, or a YAML file of it)",
            file=sys.stderr,
        )
    return 0


def _architecture(wanted: str | None, frame: Any, stated: Any, source: str) -> Any:
    """The model measured: what --model says, the shapes that the table carries, or what its name tells; None where the
    table holds several. Raise an InputError when none of them tells it.
    """
    from calibration.architecture import architecture, from_dict, names
    from sim.errors import InputError, Problem, nearest

    if wanted:
        return architecture(wanted)
    found = sorted(set(frame["model"]))
    if len(found) != 1:
        return None
    if stated and stated.get("name") == found[0]:
        return from_dict(stated, source=source)
    try:
        return architecture(found[0])
    except InputError:
        raise InputError(
            Problem(
                f"unknown model {found[0]!r}",
                source=source,
                key="model",
                expected="a name of `thinkcap list models`, or --model with one or the config.json of the model measured",
                nearest=nearest(found[0], names()),
            )
        ) from None


def data_of(made: Any) -> dict[str, Any]:
    """A profile's errors, physics, range and provenance as data."""
    from dataclasses import asdict

    return {
        "name": made.name,
        "error": {key: asdict(error) for key, error in made.error.items()},
        "physics": dict(made.physics or {}),
        "borrowed": dict(made.borrowed),
        "batch": list(made.batch),
        "context": list(made.context),
        "tokens": list(made.tokens),
        "provenance": dict(made.provenance),
    }


def words(made: Any) -> list[str]:
    """A profile's errors and physics, one line each."""
    runs = made.provenance.get("runs")
    if runs:
        out = [f"{made.name}: fitted to {len(runs)} benchmark run{'s' if len(runs) > 1 else ''}"]
    else:
        out = [f"{made.name}: {made.provenance.get('rows', '?')} steps fitted"]
    names = {
        "decode": "decode, fitted",
        "prefill": "prefill, fitted",
        "cached": "prefill on cached context, fitted",
        "mixed": "mixed, fitted",
        "decode_unseen_contexts": "decode, contexts left out",
        "decode_unseen_batches": "decode, batches left out",
        "started_from": "steps of the profile it starts from",
        "runs_fitted": "mean TPOT of the runs fitted",
        "runs_left_out": "mean TPOT of runs left out",
    }
    for key, error in made.error.items():
        out.append(
            f"  {names.get(key, key):<34} error {error.median:6.2%} median {error.p95:7.2%} p95 "
            f"bias {error.bias:+.2%}  n={error.n}"
        )
    if made.physics:
        parts = {
            "weights": "weights read",
            "kv": "KV read",
            "compute": "matrices",
            "attention": "prefill attention",
        }
        shares = ", ".join(f"{parts.get(key, key)} {value:.0%}" for key, value in made.physics.items())
        out.append(f"  shares of the GPU's peaks: {shares}")
    out += [f"  {name} not measured: {why}" for name, why in made.borrowed.items()]
    return out


def _only_arguments(only: list[str]) -> list[str]:
    return [part for item in only for part in ("--only", item)]


def _only(frame: Any, only: list[str], source: str) -> Any:
    from sim.errors import InputError, Problem, nearest

    for item in only:
        column, equals, value = item.partition("=")
        if not equals or column not in frame.columns:
            raise InputError(
                Problem(
                    f"{item!r}",
                    source=source,
                    key="--only",
                    expected="COLUMN=VALUE with one of " + ", ".join(frame.columns),
                    nearest=nearest(column, list(frame.columns)),
                )
            )
        kept = frame[frame[column].astype(str) == value]
        if kept.empty:
            found = sorted(set(frame[column].astype(str)))
            raise InputError(
                Problem(
                    f"no row has {column} {value!r}",
                    source=source,
                    key="--only",
                    expected="one of " + ", ".join(found[:12]),
                    nearest=nearest(value, found),
                )
            )
        frame = kept
    return frame
