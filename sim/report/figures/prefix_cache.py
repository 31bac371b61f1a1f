"""What did the prefix cache spare? Tokens of admissions that were found on the GPU, loaded from the host, computed; by pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sim.report import formats, stacked, theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

PARTS: dict[str, str] = {
    "found on the GPU": "tokens whose KV was still in the GPU's memory",
    "loaded from the host": "tokens whose KV came back from the host's memory (kv_offloading_size)",
    "computed": "all other tokens: prompts, outputs and what preemptions threw away",
}


def table(kv: Mapping[str, Any]) -> pd.DataFrame:
    """``pool, part, tokens, share`` of the windows' requests, from the summary's ``kv`` section.

    Pools whose cache found nothing and that have no host memory for it are left out.
    """
    import pandas as pd

    rows: list[tuple[str, str, int, float]] = []
    for pool, entry in kv["pools"].items():
        cache = entry.get("prefix_cache") or {}
        hit, share = int(cache.get("hit_tokens") or 0), float(cache.get("hit_share") or 0.0)
        if not (hit or cache.get("host_blocks")):
            continue
        host, host_share = int(cache.get("host_hit_tokens") or 0), float(cache.get("host_hit_share") or 0.0)
        computed = round(hit * (1 - share) / share) if share else 0
        parts = (hit - host, share - host_share), (host, host_share), (computed, 1 - share)
        rows += [(pool, part, tokens, each) for part, (tokens, each) in zip(PARTS, parts, strict=True)]
    return pd.DataFrame(rows, columns=["pool", "part", "tokens", "share"])


def finding(data: pd.DataFrame) -> str:
    """What the bars say, of the pool whose cache spares most."""
    if data.empty:
        return "The prefix cache found nothing"
    shares = data.pivot(index="pool", columns="part", values="share")
    spared = 1 - shares["computed"]
    pool = str(spared.idxmax())
    place = f" in pool {pool}" if len(spared) > 1 else ""
    host = float(shares["loaded from the host"].to_dict()[pool])
    whereof = f", {formats.percent(host, 2)} from the host's memory" if host > 0 else ""
    return f"The prefix cache spares {formats.percent(float(spared[pool]), 2)} of the tokens to compute{place}{whereof}"


def figure(data: pd.DataFrame) -> go.Figure:
    """Stacked shares of the tokens of all admissions, one bar a pool, from ``pool, part, tokens, share`` (see ``table``)."""
    title = finding(data)
    if data.empty:
        return theme.empty("No pool has found anything in its prefix cache.", title=title)
    return stacked.figure(
        data,
        "share",
        PARTS,
        stacked.Scale(
            100, "%", "share of the tokens that requests asked to be computed", "share of tokens", factor=100
        ),
        words=lambda share: formats.percent(share, 2),
        exactly=lambda row: f"{formats.percent(row.share)}, {row.tokens:,.0f} tokens",
        title=title,
        caption="",
        alt="Tokens by where their KV came from.",
    )
