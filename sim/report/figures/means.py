"""What do means hide? Replicas that sizing by mean lengths would buy, and the share in time with the real lengths."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sim.report import formats, theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

LABELS = {
    "arithmetic": "arithmetic<br>with means",
    "simulated": "simulated, all<br>of mean length",
    "real lengths": "real<br>lengths",
}


def table(plan: Mapping[str, Any]) -> pd.DataFrame:
    """``way, replicas, metric, share, asked, meets``: the share that keeps to the deciding target with real lengths."""
    import pandas as pd

    best = plan["recommendation"]
    rows = [
        (
            way["way"],
            sum(way["replicas"].values()),
            way["metric"],
            way["share"],
            way["asked"],
            way["share"] >= way["asked"],
        )
        for way in plan["means"]["ways"]
    ]
    target = min(best["targets"], key=lambda each: (each["share"] - each["asked"]) / max(1 - each["asked"], 1e-9))
    needed = sum(best["replicas_needed"].values())
    share = target["share"] if best["replicas"] == best["replicas_needed"] else None
    rows.append(("real lengths", needed, target["metric"], share, target["asked"], True))
    return pd.DataFrame(rows, columns=["way", "replicas", "metric", "share", "asked", "meets"])


def finding(data: pd.DataFrame) -> str:
    """What the bars say."""
    needed = int(data.iloc[-1]["replicas"])
    least = data.iloc[:-1].sort_values("replicas")
    if least.empty or int(least.iloc[0]["replicas"]) >= needed:
        return "Sizing by mean lengths would not have bought too little here"
    row = least.iloc[0]
    ratio = needed / int(row["replicas"])
    return (
        f"Sizing by mean lengths buys {int(row['replicas'])} of the {needed} replicas needed, {ratio:.2g}x too few; "
        f"{formats.percent(row['share'])} would be in time, not {formats.percent(row['asked'])}"
    )


def figure(data: pd.DataFrame) -> go.Figure:
    """Bars of ``table``."""
    import plotly.graph_objects as go

    title = finding(data)
    shown = data.iloc[::-1]
    fig = theme.new_figure(120 + 46 * len(shown))
    for meets, style, name in ((True, theme.BLUE, "meets the targets"), (False, theme.VERMILLION, "misses")):
        part = shown[shown["meets"].astype(bool) == meets]
        if part.empty:
            continue
        texts = [
            "" if row.share is None or row.share != row.share else f"{formats.percent(row.share)} in time"
            for row in theme.rows(part)
        ]
        fig.add_trace(
            go.Bar(
                y=[LABELS[way] for way in part["way"]],
                x=part["replicas"].tolist(),
                orientation="h",
                name=name,
                marker={"color": style.color, "pattern": theme.hatch(style)},
                text=texts,
                textposition="outside",
                cliponaxis=False,
                customdata=[
                    [row.metric, formats.percent(row.asked), text]
                    for row, text in zip(theme.rows(part), texts, strict=True)
                ],
                hovertemplate="%{x} replicas: %{customdata[2]} (%{customdata[0]}, %{customdata[1]} are asked)"
                "<extra>%{fullData.name}</extra>",
            )
        )
    most = float(data["replicas"].max())
    fig.update_xaxes(title_text="replicas", range=[0, 1.7 * most], dtick=max(1, math.ceil(most / 6)))
    fig.update_yaxes(categoryorder="array", categoryarray=[LABELS[way] for way in shown["way"]])
    return theme.describe(
        fig,
        title=title,
        caption="Replicas that each way of sizing asks for, and how many queries they answer in time with the lengths "
        "that the traffic has.",
        alt=title + ".",
    )
