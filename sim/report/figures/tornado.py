"""What would change the answer? Cost of the plan under each assumption, against the plan as it is."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sim.report import formats, theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def table(plan: Mapping[str, Any]) -> pd.DataFrame:
    """``assumption, change_usd_per_month, still_meets, flips_to``, the largest change first."""
    import pandas as pd

    base = next(row["usd_per_month"] for row in plan["alternatives"] if row["reason"] == "recommended")
    rows = [
        (
            row["words"],
            None if row["usd_per_month"] is None else row["usd_per_month"] - base,
            row["recommendation_still_meets"],
            row["flips_to"] or "",
        )
        for row in plan["sensitivity"]
    ]
    data = pd.DataFrame(rows, columns=["assumption", "change_usd_per_month", "still_meets", "flips_to"])
    order = data["change_usd_per_month"].astype(float).abs().sort_values(ascending=False, na_position="first").index
    return data.loc[order].reset_index(drop=True)


def finding(data: pd.DataFrame) -> str:
    """What the bars say."""
    flips = data[data["flips_to"] != ""]
    if len(flips):
        row = flips.iloc[0]
        words = str(row["assumption"])
        return f"{words[:1].upper()}{words[1:]} would change the decision to {row['flips_to']}"
    lost = data[~data["still_meets"].astype(bool)]
    if len(lost):
        never = int(lost["change_usd_per_month"].isna().sum())
        also = f", and {never} of them cannot be met within the plan's limits" if never else ""
        return f"{len(lost)} of {len(data)} assumptions would need more replicas, none another configuration{also}"
    return "No assumption that was tried changes the decision"


def _label(words: str) -> str:
    """*words* in short lines, so that a phone has room for the bars."""
    return "<br>".join(theme.safe(line) for line in textwrap.wrap(words, 24))


def _said(row: Any, plan: Mapping[str, Any]) -> str:
    """Beside a bar: how many replicas, and what becomes cheaper."""
    if row.flips_to:
        return theme.safe(f"{row.flips_to} is cheaper", 40)
    from sim.planning.text import replicas_words

    needed = next(each["replicas_needed"] for each in plan["sensitivity"] if each["words"] == row.assumption)
    count = "none is enough" if needed is None else replicas_words(needed)
    return count if row.still_meets else f"misses; {count}"


def figure(data: pd.DataFrame, plan: Mapping[str, Any]) -> go.Figure:
    """Bars of ``table``: how much more, or less, the same configuration costs to keep its targets."""
    import plotly.graph_objects as go

    title = finding(data)
    shown = data.iloc[::-1]
    fig = theme.new_figure(110 + 46 * len(shown))
    for met, style, name in ((True, theme.BLUE, "recommendation still meets"), (False, theme.VERMILLION, "it misses")):
        part = shown[shown["still_meets"].astype(bool) == met]
        if part.empty:
            continue
        fig.add_trace(
            go.Bar(
                y=[_label(text) for text in part["assumption"]],
                x=part["change_usd_per_month"].astype(float).fillna(0.0).tolist(),
                orientation="h",
                name=name,
                marker={"color": style.color, "pattern": theme.hatch(style)},
                text=[_said(row, plan) for row in theme.rows(part)],
                textposition="outside",
                cliponaxis=False,
                customdata=[
                    [
                        formats.MISSING if value != value else f"{value:+,.0f} USD a month",
                        theme.safe(flip or "no change"),
                    ]
                    for value, flip in zip(part["change_usd_per_month"].astype(float), part["flips_to"], strict=True)
                ],
                hovertemplate="%{customdata[0]}; cheapest then: %{customdata[1]}<extra>%{fullData.name}</extra>",
            )
        )
    change = shown["change_usd_per_month"].astype(float).fillna(0.0)
    span = max(float(change.max()) - min(float(change.min()), 0.0), 1.0)
    low = float(change.min()) - 0.45 * span if float(change.min()) < 0 else -0.02 * span
    fig.update_xaxes(
        title_text="change of cost a month, US dollars",
        zeroline=True,
        range=[low, max(float(change.max()), 0.0) + 0.9 * span],
    )
    theme.narrow(fig, xaxis={"nticks": 4})
    fig.update_yaxes(categoryorder="array", categoryarray=[_label(text) for text in shown["assumption"]])
    return theme.describe(
        fig,
        title=title,
        caption="Replicas searched again under each assumption; 0: the same number suffices.",
        alt=title + ".",
    )
