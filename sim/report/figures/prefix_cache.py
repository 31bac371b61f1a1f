"""What did the prefix cache spare? Tokens of admissions that were found on the GPU, loaded from the host, computed; by pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sim.report import formats, theme

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
    import plotly.graph_objects as go

    title = finding(data)
    if data.empty:
        return theme.empty("No pool has found anything in its prefix cache.", title=title)
    pools = list(dict.fromkeys(data["pool"]))[::-1]
    fig = theme.new_figure(120 + 62 * len(pools), barmode="stack", uniformtext={"mode": "hide", "minsize": 11})
    for part in PARTS:
        rows = data[data["part"] == part].set_index("pool").reindex(pools)
        if not rows["share"].fillna(0).any():
            continue
        style = theme.PART_STYLES[part]
        fig.add_trace(
            go.Bar(
                y=[theme.label(pool) for pool in pools],
                x=[float(f"{100 * value:.5g}") for value in rows["share"].fillna(0.0)],
                orientation="h",
                name=part,
                marker={
                    "color": style.color,
                    "line": {"color": theme.LIGHT.paper, "width": 1},
                    "pattern": theme.hatch(style),
                },
                text=[formats.percent(value, 2) if value > 0.05 else "" for value in rows["share"].fillna(0.0)],
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                insidetextfont={"color": theme.on(style), "size": 12},
                customdata=[
                    [PARTS[part], formats.percent(share), f"{tokens:,.0f}"]
                    for share, tokens in zip(rows["share"].fillna(0.0), rows["tokens"].fillna(0), strict=True)
                ],
                hovertemplate="%{customdata[1]}, %{customdata[2]} tokens<br>%{customdata[0]}"
                "<extra>%{fullData.name}</extra>",
            )
        )
    fig.update_xaxes(
        range=[0, 100], ticksuffix=" %", title_text="share of the tokens that requests asked to be computed"
    )
    fig.update_yaxes(showgrid=False)
    fig.update_layout(legend_traceorder="normal")
    theme.narrow(fig, xaxis={"nticks": 5, "title": {"text": "share of tokens"}})
    said = "; ".join(
        f"{pool}: "
        + ", ".join(f"{row.part} {formats.percent(row.share)}" for row in theme.rows(data[data["pool"] == pool]))
        for pool in pools[::-1]
    )
    words = "; ".join(f"{part} = {meaning}" for part, meaning in PARTS.items())
    return theme.describe(fig, title=title, caption=f"{words}.", alt=f"Tokens by where their KV came from. {said}.")
