"""What should I buy? Cost against p99 time to answer: every point simulated, the frontier, the choice labelled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sim.report import formats, theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def table(plan: Mapping[str, Any]) -> pd.DataFrame:
    """``name, replicas, usd_per_month, p99_tta_s, kind``; kind is chosen, frontier, meets or misses."""
    import pandas as pd

    best = plan.get("recommendation")
    front = {row["key"] for row in plan["frontier"]}
    rows = []
    for point in plan["points"]:
        if point["p99_tta_s"] is None or point["p99_tta_s"] != point["p99_tta_s"]:
            continue
        chosen = (
            best is not None and point["name"] == best["name"] and point["replicas"] == sum(best["replicas"].values())
        )
        kind = "chosen" if chosen else "frontier" if point["key"] in front else "meets" if point["meets"] else "misses"
        rows.append((point["name"], point["replicas"], point["usd_per_month"], point["p99_tta_s"], kind))
    return pd.DataFrame(rows, columns=["name", "replicas", "usd_per_month", "p99_tta_s", "kind"])


def finding(data: pd.DataFrame) -> str:
    """What the points say."""
    good = data[data["kind"] != "misses"]
    if good.empty:
        return "No point that was simulated meets the targets"
    chosen = data[data["kind"] == "chosen"]
    if chosen.empty:
        return f"{len(good)} of {len(data)} points meet the targets"
    row = chosen.iloc[0]
    return (
        f"{row['replicas']} x {row['name']} is the cheapest of {len(good)} points that meet the targets: "
        f"{formats.money(row['usd_per_month'])} a month"
    )


def figure(data: pd.DataFrame) -> go.Figure:
    """Points of ``table``; logarithmic on both axes."""
    import plotly.graph_objects as go

    title = finding(data)
    if data.empty:
        return theme.empty("No point has a p99 time to answer that is known.", title=title)
    fig = theme.new_figure(420)
    styles = {
        "misses": (theme.GREY, "misses a target", 8),
        "meets": (theme.SKY, "meets, dominated", 9),
        "frontier": (theme.BLUE, "meets, on the frontier", 11),
        "chosen": (theme.VERMILLION, "recommended", 15),
    }
    for kind, (style, name, size) in styles.items():
        part = data[data["kind"] == kind].sort_values("usd_per_month")
        if part.empty:
            continue
        fig.add_trace(
            go.Scatter(
                x=part["usd_per_month"].tolist(),
                y=part["p99_tta_s"].tolist(),
                mode="markers",
                name=name,
                marker={"color": style.color, "symbol": style.symbol, "size": size},
                customdata=[
                    [
                        theme.safe(row.name),
                        row.replicas,
                        formats.money(row.usd_per_month),
                        formats.duration(row.p99_tta_s),
                    ]
                    for row in theme.rows(part)
                ],
                hovertemplate="%{customdata[1]} x %{customdata[0]}<br>%{customdata[2]} a month, p99 TTA "
                "%{customdata[3]}<extra>%{fullData.name}</extra>",
            )
        )
    for row in theme.rows(data[data["kind"] == "chosen"]):
        fig.add_annotation(
            x=math.log10(row.usd_per_month),
            y=math.log10(row.p99_tta_s),
            text=theme.safe(f"{row.replicas} x {row.name}", 40),
            showarrow=False,
            xanchor="left",
            xshift=14,
        )
    values, texts = formats.log_ticks(data["p99_tta_s"].min() * 0.8, data["p99_tta_s"].max() * 1.25, "seconds")
    fig.update_yaxes(type="log", tickvals=values, ticktext=texts, title_text="p99 time to answer")
    values, texts = formats.log_ticks(data["usd_per_month"].min() * 0.8, data["usd_per_month"].max() * 1.25)
    fig.update_xaxes(type="log", tickvals=values, ticktext=texts, title_text="US dollars a month")
    return theme.describe(
        fig,
        title=title,
        caption="Every configuration that was simulated at this traffic; to the left is cheaper, lower is faster.",
        alt=title + ".",
    )
