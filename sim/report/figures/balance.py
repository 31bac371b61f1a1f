"""Is the load even between replicas? Tokens computed, requests held and time at work, of each against the
pool's mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sim.metrics.imbalance import SMALL_PART, work_and_parts
from sim.report import formats, theme
from sim.results.tables import PS_PER_S

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from sim.results.info import RunInfo

MEASURES = (
    ("tokens", "tokens computed", theme.BLUE),
    ("held", "requests held", theme.ORANGE),
    ("busy_s", "time at work", theme.GREEN),
)


def table(segments: pd.DataFrame, run: RunInfo) -> pd.DataFrame:
    """``pool, replica, tokens, held, busy_s`` over the window of *run*, and each over the replica's part (``…_ratio``).

    *held* are running and waiting requests in the mean over the window. A replica's part is what the mean of its pool did
    while it was on, so that one that idles is below and one that was off for a while is not. Pools of one replica say
    nothing, and neither do replicas that were on for a short time.
    """
    import pandas as pd

    window_s = max(run.window_end_ps - run.window_start_ps, 1) / PS_PER_S
    names = segments["pool"].astype(str)
    found = []
    for pool in run.pools:
        mine = segments[names == pool.name]
        columns = {name: mine[name].to_numpy() for name in ("replica", "start_s", "end_s")}
        length = (mine["end_s"] - mine["start_s"]).to_numpy(dtype=float)
        amounts = {
            "tokens": (mine["steps"] * mine["decodes"] + mine["chunk_tokens"]).to_numpy(dtype=float),
            "held": (mine["running"] + mine["waiting"]).to_numpy(dtype=float) * length / window_s,
            "busy_s": length,
        }
        loads = {name: work_and_parts(columns, amounts[name], pool, run) for name, _, _ in MEASURES}
        part = loads["busy_s"][1]
        if len(part) < 2:
            continue
        judged = np.flatnonzero(part > SMALL_PART * part.max())
        values: dict[str, object] = {"pool": pool.name, "replica": judged}
        values |= {name: work[judged] for name, (work, _) in loads.items()}
        for name, (work, parts) in loads.items():
            values[f"{name}_ratio"] = np.where(parts > 0, work / np.where(parts > 0, parts, 1.0), 1.0)[judged]
        found.append(pd.DataFrame(values))
    if found:
        return pd.concat(found, ignore_index=True)
    columns_of_none = ["pool", "replica", *(f"{name}{end}" for end in ("", "_ratio") for name, _, _ in MEASURES)]
    return pd.DataFrame(columns=columns_of_none)


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


def figure(segments: pd.DataFrame, run: RunInfo) -> go.Figure:
    """Each replica against its part of what its pool did, from the *segments* of *run*."""
    import plotly.graph_objects as go

    data = table(segments, run)
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
