"""Turn a trace into a generator, and say how well what it draws follows the trace.

The generator is a workload section with rates, spreads and mixtures alone: it can be scaled, changed and
shared. Draw from it with ``thinkcap trace sample``, or put it into a scenario.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from sim.cli._arguments import add_json, print_json
from sim.cli._trace import Input, add_input

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workloads.measures import Comparison

HELP = "turn a trace into a generator, with goodness of fit"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    add_input(parser)
    parser.add_argument("--out", metavar="FILE", required=True, help="where to write workload.yaml")
    parser.add_argument("--html", metavar="FILE", help="write a page: real against generated")
    parser.add_argument("--window", metavar="TIME", help="length of a window (default: ten minutes or less)")
    parser.add_argument("--keep-names", action="store_true", help="keep the names of clients (default: numbers)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the comparison (default: 0)")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Fit, write, draw once, compare."""
    import os
    from pathlib import Path

    from sim.errors import InputError, Problem
    from sim.units import UnitError, parse_seconds
    from workloads.drawn import drawn_portrait, drawn_structure
    from workloads.fitting.fit import fit
    from workloads.held import Held, off_grid
    from workloads.measures import compare, compare_structure
    from workloads.portrait import portrait
    from workloads.source import build
    from workloads.spec import WorkloadSpec

    window_s = None
    if args.window is not None:
        try:
            window_s = parse_seconds(args.window)
        except UnitError as error:
            raise InputError(Problem(error.message, key="--window", expected=error.expected)) from None
        if window_s <= 0:
            raise InputError(Problem(f"{args.window!r} is not above zero", key="--window"))
    if args.seed < 0:
        raise InputError(Problem(f"{args.seed} is negative", key="--seed"))
    source = Input(args.trace, args.format)
    held = Held.of(source.batches())
    if not len(held):
        raise InputError(Problem("holds no rows with output", source=str(source.path)))
    held, grid = off_grid(held)
    fitted = fit(held, window_s=window_s, keep_names=args.keep_names)
    real, structure = portrait(held, known_as=fitted.clients), held.structure
    del held
    generator = build(WorkloadSpec.model_validate(fitted.workload), seed=args.seed)
    drawn = drawn_portrait(generator, beside=real)
    if grid is not None:
        fitted.notes.append(grid)
    rows = compare(real, drawn)
    if structure is not None:
        rows += compare_structure(structure, drawn_structure(generator))
    target = Path(args.out)
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(_yaml(fitted.workload, rows), encoding="utf-8")
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    source.tell()
    notes = [*source.report.lines(), *fitted.notes]
    data = [
        {
            "name": row.name,
            "real": row.real,
            "generated": row.generated,
            "distance": row.distance,
            "absolute": row.absolute,
            "bar": row.bar,
            "near": row.near,
        }
        for row in rows
    ]
    if args.json:
        print_json({"written": str(target), "page": args.html, "notes": notes, "rows": data})
    else:
        for note in fitted.notes:
            print(f"note: {note}")
        print("\n".join(text(rows)))
        print(f"\n{_nearness(rows)}")
        print(f"\ngenerator   {target}   (thinkcap trace sample {target} --out FILE)")
    if args.html:
        import pandas as pd

        from sim.report.traces import fit_page
        from workloads import curves

        kinds = ["survival", "concentration", "tail_index", "traffic", "daily", "burstiness"]
        kinds += ["splits"] if real.split_known else []
        tables = {
            kind: pd.concat(
                [getattr(curves, kind)(real, "real"), getattr(curves, kind)(drawn, "generated")],
                ignore_index=True,
            )
            for kind in kinds
        }
        tables["survival"] = tables["survival"][tables["survival"]["length"].isin(["prompt", "output", "reasoning"])]
        page = fit_page(source.path.name, data, tables, notes=notes, answer=_answer(rows))
        Path(args.html).write_text(page, encoding="utf-8", errors="replace")
        if not args.json:
            print(f"page        {args.html}")
    return 0


def _answer(rows: Sequence[Comparison]) -> str:
    of_output = [abs(row.distance) for row in rows if row.name.startswith("output, p") and "tokens" in row.name]
    distance = next(row.generated for row in rows if row.name == "output, KS distance")
    return (
        f"Generated outputs keep the quantiles from p10 to p99 within {max(of_output):.1%}; their "
        "distribution "
        f"differs from the real one by {distance:.3f} at most (KS)."
    )


def _nearness(rows: Sequence[Comparison]) -> str:
    """In how many of the figures that a generator must keep this one is near enough, and which it misses."""
    asked = [row for row in rows if row.near is not None]
    far = [row.name for row in asked if not row.near]
    if not far:
        return f"near enough in all {len(asked)} figures that a generator must keep"
    return f"near enough in {len(asked) - len(far)} of {len(asked)} figures; not in " + "; ".join(far)


def text(rows: Sequence[Comparison]) -> list[str]:
    """Goodness of fit as lines for a terminal."""
    import math

    from sim.report import formats

    lines = [f"{'':<42}{'real':>12}{'generated':>12}{'difference':>12}"]
    for row in rows:
        gap = "—" if math.isnan(row.distance) else f"{row.distance:+.3f}" if row.absolute else f"{row.distance:+.1%}"
        cells = f"{formats.number(row.real, 4):>12}{formats.number(row.generated, 4):>12}{gap:>12}"
        lines.append(f"{row.name:<42}{cells}")
    return lines


def _yaml(workload: dict[str, Any], rows: Sequence[Comparison]) -> str:
    """The section as YAML: long lists on one line, goodness of fit in comments above."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Lists of plain values, and maps of law parts, on one line."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def sequence(dumper: yaml.SafeDumper, data: Any) -> yaml.Node:
        return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)

    def mapping(dumper: yaml.SafeDumper, data: Any) -> yaml.Node:
        return dumper.represent_mapping("tag:yaml.org,2002:map", data.items(), flow_style="law" in data)

    Dumper.add_representer(list, sequence)
    Dumper.add_representer(dict, mapping)
    head = [
        "# A generator of traffic, fitted by `thinkcap trace fit`: figures alone, no row of the trace.",
        "#",
    ]
    head += [f"# {line}".rstrip() for line in text(rows)]
    body = yaml.dump({"workload": workload}, Dumper=Dumper, sort_keys=False, width=110, allow_unicode=True)
    return "\n".join(head) + "\n" + str(body)
