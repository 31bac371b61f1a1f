"""Who suffers? Slowdown (time to answer over that of the same query alone) by output length and by client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sim.report import formats, theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

QUANTILES = (("p50", 0.5, theme.BLUE), ("p90", 0.9, theme.ORANGE), ("p99", 0.99, theme.VERMILLION))
CLIENTS = 10
"""Clients shown; the others are one row."""


def _answered(queries: pd.DataFrame) -> pd.DataFrame:
    rows = queries["in_window"].astype(bool) & queries["slowdown"].notna()
    frame = queries[rows & (queries["status"].astype(str) == "completed")]
    return frame.assign(tokens=frame["reasoning_tokens"] + frame["answer_tokens"])


def _summary(label: str, part: pd.DataFrame) -> dict[str, object]:
    row: dict[str, object] = {"group": label, "n": len(part)}
    row |= {name: float(np.quantile(part["slowdown"], q)) for name, q, _ in QUANTILES}
    row |= {"tokens_low": int(part["tokens"].min()), "tokens_high": int(part["tokens"].max())}
    return row


def by_length(queries: pd.DataFrame, groups: int = 10) -> pd.DataFrame:
    """Slowdown by decile of output length: ``group, n, p50, p90, p99, tokens_low, tokens_high``.

    Queries answered in the measured window; equal lengths may fall into neighbouring deciles. With fewer than
    50 of them there are fewer, larger groups.
    """
    import pandas as pd

    frame = _answered(queries).sort_values(["tokens", "replication", "query"], kind="stable")
    groups = max(1, min(groups, len(frame) // 5)) if len(frame) else 0
    parts = [frame.iloc[index] for index in np.array_split(np.arange(len(frame)), groups)] if groups else []
    return pd.DataFrame(
        [_summary(str(i + 1), part) for i, part in enumerate(parts)],
        columns=["group", "n", "p50", "p90", "p99", "tokens_low", "tokens_high"],
    )


def by_client(queries: pd.DataFrame, most: int = CLIENTS) -> pd.DataFrame:
    """The same by client: the *most* clients with the most answered queries, worst p90 first, then the
    rest."""
    import pandas as pd

    frame = _answered(queries)
    names = frame["client"].astype(str)
    largest = [str(name) for name in names.value_counts(sort=True).index[:most]]
    rows = [_summary(name, frame[names == name]) for name in largest]
    rows.sort(key=lambda row: (-float(str(row["p90"])), str(row["group"])))
    rest = frame[~names.isin(largest)]
    if len(rest):
        others = names[~names.isin(largest)].nunique()
        rows.append(_summary(f"{others:,} other clients", rest))
    for row in rows:
        row["rest"] = row["group"] not in largest
    return pd.DataFrame(rows, columns=["group", "n", "p50", "p90", "p99", "tokens_low", "tokens_high", "rest"])


def finding_by_length(data: pd.DataFrame) -> str:
    """What ``by_length`` says."""
    if len(data) < 2:
        return "Too few answers to compare short with long ones"
    short, long = data.iloc[0], data.iloc[-1]
    worst, other = (short, long) if short["p90"] >= long["p90"] else (long, short)
    name = "shortest" if worst is short else "longest"
    if worst["p90"] < 1.1 * other["p90"]:
        return (
            f"Short and long answers are slowed alike: one in ten takes {formats.number(worst['p90'])} "
            f"times its "
            "time alone, or more"
        )
    against = "longest" if name == "shortest" else "shortest"
    return (
        f"The {name} answers suffer most: one in ten takes {formats.number(worst['p90'])} times its time "
        f"alone or "
        f"more, of the {against} {formats.number(other['p90'])} times"
    )


def finding_by_client(data: pd.DataFrame) -> str:
    """What ``by_client`` says."""
    if data.empty:
        return "No client had a query answered"
    if len(data) == 1:
        return "All queries come from one client"
    named = data[~data["rest"]]
    if len(named) == 1:
        return "One client sends nearly all queries"
    worst = named.iloc[int(named["p90"].argmax())]
    best = named.iloc[int(named["p90"].argmin())]
    return (
        f"Client {worst['group']} is slowed most (p90 {formats.number(worst['p90'])} times its time alone), "
        f"client {best['group']} least ({formats.number(best['p90'])} times)"
    )


def figure_by_length(queries: pd.DataFrame) -> go.Figure:
    """Slowdown quantiles by decile of output length, from the queries table."""
    data = by_length(queries)
    title = finding_by_length(data)
    if data.empty:
        return theme.empty("No query of the measured window was answered.", title=title)
    labels = [f"{formats.tokens(row.tokens_low)} to {formats.tokens(row.tokens_high)}" for row in theme.rows(data)]
    fig = _dots(data, labels, [f"tokens {text}" for text in labels])
    fig.update_yaxes(title_text="output tokens of the query")
    return theme.describe(
        fig,
        title=title,
        caption=(
            "Answered queries in groups of equal size, shortest output on top. Slowdown is the time "
            "to answer over that of the same query alone on an idle replica: 1 is no waiting at all."
        ),
        alt=_alt("output tokens", labels, data),
    )


def figure_by_client(queries: pd.DataFrame) -> go.Figure:
    """Slowdown quantiles of the largest clients, from the queries table."""
    data = by_client(queries)
    title = finding_by_client(data)
    if data.empty:
        return theme.empty("No query of the measured window was answered.", title=title)
    fig = _dots(data, [theme.label(name) for name in data["group"]], [theme.safe(n) for n in data["group"]])
    return theme.describe(
        fig,
        title=title,
        caption=f"The {CLIENTS} clients with the most queries, the most slowed on top; the others together. "
        "Slowdown as in the figure by length.",
        alt=_alt("client", list(data["group"]), data),
    )


def _dots(data: pd.DataFrame, labels: list[str], hover: list[str]) -> go.Figure:
    import plotly.graph_objects as go

    fig = theme.new_figure(150 + 30 * len(data))
    rows = list(range(len(data)))
    fig.add_trace(
        go.Scatter(
            x=[value for ends in zip(data["p50"], data["p99"], strict=True) for value in (*ends, None)],
            y=[place for row in rows for place in (row, row, None)],
            mode="lines",
            line={"color": theme.LIGHT.grid, "width": 4},
            hoverinfo="skip",
            showlegend=False,
        )
    )
    for name, _, style in QUANTILES:
        fig.add_trace(
            go.Scatter(
                x=[float(f"{value:.5g}") for value in data[name]],
                y=rows,
                mode="markers",
                name=name,
                marker={"color": style.color, "symbol": style.symbol, "size": 10},
                customdata=[[text, f"{n:,}"] for text, n in zip(hover, data["n"], strict=True)],
                hovertemplate=("%{customdata[0]}: %{x:.4~g} times, n %{customdata[1]}<extra>%{fullData.name}</extra>"),
            )
        )
    low, high = min(1.0, float(data["p50"].min())) / 1.05, float(data["p99"].max()) * 1.12
    values, texts = formats.log_ticks(low, high)
    few, few_texts = formats.log_ticks(low, high, most=5)
    fig.update_xaxes(
        type="log",
        range=[float(np.log10(low)), float(np.log10(high))],
        tickvals=values,
        ticktext=[f"{text}x" for text in texts],
        title_text="slowdown",
    )
    fig.update_yaxes(tickvals=rows, ticktext=labels, range=[len(data) - 0.4, -0.6], showgrid=False)
    theme.narrow(fig, xaxis={"tickvals": few, "ticktext": [f"{text}x" for text in few_texts]})
    return fig


def _alt(what: str, labels: list[str], data: pd.DataFrame) -> str:
    rows = "; ".join(
        f"{text} (n {row.n:,}): p50 {formats.number(row.p50)}, p90 {formats.number(row.p90)}, "
        f"p99 {formats.number(row.p99)}"
        for text, row in zip(labels, theme.rows(data), strict=True)
    )
    return f"Slowdown by {what}. {rows}."
