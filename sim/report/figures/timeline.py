"""Is it stable? Running and waiting requests and KV use over time, one above another on a shared axis.

The curves are means over equal pieces of time, the bands their lowest and highest value within the piece.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.report import formats, theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

PIECES = 400
"""Pieces of time in all; several pools share them."""

_ROWS = (
    ("running", "running", "requests"),
    ("waiting", "waiting", "requests"),
    ("kv_use", "KV use", "of blocks"),
)


def level(
    start: np.ndarray, end: np.ndarray, value: np.ndarray, edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, lowest and highest between *edges* of the sum of rectangles (*value* from *start* to *end*)."""
    times = np.concatenate([start, end])
    order = np.argsort(times, kind="stable")
    times = times[order]
    heights = np.cumsum(np.concatenate([value, -value])[order])
    # Where one rectangle ends and the next begins only what stands afterwards counts.
    last = np.append(times[1:] != times[:-1], True) if len(times) else np.zeros(0, dtype=bool)
    times, heights = times[last], heights[last]
    pieces = len(edges) - 1
    if not len(times):
        zero = np.zeros(pieces)
        return zero, zero, zero
    area = np.concatenate([[0.0], np.cumsum(heights[:-1] * np.diff(times))])
    mean = np.diff(np.interp(edges, times, area)) / np.diff(edges)
    # The value that holds at each edge, then every change in between.
    held = np.searchsorted(times, edges[:-1], side="right") - 1
    carried = np.where(held >= 0, heights[np.maximum(held, 0)], 0.0)
    low, high = carried.copy(), carried.copy()
    piece = np.searchsorted(edges, times, side="right") - 1
    inside = (piece >= 0) & (piece < pieces)
    np.minimum.at(low, piece[inside], heights[inside])
    np.maximum.at(high, piece[inside], heights[inside])
    return mean, low, high


def table(
    segments: pd.DataFrame,
    *,
    kv_blocks: Mapping[str, int] | None = None,
    end_s: float | None = None,
    pieces: int = PIECES,
) -> pd.DataFrame:
    """``pool, time_s`` (middle of a piece) and mean, ``_low``, ``_high`` of ``running, waiting, kv_use``,
    with ``preempted`` (how many in the piece).

    *segments* of one replication. *kv_blocks*: blocks of all replicas of a pool together; None: the most that
    was ever reserved. More than three pools are summed up as ``all pools``.
    """
    import pandas as pd

    pools = sorted(segments["pool"].astype(str).unique())
    if len(pools) > 3:
        total = sum(kv_blocks.values()) if kv_blocks else None
        segments = segments.assign(pool="all pools")
        pools, kv_blocks = ["all pools"], {"all pools": total} if total else None
    if not len(segments):
        return pd.DataFrame({name: [] for name in ("pool", "time_s", "running", "waiting", "kv_use", "preempted")})
    last = float(segments["end_s"].max()) if end_s is None else max(end_s, float(segments["end_s"].max()))
    edges = np.linspace(0.0, last, max(2, pieces // len(pools)) + 1)
    frames = []
    for pool in pools:
        part = segments[segments["pool"].astype(str) == pool]
        start, end = (part[name].to_numpy(dtype=float) for name in ("start_s", "end_s"))
        data: dict[str, Any] = {"pool": pool, "time_s": (edges[:-1] + edges[1:]) / 2}
        for name in ("running", "waiting"):
            mean, low, high = level(start, end, part[name].to_numpy(dtype=float), edges)
            data |= {name: mean, f"{name}_low": low, f"{name}_high": high}
        first, final = (part[n].to_numpy(dtype=float) for n in ("reserved_blocks", "reserved_blocks_last"))
        mean, _, _ = level(start, end, (first + final) / 2, edges)
        _, low, _ = level(start, end, first, edges)
        _, _, high = level(start, end, np.maximum(first, final), edges)
        blocks = float((kv_blocks or {}).get(pool) or max(high.max(), 1.0))
        data |= {"kv_use": mean / blocks, "kv_use_low": low / blocks, "kv_use_high": high / blocks}
        piece = np.clip(np.searchsorted(edges, start, side="right") - 1, 0, len(edges) - 2)
        data["preempted"] = np.bincount(piece, part["preempted"].to_numpy(dtype=float), len(edges) - 1)
        frames.append(pd.DataFrame(data))
    return pd.concat(frames, ignore_index=True)


def finding(data: pd.DataFrame, window_s: tuple[float, float] | None = None) -> str:
    """What the curves say of the measured window (*window_s*; None: all of it)."""
    if data.empty:
        return "The engine never ran"
    inside = data
    if window_s is not None:
        inside = data[data["time_s"].between(*window_s)]
        inside = data if inside.empty else inside
    at_once = inside.groupby("time_s")[["running", "waiting"]].sum().mean()
    waiting, preempted = float(at_once["waiting"]), float(data["preempted"].sum())
    text = f"{formats.number(float(at_once['running']), 2)} requests run at once in the mean"
    text += f", {formats.number(waiting, 2)} wait" if waiting >= 0.05 else ", almost none waits"
    if not preempted:
        return f"{text}; none is preempted"
    return f"{text}; {formats.count(preempted)} preemption{'s' if preempted > 1 else ''}"


def figure(
    segments: pd.DataFrame,
    *,
    kv_blocks: Mapping[str, int] | None = None,
    window_s: tuple[float, float] | None = None,
    end_s: float | None = None,
) -> go.Figure:
    """Three curves above one another from the *segments* of one replication.

    *window_s*: start and end of the measured window; what lies before it is shaded as warm-up, what lies
    after it as drain. *kv_blocks* and *end_s* as in ``table``.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    data = table(segments, kv_blocks=kv_blocks, end_s=end_s)
    title = finding(data, window_s)
    if data.empty:
        return theme.empty("No step was computed in this run.", title=title)
    fig = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.055)
    fig.update_layout(template=theme.template_object("light"), height=560)
    pools = list(dict.fromkeys(data["pool"]))
    styles = theme.category_styles(pools)
    single = len(pools) == 1
    for row, (column, name, unit) in enumerate(_ROWS, start=1):
        scale, pattern = (100.0, "%{y:.3~r} %") if column == "kv_use" else (1.0, "%{y:.3~r}")
        for pool in pools:
            part = data[data["pool"] == pool]
            style = theme.BLUE if single else styles[pool]
            x = _short(part["time_s"])
            band = {"line": {"width": 0}, "hoverinfo": "skip", "showlegend": False, "mode": "lines"}
            fig.add_trace(go.Scatter(x=x, y=_short(part[f"{column}_low"] * scale), **band), row=row, col=1)
            fig.add_trace(
                go.Scatter(
                    x=x,
                    y=_short(part[f"{column}_high"] * scale),
                    fill="tonexty",
                    fillcolor=theme.translucent(style.color),
                    **band,
                ),
                row=row,
                col=1,
            )
            fig.add_trace(
                go.Scatter(
                    x=x,
                    y=_short(part[column] * scale),
                    mode="lines",
                    name=theme.label(pool),
                    legendgroup=theme.label(pool),
                    showlegend=row == 1 and not single,
                    line={"color": style.color, "dash": "solid" if single else style.dash, "width": 1.6},
                    customdata=np.array([formats.duration(t) for t in part["time_s"]], dtype=object),
                    hovertemplate=f"{name} {pattern} at %{{customdata}}<extra>%{{fullData.name}}</extra>",
                ),
                row=row,
                col=1,
            )
        top = float(data[f"{column}_high"].max()) * scale
        fig.update_yaxes(
            # the first row leaves room for the words on what is shaded
            range=[0, 112 if column == "kv_use" else max(top * (1.28 if row == 1 else 1.12), 1)],
            nticks=4,
            ticksuffix=" %" if column == "kv_use" else "",
            row=row,
            col=1,
        )
        fig.add_annotation(
            xref="paper",
            yref=f"y{row if row > 1 else ''} domain",
            x=0,
            y=1.0,
            yshift=12,
            text=f"<b>{name}</b> {unit}",
            xanchor="left",
            showarrow=False,
        )
    ticks = data[data["preempted"] > 0]
    if len(ticks):
        fig.add_trace(
            go.Scatter(
                x=_short(ticks["time_s"]),
                y=[106.0] * len(ticks),
                mode="markers",
                marker={
                    "symbol": "line-ns",
                    "size": 6,
                    "line": {"width": 1.2, "color": theme.VERMILLION.color},
                    "color": theme.VERMILLION.color,
                },
                name="preemptions",
                customdata=ticks["preempted"].astype(int).tolist(),
                hovertemplate="%{customdata} preempted<extra></extra>",
                showlegend=False,
            ),
            row=3,
            col=1,
        )
        fig.add_annotation(
            xref="paper",
            yref="y3 domain",
            x=1,
            y=1,
            yshift=14,
            xanchor="right",
            text="| preemptions",
            font={"color": theme.VERMILLION.color},
            showarrow=False,
        )
    last = float(data["time_s"].max())
    if window_s is not None:
        _shade(fig, 0.0, window_s[0], last, "warm-up")
        _shade(fig, window_s[1], last, last, "after the window")
    values, texts = formats.time_ticks(0, last)
    few, few_texts = formats.time_ticks(0, last, most=4)
    fig.update_xaxes(tickvals=values, ticktext=texts, range=[0, last])
    fig.update_xaxes(title_text="simulated time", row=3, col=1)
    fig.update_layout(margin_t=40)
    theme.narrow(
        fig,
        **{f"xaxis{i}": {"tickvals": few, "ticktext": few_texts} for i in ("", "2", "3")},
        height=520,
    )
    return theme.describe(
        fig,
        title=title,
        caption=(
            "All replicas of a pool together, in the first replication. A line is the mean over a "
            "piece of time, the band around it the lowest and highest value in the piece; shaded "
            "parts are not measured."
        ),
        alt=_alt(data, window_s),
        note=(
            f"Drawn as {len(data) // len(pools)} equal pieces of "
            f"{formats.duration(last / len(data) * len(pools))} each: mean, lowest and highest value."
        ),
    )


def _shade(fig: go.Figure, start: float, end: float, last: float, text: str) -> None:
    if end - start <= 0.004 * last:
        return
    for row in (1, 2, 3):
        fig.add_shape(
            type="rect",
            xref=f"x{row if row > 1 else ''}",
            yref=f"y{row if row > 1 else ''} domain",
            x0=start,
            x1=end,
            y0=0,
            y1=1,
            fillcolor=theme.LIGHT.context,
            opacity=0.16,
            line_width=0,
            layer="below",
        )
    if end - start > 0.07 * last:
        fig.add_annotation(
            name=theme.WIDE,
            xref="x",
            yref="y domain",
            x=(start + end) / 2,
            y=0.97,
            yanchor="top",
            text=text,
            font={"color": theme.LIGHT.muted},
            showarrow=False,
        )


def _alt(data: pd.DataFrame, window_s: tuple[float, float] | None) -> str:
    inside = data if window_s is None else data[data["time_s"].between(*window_s)]
    inside = data if inside.empty else inside
    parts = [
        f"{pool}: running {formats.number(part['running'].mean())} in the mean (most "
        f"{formats.number(part['running_high'].max())}), "
        f"waiting {formats.number(part['waiting'].mean())} (most "
        f"{formats.number(part['waiting_high'].max())}), "
        f"KV use {formats.percent(part['kv_use'].mean())} (most {formats.percent(part['kv_use_high'].max())})"
        for pool, part in inside.groupby("pool")
    ]
    return (
        f"Over the measured window, {'; '.join(parts)}. {formats.count(data['preempted'].sum())} "
        f"preemptions in the whole run."
    )


def _short(values: Any) -> np.ndarray:
    return np.array([float(f"{value:.5g}") for value in values])
