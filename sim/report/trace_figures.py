"""Figures of a trace: tables of `workloads.curves` in, one figure each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sim.report import formats, theme
from sim.report.html import Exhibit

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_STYLES = {
    "prompt": theme.GREEN,
    "output": theme.BLUE,
    "reasoning": theme.PURPLE,
    "answer": theme.ORANGE,
    "trace": theme.BLUE,
    "real": theme.BLUE,
    "generated": theme.VERMILLION,
}


def _lines(
    data: pd.DataFrame,
    by: Sequence[str],
    x: str,
    y: str,
    *,
    x_kind: formats.Kind,
    y_kind: formats.Kind | None,
    x_title: str,
    y_title: str,
    hover: str,
    shape: Literal["linear", "hv", "hvh"] = "linear",
) -> go.Figure:
    """Lines of *y* over *x*, one for each value of *by*; axes are logarithmic where they have a kind for
    it."""
    import plotly.graph_objects as go

    fig = theme.new_figure(400)
    grouped = list(data.groupby(list(by), sort=False))
    for key, rows in grouped:
        name = " ".join(str(part) for part in key if part != "trace") or str(key[-1])
        style = _STYLES.get(str(key[-1]), theme.BLUE)
        dashed = str(key[0]) == "generated"
        fig.add_trace(
            go.Scatter(
                x=_short(rows[x]),
                y=_short(rows[y]),
                mode="lines",
                name=theme.safe(name),
                line={
                    "color": (_STYLES["generated"] if dashed and len(by) == 1 else style).color,
                    "dash": "dash" if dashed else "solid",
                    "width": 2,
                    "shape": shape,
                },
                hovertemplate=theme.safe(name) + "<br>" + hover + "<extra></extra>",
                showlegend=len(grouped) > 1,
            )
        )
    low, high = float(data[x].min()), float(data[x].max())
    if low > 0 and high > low:
        values, texts = formats.log_ticks(low, high, x_kind, most=9)
        few, few_texts = formats.log_ticks(low, high, x_kind, most=5)
        fig.update_xaxes(type="log", tickvals=values, ticktext=texts)
        theme.narrow(fig, xaxis={"tickvals": few, "ticktext": few_texts}, yaxis={"title": {"text": ""}})
    fig.update_xaxes(title_text=x_title)
    low, high = float(data[y].min()), float(data[y].max())
    if y_kind is not None and low > 0 and high > low:
        values, texts = formats.log_ticks(low, high, y_kind, most=7)
        fig.update_yaxes(type="log", tickvals=values, ticktext=texts)
    else:
        fig.update_yaxes(rangemode="tozero")
    fig.update_yaxes(title_text=y_title)
    if len(grouped) > 1:
        fig.update_layout(legend={"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0})
    return fig


def _short(values: Any) -> list[float]:
    return [float(f"{float(value):.5g}") for value in values]


def survival(data: pd.DataFrame) -> go.Figure:
    """Share of queries with more tokens than x, from ``whose, length, tokens, share``."""
    fig = _lines(
        data,
        ["whose", "length"],
        "tokens",
        "share",
        x_kind="tokens",
        y_kind="share",
        x_title="tokens",
        y_title="share of queries with more",
        hover="more than %{x:,.0f} tokens: %{y:.3~%} of queries",
    )
    output = data[(data["length"] == "output") & (data["whose"] == data["whose"].iloc[0])]
    beyond = output[output["share"] <= 0.01]
    longest = (
        f"1 % of outputs are longer than {formats.count(beyond['tokens'].min())} tokens" if len(beyond) else "Lengths"
    )
    return theme.describe(
        fig,
        title=longest,
        caption="Both axes are logarithmic: a straight line is a power law, a steep end is a cap.",
        alt=longest + ".",
    )


def concentration(data: pd.DataFrame) -> go.Figure:
    """Share of output tokens by top share of queries, from ``whose, top, share``."""
    fig = _lines(
        data,
        ["whose"],
        "top",
        "share",
        x_kind="share",
        y_kind=None,
        x_title="longest share of the queries",
        y_title="share of output tokens",
        hover="the longest %{x:.3~%} make %{y:.3~%}",
    )
    fig.update_yaxes(tickformat=".0%", range=[0, 1.04])
    first = data[data["whose"] == data["whose"].iloc[0]]
    tenth = float(np.interp(0.1, first["top"], first["share"]))
    hundredth = float(np.interp(0.01, first["top"], first["share"]))
    title = (
        f"The longest tenth makes {formats.percent(tenth, 2)} of the output tokens, "
        f"the longest hundredth {formats.percent(hundredth, 2)}"
    )
    caption = "The higher the curve starts, the more a few long queries decide the load."
    return theme.describe(fig, title=title, caption=caption, alt=title + ".")


def tail_index(data: pd.DataFrame) -> go.Figure:
    """Hill plot, from ``whose, top, alpha``."""
    fig = _lines(
        data,
        ["whose"],
        "top",
        "alpha",
        x_kind="share",
        y_kind=None,
        x_title="share of the longest outputs it is taken from",
        y_title="tail index",
        hover="top %{x:.3~%}: index %{y:.3~f}",
    )
    first = data[data["whose"] == data["whose"].iloc[0]]
    at = float(np.interp(0.05, first["top"], first["alpha"]))
    title = f"The top 5 % of outputs fall with a tail index of {formats.number(at, 3)}"
    caption = (
        "Hill's estimate; a level stretch is a power law of that index. Below 2 the variance would "
        "be infinite but "
        "for a cap; a rise to the left is that cap."
    )
    return theme.describe(fig, title=title, caption=caption, alt=title + ".")


def burstiness(data: pd.DataFrame) -> go.Figure:
    """Index of dispersion over scales, from ``whose, scale_s, dispersion``."""
    fig = _lines(
        data,
        ["whose"],
        "scale_s",
        "dispersion",
        x_kind="seconds",
        y_kind="plain",
        x_title="length of the interval",
        y_title="variance over mean of counts",
        hover="over %{x:.3~s} s: %{y:.3~f}",
    )
    first = data[data["whose"] == data["whose"].iloc[0]]
    most = first.loc[first["dispersion"].idxmax()]
    title = (
        f"Counts over {formats.duration(float(most['scale_s']))} vary "
        f"{formats.number(float(most['dispersion']), 2)} "
        "times as much as Poisson's"
    )
    caption = "1 is Poisson. What rises with the scale is change over time, what starts high is bursts."
    return theme.describe(fig, title=title, caption=caption, alt=title + ".")


def _rates(data: pd.DataFrame, x_title: str) -> go.Figure:
    return _lines(
        data,
        ["whose"],
        "time_s",
        "rate",
        x_kind="seconds",
        y_kind=None,
        x_title=x_title,
        y_title="queries per second",
        hover="%{y:.3~f}/s",
        shape="hv",
    )


def traffic(data: pd.DataFrame) -> go.Figure:
    """Arrivals per second over time, from ``whose, time_s, rate``."""
    fig = _rates(data, "time")
    first = data[data["whose"] == data["whose"].iloc[0]]
    values, texts = formats.time_ticks(0.0, float(first["time_s"].max()) or 1.0)
    fig.update_xaxes(type="linear", tickvals=values, ticktext=texts)
    theme.narrow(fig, xaxis={"tickvals": values[::2], "ticktext": texts[::2]})
    peak, mean = float(first["rate"].max()), float(first["rate"].mean())
    title = f"The busiest window has {formats.number(peak / mean if mean else 1.0, 2)} times the mean traffic"
    caption = "Mean rate of each window."
    return theme.describe(fig, title=title, caption=caption, alt=title + ".")


def daily(data: pd.DataFrame) -> go.Figure:
    """Arrivals per second over the day, from ``whose, time_s, rate``."""
    fig = _rates(data, "hour of the day")
    hours = [0, 6, 12, 18, 24]
    fig.update_xaxes(tickvals=[hour * 3600 for hour in hours], ticktext=[f"{hour} h" for hour in hours])
    first = data[data["whose"] == data["whose"].iloc[0]].iloc[:24]
    busy, quiet = first.loc[first["rate"].idxmax()], first.loc[first["rate"].idxmin()]
    title = f"The busiest hour of the day has {formats.number(busy['rate'], 3)}/s"
    title += f", the quietest {formats.number(quiet['rate'], 3)}/s"
    caption = "Mean rate of each hour over all days, on the clock of the trace, which may not start at midnight."
    return theme.describe(fig, title=title, caption=caption, alt=title + ".")


def splits(data: pd.DataFrame) -> go.Figure:
    """How the share of reasoning is spread, from ``whose, reasoning, density``."""
    fig = _lines(
        data,
        ["whose"],
        "reasoning",
        "density",
        x_kind="share",
        y_kind=None,
        x_title="share of the output that is reasoning",
        y_title="density",
        hover="%{x:.0%}: %{y:.3~f}",
        shape="hvh",
    )
    shares = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    fig.update_xaxes(type="linear", tickvals=shares, ticktext=[f"{share:.0%}" for share in shares], range=[0, 1])
    theme.narrow(fig, xaxis={"tickvals": [0.0, 0.5, 1.0], "ticktext": ["0%", "50%", "100%"]})
    first = data[data["whose"] == data["whose"].iloc[0]]
    mean = float(np.average(first["reasoning"], weights=np.maximum(first["density"], 1e-12)))
    title = f"Reasoning is {formats.percent(mean, 2)} of an output in the mean"
    return theme.describe(fig, title=title, caption="Two humps are two kinds of queries.", alt=title + ".")


def exhibits(curves: Mapping[str, pd.DataFrame]) -> dict[str, Exhibit]:
    """The figures of all *curves*, by name; those with nothing to draw are left out."""
    makers = {
        "survival": survival,
        "concentration": concentration,
        "tail_index": tail_index,
        "burstiness": burstiness,
        "traffic": traffic,
        "daily": daily,
        "splits": splits,
    }
    return {
        name: Exhibit(name, makers[name](data), data, "half" if name in ("concentration", "tail_index") else "wide")
        for name, data in curves.items()
        if len(data) and data["whose"].value_counts().max() > 1
    }
