"""How a page is put together: plain data in, one self-contained HTML file out.

A `Page` holds the answer, tiles, banners, sections of figures and what is folded away; `render` turns it into
HTML with plotly.js inlined once. Every string is text, never markup: Jinja escapes it in HTML, `_json` inside
scripts, and `sim.report.theme.safe` must have been used where a figure shows a user's string. A content
security policy lets only the page's own scripts run and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from sim.report import formats, theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MOST_POINTS = 5_000
"""Points that a figure may have."""
TABLE_ROWS = 60
"""Data up to so many rows is also shown as a table; all of it can be downloaded."""

Tone = Literal["good", "bad", "warn", "none"]
MARKS: dict[Tone, str] = {"good": "✓", "bad": "✕", "warn": "!", "none": "i"}
"""The shape beside the colour."""


@dataclass(frozen=True)
class Tile:
    """One figure that matters: *value* with its unit, *detail* (interval, n), and its target with a mark."""

    label: str
    value: str
    detail: str = ""
    target: str = ""
    tone: Tone = "none"
    define: str = ""
    """Name in the page's definitions."""


@dataclass(frozen=True)
class Banner:
    """Where the reader could be misled: *what*, and what to *do* about it."""

    what: str
    do: str = ""
    tone: Tone = "warn"


@dataclass(frozen=True)
class Exhibit:
    """A figure with its data; *key* names its anchor and its download, *size* its share of the width."""

    key: str
    figure: go.Figure
    data: pd.DataFrame
    size: Literal["wide", "half", "third"] = "wide"


@dataclass(frozen=True)
class Table:
    """Rows of text under *head*; columns named in *numeric* (by position) are set to the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[int] = frozenset()
    caption: str = ""
    prose: bool = False
    """Its first column wraps, and its last is wide enough to read."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    items: Sequence[str]


@dataclass(frozen=True)
class Code:
    """Text in the machine's own words."""

    text: str
    caption: str = ""


@dataclass(frozen=True)
class Definitions:
    """Terms, each with an anchor ``def-NAME``: (name, unit, meaning)."""

    terms: Sequence[tuple[str, str, str]]


Block = Table | Text | Items | Code | Definitions


@dataclass(frozen=True)
class Section:
    """A question with the figures and blocks that answer it."""

    key: str
    question: str
    exhibits: Sequence[Exhibit] = ()
    blocks: Sequence[Block] = ()


@dataclass(frozen=True)
class Fold:
    """What is collapsed at the end of the page, complete."""

    key: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """All that a page says, top to bottom."""

    title: str
    kicker: str
    answer: str
    verdict: str
    tone: Tone
    reason: str = ""
    lines: Sequence[str] = ()
    """How queries were answered, a sentence each."""
    tiles: Sequence[Tile] = ()
    banners: Sequence[Banner] = ()
    sections: Sequence[Section] = ()
    folds: Sequence[Fold] = ()
    footer: str = ""
    exhibits: list[Exhibit] = field(init=False)

    def __post_init__(self) -> None:
        exhibits = [exhibit for section in self.sections for exhibit in section.exhibits]
        keys = [exhibit.key for exhibit in exhibits]
        if len(set(keys)) < len(keys):
            raise ValueError(f"two figures of one name among {sorted(keys)}")
        object.__setattr__(self, "exhibits", exhibits)


def render(page: Page) -> str:
    """*page* as one HTML file that needs nothing else; raise a ValueError for a figure of too many points."""
    import jinja2
    from plotly.offline import get_plotlyjs

    figures = {exhibit.key: _figure(exhibit) for exhibit in page.exhibits}
    around = {key: _around(exhibit, figures[key]) for exhibit in page.exhibits for key in (exhibit.key,)}
    style = {mode: _css(theme.palette(mode)) for mode in ("light", "dark")}
    plotly = get_plotlyjs().replace("</script", "<\\/script")
    script = _asset("page.js")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.filters["whole"] = whole
    environment.filters["prose"] = _prose
    environment.tests["block"] = lambda value, kind: type(value).__name__ == kind
    template = environment.from_string(_asset("page.html"))
    setup = {
        "figures": figures,
        "templates": {mode: theme.template(mode) for mode in ("light", "dark")},
        "colors": theme.dark_map(),
        "colorKeys": sorted(theme.COLOR_KEYS),
    }
    return template.render(
        page=page,
        exhibits=around,
        marks=MARKS,
        css=_trusted(_asset("page.css")),
        colors=_trusted(
            f":root{{{style['light']}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{style['dark']}}}}}"
        ),
        setup=_trusted(_json(setup)),
        plotly=_trusted(plotly),
        script=_trusted(script),
        hashes=" ".join(f"'sha256-{_sha256(text)}'" for text in (plotly, script)),
        words=lambda shape: MARKS[shape],
    )


_UNIT = re.compile(r"(?<=\d) (?=(?:%|s|ms|µs|min|h|days|GB|MB|KB|TB|queries)\b|%)")


def whole(text: str) -> str:
    """*text* with numbers kept on one line with their units, and both ends of a range together."""
    return _UNIT.sub("\u00a0", text).replace(formats.DASH, formats.DASH + "\u2060")


_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


def _visible(value: Any) -> Any:
    """Text without control and direction characters, which could rearrange what stands around it."""
    return _HIDDEN.sub(" ", value) if type(value) is str else value


def _prose(text: str) -> Any:
    """*text*, escaped, with what stands in backticks as code."""
    from markupsafe import escape

    return _trusted(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(_visible(text)))))


def _trusted(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)


@cache
def _asset(name: str) -> str:
    return resources.files("sim.report").joinpath("assets", name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(data: Any) -> str:
    """JSON that may stand inside a script element: no ``<``, ``>``, ``&`` and no line separators."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _css(palette: theme.Palette) -> str:
    tones = {
        "#ffffff": ("#0b6b4f", "#b3261e", "#8a5a00"),
        "#14171a": ("#4cc79b", "#ff8a80", "#f2b84b"),
    }[palette.paper]
    names = ("paper", "text", "muted", "grid", "context", "accent")
    pairs = [f"--{name}:{getattr(palette, name)}" for name in names]
    pairs += [f"--{name}:{color}" for name, color in zip(("good", "bad", "warn"), tones, strict=True)]
    return ";".join(pairs)


def points(figure: go.Figure) -> int:
    """How many points *figure* draws."""
    return sum(max(len(trace.x if trace.x is not None else ()), 0) for trace in figure.data)


def _figure(exhibit: Exhibit) -> dict[str, Any]:
    """The figure as plain JSON data, without template and title: the page has both."""
    if points(exhibit.figure) > MOST_POINTS:
        raise ValueError(f"figure {exhibit.key!r} has {points(exhibit.figure):,} points, not at most {MOST_POINTS:,}")
    plain = _plain(exhibit.figure.to_plotly_json())
    layout = plain["layout"]
    layout.pop("template", None)
    layout.pop("title", None)
    meta = layout.pop("meta", {})
    room = meta.get("title_px", 0)
    layout["height"] = layout.get("height", 420) - room
    layout["margin"] = {**layout.get("margin", {}), "t": layout.get("margin", {}).get("t", 32) - room}
    slim = meta.get("narrow", {})
    return {"data": plain["data"], "layout": layout, "slim": slim}


def _plain(value: Any) -> Any:
    """*value* as JSON types; what is not finite becomes null."""
    import math

    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if hasattr(value, "to_plotly_json"):
        return _plain(value.to_plotly_json())
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _around(exhibit: Exhibit, figure: dict[str, Any]) -> dict[str, Any]:
    """The words and the data around a figure."""
    meta = dict(exhibit.figure.layout.meta or {})
    frame = exhibit.data
    text = csv(frame)
    return {
        "title": meta.get("title", ""),
        "caption": meta.get("caption", ""),
        "alt": meta.get("alt", ""),
        "note": meta.get("note", ""),
        "rows": len(frame),
        "height": figure["layout"]["height"],
        "href": "data:text/csv;charset=utf-8," + quote(text, safe=",.-_/:()"),
        "head": [str(name) for name in frame.columns],
        "numeric": [not _is_text(frame[name]) for name in frame.columns],
        "table": [[_cell(value) for value in row] for row in theme.rows(frame)] if 0 < len(frame) <= TABLE_ROWS else [],
    }


def _is_text(column: Any) -> bool:
    return str(column.dtype) in ("object", "str", "string", "category")


def _cell(value: Any) -> str:
    if isinstance(value, (float, int)) and not isinstance(value, bool):
        return formats.number(float(value), 4) if isinstance(value, float) else f"{value:,}"
    return str(value)


def csv(frame: pd.DataFrame) -> str:
    """*frame* as CSV; a text that a spreadsheet would take for a formula gets an apostrophe in front."""
    copy = frame.copy()
    for name in copy.columns:
        if _is_text(copy[name]):
            copy[name] = [f"'{text}" if text[:1] in tuple("=+-@\t\r") else text for text in copy[name].astype(str)]
    return copy.to_csv(index=False, float_format="%.7g", lineterminator="\n")
