"""Is the load even between replicas? Tokens computed, requests held and time at work, of each against the
pool's mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sim.report import formats, theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MEASURES = (
    ("tokens", "tokens computed", theme.BLUE),
    ("held", "requests held", theme.ORANGE),
    ("busy_s", "time at work", theme.GREEN),
)


def table(segments: pd.DataFrame, *, window_s: tuple[float, float]) -> pd.DataFrame:
    """``replication, pool, replica, tokens, held, busy_s`` and each over its pool's mean (``…_ratio``).

    *held* are running and waiting requests in the mean over *window_s*.
    """
    import pandas as pd

    frame = segments.assign(pool=segments["pool"].astype(str))
    start, end = (frame[name].to_numpy(dtype=float) for name in ("start_s", "end_s"))
    inside = np.clip(np.minimum(end, window_s[1]) - np.maximum(start, window_s[0]), 0.0, None)
    share = np.divide(inside, end - start, out=np.zeros_like(inside), where=end > start)
    tokens = frame["steps"] * frame["decodes"] + frame["chunk_tokens"]
    length = max(window_s[1] - window_s[0], 1e-12)
    frame = frame.assign(
        tokens=tokens.to_numpy(dtype=float) * share,
        held=(frame["running"] + frame["waiting"]).to_numpy(dtype=float) * inside / length,
        busy_s=inside,
    )
    names = [name for name, _, _ in MEASURES]
    data = frame.groupby(["replication", "pool", "replica"], sort=True)[names].sum().reset_index()
    means = data.groupby(["replication", "pool"])[names].transform("mean")
    for name in names:
        data[f"{name}_ratio"] = np.where(means[name] > 0, data[name] / means[name].where(means[name] > 0), 1.0)
    return pd.DataFrame(data)


def finding(data: pd.DataFrame) -> str:
    """What the dots say."""
    if len(data) < 2:
        return "One replica carries all the load"
    worst = data.iloc[int(data["held_ratio"].argmax())]
    spread = float(data["tokens_ratio"].max() - data["tokens_ratio"].min())
    return (
        f"The fullest replica holds {formats.number(float(worst['held_ratio']))} times the mean number "
        f"of requests; "
        f"tokens differ by {formats.percent(spread, 2)} of the mean"
    )


def figure(segments: pd.DataFrame, *, window_s: tuple[float, float]) -> go.Figure:
    """Each replica against the mean of its pool, from the *segments* of one replication."""
    import plotly.graph_objects as go

    data = table(segments, window_s=window_s)
    title = finding(data)
    if data.empty:
        return theme.empty("No step was computed in this run.", title=title)
    several = data["pool"].nunique() > 1
    rows = list(range(len(data)))
    labels = [
        (f"{theme.safe(row.pool, 16)} " if several else "replica ") + str(row.replica) for row in theme.rows(data)
    ]
    dense = len(data) > 24
    fig = theme.new_figure(min(150 + (12 if dense else 28) * len(data), 900))
    for name, said, style in MEASURES:
        fig.add_trace(
            go.Scatter(
                x=[float(f"{100 * value:.5g}") for value in data[f"{name}_ratio"]],
                y=rows,
                mode="markers",
                name=said,
                marker={"color": style.color, "symbol": style.symbol, "size": 7 if dense else 10},
                customdata=[[text, _exact(name, value)] for text, value in zip(labels, data[name], strict=True)],
                hovertemplate="%{customdata[0]}: %{x:.4~g} % of the mean (%{customdata[1]})"
                "<extra>%{fullData.name}</extra>",
            )
        )
    ratios = data[[f"{name}_ratio" for name, _, _ in MEASURES]].to_numpy(dtype=float)
    low, high = 100 * float(ratios.min()), 100 * float(ratios.max())
    low, high = min(low, 95.0), max(high, 105.0)
    pad = 0.06 * (high - low)
    fig.add_shape(
        type="line",
        x0=100,
        x1=100,
        y0=-0.6,
        y1=len(data) - 0.4,
        line={"color": theme.GREY.color, "dash": "dot"},
    )
    fig.update_xaxes(range=[low - pad, high + pad], ticksuffix=" %", title_text="of the mean of the pool's replicas")
    step = max(1, len(data) // 24)
    fig.update_yaxes(tickvals=rows[::step], ticktext=labels[::step], range=[len(data) - 0.4, -0.6], showgrid=not dense)
    theme.narrow(fig, xaxis={"nticks": 5})
    said = "; ".join(
        f"{text}: " + ", ".join(f"{name} {_exact(key, getattr(row, key))}" for key, name, _ in MEASURES)
        for text, row in zip(labels, theme.rows(data), strict=True)
    )
    return theme.describe(
        fig,
        title=title,
        caption=(
            "Each row is a replica in the first replication, over the measured window; all at 100 % "
            "would be perfectly even."
        ),
        alt=f"Load by replica. {said}.",
    )


def _exact(name: str, value: float) -> str:
    if name == "tokens":
        return f"{formats.count(value)} tokens"
    return formats.duration(value) if name == "busy_s" else f"{formats.number(value)} requests"
