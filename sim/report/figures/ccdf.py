"""How long do people wait? The share of queries (or requests) that take longer than x, for every x.

Both axes are logarithmic, so that the tail, which averages and histograms hide, takes as much room as the
body. What timed out, was lost or is still open at the end of a run is right-censored then (Kaplan and Meier,
JASA 53, 1958), as in every figure of ``sim.metrics``; what was rejected never entered and is not in a curve.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.report import formats, theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

POINTS = 220
"""Points of a curve at most; each is a point of the full curve, the 60 slowest are all there."""

ALL = "all"


@dataclass(frozen=True)
class Metric:
    """A time that can be drawn: its column, what it is called, and whose it is."""

    column: str
    name: str
    axis: str
    rows: str
    one: str


METRICS: dict[str, Metric] = {
    "tta": Metric("tta_s", "time to answer", "time to answer", "queries", "query"),
    "ttfo": Metric("ttfo_s", "time to the first answer token", "time to first answer token", "queries", "query"),
    "ttft": Metric("ttft_s", "time to the first token", "time to first token", "requests", "request"),
    "tpot": Metric("tpot_s", "time per output token", "time per output token", "requests", "request"),
}


def observations(frame: pd.DataFrame, metric: str, end_s: Mapping[int, float] | float | None = None) -> pd.DataFrame:
    """Each query or request as ``group, value, event``; ``event`` False = had waited so long and was open.

    *frame* is the queries table for ``tta`` and ``ttfo``, the requests table otherwise (generation requests
    count); rows outside the measured window are left out. *end_s* is when the run stopped, of each
    replication or of all; None: the latest time in *frame*.
    """
    import pandas as pd

    column = METRICS[metric].column
    if "in_window" in frame.columns:
        frame = frame[frame["in_window"].astype(bool)]
    if "role" in frame.columns:
        frame = frame[frame["role"].astype(str) == "generate"]
    frame = frame[frame["status"].astype(str) != "rejected"]
    value = frame[column].to_numpy(dtype=float)
    event = ~np.isnan(value)
    keep = event
    if metric != "tpot":
        arrived = frame["arrived_s"].to_numpy(dtype=float)
        finished = frame["finished_s"].to_numpy(dtype=float)
        if isinstance(end_s, Mapping):
            end = frame["replication"].map(dict(end_s)).to_numpy(dtype=float)
        else:
            latest = float(np.nanmax(np.concatenate([arrived, finished]))) if len(frame) else 0.0
            end = np.full(len(frame), latest if end_s is None else end_s)
        waited = np.maximum(np.where(np.isnan(finished), end, finished) - arrived, 0.0)
        value = np.where(event, value, waited)
        keep = ~np.isnan(value)
    return pd.DataFrame(
        {"group": frame["category"].astype(str).to_numpy()[keep], "value": value[keep], "event": event[keep]}
    )


def survival(value: np.ndarray, event: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kaplan-Meier: the distinct finite times of events, and the share still waiting just after each."""
    order = np.lexsort((~event, value))
    value, event = value[order], event[order]
    at_risk = np.arange(len(value), 0, -1)
    finite = event & np.isfinite(value)
    times, first = np.unique(value[finite], return_index=True)
    if not len(times):
        return times, times
    deaths = np.diff(np.append(first, finite.sum()))
    risk = at_risk[finite][first]
    share = np.cumprod(1.0 - deaths / risk)
    return times, share


def beyond(observed: pd.DataFrame, limit: float) -> float:
    """Share of *observed* whose value is greater than *limit*; NaN without any."""
    if not len(observed):
        return float("nan")
    times, share = survival(observed["value"].to_numpy(dtype=float), observed["event"].to_numpy(dtype=bool))
    index = int(np.searchsorted(times, limit, side="right")) - 1
    return 1.0 if index < 0 else float(share[index])


def table(
    frame: pd.DataFrame, metric: str = "tta", *, end_s: Mapping[int, float] | float | None = None
) -> pd.DataFrame:
    """The curves: ``group, n, value_s, beyond``; *beyond* is the share that takes longer than *value_s*.

    ``group`` is a category, or ``all`` where there are several.
    """
    return _curves(observations(frame, metric, end_s))


def _curves(observed: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    groups = sorted(observed["group"].unique())
    parts = [(name, observed[observed["group"] == name]) for name in groups]
    if len(groups) > 1:
        parts.insert(0, (ALL, observed))
    curves = []
    for name, part in parts:
        times, share = survival(part["value"].to_numpy(dtype=float), part["event"].to_numpy(dtype=bool))
        if len(times):
            before = np.concatenate([[1.0], share[:-1]])
            # A log axis cannot show the zero after the last step: the curve ends on the value before it.
            share = np.where(share > 1e-12, share, before)
        keep = _thin(len(times))
        curves.append(pd.DataFrame({"group": name, "n": len(part), "value_s": times[keep], "beyond": share[keep]}))
    if not curves:
        return pd.DataFrame({"group": [], "n": [], "value_s": [], "beyond": []})
    return pd.concat(curves, ignore_index=True)


def _thin(length: int) -> np.ndarray:
    if length <= POINTS:
        return np.arange(length)
    from_end = np.unique(np.round(np.geomspace(60, length, POINTS - 60)).astype(int))
    return np.unique(np.concatenate([length - from_end, np.arange(length - 60, length)]))


def finding(
    frame: pd.DataFrame,
    metric: str = "tta",
    *,
    slo: tuple[float, float] | None = None,
    missed: float | None = None,
    end_s: Mapping[int, float] | float | None = None,
) -> str:
    """What the curves say; *slo* is (percentile, target in seconds), *missed* the share beyond it.

    Without *missed* that share is read off the curve of all, which leaves out what was rejected.
    """
    return _finding(observations(frame, metric, end_s), metric, slo, missed)


def _finding(observed: pd.DataFrame, metric: str, slo: tuple[float, float] | None, missed: float | None) -> str:
    what = METRICS[metric]
    if not len(observed) or not np.isfinite(observed["value"][observed["event"]]).any():
        return f"No {what.name} was measured"
    if slo is not None:
        percentile, target = slo
        share = beyond(observed, target) if missed is None else missed
        allowed = 1 - percentile / 100
        verb = "more than" if share > allowed + 1e-12 else "within"
        if share <= 0:
            return f"Every {what.one} takes at most {formats.duration(target)} to {_verb(metric)}, as asked"
        return (
            f"{formats.percent(share)} of {what.rows} take longer than {formats.duration(target)} to "
            f"{_verb(metric)}, {verb} the {formats.percent(allowed)} allowed"
        )
    times, left = survival(observed["value"].to_numpy(dtype=float), observed["event"].to_numpy(dtype=bool))
    half, tail = (_quantile(times, left, q) for q in (0.5, 0.99))
    if half is None:
        return f"Fewer than half of the {what.rows} have a {what.name}"
    if tail is None:
        return f"One in two takes {formats.duration(half)} to {_verb(metric)}; the slowest had not by the end"
    return (
        f"One in two takes {formats.duration(half)} to {_verb(metric)}, one in a hundred more than "
        f"{formats.duration(tail)}"
    )


def _verb(metric: str) -> str:
    return {
        "tta": "be answered",
        "ttfo": "show the first answer token",
        "ttft": "produce the first token",
        "tpot": "produce each further token",
    }[metric]


def _quantile(times: np.ndarray, share: np.ndarray, q: float) -> float | None:
    at = np.flatnonzero(share <= 1 - q + 1e-12)
    return float(times[at[0]]) if len(at) else None


def figure(
    frame: pd.DataFrame,
    metric: str = "tta",
    *,
    slo: tuple[float, float] | None = None,
    missed: float | None = None,
    end_s: Mapping[int, float] | float | None = None,
    height: int = 440,
    small: bool = False,
) -> go.Figure:
    """CCDF of *metric* by category, log-log, with the SLO as a line and the share beyond it.

    *frame* is the queries table for ``tta`` and ``ttfo``, the requests table for ``ttft`` and ``tpot``; *slo*
    is (percentile, seconds), *missed* as in ``finding``. *small* draws it for a third of a page's width.
    Raise a KeyError for another metric.
    """
    import plotly.graph_objects as go

    what = METRICS[metric]
    observed = observations(frame, metric, end_s)
    title = _finding(observed, metric, slo, missed)
    data = _curves(observed)
    data = data[(data["value_s"] > 0) & (data["beyond"] > 0)]
    if data.empty:
        return theme.empty(f"No {what.one} of the measured window has a {what.name}.", title=title)
    groups = list(data["group"].unique())
    styles = theme.category_styles(group for group in groups if group != ALL or len(groups) == 1)
    fig = theme.new_figure(height)
    low, high = float(data["value_s"].min()), float(data["value_s"].max())
    if slo is not None:
        low, high = min(low, slo[1]), max(high, slo[1])
    low, high = low / 1.1, high * 1.15
    direct = 1 < len(groups) <= 6 and not small
    if direct:
        high *= (high / low) ** 0.22
    floor = max(float(data["beyond"].min()) / 1.6, 1e-7)
    ends: list[tuple[float, float, str, str]] = []
    for name in groups:
        part = data[data["group"] == name]
        total = len(groups) > 1 and name == ALL
        style = theme.GREY if total else styles[name]
        text = f"all {what.rows}" if total else name
        n = int(part["n"].iloc[0])
        fig.add_trace(
            go.Scatter(
                x=_round([low, *part["value_s"]]),
                y=_round([1.0, *part["beyond"]]),
                name=f"{theme.label(text)} (n {n:,})",
                mode="lines",
                line={
                    "color": theme.LIGHT.text if total else style.color,
                    "dash": "solid" if total else style.dash,
                    "width": 1.5 if total else 2.2,
                    "shape": "hv",
                },
                customdata=np.array([formats.duration(value) for value in (low, *part["value_s"])], dtype=object),
                hovertemplate="%{y:.3~%} take longer than %{customdata}<extra>%{fullData.name}</extra>",
                showlegend=not direct,
            )
        )
        last = part.iloc[-1]
        color = theme.LIGHT.text if total else style.color
        ends.append((float(last["value_s"]), float(last["beyond"]), theme.label(text), color))
    fig.update_layout(showlegend=not direct and not small and len(groups) > 1)
    values, texts = formats.log_ticks(low, high, "seconds", most=5 if small else 10)
    few, few_texts = formats.log_ticks(low, high, "seconds", most=4)
    x_range = [float(np.log10(low)), float(np.log10(high))]
    fig.update_xaxes(type="log", range=x_range, tickvals=values, ticktext=texts, tickangle=0, title_text=what.axis)
    y_range = (floor, 1.25)
    values, texts = formats.log_ticks(floor, 1.0, "share", most=7)
    fig.update_yaxes(
        type="log",
        range=[float(np.log10(y_range[0])), float(np.log10(y_range[1]))],
        tickvals=values,
        ticktext=texts,
        title_text="" if small else f"share of {what.rows} that take longer",
    )
    phone: dict[str, Any] = {"xaxis": {"tickvals": few, "ticktext": few_texts}, "height": min(height, 400)}
    if direct:
        theme.direct_labels(
            fig, ends, x_range=(low, high), y_range=y_range, x_log=True, y_log=True, size=(980, height - 80)
        )
    if slo is not None:
        _target(fig, beyond(observed, slo[1]) if missed is None else missed, slo, floor, low, high)
    theme.narrow(fig, **phone)
    note = f"Curves of more than {POINTS} points are drawn with {POINTS} of them, the 60 slowest all there."
    return theme.describe(
        fig,
        title=title,
        caption="Read as the figure of the time to answer, in the same colours and dashes."
        if small
        else (
            f"Each curve gives, for a time on the x axis, the share of {what.rows} that take longer. "
            "Lower and further left is better; both axes are logarithmic."
        ),
        alt=_alt(observed, what, slo),
        note=note if (data.groupby("group").size() >= POINTS - 20).any() else "",
    )


def _target(fig: go.Figure, share: float, slo: tuple[float, float], floor: float, low: float, high: float) -> None:
    import plotly.graph_objects as go

    percentile, target = slo
    fig.add_trace(
        go.Scatter(
            x=[target, target],
            y=[floor, 1.0],
            mode="lines",
            line={"color": theme.LIGHT.accent, "dash": "dash", "width": 1.5},
            name="target",
            showlegend=False,
            hovertemplate=f"target {formats.duration(target)}<extra></extra>",
        )
    )
    allowed = 1 - percentile / 100
    if floor <= allowed <= 1:
        fig.add_trace(
            go.Scatter(
                x=[target],
                y=[allowed],
                mode="markers",
                marker={"color": theme.LIGHT.accent, "symbol": "triangle-left", "size": 11},
                name="allowed",
                showlegend=False,
                hovertemplate=f"{formats.percent(allowed)} may take longer<extra></extra>",
            )
        )
    right = (np.log10(target) - np.log10(low)) / (np.log10(high) - np.log10(low)) > 0.55
    fig.add_annotation(
        x=float(np.log10(target)),
        y=1,
        yref="paper",
        yanchor="bottom",
        text=f"target {formats.duration(target)}: <b>{formats.percent(share)}</b> beyond",
        xanchor="right" if right else "left",
        xshift=4 if right else -4,
        showarrow=False,
        font={"color": theme.LIGHT.accent},
    )


def _alt(observed: pd.DataFrame, what: Metric, slo: tuple[float, float] | None) -> str:
    parts = []
    for name in sorted(observed["group"].unique()):
        part = observed[observed["group"] == name]
        times, share = survival(part["value"].to_numpy(dtype=float), part["event"].to_numpy(dtype=bool))
        said = ", ".join(
            f"p{round(q * 100)} {formats.duration(value)}"
            for q in (0.5, 0.9, 0.99)
            if (value := _quantile(times, share, q)) is not None
        )
        far = f", {formats.percent(beyond(part, slo[1]))} beyond the target" if slo else ""
        parts.append(f"{name} (n {len(part):,}): {said or 'no quantile known'}{far}")
    return f"{what.name.capitalize()} by category. " + "; ".join(parts) + "."


def _round(values: Any) -> np.ndarray:
    return np.array([float(f"{value:.5g}") for value in values])
