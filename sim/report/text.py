"""A run in the terminal: the answer first, then the figures that matter, then what to be careful about."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sim.report import answering, facts, formats, serving
from sim.report.html import MARKS, Tile, Tone

if TYPE_CHECKING:
    from sim.results.results import Results

WIDTH = 100
_STYLES: dict[Tone, str] = {"good": "bold green", "bad": "bold red", "warn": "bold yellow", "none": "bold"}


def summary(results: Results, *, color: bool | None = None, width: int | None = None) -> str:
    """What a run came to, as text that ends without a line break.

    *color*: with escape codes; None: when standard output is a terminal and NO_COLOR is unset. *width* in
    columns; None: the terminal's, 100 where there is none. Plain text is ASCII but for the marks and units.
    """
    import io

    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    if color is None:
        color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    out = io.StringIO()
    console = Console(
        file=out,
        width=width or _columns(),
        force_terminal=color,
        color_system="standard" if color else None,
        no_color=not color,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    answer = facts.answer(results)
    heading = Text()
    heading.append(f"{MARKS[answer.tone]} {_line(answer.verdict)}", style=_STYLES[answer.tone])
    console.print(heading)
    console.print(Text(_line(answer.sentence)))
    if answer.reason:
        console.print(Text(_line(answer.reason), style="dim"))
    for line in [*answering.lines(results), *serving.lines(results)]:
        console.print(Text(_line(line), style="dim"))
    console.print()
    for row in _columns_of(
        [
            (
                tile.label,
                tile.value,
                " ".join(part for part in (tile.detail, _target(tile)) if part),
            )
            for tile in facts.tiles(results)
        ]
    ):
        console.print(Text(_line(row)))
    notes = facts.banners(results.summary)
    if notes:
        console.print()
    for note in notes:
        console.print(Text(f"{MARKS[note.tone]} {_line(note.what)}", style=_STYLES[note.tone]))
        if note.do:
            console.print(Padding(Text(f"-> {_line(note.do)}", style="dim"), (0, 0, 0, 2)))
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip("\n").split("\n"))


def _target(tile: Tile) -> str:
    return f"{MARKS[tile.tone]} {tile.target}" if tile.target else ""


def _columns_of(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    first = max(len(row[0]) for row in rows)
    second = max(len(row[1]) for row in rows)
    return [f"{label:<{first}}  {value:>{second}}  {detail}".rstrip() for label, value, detail in rows]


def _line(text: str) -> str:
    """*text* without control or direction characters, which could rewrite a terminal's screen."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    return plain.replace(formats.DASH, "-")


def _columns() -> int:
    import shutil

    return min(shutil.get_terminal_size((WIDTH, 24)).columns, 120)
