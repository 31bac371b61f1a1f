"""What holds the memory? Weights, activations, KV that holds live tokens, KV reserved in vain, free KV; by
pool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sim.report import formats, theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

PARTS: dict[str, str] = {
    "weights": "the model's weights",
    "activations": "activations, graphs and buffers",
    "KV live": "KV blocks, the part that holds live tokens",
    "KV wasted": "KV blocks with a reference, the part without a token",
    "KV free": "KV blocks that nothing uses, or that only the prefix cache keeps",
    "not usable": "left alone by gpu_memory_utilization",
}


class Pool(Protocol):
    """What must be known of a pool; ``sim.results.info.PoolInfo`` has it."""

    @property
    def name(self) -> str: ...
    @property
    def replicas(self) -> int: ...
    @property
    def gpus_per_replica(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    @property
    def num_gpu_blocks(self) -> int: ...
    @property
    def kv_bytes_per_token(self) -> int: ...
    @property
    def memory(self) -> Mapping[str, Any]: ...


def table(segments: pd.DataFrame, pools: Iterable[Pool], *, window_s: tuple[float, float]) -> pd.DataFrame:
    """``pool, part, gigabytes`` (10⁹ bytes) of one GPU, means over *window_s* of one replication."""
    import pandas as pd

    rows: list[tuple[str, str, float]] = []
    for pool in pools:
        memory = {key: float(value) for key, value in pool.memory.items() if isinstance(value, (int, float))}
        part = segments[segments["pool"].astype(str) == pool.name]
        live, reserved = _means(part, window_s, pool.replicas)
        per_token = pool.kv_bytes_per_token / pool.gpus_per_replica
        held, blocks = live * per_token, reserved * pool.block_size * per_token
        kv = memory.get("kv") or pool.num_gpu_blocks * pool.block_size * per_token
        held = min(held, blocks)
        parts = {
            "weights": memory.get("weights", 0.0),
            "activations": memory.get("activations", 0.0),
            "KV live": held,
            "KV wasted": blocks - held,
            "KV free": max(kv - blocks, 0.0),
        }
        if "hbm" in memory:
            parts["not usable"] = max(memory["hbm"] - sum(parts.values()), 0.0)
        rows += [(pool.name, name, size / 1e9) for name, size in parts.items()]
    return pd.DataFrame(rows, columns=["pool", "part", "gigabytes"])


def _means(part: pd.DataFrame, window_s: tuple[float, float], replicas: int) -> tuple[float, float]:
    """Live tokens and reserved blocks of a replica, averaged over the window (idle time counts as none)."""
    if part.empty or window_s[1] <= window_s[0]:
        return 0.0, 0.0
    start, end = (part[name].to_numpy(dtype=float) for name in ("start_s", "end_s"))
    inside = np.clip(np.minimum(end, window_s[1]) - np.maximum(start, window_s[0]), 0.0, None)
    time = (window_s[1] - window_s[0]) * max(replicas, 1)
    live = (
        part["live_tokens"].to_numpy(dtype=float)
        + part["decodes"].to_numpy(dtype=float) * (part["steps"].to_numpy(dtype=float) - 1) / 2
    )
    blocks = (
        part["reserved_blocks"].to_numpy(dtype=float) + part["reserved_blocks_last"].to_numpy(dtype=float)
    ) / 2
    return float((live * inside).sum() / time), float((blocks * inside).sum() / time)


def finding(data: pd.DataFrame) -> str:
    """What the bars say, of the pool whose KV is fullest."""
    if data.empty:
        return "The memory of the pools is not known"
    wide = data.pivot(index="pool", columns="part", values="gigabytes").fillna(0.0)
    kv = wide["KV live"] + wide["KV wasted"] + wide["KV free"]
    use = ((wide["KV live"] + wide["KV wasted"]) / kv.where(kv > 0)).fillna(0.0)
    pool = str(use.idxmax())
    weights, total = wide["weights"].to_dict()[pool], kv.to_dict()[pool]
    place = f" in pool {pool}" if len(wide) > 1 else ""
    return (
        f"Of {formats.number(total)} GB a GPU for KV{place}, {formats.percent(float(use[pool]), 2)} is in "
        f"use in the mean; weights hold {formats.number(weights)} GB"
    )


def figure(data: pd.DataFrame) -> go.Figure:
    """Stacked gigabytes of one GPU, one bar a pool, from ``pool, part, gigabytes`` (see ``table``)."""
    import plotly.graph_objects as go

    title = finding(data)
    if data.empty:
        return theme.empty("No pool states its memory.", title=title)
    pools = list(dict.fromkeys(data["pool"]))[::-1]
    total = float(data.groupby("pool")["gigabytes"].sum().max())
    fig = theme.new_figure(120 + 62 * len(pools), barmode="stack")
    for part in PARTS:
        rows = data[data["part"] == part].set_index("pool").reindex(pools)["gigabytes"].fillna(0.0)
        if not rows.any():
            continue
        style = theme.PART_STYLES[part]
        fig.add_trace(
            go.Bar(
                y=[theme.label(pool) for pool in pools],
                x=[float(f"{value:.5g}") for value in rows],
                orientation="h",
                name=part,
                marker={
                    "color": style.color,
                    "line": {"color": theme.LIGHT.paper, "width": 1},
                    "pattern": theme.hatch(style),
                },
                text=[f"{formats.number(value)} GB" if value > 0.08 * total else "" for value in rows],
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                insidetextfont={"color": theme.on(style), "size": 12},
                customdata=[PARTS[part]] * len(rows),
                hovertemplate="%{x:.4~g} GB<br>%{customdata}<extra>%{fullData.name}</extra>",
            )
        )
    fig.update_xaxes(range=[0, total], ticksuffix=" GB", title_text="memory of one GPU, mean over the window")
    fig.update_yaxes(showgrid=False)
    fig.update_layout(legend_traceorder="normal")
    theme.narrow(fig, xaxis={"nticks": 5})
    said = "; ".join(
        f"{pool}: "
        + ", ".join(
            f"{row.part} {formats.number(row.gigabytes)} GB" for row in theme.rows(data[data["pool"] == pool])
        )
        for pool in pools[::-1]
    )
    words = "; ".join(f"{part} = {meaning}" for part, meaning in PARTS.items() if part in set(data["part"]))
    return theme.describe(fig, title=title, caption=f"{words}.", alt=f"Memory of one GPU by pool. {said}.")
