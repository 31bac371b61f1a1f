"""Where did GPU time go? Prefill, reading weights, reading KV, the host, and nothing at all, by pool.

The shares follow from the segments and the step cost, term by term: a step that computes T tokens, B of
them decodes, costs ``host + linear(T) + seq·B + kv·K + …`` (see ``calibration.step_cost``). ``linear(B)``
counts as weights, what a prefill chunk adds to it as prefill, together with attention over its pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from calibration.step_cost import StepCost
from sim.report import formats, theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

PARTS: dict[str, str] = {
    "prefill": "computing prompts, recomputed ones too",
    "weights": "decode: reading weights and multiplying by them",
    "KV read": "decode: reading the KV cache",
    "host": "the engine's own time a step and a row",
    "idle": "no step under way",
}


def busy(segments: pd.DataFrame, cost: StepCost, window_s: tuple[float, float]) -> dict[str, float]:
    """Seconds of the replicas in *segments* (of one pool and one replication) within *window_s*, by part.

    A run of steps that reaches over the window's edge counts by the share of its time inside.
    """
    column = {name: segments[name].to_numpy(dtype=float) for name in segments.columns if name not in _NAMES}
    inside = np.minimum(column["end_s"], window_s[1]) - np.maximum(column["start_s"], window_s[0])
    length = column["end_s"] - column["start_s"]
    share = np.clip(np.divide(inside, length, out=np.zeros_like(length), where=length > 0), 0.0, 1.0)
    steps, decodes, chunks = column["steps"] * share, column["decodes"], column["chunks"]
    tokens = decodes + column["chunk_tokens"]
    linear = _linear(cost, tokens)
    alone = np.where(decodes > 0, _linear(cost, decodes), 0.0)
    alone = np.where(chunks > 0, alone, linear)
    growth = decodes * (column["steps"] - 1) / 2
    prefill = linear - alone + cost.half_pair_ps * column["pairs"] + cost.cached_ps * column["cached"]
    prefill = prefill + np.where(chunks > 0, cost.mixed_ps * decodes, 0.0)
    sums = {
        "prefill": prefill * steps,
        "weights": alone * steps,
        "KV read": cost.kv_ps * (column["context"] + growth) * steps,
        "host": (cost.host_ps + cost.seq_ps * (decodes + chunks)) * steps,
    }
    return {name: float(values.sum()) * 1e-12 for name, values in sums.items()}


_NAMES = frozenset({"pool", "kind", "replication", "replica"})


def _linear(cost: StepCost, tokens: np.ndarray) -> np.ndarray:
    table = np.asarray(cost.linear_ps, dtype=float)
    last = len(table) - 1
    index = np.minimum(tokens, last).astype(int)
    return np.asarray(table[index] + cost.linear_slope_ps * np.maximum(tokens - last, 0.0))


def table(
    segments: pd.DataFrame,
    *,
    cost: dict[str, StepCost],
    gpus: dict[str, int],
    gpu_hours: dict[str, float],
    window_s: tuple[float, float],
) -> pd.DataFrame:
    """``pool, part, gpu_hours, share`` of one replication.

    *gpu_hours* were on in the window, by pool; *gpus* are those of one replica.
    """
    import pandas as pd

    rows = []
    for pool, step_cost in cost.items():
        parts = busy(segments[segments["pool"].astype(str) == pool], step_cost, window_s)
        hours = {part: seconds * gpus[pool] / 3600 for part, seconds in parts.items()}
        on = max(gpu_hours[pool], sum(hours.values()))
        hours["idle"] = on - sum(hours.values())
        rows += [(pool, part, hours[part], hours[part] / on if on > 0 else 0.0) for part in PARTS]
    return pd.DataFrame(rows, columns=["pool", "part", "gpu_hours", "share"])


def finding(data: pd.DataFrame) -> str:
    """What the bars say, of all pools together."""
    total = float(data["gpu_hours"].sum()) if len(data) else 0.0
    if total <= 0:
        return "Where GPU time went is not known"
    hours = data.groupby("part")["gpu_hours"].sum() / total
    work = hours.drop("idle", errors="ignore")
    top = str(work.idxmax())
    names = {
        "weights": "reading weights",
        "KV read": "reading the KV cache",
        "prefill": "prefill",
        "host": "the host",
    }
    text = f"GPUs work {formats.percent(1 - float(hours.get('idle', 0.0)), 2)} of the time"
    return f"{text}; {names[top]} takes most, {formats.percent(float(work[top]), 2)}"


def figure(data: pd.DataFrame) -> go.Figure:
    """Stacked shares of GPU time, one bar a pool, from ``pool, part, gpu_hours, share`` (see ``table``)."""
    import plotly.graph_objects as go

    title = finding(data)
    if data.empty or float(data["gpu_hours"].sum()) <= 0:
        return theme.empty("The step cost of this run is not at hand.", title=title)
    pools = list(dict.fromkeys(data["pool"]))[::-1]
    fig = theme.new_figure(120 + 62 * len(pools), barmode="stack")
    for part in PARTS:
        rows = data[data["part"] == part].set_index("pool").reindex(pools)
        if not rows["share"].fillna(0).any():
            continue
        style = theme.PART_STYLES[part]
        fig.add_trace(
            go.Bar(
                y=[theme.label(pool) for pool in pools],
                x=[float(f"{100 * value:.5g}") for value in rows["share"]],
                orientation="h",
                name=part,
                marker={
                    "color": style.color,
                    "line": {"color": theme.LIGHT.paper, "width": 1},
                    "pattern": theme.hatch(style),
                },
                text=[formats.percent(value, 2) if value > 0.05 else "" for value in rows["share"]],
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                insidetextfont={"color": theme.on(style), "size": 12},
                customdata=[
                    [PARTS[part], formats.percent(share), formats.number(hours)]
                    for share, hours in zip(rows["share"], rows["gpu_hours"], strict=True)
                ],
                hovertemplate="%{customdata[1]}, %{customdata[2]} GPU-hours<br>%{customdata[0]}"
                "<extra>%{fullData.name}</extra>",
            )
        )
    fig.update_xaxes(range=[0, 100], ticksuffix=" %", title_text="share of GPU time in the measured window")
    fig.update_yaxes(showgrid=False)
    fig.update_layout(legend_traceorder="normal")
    theme.narrow(fig, xaxis={"nticks": 5})
    said = "; ".join(
        f"{pool}: "
        + ", ".join(
            f"{row.part} {formats.percent(row.share)}" for row in theme.rows(data[data["pool"] == pool])
        )
        for pool in pools[::-1]
    )
    words = "; ".join(f"{part} = {meaning}" for part, meaning in PARTS.items())
    return theme.describe(
        fig,
        title=title,
        caption=f"All GPUs that were on. {words}.",
        alt=f"Share of GPU time by pool. {said}.",
    )
