"""What happened to the longest and to the most starved queries? Their phases one after the other, from
arrival."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.report import formats, theme
from sim.report.figures import phases

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

EACH = 8
"""Queries of each kind."""

KINDS = {"longest": "longest", "starved": "most starved"}


def pick(queries: pd.DataFrame, *, end_s: Mapping[int, float] | float | None = None, each: int = EACH) -> pd.DataFrame:
    """The *each* longest and the *each* most starved queries of the window: ``kind, replication, query, …,
    time_s``.

    *time_s* runs to the answer, or as long as the query was watched. Starved is who was slowed most among the
    answered, by slowdown; a query stands under one kind only, the longest first.
    """
    import pandas as pd

    frame = queries[queries["in_window"].astype(bool) & (queries["status"].astype(str) != "rejected")]
    latest = float(np.nanmax([queries["arrived_s"].max(), queries["finished_s"].max(), 0.0])) if len(frame) else 0.0
    ends = frame["replication"].map(dict(end_s)) if isinstance(end_s, Mapping) else (end_s or latest)
    frame = frame.assign(time_s=frame["tta_s"].fillna(frame["finished_s"].fillna(ends) - frame["arrived_s"]))
    order = ["replication", "query"]
    longest = frame.sort_values(["time_s", *order], ascending=[False, True, True]).head(each)
    rest = frame.drop(longest.index)
    rest = rest[rest["slowdown"].notna()]
    starved = rest.sort_values(["slowdown", *order], ascending=[False, True, True]).head(each)
    return pd.concat([longest.assign(kind="longest"), starved.assign(kind="starved")])


def table(
    queries: pd.DataFrame,
    requests: pd.DataFrame,
    stalls: pd.DataFrame | None = None,
    *,
    end_s: Mapping[int, float] | float | None = None,
    each: int = EACH,
) -> pd.DataFrame:
    """The chosen queries' phases, one row each, with ``kind, replication, query, category, client, status,
    tokens, time_s, slowdown`` of the query and ``phase, start_s, end_s``.

    Times of phases count from the query's arrival.
    """
    chosen = pick(queries, end_s=end_s, each=each)
    frame = phases.spans(chosen, requests, stalls, end_s=end_s)
    chosen = chosen.assign(tokens=chosen["reasoning_tokens"] + chosen["answer_tokens"])
    keep = [
        "kind",
        "replication",
        "query",
        "category",
        "client",
        "status",
        "tokens",
        "time_s",
        "slowdown",
        "arrived_s",
    ]
    merged = chosen[keep].merge(frame.drop(columns=["category", "request"]), on=["replication", "query"])
    for name in ("start_s", "end_s"):
        merged[name] = merged[name] - merged["arrived_s"]
    return merged.drop(columns="arrived_s")


def finding(data: pd.DataFrame) -> str:
    """What the bars say."""
    if data.empty:
        return "No query ran in the measured window"
    first = data.iloc[0]
    text = f"The longest query took {formats.duration(first['time_s'])}"
    if first["status"] != "completed":
        text = f"The longest query was still without an answer after {formats.duration(first['time_s'])}"
    starved = data[data["kind"] == "starved"]
    if len(starved):
        one = starved.iloc[0]
        part = starved[(starved["query"] == one["query"]) & (starved["replication"] == one["replication"])]
        lost = part[part["phase"].isin(["queue", "recompute"])]
        waited = float((lost["end_s"] - lost["start_s"]).sum())
        text += (
            f"; the most starved waited {formats.duration(waited)} of the "
            f"{formats.duration(one['time_s'])} that its {formats.count(one['tokens'])} tokens took"
        )
    return text


def figure(
    queries: pd.DataFrame,
    requests: pd.DataFrame,
    stalls: pd.DataFrame | None = None,
    *,
    end_s: Mapping[int, float] | float | None = None,
    each: int = EACH,
) -> go.Figure:
    """Gantt of the longest and, on a time axis of their own, the most starved queries, coloured by phase."""
    from plotly.subplots import make_subplots

    data = table(queries, requests, stalls, end_s=end_s, each=each)
    if data.empty:
        return theme.empty("No query of the measured window ever ran.", title=finding(data))
    several = data["replication"].nunique() > 1
    kinds = list(dict.fromkeys(data["kind"]))
    lists = {kind: theme.rows(data[data["kind"] == kind].drop_duplicates(["replication", "query"])) for kind in kinds}
    height = 110 + sum(26 * len(rows) + 62 for rows in lists.values())
    fig = make_subplots(
        rows=len(kinds),
        cols=1,
        vertical_spacing=76 / height,
        row_heights=[len(rows) for rows in lists.values()],
    )
    fig.update_layout(
        template=theme.template_object("light"), height=height, barmode="overlay", bargap=0.25, margin_t=58
    )
    phone: dict[str, Any] = {}
    named: set[str] = set()
    for panel, kind in enumerate(kinds, start=1):
        rows = {(row.replication, row.query): place for place, row in enumerate(lists[kind])}
        mine = data[data["kind"] == kind]
        for phase in [phase for phase in phases.PHASES if (mine["phase"] == phase).any()]:
            fig.add_trace(_bars(mine[mine["phase"] == phase], phase, rows, legend=phase not in named), panel, 1)
            named.add(phase)
        number = "" if panel == 1 else str(panel)
        fig.add_annotation(
            xref="paper",
            yref=f"y{number} domain",
            x=0,
            y=1,
            yshift=4,
            yanchor="bottom",
            text=f"<b>{KINDS[kind]}</b>",
            xanchor="left",
            showarrow=False,
        )
        longest = float(mine["end_s"].max())
        for row in lists[kind]:
            if row.status != "completed":
                fig.add_annotation(
                    xref=f"x{number}",
                    yref=f"y{number}",
                    x=row.time_s,
                    y=rows[(row.replication, row.query)],
                    text=f"{str(row.status).replace('_', ' ')} ▸",
                    xanchor="right" if row.time_s > longest / 4 else "left",
                    yanchor="middle",
                    bgcolor=theme.LIGHT.paper,
                    borderpad=1,
                    showarrow=False,
                    font={"size": 11},
                )
        values, texts = formats.time_ticks(0, longest)
        few, few_texts = formats.time_ticks(0, longest, most=4)
        fig.update_xaxes(tickvals=values, ticktext=texts, range=[0, longest * 1.02], row=panel, col=1)
        fig.update_yaxes(
            tickvals=list(rows.values()),
            ticktext=[f"{row.query}" + (f" (r{row.replication})" if several else "") for row in lists[kind]],
            range=[len(rows) - 0.4, -0.6],
            showgrid=False,
            row=panel,
            col=1,
        )
        phone[f"xaxis{number}"] = {"tickvals": few, "ticktext": few_texts}
    fig.update_xaxes(title_text="time since arrival", row=len(kinds), col=1)
    # Several traces of one phase, the others without an entry: the legend's order follows the phases.
    order = {phase: place for place, phase in enumerate(phases.PHASES)}
    fig.for_each_trace(lambda trace: trace.update(legendrank=order[trace.legendgroup]))
    fig.update_layout(legend={"y": 1, "yref": "container", "yanchor": "top"})
    theme.narrow(fig, margin={"t": 86}, **phone)
    return theme.describe(
        fig,
        title=finding(data),
        caption=(
            "One row a query, by number, from arrival to answer along its critical path"
            f"{'; r is the replication' if several else ''}. Most starved are those with the highest "
            "slowdown; their time axis is their own. `thinkcap explain` tells any query's life."
        ),
        alt=_alt(data),
    )


def _bars(part: pd.DataFrame, phase: str, rows: Mapping[tuple[int, int], int], *, legend: bool) -> go.Bar:
    import plotly.graph_objects as go

    style = theme.PHASE_STYLES[phase]
    length = part["end_s"] - part["start_s"]
    return go.Bar(
        y=[rows[key] for key in zip(part["replication"], part["query"], strict=True)],
        base=_short(part["start_s"]),
        x=_short(length),
        orientation="h",
        name=phase if phase != "recompute" else "preempted, recomputing",
        legendgroup=phase,
        showlegend=legend,
        marker={"color": style.color, "line": {"width": 0}, "pattern": theme.hatch(style)},
        customdata=[
            [
                formats.duration(seconds),
                f"query {row.query}, {theme.label(row.category)}, client {theme.label(row.client)}",
                f"{formats.count(row.tokens)} tokens, {row.status}, slowdown {formats.number(row.slowdown)}",
            ]
            for seconds, row in zip(length, theme.rows(part), strict=True)
        ],
        hovertemplate="%{customdata[0]}<br>%{customdata[1]}<br>%{customdata[2]}<extra>%{fullData.name}</extra>",
    )


def _alt(data: pd.DataFrame) -> str:
    said = []
    for (kind, replication, query), part in data.groupby(["kind", "replication", "query"], sort=False):
        row = part.iloc[0]
        sums = (part["end_s"] - part["start_s"]).groupby(part["phase"]).sum()
        spent = ", ".join(f"{phase} {formats.duration(sums[phase])}" for phase in phases.PHASES if phase in sums)
        said.append(
            f"{KINDS[str(kind)]}: query {query} of replication {replication}, {row['category']}, "
            f"{formats.count(row['tokens'])} tokens, {row['status']}, {formats.duration(row['time_s'])}: "
            f"{spent}"
        )
    return "; ".join(said) + "."


def _short(values: pd.Series) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
