"""What buys accuracy, and at what price? Accuracy against cost a query and against p99 time to answer, of every
configuration of a sweep: those that no other beats in all three are joined, the others grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.report import formats, theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

COLUMNS = (
    "name", "strategy", "samples", "budget_tokens", "models", "accuracy", "accuracy_low", "accuracy_high", "n",
    "cost_per_query_usd", "cost_per_correct_usd", "p99_tta_s", "state", "frontier",
)  # fmt: skip


def table(sweep: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Configurations whose accuracy, cost and p99 are known; ``frontier``: no other is at least as good in all three
    and better in one. *keys* are what the sweep varied, and name each configuration.
    """
    import pandas as pd

    rows = []
    for row in sweep.to_dict("records"):
        values = [row.get(key) for key in ("accuracy", "cost_per_query_usd", "p99_tta_s")]
        if row["state"] != "done" or any(value is None or value != value for value in values):
            continue
        state = "overloaded" if row["overloaded"] else "saturated" if row["saturated"] else "stable"
        rows.append(
            (
                ", ".join(_part(key, row[key]) for key in keys), row["strategy_name"], row["samples"],
                row["budget_tokens"], row["models"], row["accuracy"], row["accuracy_low"], row["accuracy_high"],
                row["n"], row["cost_per_query_usd"], row["cost_per_correct_usd"], row["p99_tta_s"], state, False,
            )
        )  # fmt: skip
    data = pd.DataFrame(rows, columns=list(COLUMNS))
    data["frontier"] = undominated(data[["accuracy", "cost_per_query_usd", "p99_tta_s"]].to_numpy(np.float64))
    return data


def undominated(points: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which of (accuracy, cost, time) no other is at least as good as in all three and better in one.

    >>> undominated(np.array([[0.9, 1.0, 5.0], [0.8, 1.0, 5.0], [0.8, 0.5, 9.0]])).tolist()
    [True, False, True]
    """
    signed = points * np.array([-1.0, 1.0, 1.0])  # smaller is better
    better = (signed[:, None, :] <= signed[None, :, :]).all(2) & (signed[:, None, :] < signed[None, :, :]).any(2)
    return np.asarray(~better.any(0))


def _part(key: str, value: Any) -> str:
    return str(value) if key == "candidate" else f"{key.rpartition('.')[2]} {value}"


def finding(data: pd.DataFrame) -> str:
    """What the points say: the ends of the frontier."""
    front = data[data["frontier"]].sort_values(["cost_per_query_usd", "accuracy"])
    if front.empty:
        return "No configuration whose accuracy, cost and time are known"
    first, last = front.iloc[0], front.sort_values("accuracy").iloc[-1]
    many = f"{len(front)} of {len(data)} configurations are beaten by no other"
    if first["name"] == last["name"]:
        return f"{many}: {first['name']} is the cheapest and the most accurate"
    gain = 100 * (last["accuracy"] - first["accuracy"])
    return (
        f"{many}: from {formats.percent(first['accuracy'])} right for {formats.money(first['cost_per_query_usd'])} "
        f"a query, {gain:.1f} points more cost {last['cost_per_query_usd'] / first['cost_per_query_usd']:.1f} times as much"
    )


def figure(data: pd.DataFrame) -> go.Figure:
    """Points of ``table``: colour is the strategy, the symbol the model, the size the number of generations."""
    import plotly.graph_objects as go

    title = finding(data)
    if data.empty:
        return theme.empty("No configuration has accuracy, cost and time.", title=title)
    fig = theme.new_figure(500)
    fig.set_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06)
    styles = {name: style.color for name, style in theme.category_styles(dict.fromkeys(data["strategy"])).items()}
    models = list(dict.fromkeys(data["models"]))
    symbols = ("circle", "diamond", "square", "triangle-up", "cross", "star")
    for place, x in enumerate(("cost_per_query_usd", "p99_tta_s"), start=1):
        line = data[data["frontier"]].sort_values([x, "accuracy"])
        line = line[line["accuracy"].cummax() == line["accuracy"]]
        fig.add_trace(
            go.Scatter(
                x=line[x].tolist(), y=line["accuracy"].tolist(), mode="lines", showlegend=False, hoverinfo="skip",
                line={"color": theme.GREY.color, "width": 1.5, "shape": "hv", "dash": "dot"},
            ),
            row=1,
            col=place,
        )  # fmt: skip
        for strategy in styles:
            for model in models:
                part = data[(data["strategy"] == strategy) & (data["models"] == model)]
                if part.empty:
                    continue
                fig.add_trace(
                    go.Scatter(
                        x=part[x].tolist(),
                        y=part["accuracy"].tolist(),
                        mode="markers",
                        name=theme.safe(f"{strategy}, {model}"),
                        showlegend=False,
                        marker={
                            "color": [styles[strategy] if front else theme.GREY.color for front in part["frontier"]],
                            "symbol": symbols[models.index(model) % len(symbols)],
                            "size": [8 + 3 * float(np.log2(n)) for n in part["samples"]],
                            "line": {"color": styles[strategy], "width": 1.5},
                        },
                        customdata=[_hover(row) for row in theme.rows(part)],
                        hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}<br>%{customdata[2]}<br>"
                        "%{customdata[3]} a query, %{customdata[4]} a right answer<br>"
                        "p99 time to answer %{customdata[5]}%{customdata[6]}<extra></extra>",
                    ),
                    row=1,
                    col=place,
                )
    keys = [(name, color, "circle") for name, color in styles.items()]
    if len(models) > 1:
        keys += [(model, theme.GREY.color, symbols[place % len(symbols)]) for place, model in enumerate(models)]
    for name, color, symbol in keys:
        marker = {"color": color, "symbol": symbol, "size": 11}
        fig.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=theme.safe(name), marker=marker))
    values, texts = formats.log_ticks(data["cost_per_query_usd"].min() * 0.8, data["cost_per_query_usd"].max() * 1.25)
    fig.update_xaxes(type="log", tickvals=values, ticktext=texts, title_text="US dollars a query", row=1, col=1)
    values, texts = formats.log_ticks(data["p99_tta_s"].min() * 0.8, data["p99_tta_s"].max() * 1.25, "seconds")
    fig.update_xaxes(type="log", tickvals=values, ticktext=texts, title_text="p99 time to answer", row=1, col=2)
    fig.update_yaxes(tickformat=".0%", title_text="right answers", row=1, col=1)
    return theme.describe(
        fig,
        title=title,
        caption="Every configuration of the sweep, larger marks for more generations a query; up and to the left is "
        "better. Filled ones are beaten by no other in accuracy, cost and p99 together.",
        alt=title + ".",
    )


def _hover(row: Any) -> list[str]:
    budget = "" if not row.budget_tokens else f", thinks {row.budget_tokens:,} tokens at most"
    bounds = formats.span([row.accuracy_low, row.accuracy_high], formats.percent)
    return [
        theme.safe(row.name),
        theme.safe(f"{row.models}: {row.strategy} of {row.samples}{budget}"),
        f"{formats.percent(row.accuracy)} right {bounds}, n = {row.n:,}",
        formats.money(row.cost_per_query_usd),
        formats.money(row.cost_per_correct_usd),
        formats.duration(row.p99_tta_s),
        "" if row.state == "stable" else f", {row.state}",
    ]
