"""Parameters of the quality model from measured rows, with what they leave unexplained.

The table is CSV with a header: ``samples,accuracy`` (majority voting over so many samples; a row with one
sample gives the mean) or ``tokens,accuracy`` (mean tokens an answer). The last line can be copied into a
scenario.
"""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "fit difficulty or saturation to (samples or tokens, accuracy) rows"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    parser.add_argument("table", metavar="TABLE.csv", help="columns samples or tokens, and accuracy")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(args: argparse.Namespace) -> int:
    """Read, fit, print."""
    from workloads.quality.fit import fit_samples, fit_tokens

    by, rows = read(Path(args.table))
    voted = [(int(x), accuracy) for x, accuracy in rows]
    fitted = fit_samples(voted) if by == "samples" else fit_tokens(rows)
    if args.json:
        import json

        found = {"parameters": fitted.parameters, "law": fitted.law, "rows": fitted.rows, "worst": fitted.worst}
        print(json.dumps(found))
        return 0
    for name, value in fitted.parameters.items():
        print(f"{name}: {value:.6g}")
    print(f"\n{by:>10}  measured  fitted  residual")
    for x, measured, said in fitted.rows:
        print(f"{x:>10g}  {measured:8.4f}  {said:6.4f}  {measured - said:+8.4f}")
    print(f"\nlargest residual {fitted.worst:.4f} over {len(fitted.rows)} rows, {len(fitted.parameters)} parameters")
    if len(fitted.parameters) == 1:
        print("rows of several samples would say how far queries differ (concentration) and how wrong answers scatter")
    if by == "tokens":
        print(f"taken for the natural length: {max(x for x, _ in rows):,.0f} tokens")
    law = ", ".join(f"{name}: {value:.6g}" for name, value in fitted.law.items())
    print(f"\nquality: {{benchmark: NAME, models: {{any: {{NAME: {{{law}}}}}}}}}")
    return 0


def read(path: Path) -> tuple[str, list[tuple[float, float]]]:
    """Which column stands beside the accuracy, and the rows; raise an InputError with all that is wrong."""
    import csv

    from sim.errors import InputError, Problem

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(Problem(f"cannot be read: {error}", source=str(path))) from None
    lines = list(csv.reader(text.splitlines()))
    header = [cell.strip() for cell in lines[0]] if lines else []
    by = next((name for name in ("samples", "tokens") if name in header), None)
    if by is None or "accuracy" not in header:
        expected = "a header with samples or tokens, and accuracy"
        raise InputError(Problem(f"has columns {header}", source=str(path), line=1, expected=expected))
    problems, rows = [], []
    for number, cells in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        try:
            x, said = float(cells[header.index(by)]), cells[header.index("accuracy")].strip()
            accuracy = float(said[:-1]) / 100 if said.endswith("%") else float(said)
        except (ValueError, IndexError):
            problems.append(Problem(",".join(cells), source=str(path), line=number, expected="two numbers"))
            continue
        whole = by == "tokens" or (x.is_integer() and x <= 512)
        if not (x > 0 and whole and 0 <= accuracy <= 1):
            expected = "accuracy between 0 and 1, or in %" + (", whole samples of 1 to 512" if by == "samples" else "")
            problems.append(Problem(",".join(cells), source=str(path), line=number, expected=expected))
        rows.append((x, accuracy))
    if not rows and not problems:
        problems.append(Problem("has no rows", source=str(path)))
    if problems:
        raise InputError(problems)
    return by, rows
