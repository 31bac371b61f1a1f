"""What everything in a report looks like: colours, templates, and text made safe for a figure.

One place decides, so that the same thing has the same colour on every page. Hues are those of Okabe and Ito
("Color universal design", 2008), moved in lightness only, and only where 3:1 against the page asks for it.
Magnitudes are cividis (Nuñez, Anderton and Renslow, PLoS ONE 13(7), 2018). No series is told by colour alone:
each style also has a dash, a marker and a hatching. Numbers and ticks: `sim.report.formats`.

A figure is built for the light page; `in_mode` gives the same figure for the dark one, and a page carries
`dark_map()` to do that in the browser.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Mode = Literal["light", "dark"]

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'Noto Sans', sans-serif"


@dataclass(frozen=True)
class Palette:
    """The neutral colours of one mode; text on paper is at least 4.5:1, strokes at least 3:1."""

    paper: str
    text: str
    muted: str
    grid: str
    context: str
    accent: str


LIGHT = Palette(paper="#ffffff", text="#1a1d21", muted="#59616b", grid="#e4e7eb", context="#868e98", accent="#0a5ea8")
DARK = Palette(paper="#14171a", text="#e8eaed", muted="#a3abb5", grid="#2b3137", context="#7c858f", accent="#6db3f2")


@dataclass(frozen=True)
class Style:
    """How one thing is drawn: *color* on light, *dark* on dark paper, and three ways beside colour."""

    color: str
    dark: str
    dash: str
    symbol: str
    pattern: str


BLUE = Style("#0072B2", "#3A9BDC", "solid", "circle", "")
VERMILLION = Style("#D55E00", "#E9701A", "dash", "square", "/")
GREEN = Style("#009E73", "#00B283", "dot", "diamond", "")
PURPLE = Style("#BF6997", "#CC79A7", "dashdot", "triangle-up", "x")
ORANGE = Style("#C08400", "#E69F00", "longdash", "cross", "\\")
SKY = Style("#2F95CF", "#56B4E9", "longdashdot", "x", ".")
YELLOW = Style("#8F8500", "#F0E442", "3px,6px", "star", "+")
GREY = Style(LIGHT.context, DARK.context, "dot", "circle-open", "-")

_ORDER = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, YELLOW)

CATEGORY_STYLES: dict[str, Style] = {
    "simple_fact": SKY,
    "coding": GREEN,
    "math_word": BLUE,
    "competition_math": VERMILLION,
    "proof": PURPLE,
}
"""Categories that scenarios share keep their colour from page to page."""

PHASE_STYLES: dict[str, Style] = {
    "queue": VERMILLION,
    "prefill": ORANGE,
    "handover": YELLOW,
    "thinking": BLUE,
    "answering": GREEN,
    "recompute": PURPLE,
    "verification": SKY,
}
"""Where a query's time goes."""

PART_STYLES: dict[str, Style] = {
    "prefill": ORANGE,
    "weights": BLUE,
    "KV read": GREEN,
    "host": PURPLE,
    "busy": BLUE,
    "idle": GREY,
    "activations": PURPLE,
    "KV live": GREEN,
    "KV wasted": VERMILLION,
    "KV free": Style(GREY.color, GREY.dark, "dot", "circle-open", ""),
    "KV copied": Style(GREEN.color, GREEN.dark, "dot", "circle-open", "x"),
    "KV reserved": ORANGE,
    "KV cached": Style(BLUE.color, BLUE.dark, "dot", "circle-open", "."),
    "found on the GPU": BLUE,
    "loaded from the host": ORANGE,
    "computed": Style(GREY.color, GREY.dark, "dot", "circle-open", ""),
    "not usable": Style(GREY.color, GREY.dark, "dot", "circle-open", "x"),
}
"""Where a GPU's time and memory go; what is also a phase keeps that colour."""


def category_styles(categories: Iterable[str]) -> dict[str, Style]:
    """A style for each category: shared names keep theirs, others take what is left in sorted order.

    Past the seventh the hues repeat with another dash, marker and hatching.
    """
    names = sorted(set(categories))
    styles = {name: CATEGORY_STYLES[name] for name in names if name in CATEGORY_STYLES}
    free = [style for style in _ORDER if style not in styles.values()] or list(_ORDER)
    for index, name in enumerate(name for name in names if name not in styles):
        style, turn = free[index % len(free)], index // len(free)
        if turn:
            other = _ORDER[(_ORDER.index(style) + turn) % len(_ORDER)]
            style = Style(style.color, style.dark, other.dash, other.symbol, other.pattern)
        styles[name] = style
    return {name: styles[name] for name in names}


# --------------------------------------------------------------------------------------------------- text


def safe(text: object, limit: int = 200) -> str:
    """A user's string for a figure: Plotly reads a little HTML in names and hovers, so none may get there.

    Control and direction characters become spaces; longer than *limit*, the middle is left out.
    """
    raw = "".join(" " if not ch.isprintable() else ch for ch in str(text))
    if len(raw) > limit:
        keep = limit - 1
        raw = raw[: (keep + 1) // 2] + "…" + raw[len(raw) - keep // 2 :]
    return html.escape(raw, quote=True)


def label(text: object) -> str:
    """`safe`, short enough for an axis."""
    return safe(text, 24)


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two colours given as #rrggbb."""

    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


# ----------------------------------------------------------------------------------------------- templates


def palette(mode: Mode) -> Palette:
    """The neutral colours of *mode*."""
    return LIGHT if mode == "light" else DARK


def template(mode: Mode = "light") -> dict[str, Any]:
    """The Plotly template of *mode* as a plain dict."""
    colors = palette(mode)
    axis = {
        "gridcolor": colors.grid,
        "linecolor": colors.context,
        "tickcolor": colors.context,
        "zerolinecolor": colors.context,
        "zeroline": False,
        "showline": False,
        "ticks": "",
        "automargin": True,
        "title": {"standoff": 10, "font": {"size": 13, "color": colors.muted}},
        "tickfont": {"size": 12, "color": colors.muted},
    }
    return {
        "layout": {
            "paper_bgcolor": colors.paper,
            "plot_bgcolor": colors.paper,
            "font": {"family": FONT, "size": 13, "color": colors.text},
            "colorway": [s.color if mode == "light" else s.dark for s in _ORDER],
            "colorscale": {"sequential": "Cividis"},
            "xaxis": axis,
            "yaxis": {**axis, "ticklabelstandoff": 6},
            "hoverlabel": {
                "bgcolor": colors.paper,
                "bordercolor": colors.context,
                "font": {"family": FONT, "size": 13, "color": colors.text},
                "align": "left",
                "namelength": -1,
            },
            "legend": {
                "orientation": "h",
                "x": 0,
                "xanchor": "left",
                "y": 1.02,
                "yanchor": "bottom",
                "font": {"size": 13, "color": colors.text},
                "bgcolor": "rgba(0,0,0,0)",
            },
            "margin": {"l": 56, "r": 24, "t": 32, "b": 48},
            "hovermode": "closest",
            "bargap": 0.35,
            "annotationdefaults": {"font": {"size": 12, "color": colors.text}, "showarrow": False},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": colors.muted, "activecolor": colors.accent},
        }
    }


@cache
def template_object(mode: Mode = "light") -> go.layout.Template:
    """`template`, validated once: Plotly takes a tenth of a second to validate it."""
    import plotly.graph_objects as go

    return go.layout.Template(template(mode))


def dark_map() -> dict[str, str]:
    """Each colour that a figure may name, on the light page, and what it becomes on the dark one."""
    pairs = {style.color.lower(): style.dark for style in (*_ORDER, GREY)}
    pairs |= {translucent(color): translucent(dark) for color, dark in pairs.items()}
    pairs |= {_INKS["#fefefe", "#010101"]: "#010101", _INKS["#010101", "#fefefe"]: "#fefefe"}
    for field in ("paper", "text", "muted", "grid", "context", "accent"):
        pairs[getattr(LIGHT, field).lower()] = getattr(DARK, field)
    return pairs


COLOR_KEYS = frozenset(
    {
        "color",
        "arrowcolor",
        "bgcolor",
        "bordercolor",
        "gridcolor",
        "linecolor",
        "tickcolor",
        "zerolinecolor",
        "fillcolor",
        "fgcolor",
        "paper_bgcolor",
        "plot_bgcolor",
        "activecolor",
    }
)
"""Attributes whose values are colours; nothing else of a figure is touched when the page turns dark."""


def new_figure(height: int = 420, **layout: Any) -> go.Figure:
    """An empty figure in the light template; *layout* are its top-level keys."""
    import plotly.graph_objects as go

    return go.Figure(layout={"template": template_object("light"), "height": height, **layout})


def in_mode(figure: go.Figure, mode: Mode) -> go.Figure:
    """A copy of *figure*, which was built for the light page, in the colours of *mode* (for notebooks)."""
    import plotly.graph_objects as go

    plain = figure.to_dict()
    if mode == "dark":
        plain = _recolor(plain, dark_map())
    copy = go.Figure(plain)
    copy.update_layout(template=template_object(mode))
    return copy


def _recolor(node: Any, mapping: dict[str, str]) -> Any:
    if isinstance(node, dict):
        return {
            key: (
                mapping.get(value.lower(), value)
                if key in COLOR_KEYS and isinstance(value, str)
                else [mapping.get(v.lower(), v) if isinstance(v, str) else v for v in value]
                if key in COLOR_KEYS and isinstance(value, (list, tuple))
                else _recolor(value, mapping)
            )
            for key, value in node.items()
        }
    if isinstance(node, (list, tuple)):
        return [_recolor(item, mapping) for item in node]
    return node


def narrow(figure: go.Figure, **layout: Any) -> None:
    """What *layout* is to be on a phone: pages merge it when they are less than 700 px wide.

    Dicts are merged key by key, anything else is replaced. Kept in ``layout.meta``, which Plotly ignores.
    """
    meta = dict(figure.layout.meta or {})
    meta["narrow"] = {**meta.get("narrow", {}), **layout}
    figure.update_layout(meta=meta)


DIRECT = "direct"
"""Annotations of this name stand at the end of a series; a phone shows the legend instead."""

WIDE = "wide"
"""Annotations of this name have no room on a phone and are left out there."""


def direct_labels(
    figure: go.Figure,
    ends: Sequence[tuple[float, float, str, str]],
    *,
    size: tuple[int, int] = (900, 340),
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    x_log: bool = False,
    y_log: bool = False,
) -> None:
    """Write each series' name at its end (x, y, safe text, colour), moved apart where they would overlap.

    *size* is the plot's likely size in pixels; ranges are in data units, the figure's axes being set to them.
    """

    def place(value: float, limits: tuple[float, float], log: bool, length: int) -> float:
        low, high = limits
        if log:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        return (value - low) / (high - low) * length if high > low else 0.0

    width, height = size
    placed: list[tuple[float, float, float]] = []
    spots = [
        (place(y, y_range, y_log, height), place(x, x_range, x_log, width), x, y, text, color)
        for x, y, text, color in ends
    ]
    for bottom, left, x, y, text, color in sorted(spots, key=lambda spot: (-spot[1], spot[0])):
        long = 7.0 * len(html.unescape(text)) + 12
        up = bottom
        while any(abs(up - at) < 16 and left < end and start < left + long for at, start, end in placed):
            up += 4
        placed.append((up, left, left + long))
        figure.add_annotation(
            name=DIRECT,
            x=math.log10(x) if x_log else x,
            y=math.log10(y) if y_log else y,
            text=text,
            xanchor="left",
            yanchor="middle",
            showarrow=True,
            arrowhead=0,
            arrowwidth=1.5,
            arrowcolor=color,
            standoff=2,
            ax=22,
            ay=bottom - up,
            bgcolor=LIGHT.paper,
            borderpad=1,
        )


def describe(figure: go.Figure, *, title: str, caption: str, alt: str, note: str = "") -> go.Figure:
    """Give *figure* its finding as a title, and the words that a page sets around it; returns it.

    *caption* says how to read it, *alt* says in words what it shows, *note* what was left out (downsampling).
    All are plain text, with users' strings as they are: a page escapes them.
    """
    meta = dict(figure.layout.meta or {})
    lines = [html.escape(line) for line in _wrap(title, 78)]
    room = 22 * len(lines) + 6
    meta.update(title=title, caption=caption, alt=alt, note=note, title_px=room)
    margin = figure.layout.margin.to_plotly_json()
    margin["t"] = (margin.get("t") or 32) + room
    figure.update_layout(
        meta=meta,
        margin=margin,
        title={
            "text": "<br>".join(lines),
            "x": 0,
            "xref": "paper",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 14},
            "font": {"size": 16},
        },
        height=(figure.layout.height or 420) + room,
    )
    return figure


def _wrap(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width, break_on_hyphens=False) or [""]


def empty(message: str, *, title: str, caption: str = "") -> go.Figure:
    """What stands where there is nothing to draw: *message* says why (plain text)."""
    figure = new_figure(160)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.add_annotation(
        x=0.5,
        y=0.5,
        xref="paper",
        yref="paper",
        text="<br>".join(html.escape(line) for line in _wrap(message, 34)),
    )
    return describe(figure, title=title, caption=caption, alt=message)


def hatch(style: Style) -> dict[str, Any]:
    """A bar's pattern in *style*: thin lines of the paper's colour over the fill."""
    return {
        "shape": style.pattern,
        "fgcolor": LIGHT.paper,
        "size": 7,
        "solidity": 0.12,
        "fillmode": "overlay",
    }


_INKS = {("#fefefe", "#fefefe"): "#fefefe", ("#fefefe", "#010101"): "#fdfdfd"}
_INKS |= {("#010101", "#010101"): "#010101", ("#010101", "#fefefe"): "#020202"}


def on(style: Style) -> str:
    """The colour of text on a fill of *style*: white or black, whichever reads better, in each mode.

    Where the modes differ it is one that `dark_map` turns into the other.
    """
    light, dark = (
        max(("#fefefe", "#010101"), key=lambda ink, fill=fill: contrast(ink, fill))  # type: ignore[misc]
        for fill in (style.color, style.dark)
    )
    return _INKS[light, dark]


def translucent(color: str) -> str:
    """*color* with a quarter of its opacity, as #rrggbbaa; the dark map knows these too."""
    return f"{color}40"


def rows(frame: pd.DataFrame) -> list[Any]:
    """The rows of *frame* as named tuples."""
    return list(frame.itertuples(index=False))
