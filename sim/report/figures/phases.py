"""Where does a query's time go? Queue, prefill, thinking, answering, recompute and verification, by category.

The time of a query is that of its critical path: the request that finished last, before it the request
whose end let it start, and so on back to the query's arrival.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from sim.metrics.handover import first_legs
from sim.report import formats, theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

PHASES: dict[str, str] = {
    "queue": "queue: waiting for a place",
    "prefill": "prefill: reading the prompt",
    "handover": "handover: KV on its way from a prefill to a decode replica",
    "thinking": "thinking: reasoning tokens",
    "answering": "answering: visible tokens",
    "recompute": "preempted: waiting again and recomputing",
    "verification": "verification of samples",
}

_KEY = ["replication", "query"]


def critical_path(queries: pd.DataFrame, requests: pd.DataFrame, end_s: Mapping[int, float] | float) -> pd.DataFrame:
    """The requests on the critical path of each of *queries*, with ``from_s``, since when the query waited
    for it.

    Open requests end at *end_s*.
    """
    path = requests.merge(queries[[*_KEY, "arrived_s"]].rename(columns={"arrived_s": "from_s"}), on=_KEY)
    ends = path["replication"].map(dict(end_s)) if isinstance(end_s, Mapping) else end_s
    path["until_s"] = path["finished_s"].fillna(ends)
    path = path[path["status"].astype(str) != "rejected"]
    path = path.sort_values([*_KEY, "until_s", "request"], kind="stable")
    several = path.duplicated(_KEY, keep=False).to_numpy()
    if not several.any():
        return path
    keep = ~several
    from_s = path["from_s"].to_numpy(dtype=float, copy=True)
    arrived, until = path["arrived_s"].to_numpy(dtype=float), path["until_s"].to_numpy(dtype=float)
    indices = np.flatnonzero(several)
    codes = path.groupby(_KEY, sort=False).ngroup().to_numpy()[indices]
    for group in np.split(indices, np.flatnonzero(np.diff(codes)) + 1):
        at = group[-1]
        while True:
            keep[at] = True
            before = [i for i in group if i < at and until[i] <= arrived[at]]
            if not before:
                break
            from_s[at] = until[before[-1]]
            at = before[-1]
    path["from_s"] = from_s
    return path[keep]


def spans(
    queries: pd.DataFrame,
    requests: pd.DataFrame,
    stalls: pd.DataFrame | None = None,
    *,
    end_s: Mapping[int, float] | float | None = None,
) -> pd.DataFrame:
    """The phases of each of *queries* as ``replication, query, category, phase, start_s, end_s``.

    ``recompute`` spans (gaps between tokens of a request that lost its place) lie on top of thinking or
    answering. *end_s*: when the run stopped; None: the latest time in *requests*.
    """
    import pandas as pd

    if end_s is None:
        end_s = float(np.nanmax([requests["arrived_s"].max(), requests["finished_s"].max(), 0.0]))
    path = critical_path(queries, requests, end_s)
    path = _with_first_legs(path, requests)
    marks = [
        ("queue", "from_s", "leg_scheduled_s"),
        ("prefill", "leg_scheduled_s", "leg_finished_s"),
        ("handover", "leg_finished_s", "first_scheduled_s"),
        ("prefill", "first_scheduled_s", "first_token_s"),
        ("thinking", "first_token_s", "first_answer_s"),
        ("answering", "first_answer_s", "until_s"),
    ]
    verify = ~path["role"].astype(str).isin(["generate", "prefill"]).to_numpy()
    times = {name: path[name].to_numpy(dtype=float, copy=True) for _, *pair in marks for name in pair}
    # What never came (no answer token, not scheduled before it was cut) collapses to the request's end.
    for name in ("first_answer_s", "first_token_s", "first_scheduled_s"):
        times[name] = np.where(np.isnan(times[name]), times["until_s"], times[name])
    for name in ("leg_scheduled_s", "leg_finished_s"):
        times[name] = np.where(np.isnan(times[name]), times["first_scheduled_s"], times[name])
    frames = []
    base = {
        "replication": path["replication"].to_numpy(),
        "query": path["query"].to_numpy(),
        "request": path["request"].to_numpy(),
        "category": path["category"].astype(str).to_numpy(),
    }
    for phase, start, end in marks:
        names = np.where(verify, "verification", phase)
        frames.append(pd.DataFrame({**base, "phase": names, "start_s": times[start], "end_s": times[end]}))
    if stalls is not None and len(stalls):
        gaps = stalls.merge(path[["replication", "request", "query", "category"]], on=["replication", "request"])
        frames.append(
            pd.DataFrame(
                {
                    "replication": gaps["replication"].to_numpy(),
                    "query": gaps["query"].to_numpy(),
                    "request": gaps["request"].to_numpy(),
                    "category": gaps["category"].astype(str).to_numpy(),
                    "phase": "recompute",
                    "start_s": (gaps["at_s"] - gaps["gap_s"]).to_numpy(dtype=float),
                    "end_s": gaps["at_s"].to_numpy(dtype=float),
                }
            )
        )
    frame = pd.concat(frames, ignore_index=True)
    return frame[frame["end_s"] > frame["start_s"]].reset_index(drop=True)


def _with_first_legs(path: pd.DataFrame, requests: pd.DataFrame) -> pd.DataFrame:
    """*path* with ``leg_scheduled_s`` and ``leg_finished_s`` of those whose prompt a prefill replica computed, NaN of others."""
    legs = requests["role"].astype(str).to_numpy() == "prefill"
    if not legs.any():
        return path.assign(leg_scheduled_s=np.nan, leg_finished_s=np.nan)
    keys = tuple(requests[name].to_numpy() for name in (*_KEY, "sample"))
    finished = requests["finished_s"].to_numpy(dtype=float)
    source = first_legs(keys, legs, np.where(legs, finished, requests["kv_arrived_s"].to_numpy(dtype=float)))
    some = source >= 0
    known = requests.loc[some, ["replication", "request"]].assign(
        leg_scheduled_s=requests["first_scheduled_s"].to_numpy(dtype=float)[source[some]],
        leg_finished_s=finished[source[some]],
    )
    return path.merge(known, on=["replication", "request"], how="left")


def table(queries: pd.DataFrame, requests: pd.DataFrame, stalls: pd.DataFrame | None = None) -> pd.DataFrame:
    """Mean seconds in each phase of a completed query of the window: ``category, n, phase, mean_s,
    share``."""
    import pandas as pd

    done = queries[queries["in_window"].astype(bool) & (queries["status"].astype(str) == "completed")]
    columns = ["category", "n", "phase", "mean_s", "share"]
    if done.empty:
        return pd.DataFrame({name: [] for name in columns})
    frame = spans(done, requests, stalls)
    frame["length_s"] = frame["end_s"] - frame["start_s"]
    frame = _without_gaps(frame)
    counts = done["category"].astype(str).value_counts()
    sums = frame.groupby(["category", "phase"])["length_s"].sum()
    rows = []
    for category in sorted(counts.index):
        means = {phase: float(sums.get((category, phase), 0.0)) / counts[category] for phase in PHASES}
        total = sum(means.values())
        rows += [
            (category, int(counts[category]), phase, mean, mean / total if total > 0 else 0.0)
            for phase, mean in means.items()
        ]
    return pd.DataFrame(rows, columns=columns)


def _without_gaps(frame: pd.DataFrame) -> pd.DataFrame:
    """Take the time of each gap off the phase that it lies in."""
    import pandas as pd

    gaps = frame[frame["phase"] == "recompute"]
    if gaps.empty:
        return frame
    rest = frame[frame["phase"] != "recompute"]
    key = ["replication", "request"]
    both = rest.reset_index().merge(gaps[[*key, "start_s", "end_s"]], on=key, suffixes=("", "_gap"))
    lost = np.minimum(both["end_s"], both["end_s_gap"]) - np.maximum(both["start_s"], both["start_s_gap"])
    taken = pd.Series(lost).clip(lower=0).groupby(both["index"]).sum()
    rest = rest.assign(length_s=rest["length_s"].sub(taken, fill_value=0.0).clip(lower=0.0))
    return pd.concat([rest, gaps])


def finding(data: pd.DataFrame) -> str:
    """What the bars say."""
    if data.empty:
        return "No query of the measured window was answered"
    weighted = data.assign(time=data["mean_s"] * data["n"]).groupby("phase")["time"].sum()
    total = float(weighted.sum())
    if total <= 0:
        return "Queries take no time"
    top = str(weighted.idxmax())
    names = {"recompute": "being preempted", "queue": "waiting in the queue", "handover": "waiting for its KV"}
    text = f"{formats.percent(float(weighted[top]) / total, 2)} of a query's time is {names.get(top, top)}"
    waiting = float(weighted.get("queue", 0.0) + weighted.get("recompute", 0.0)) / total
    if top not in ("queue", "recompute"):
        text += f"; {formats.percent(waiting, 2)} is waiting or being preempted"
        moving = float(weighted.get("handover", 0.0)) / total
        if moving > 0:
            text += f", {formats.percent(moving, 2)} the way of its KV"
    return text


def figure(queries: pd.DataFrame, requests: pd.DataFrame, stalls: pd.DataFrame | None = None) -> go.Figure:
    """Stacked bars of mean time in each phase, one bar a category, from the three tables of a run."""
    import plotly.graph_objects as go

    data = table(queries, requests, stalls)
    if data.empty:
        return theme.empty("No query of the measured window was answered.", title=finding(data))
    order = data.groupby("category")["mean_s"].sum().sort_values().index
    longest = float(data.groupby("category")["mean_s"].sum().max())
    shown = [phase for phase in PHASES if data.loc[data["phase"] == phase, "mean_s"].sum() > 0]
    counts = data.drop_duplicates("category").set_index("category")["n"]
    labels = {name: f"{theme.label(name)}<br>n {counts[name]:,}" for name in order}
    fig = theme.new_figure(
        max(200, 110 + 62 * len(order)), barmode="stack", uniformtext={"mode": "hide", "minsize": 11}
    )
    for phase in shown:
        part = data[data["phase"] == phase].set_index("category").reindex(order)
        style = theme.PHASE_STYLES[phase]
        fig.add_trace(
            go.Bar(
                y=[labels[name] for name in order],
                x=[float(f"{value:.5g}") for value in part["mean_s"]],
                name=phase if phase != "recompute" else "preempted, recomputing",
                orientation="h",
                marker={
                    "color": style.color,
                    "line": {"color": theme.LIGHT.paper, "width": 1},
                    "pattern": theme.hatch(style),
                },
                text=[formats.duration(value) if value > 0.09 * longest else "" for value in part["mean_s"]],
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                insidetextfont={"color": theme.on(style), "size": 12},
                customdata=[
                    [formats.duration(mean), formats.percent(share)]
                    for mean, share in zip(part["mean_s"], part["share"], strict=True)
                ],
                hovertemplate="%{customdata[0]}, %{customdata[1]}<extra>%{fullData.name}</extra>",
            )
        )
    values, texts = formats.time_ticks(0, longest, most=8)
    few, few_texts = formats.time_ticks(0, longest, most=4)
    fig.update_xaxes(
        range=[0, longest * 1.03],
        tickvals=values,
        ticktext=texts,
        title_text="mean time a query, summed over its phases",
    )
    fig.update_yaxes(showgrid=False)
    fig.update_layout(legend_traceorder="normal", margin_l=90)
    theme.narrow(fig, xaxis={"tickvals": few, "ticktext": few_texts, "title": {"text": "mean time a query"}})
    said = "; ".join(
        f"{name} (n {counts[name]:,}): "
        + ", ".join(
            f"{row.phase} {formats.duration(row.mean_s)}"
            for row in theme.rows(data[(data["category"] == name) & (data["mean_s"] > 0)])
        )
        for name in order[::-1]
    )
    return theme.describe(
        fig,
        title=finding(data),
        caption="Mean over the answered queries of the window; a bar's length is the mean time to answer."
        + ("" if requests["reasoning_tokens"].any() else " No reasoning tokens are known: all is answering."),
        alt=f"Mean time in each phase by category. {said}.",
    )
