"""What holds the memory? Weights, activations, KV that holds live tokens, reserved in vain, wasted, cached, free; by
pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sim.report import formats, stacked, theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

PARTS: dict[str, str] = {
    "weights": "the model's weights",
    "activations": "activations, graphs and buffers",
    "KV live": "KV blocks, the part that holds live tokens",
    "KV copied": "live tokens of a common prefix that another request holds too",
    "KV wasted": "what the last blocks of requests leave empty",
    "KV reserved": "set aside for tokens that have not come",
    "KV cached": "kept by the prefix cache alone, given up when needed",
    "KV free": "KV blocks that nothing uses",
    "not usable": "left alone by gpu_memory_utilization, or by a stated number of blocks",
}


def table(kv: Mapping[str, Any], gpus: Mapping[str, int]) -> pd.DataFrame:
    """``pool, part, gigabytes`` (10⁹ bytes) of one GPU, from the summary's ``kv`` section.

    KV is its mean over the measured windows, waste by cause. *gpus* says how many GPUs a replica of each pool has.
    """
    import pandas as pd

    rows: list[tuple[str, str, float]] = []
    for pool, entry in kv["pools"].items():
        sizes = {
            key.removesuffix("_bytes"): float(value)
            for key, value in entry["memory"].items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        }
        capacity = sizes.get("kv") or entry["capacity_tokens"] * entry["kv_bytes_per_token"] / gpus[pool]
        used = capacity * min(float(entry["use_mean"] or 0.0), 1.0)
        live = used * min(float(entry["memory_efficiency"] or 0.0), 1.0)
        waste = entry.get("waste", {})
        reserved, copied, cached = (
            capacity * float(waste.get(name) or 0.0)
            for name in ("reserved_unused", "duplicate_prefixes", "cached_unreferenced")
        )
        parts = {
            "weights": sizes.get("weights", 0.0),
            "activations": sizes.get("activations", 0.0),
            "KV live": max(live - copied, 0.0),
            "KV copied": min(copied, live),
            "KV wasted": max(used - live - reserved, 0.0),
            "KV reserved": reserved,
            "KV cached": cached,
            "KV free": max(capacity - used - cached, 0.0),
        }
        if "hbm" in sizes:
            parts["not usable"] = max(sizes["hbm"] - sum(parts.values()), 0.0)
        rows += [(pool, name, size / 1e9) for name, size in parts.items()]
    return pd.DataFrame(rows, columns=["pool", "part", "gigabytes"])


def finding(data: pd.DataFrame) -> str:
    """What the bars say, of the pool whose KV is fullest."""
    if data.empty:
        return "The memory of the pools is not known"
    wide = data.pivot(index="pool", columns="part", values="gigabytes").fillna(0.0)
    held = wide["KV live"] + wide["KV copied"] + wide["KV wasted"] + wide["KV reserved"]
    kv = held + wide["KV cached"] + wide["KV free"]
    use = (held / kv.where(kv > 0)).fillna(0.0)
    pool = str(use.idxmax())
    weights, total = wide["weights"].to_dict()[pool], kv.to_dict()[pool]
    place = f" in pool {pool}" if len(wide) > 1 else ""
    vain = float(wide["KV reserved"].to_dict()[pool]) / total if total else 0.0
    whereof = f", {formats.percent(vain, 2)} for tokens that have not come" if vain >= 0.01 else ""
    return (
        f"Of {formats.number(total)} GB a GPU for KV{place}, {formats.percent(float(use[pool]), 2)} is in "
        f"use in the mean{whereof}; weights hold {formats.number(weights)} GB"
    )


def figure(data: pd.DataFrame) -> go.Figure:
    """Stacked gigabytes of one GPU, one bar a pool, from ``pool, part, gigabytes`` (see ``table``)."""
    title = finding(data)
    if data.empty:
        return theme.empty("No pool states its memory.", title=title)
    total = float(data.groupby("pool")["gigabytes"].sum().max())
    return stacked.figure(
        data,
        "gigabytes",
        PARTS,
        stacked.Scale(total, "GB", "memory of one GPU, mean over the window", "memory of one GPU", label_from=0.08),
        words=lambda value: f"{formats.number(value)} GB",
        exactly=lambda row: f"{row.gigabytes:.4g} GB",
        title=title,
        caption="",
        alt="Memory of one GPU by pool.",
    )
