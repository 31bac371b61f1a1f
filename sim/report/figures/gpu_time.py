"""Where did GPU time go? Prefill, reading weights, reading KV, the host, and nothing at all, by pool.

Drawn from the ``gpu`` section of a run's summary; ``sim.metrics.usage`` splits the time of the steps by the
terms of the step cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sim.report import formats, stacked, theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

PARTS: dict[str, str] = {
    "prefill": "computing prompts, recomputed ones too",
    "weights": "decode: reading weights and multiplying by them",
    "KV read": "decode: reading the KV cache",
    "host": "scheduling, sampling and launches, a step and a row",
    "busy": "within a step",
    "idle": "no step under way",
}


_KEYS = {"KV read": "kv_read"}


def table(gpu: Mapping[str, Any]) -> pd.DataFrame:
    """``pool, part, gpu_hours, share`` from the summary's ``gpu`` section.

    Where the step cost was not at hand there are two parts only, ``busy`` and ``idle``.
    """
    import pandas as pd

    rows = []
    for pool, entry in gpu["pools"].items():
        hours, use = float(entry["gpu_hours"] or 0.0), float(entry["utilisation"] or 0.0)
        parts = entry.get("parts")
        if parts is None:
            shares = {"busy": use, "idle": max(0.0, 1 - use)}
        else:
            shares = {part: float(parts[_KEYS.get(part, part)]) for part in PARTS if part != "busy"}
        rows += [(pool, part, share * hours, share) for part, share in shares.items()]
    return pd.DataFrame(rows, columns=["pool", "part", "gpu_hours", "share"])


def finding(data: pd.DataFrame) -> str:
    """What the bars say, of all pools together."""
    total = float(data["gpu_hours"].sum()) if len(data) else 0.0
    if total <= 0:
        return "Where GPU time went is not known"
    hours = data.groupby("part")["gpu_hours"].sum() / total
    work = hours.drop("idle", errors="ignore")
    top = str(work.idxmax())
    if not float(work[top]):
        return "GPUs do no work in the measured window"
    names = {
        "weights": "reading weights",
        "KV read": "reading the KV cache",
        "prefill": "prefill",
        "host": "the host",
    }
    text = f"GPUs work {formats.percent(1 - float(hours.get('idle', 0.0)), 2)} of the time"
    if top == "busy":
        return text
    return f"{text}; {names[top]} takes most, {formats.percent(float(work[top]), 2)}"


def figure(data: pd.DataFrame) -> go.Figure:
    """Stacked shares of GPU time, one bar a pool, from ``pool, part, gpu_hours, share`` (see ``table``)."""
    title = finding(data)
    if data.empty or float(data["gpu_hours"].sum()) <= 0:
        return theme.empty("The step cost of this run is not at hand.", title=title)
    return stacked.figure(
        data,
        "share",
        PARTS,
        stacked.Scale(100, "%", "share of GPU time in the measured window", "share of GPU time", factor=100),
        words=lambda share: formats.percent(share, 2),
        exactly=lambda row: f"{formats.percent(row.share)}, {formats.number(row.gpu_hours)} GPU-hours",
        title=title,
        caption="All GPUs that were on.",
        alt="Share of GPU time by pool.",
    )
