"""The reproduced article in words for a terminal, and how its figures are said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sim.report import formats

MARKS = {
    "agrees": "✓",
    "same direction": "≈",
    "differs": "✕",
    "opposite": "✕",
    "no clear effect": "0",
    "undecided": "?",
    "fitted": "f",
    "no claim": "",
    "not run": "—",
}
"""The shape beside the word of a verdict."""
MINUS, TIMES = "\u2212", "\u00d7"


def say(value: Any, unit: str) -> str:
    """A figure of a row: a number, a pair (from, to), or None."""
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        low, high = value
        if unit in ("change", "points"):
            return f"{say(low, unit)} to {say(high, unit)}"
        return formats.span([low, high], lambda end: say(end, unit)).strip("[]") if low is not None else ""
    if unit == "share":
        return formats.percent(value) if value >= 0 else formats.MISSING
    if unit == "change":
        return _signed(100 * value, "%")
    if unit == "points":
        return _signed(100 * value, "pts")
    if unit == "s":
        return formats.duration(value) if value >= 0 else formats.MISSING
    if unit == "x":
        return f"{formats.number(value)}{TIMES}"
    if unit == "bytes":
        return formats.size(value)
    words = {"tokens/s": " tok/s", "1/s": "/s", "TFLOP": " TFLOP", "requests": "", "tokens": ""}.get(unit, f" {unit}")
    return (formats.count(value) if abs(value) >= 1000 else formats.number(value)) + words


def as_share(value: Any) -> str:
    """A share of one."""
    return say(value, "share")


def as_points(value: Any) -> str:
    """A difference of shares."""
    return say(value, "points")


def _signed(value: float, unit: str) -> str:
    sign = "+" if value > 0 else MINUS if value < 0 else ""
    digits = 0 if abs(value) >= 10 else 1
    return f"{sign}{abs(value):,.{digits}f} {unit}"


def interval(row: Mapping[str, Any]) -> str:
    """The interval of a row's figure, in brackets."""
    low, high, unit = row["low"], row["high"], row["unit"]
    if low is None or high is None:
        return ""
    if unit in ("share", "s", "x", "tokens/s", "1/s", "requests", "tokens"):
        low = max(low, 0.0)
    if unit == "share":
        high = min(high, 1.0)
    if unit in ("change", "points"):
        return f"[{say(low, unit)} to {say(high, unit)}]"
    return formats.span([low, high], lambda end: say(end, unit))


def text(found: Mapping[str, Any]) -> str:
    """Every table: what was found, then its rows that have a claim."""
    lines: list[str] = []
    for table in found["tables"]:
        lines += [table["question"], f"  {table['finding']}"]
        rows = [
            [
                MARKS[row["verdict"]] + " " + row["verdict"],
                row["what"],
                say(row["article"], row["unit"]),
                say(row["ours"], row["unit"]),
                interval(row),
            ]
            for row in table["rows"]
            if row["verdict"] != "no claim"
        ]
        lines += [f"  {line}" for line in _columns([["", "", "article", "ours", "95 % interval"], *rows])]
        lines.append("")
    counts = ", ".join(f"{count} {verdict}" for verdict, count in found["verdicts"].items())
    lines.append(f"{sum(len(table['rows']) for table in found['tables'])} figures: {counts}")
    if found["quick"]:
        lines.append("note: --quick measures a few queries a run; these figures are no evidence")
    return "\n".join(lines)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
