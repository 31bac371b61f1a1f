"""Pages about a trace: what is in it, and how well a generator follows it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.report import formats, theme
from sim.report.html import Exhibit, Fold, Items, Page, Section, Table, Tile, render

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
    step: bool = False,
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
                    "shape": "hv" if step else "linear",
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


def traffic(data: pd.DataFrame) -> go.Figure:
    """Arrivals per second over time, from ``whose, time_s, rate``."""
    fig = _lines(
        data,
        ["whose"],
        "time_s",
        "rate",
        x_kind="seconds",
        y_kind=None,
        x_title="time",
        y_title="queries per second",
        hover="%{y:.3~f}/s",
        step=True,
    )
    first = data[data["whose"] == data["whose"].iloc[0]]
    values, texts = formats.time_ticks(0.0, float(first["time_s"].max()) or 1.0)
    fig.update_xaxes(type="linear", tickvals=values, ticktext=texts)
    theme.narrow(fig, xaxis={"tickvals": values[::2], "ticktext": texts[::2]})
    peak, mean = float(first["rate"].max()), float(first["rate"].mean())
    title = f"The busiest window has {formats.number(peak / mean if mean else 1.0, 2)} times the mean traffic"
    caption = "Mean rate of each window."
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
        step=True,
    )
    shares = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    fig.update_xaxes(type="linear", tickvals=shares, ticktext=[f"{share:.0%}" for share in shares], range=[0, 1])
    theme.narrow(fig, xaxis={"tickvals": [0.0, 0.5, 1.0], "ticktext": ["0%", "50%", "100%"]})
    first = data[data["whose"] == data["whose"].iloc[0]]
    mean = float(np.average(first["reasoning"], weights=np.maximum(first["density"], 1e-12)))
    title = f"Reasoning is {formats.percent(mean, 2)} of an output in the mean"
    return theme.describe(fig, title=title, caption="Two humps are two kinds of queries.", alt=title + ".")


# -- pages --------------------------------------------------------------------------------------------------


def exhibits(curves: Mapping[str, pd.DataFrame]) -> dict[str, Exhibit]:
    """The figures of all *curves*, by name; those with nothing to draw are left out."""
    makers = {
        "survival": survival,
        "concentration": concentration,
        "tail_index": tail_index,
        "burstiness": burstiness,
        "traffic": traffic,
        "splits": splits,
    }
    return {
        name: Exhibit(name, makers[name](data), data, "half" if name in ("concentration", "tail_index") else "wide")
        for name, data in curves.items()
        if len(data) > 1
    }


def describe_page(
    name: str,
    found: Mapping[str, Any],
    curves: Mapping[str, pd.DataFrame],
    *,
    notes: Sequence[str],
    hints: Sequence[str],
    together: Sequence[str] = (),
) -> str:
    """The page of one trace as HTML; *found* are the figures of `workloads.measures.describe`."""
    figures = exhibits(curves)
    output = found["lengths"]["output"]
    answer = (
        f"{formats.count(found['queries'])} queries in {formats.duration(found['seconds'])} "
        f"({formats.number(found['rate_per_s'], 3)}/s); outputs have {formats.count(output['p50'])} "
        "tokens in the median, "
        f"{formats.count(output['mean'])} in the mean and {formats.count(output['p99'])} at p99."
    )
    tiles = [
        Tile("queries", formats.count(found["queries"])),
        Tile("rate", f"{formats.number(found['rate_per_s'], 3)}/s"),
        Tile("output, mean", formats.count(output["mean"]), f"tokens; p99 {formats.count(output['p99'])}"),
        Tile("prompt, mean", formats.count(found["lengths"]["prompt"]["mean"]), "tokens"),
        Tile("top 1 % of queries", formats.percent(found["top_shares"]["0.01"], 3), "of output tokens"),
        Tile("resident KV", formats.count(found["resident_tokens"]), "tokens a query, while decoding"),
    ]
    sections = [
        Section("lengths", "How long are they?", _pick(figures, "survival", "splits"), [_quantiles(found)]),
        Section("tail", "How heavy is the tail?", _pick(figures, "concentration", "tail_index")),
        Section("arrivals", "When do they come?", _pick(figures, "traffic", "burstiness")),
        *([Section("groups", _who(found), (), [_groups(found)])] if found["group_count"] > 1 else []),
        *([Section("together", "What hangs together?", (), [Items(list(together))])] if together else []),
        Section("capacity", "What does it ask of a cluster?", (), [Items(list(hints))]),
    ]
    folds = [Fold("notes", "Noticed while reading", [Items(list(notes) or ["nothing"])])]
    page = Page(
        title=f"Trace {name}",
        kicker=f"trace {name}",
        answer=answer,
        verdict="described",
        tone="none",
        tiles=tiles,
        sections=sections,
        folds=folds,
        footer="Described by ThinkCap; nothing was simulated.",
    )
    return render(page)


def fit_page(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    curves: Mapping[str, pd.DataFrame],
    *,
    notes: Sequence[str],
    answer: str,
) -> str:
    """Real against generated as HTML; *rows* have name, real, generated, distance, absolute."""
    figures = exhibits(curves)
    page = Page(
        title=f"Fit of {name}",
        kicker=f"trace {name}, real against generated",
        answer=answer,
        verdict="fitted",
        tone="none",
        sections=[
            Section("lengths", "Are they as long?", _pick(figures, "survival", "splits")),
            Section("tail", "Is the tail as heavy?", _pick(figures, "concentration", "tail_index")),
            Section("arrivals", "Do they come alike?", _pick(figures, "traffic", "burstiness")),
            Section("goodness", "How near is each figure?", (), _goodness(rows)),
        ],
        folds=[Fold("notes", "Assumed while fitting", [Items(list(notes) or ["nothing"])])],
        footer="Fitted by ThinkCap; the page shows quantiles and counts of the trace, none of its rows.",
    )
    return render(page)


def _who(found: Mapping[str, Any]) -> str:
    return "Which kinds are there?" if found["grouped_by"] == "category" else "Who asks?"


_LENGTHS = ("prompt", "output", "reasoning", "answer")
_ARRIVALS = ("queries", "rate", "client", "gaps", "counts")


def _goodness(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """A table of figures for each length, for arrivals, and for what hangs together."""
    tables: dict[str, list[tuple[str, ...]]] = {}
    for row in rows:
        begin, _, rest = str(row["name"]).partition(", ")
        if begin in _LENGTHS:
            of, name = begin, rest
        else:
            of = "arrivals" if begin.split()[0] in _ARRIVALS and "a prompt" not in begin else "what hangs together"
            name = str(row["name"])
        figures = (_figure(row["real"]), _figure(row["generated"]), _distance(row))
        tables.setdefault(of, []).append((name, *figures))
    head = ["figure", "real", "drawn", "off by"]
    return [
        Table(head, body, frozenset({1, 2, 3}), name)
        for name, body in sorted(tables.items(), key=lambda item: _ORDER.index(item[0]))
    ]


_ORDER = (*_LENGTHS, "arrivals", "what hangs together")


def _figure(value: float) -> str:
    return formats.number(value, 4 if abs(value) < 1e4 else 5)


def _pick(figures: Mapping[str, Exhibit], *names: str) -> list[Exhibit]:
    return [figures[name] for name in names if name in figures]


def _distance(row: Mapping[str, Any]) -> str:
    value = float(row["distance"])
    if math.isnan(value):
        return "—"
    return f"{value:+.3f}" if row["absolute"] else f"{value:+.1%}"


def _quantiles(found: Mapping[str, Any]) -> Table:
    names = list(found["lengths"])
    keys = [key for key in found["lengths"]["output"] if key != "max"] + ["max"]
    rows = [(key, *(formats.count(found["lengths"][name][key]) for name in names)) for key in keys]
    return Table(["tokens", *names], rows, frozenset(range(1, len(names) + 1)))


def _groups(found: Mapping[str, Any]) -> Table:
    rows = [
        (
            str(group["name"]),
            formats.count(group["queries"]),
            formats.percent(group["share"]),
            formats.percent(group["output_share"]),
            formats.count(group["mean_output"]),
        )
        for group in found["groups"]
    ]
    head = ["name", "queries", "share", "share of output", "mean output"]
    return Table(head, rows, frozenset({1, 2, 3, 4}), f"the largest of {found['group_count']:,}")
