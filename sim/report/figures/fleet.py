"""How did the fleet follow its load? Traffic, replicas, targets met and money over time, on one axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sim.metrics.fleet import mean_on
from sim.report import formats, theme
from sim.results.tables import PS_PER_S

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from sim.results.info import RunInfo

PIECES = 96
"""Pieces of time: a quarter of an hour each over a day."""

_ROWS = (
    ("arrivals_per_s", "queries/s", "queries arriving a second", 1.0, theme.BLUE),
    ("replicas", "replicas", "replicas that are on", 1.0, theme.ORANGE),
    ("slo_met", "targets met", "of the queries met all targets", 100.0, theme.GREEN),
    ("usd_per_hour", "USD/h", "US dollars an hour", 1.0, theme.GREY),
)


def table(queries: pd.DataFrame, run: RunInfo, *, pieces: int = PIECES) -> pd.DataFrame:
    """``time_s`` (middle of a piece of the window), ``arrivals_per_s``, ``replicas`` that are on in the mean,
    ``slo_met`` (share of the queries that arrived then; NaN without any), ``usd_per_hour`` (NaN without a
    price) and ``usd_per_query``, from the *queries* of the replication *run*.
    """
    import pandas as pd

    start, end = run.window_start_ps / PS_PER_S, run.window_end_ps / PS_PER_S
    edges = np.linspace(start, max(end, start + 1e-9), pieces + 1)
    arrived = queries["arrived_s"].to_numpy(dtype=float)
    inside = (arrived >= start) & (arrived < end)
    counts, _ = np.histogram(arrived[inside], edges)
    met, _ = np.histogram(arrived[inside & queries["slo_met"].to_numpy(dtype=bool)], edges)
    on = np.zeros(pieces)
    usd = np.zeros(pieces)
    for pool in run.pools:
        mine = mean_on(pool, edges)
        on += mine
        price = pool.price_usd_per_gpu_hour
        usd += mine * pool.gpus_per_replica * (float("nan") if price is None else price)
    length = np.diff(edges)
    some = counts > 0
    return pd.DataFrame(
        {
            "time_s": (edges[:-1] + edges[1:]) / 2,
            "arrivals_per_s": counts / length,
            "replicas": on,
            "slo_met": np.divide(met, counts, out=np.full(pieces, np.nan), where=some),
            "usd_per_hour": usd,
            "usd_per_query": np.divide(usd * length / 3600, counts, out=np.full(pieces, np.nan), where=some),
        }
    )


def finding(data: pd.DataFrame) -> str:
    """What the curves say."""
    low, high = float(data["replicas"].min()), float(data["replicas"].max())
    text = (
        f"{formats.number(low, 2)} to {formats.number(high, 2)} replicas"
        if high - low > 0.005
        else f"{formats.number(high, 2)} replicas all along"
    )
    text += (
        f" for {formats.number(float(data['arrivals_per_s'].min()), 2)} to "
        f"{formats.number(float(data['arrivals_per_s'].max()), 2)} queries/s"
    )
    worst = data["slo_met"].min()
    return f"{text}; at worst {formats.percent(float(worst))} met their targets" if worst == worst else text


def figure(queries: pd.DataFrame, run: RunInfo) -> go.Figure:
    """Four curves above one another, from the *queries* of the replication *run*."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    data = table(queries, run)
    title = finding(data)
    if not len(queries):
        return theme.empty("No query arrived in this run.", title=title)
    fig = make_subplots(rows=len(_ROWS), cols=1, shared_xaxes=True, vertical_spacing=0.05)
    fig.update_layout(template=theme.template_object("light"), height=640, showlegend=False)
    for row, (column, name, said, scale, style) in enumerate(_ROWS, start=1):
        unit = " %" if column == "slo_met" else ""
        fig.add_trace(
            go.Scatter(
                x=_short(data["time_s"]),
                y=_short(data[column] * scale),
                mode="lines",
                line={"color": style.color, "shape": "hvh"},  # each in a place of its own: no dashes to tell them apart
                name=name,
                hovertemplate=f"%{{y:.3~r}}{unit} {said}<extra></extra>",
            ),
            row=row,
            col=1,
        )
        top = float(np.nanmax(np.append(data[column] * scale, 0.0)))
        fig.update_yaxes(range=[0, max(top * 1.12, 1e-3)], nticks=4, ticksuffix=unit, row=row, col=1)
        fig.add_annotation(
            xref="paper",
            yref=f"y{row if row > 1 else ''} domain",
            x=0,
            y=1.0,
            yshift=12,
            text=f"<b>{name}</b> {said}" if unit else f"<b>{said}</b>",
            xanchor="left",
            showarrow=False,
        )
    low, high = float(data["time_s"].iloc[0]), float(data["time_s"].iloc[-1])
    values, texts = formats.time_ticks(low, high)
    few, few_texts = formats.time_ticks(low, high, most=4)
    fig.update_xaxes(tickvals=values, ticktext=texts, range=[low, high])
    fig.update_xaxes(title_text="simulated time", row=len(_ROWS), col=1)
    fig.update_layout(margin_t=40)
    theme.narrow(
        fig, **{f"xaxis{i}": {"tickvals": few, "ticktext": few_texts} for i in ("", "2", "3", "4")}, height=600
    )
    mean = float(data["usd_per_hour"].mean())
    paid = "" if mean != mean else f" In the mean {formats.number(mean)} USD an hour are paid."
    return theme.describe(
        fig,
        title=title,
        caption=(
            f"Means over {len(data)} equal pieces of the measured window of the first replication; targets by the "
            f"time a query arrived. Replicas are counted from their order on, while they are paid for.{paid}"
        ),
        alt=f"Queries a second, replicas, share of queries within targets and cost over time. {title}.",
    )


def _short(values: pd.Series[float]) -> Sequence[float | None]:
    return [None if value != value else float(f"{value:.5g}") for value in values]
