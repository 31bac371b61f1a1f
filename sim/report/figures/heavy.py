"""Heavy tail or not? The share of all output tokens that the longest requests generate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sim.report import formats, theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MARKS = (0.01, 0.1, 0.5)
POINTS = 300
FEWEST = 20
"""Requests that a share of the longest needs at least."""


def table(requests: pd.DataFrame) -> pd.DataFrame:
    """``top, share, tokens``: the longest *top* of the requests generated *share* of all output tokens.

    *tokens* is the length of the last of them. Generation requests of the window that generated something.
    """
    import pandas as pd

    rows = requests["in_window"].astype(bool) & (requests["role"].astype(str) == "generate")
    frame = requests[rows]
    length = np.sort((frame["reasoning_tokens"] + frame["answer_tokens"]).to_numpy(dtype=float))[::-1]
    length = length[length > 0]
    if not len(length):
        return pd.DataFrame({"top": [], "share": [], "tokens": []})
    share = np.cumsum(length) / length.sum()
    marks = [max(0, round(mark * len(length)) - 1) for mark in MARKS]
    index = np.unique(np.append(np.round(np.geomspace(1, len(length), POINTS)).astype(int) - 1, marks))
    return pd.DataFrame({"top": (index + 1) / len(length), "share": share[index], "tokens": length[index]})


def _at(data: pd.DataFrame, top: float) -> float:
    return float(np.interp(top, np.append(0.0, data["top"]), np.append(0.0, data["share"])))


def finding(data: pd.DataFrame) -> str:
    """What the curve says."""
    if data.empty:
        return "No output token was generated"
    if len(data) < FEWEST:
        return "Too few requests to speak of a tail"
    return (
        f"The longest tenth of the requests generates {formats.percent(_at(data, 0.1), 2)} of the output "
        f"tokens, "
        f"the longest hundredth {formats.percent(_at(data, 0.01), 2)}"
    )


def figure(requests: pd.DataFrame) -> go.Figure:
    """Share of output tokens by top share of requests, from the requests table."""
    import plotly.graph_objects as go

    data = table(requests)
    title = finding(data)
    if len(data) < FEWEST:
        return theme.empty(
            f"{len(data)} requests of the measured window generated tokens; at least {FEWEST} are needed.",
            title=title,
        )
    fig = theme.new_figure(380)
    low = float(data["top"].min())
    even = np.geomspace(low, 1.0, 60)
    fig.add_trace(
        go.Scatter(
            x=_short(even),
            y=_short(100 * even),
            mode="lines",
            name="if all were equal",
            line={"color": theme.GREY.color, "dash": "dot", "width": 1.5},
            hoverinfo="skip",
            showlegend=False,
        )
    )
    fig.add_trace(
        go.Scatter(
            x=_short(data["top"]),
            y=_short(100 * data["share"]),
            mode="lines",
            name="this workload",
            line={"color": theme.BLUE.color, "width": 2.2},
            customdata=np.array(
                [
                    [formats.percent(top), formats.count(tokens)]
                    for top, tokens in zip(data["top"], data["tokens"], strict=True)
                ],
                dtype=object,
            ),
            hovertemplate="the longest %{customdata[0]} (≥ %{customdata[1]} tokens)"
            "<br>generate %{y:.3~r} % of the tokens<extra></extra>",
            showlegend=False,
        )
    )
    for mark in MARKS:
        if mark < low:
            continue
        share = _at(data, mark)
        fig.add_trace(
            go.Scatter(
                x=[mark],
                y=[100 * share],
                mode="markers+text",
                marker={"color": theme.BLUE.color, "size": 9},
                text=[f"{formats.percent(share, 2)} by the top {formats.percent(mark)}  "],
                textposition="top left" if mark > low**0.75 else "bottom right",
                cliponaxis=False,
                hoverinfo="skip",
                showlegend=False,
            )
        )
    fig.add_annotation(
        name=theme.WIDE,
        x=float(np.log10(max(low, 0.05) ** 0.5)),
        y=100 * max(low, 0.05) ** 0.5,
        text="if all were equal",
        xanchor="left",
        yanchor="top",
        xshift=8,
        font={"color": theme.LIGHT.muted},
        showarrow=False,
    )
    values, texts = formats.log_ticks(low, 1.0, "share", most=8)
    few, few_texts = formats.log_ticks(low, 1.0, "share", most=5)
    fig.update_xaxes(
        type="log",
        range=[float(np.log10(low)), 0.02],
        tickvals=values,
        ticktext=texts,
        title_text="longest share of the requests",
    )
    fig.update_yaxes(range=[0, 108], ticksuffix=" %", title_text="share of output tokens")
    theme.narrow(fig, xaxis={"tickvals": few, "ticktext": few_texts}, yaxis={"title": {"text": ""}})
    said = ", ".join(
        f"top {formats.percent(mark)}: {formats.percent(_at(data, mark))}" for mark in MARKS if mark >= low
    )
    return theme.describe(
        fig,
        title=title,
        caption=(
            "Requests in order of output length, the longest first. The further the curve lies above "
            "the dotted line, the more a few long requests decide the load, and the less a mean says."
        ),
        alt=f"Share of output tokens by the longest requests. {said}.",
        note=f"Drawn with {POINTS} points of the curve." if len(data) >= POINTS - 20 else "",
    )


def _short(values: object) -> np.ndarray:
    return np.array([float(f"{value:.5g}") for value in np.asarray(values, dtype=float)])
