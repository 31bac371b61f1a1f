"""How much more can it take? p99 time to answer of the recommended configuration against the rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sim.report import formats, theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def table(plan: Mapping[str, Any]) -> pd.DataFrame:
    """``rate_per_s, p99_tta_s, p99_tta_low_s, p99_tta_high_s, attainment, meets, overloaded`` by rising rate."""
    import pandas as pd

    columns = ["rate_per_s", "p99_tta_s", "p99_tta_low_s", "p99_tta_high_s", "attainment", "meets", "overloaded"]
    return pd.DataFrame([{key: row[key] for key in columns} for row in plan["capacity"]["curve"]], columns=columns)


def finding(plan: Mapping[str, Any]) -> str:
    """What the curve says."""
    capacity = plan["capacity"]
    rate = capacity["slo_rate_per_s"]
    if rate is None:
        return "The targets hold at no rate"
    text = f"The targets hold up to {formats.number(rate)} queries/s, {rate / plan['rate_per_s']:.2f}x this traffic"
    bounded = capacity["sustained_rate_per_s"]
    return text + (f"; the queue grows without end beyond {formats.number(bounded)}" if bounded else "")


def figure(data: pd.DataFrame, plan: Mapping[str, Any]) -> go.Figure:
    """The curve of ``table`` with its interval, today's rate and the largest within the targets."""
    import plotly.graph_objects as go

    title = finding(plan)
    known = data[data["p99_tta_s"].notna()]
    if known.empty:
        return theme.empty("No p99 time to answer is known at any rate.", title=title)
    fig = theme.new_figure(400)
    band = known.dropna(subset=["p99_tta_low_s", "p99_tta_high_s"])
    floor = float(known["p99_tta_s"].min()) * 0.3
    if len(band) > 1:
        x = band["rate_per_s"].tolist()
        low = band["p99_tta_low_s"].clip(lower=floor).tolist()
        fig.add_trace(
            go.Scatter(
                x=x + x[::-1],
                y=band["p99_tta_high_s"].tolist() + low[::-1],
                fill="toself",
                mode="none",
                fillcolor=theme.translucent(theme.BLUE.color),
                name="95 % interval",
                hoverinfo="skip",
            )
        )
    fig.add_trace(
        go.Scatter(
            x=known["rate_per_s"].tolist(),
            y=known["p99_tta_s"].tolist(),
            mode="lines+markers",
            name="p99 TTA",
            line={"color": theme.BLUE.color},
            customdata=[
                [formats.duration(row.p99_tta_s), formats.percent(row.attainment)] for row in theme.rows(known)
            ],
            hovertemplate="%{x:.3g}/s: p99 TTA %{customdata[0]}, %{customdata[1]} in time<extra></extra>",
        )
    )
    capacity = plan["capacity"]
    marks = [
        (plan["rate_per_s"], "this traffic", theme.GREY, "top left"),
        (capacity["slo_rate_per_s"], "targets hold", theme.VERMILLION, "top right"),
        (capacity["sustained_rate_per_s"], "queue stays bounded", theme.PURPLE, "bottom right"),
    ]
    for rate, text, style, place in marks:
        if rate is not None:
            line = {"color": style.color, "dash": style.dash}
            fig.add_vline(x=rate, line=line, annotation_text=text, annotation_position=place)
    target = _p99_target(plan)
    if target is not None:
        fig.add_hline(
            y=target,
            line={"color": theme.VERMILLION.color, "dash": "dot"},
        )
        fig.add_annotation(
            x=0,
            xref="paper",
            y=math.log10(target),  # annotations of a logarithmic axis stand at the logarithm
            text=f"target {formats.duration(target)}",
            showarrow=False,
            xanchor="left",
            yanchor="bottom",
        )
    top = max(float(known[["p99_tta_s", "p99_tta_high_s"]].max().max()), target or 0.0)
    values, texts = formats.log_ticks(floor, top * 1.2, "seconds")
    fig.update_yaxes(type="log", tickvals=values, ticktext=texts, title_text="p99 time to answer")
    fig.update_xaxes(title_text="queries/s")
    return theme.describe(
        fig,
        title=title,
        caption="The recommended configuration at other rates; band: 95 % interval over replications, where more than "
        "one was needed to tell.",
        alt=title + ".",
    )


def _p99_target(plan: Mapping[str, Any]) -> float | None:
    """The limit of p99 TTA, where the plan asks for one of all queries."""
    for target in plan["targets"]:
        if target["metric"] == "tta" and target["percentile"] == 99:
            return float(target["target"])
    return None
