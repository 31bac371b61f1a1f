"""Stacked bars, one a pool: what a whole is made of, each part in its own colour and hatching."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sim.report import theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Scale:
    """The axis of the bars: what stands for one of the data (*factor*), its unit, how far it goes, and its titles."""

    top: float
    unit: str
    title: str
    small_title: str
    """The title on a phone."""
    factor: float = 1.0
    label_from: float = 0.05
    """Share of *top* from which on a part has its figure written on it."""


def figure(
    data: pd.DataFrame,
    value: str,
    parts: Mapping[str, str],
    scale: Scale,
    *,
    words: Callable[[float], str],
    exactly: Callable[[Any], str],
    title: str,
    caption: str,
    alt: str,
) -> go.Figure:
    """The bars of *data* (``pool``, ``part``, column *value*), in the order of *parts*, which says what each part is.

    *words* writes a value, *exactly* what is shown of a row of *data* to whoever points at it. *caption* and *alt* go before
    what is said of the parts: their meaning, and their values by pool.
    """
    import plotly.graph_objects as go

    pools = list(dict.fromkeys(data["pool"]))[::-1]
    fig = theme.new_figure(120 + 62 * len(pools), barmode="stack", uniformtext={"mode": "hide", "minsize": 11})
    present = [part for part in parts if data.loc[data["part"] == part, value].fillna(0).any()]
    for part in present:
        rows = {row.pool: row for row in theme.rows(data[data["part"] == part])}
        values = [float(getattr(rows[pool], value)) if pool in rows else 0.0 for pool in pools]
        style = theme.PART_STYLES[part]
        fig.add_trace(
            go.Bar(
                y=[theme.label(pool) for pool in pools],
                x=[float(f"{scale.factor * each:.5g}") for each in values],
                orientation="h",
                name=part,
                marker={
                    "color": style.color,
                    "line": {"color": theme.LIGHT.paper, "width": 1},
                    "pattern": theme.hatch(style),
                },
                text=[words(each) if scale.factor * each > scale.label_from * scale.top else "" for each in values],
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                insidetextfont={"color": theme.on(style), "size": 12},
                customdata=[[exactly(rows[pool]) if pool in rows else words(0.0), parts[part]] for pool in pools],
                hovertemplate="%{customdata[0]}<br>%{customdata[1]}<extra>%{fullData.name}</extra>",
            )
        )
    fig.update_xaxes(range=[0, scale.top], ticksuffix=f" {scale.unit}", title_text=scale.title)
    fig.update_yaxes(showgrid=False)
    fig.update_layout(legend_traceorder="normal")
    theme.narrow(fig, xaxis={"nticks": 5, "title": {"text": scale.small_title}})
    said = "; ".join(
        f"{pool}: "
        + ", ".join(f"{row.part} {words(float(getattr(row, value)))}" for row in theme.rows(data[data["pool"] == pool]))
        for pool in pools[::-1]
    )
    meanings = "; ".join(f"{part} = {parts[part]}" for part in present)
    return theme.describe(fig, title=title, caption=f"{caption} {meanings}.".strip(), alt=f"{alt} {said}.")
