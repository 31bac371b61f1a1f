"""Pages about a trace: what is in it, and how well a generator follows it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sim.report import formats
from sim.report.html import Banner, Exhibit, Fold, Items, Page, Section, Table, Tile, Tone, render
from sim.report.trace_figures import exhibits

if TYPE_CHECKING:
    import pandas as pd


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
        Section("arrivals", "When do they come?", _pick(figures, "traffic", "daily", "burstiness")),
        *([Section("groups", _who(found), (), [_groups(found)])] if found["group_count"] > 1 else []),
        *(
            [Section("together", "What hangs together?", (), [Items([_sentence(line) for line in together])])]
            if together
            else []
        ),
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
        sections=_told(sections),
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
    asked = [row for row in rows if row["near"] is not None]
    far = [row for row in asked if not row["near"]]
    page = Page(
        title=f"Fit of {name}",
        kicker=f"trace {name}, real against generated",
        answer=answer,
        verdict="follows the trace"
        if not far
        else f"follows the trace in {len(asked) - len(far)} of {len(asked)} figures",
        tone="good" if not far else "warn",
        reason=f"near enough in all {len(asked)} figures that a generator must keep"
        if not far
        else "not near enough: " + "; ".join(str(row["name"]) for row in far),
        tiles=[tile for beginning, label in _TILES.items() if (tile := _tile(asked, beginning, label)) is not None],
        banners=[_FAR] if far else [],
        sections=_told(
            [
                Section("lengths", "Are they as long?", _pick(figures, "survival", "splits")),
                Section("tail", "Is the tail as heavy?", _pick(figures, "concentration", "tail_index")),
                Section("arrivals", "Do they come alike?", _pick(figures, "traffic", "daily", "burstiness")),
                Section("goodness", "How near is each figure?", (), _goodness(rows)),
            ]
        ),
        folds=[Fold("notes", "Assumed while fitting", [Items(list(notes) or ["nothing"])])],
        footer="Fitted by ThinkCap; the page shows quantiles and counts of the trace, none of its rows.",
    )
    return render(page)


_FAR = Banner(
    "Some figures of what is drawn are farther from the trace than a generator should be.",
    "Of few rows the trace itself tells them no better: compare it with another day, or fit more rows. The tables at the "
    "end have all figures.",
)
_TILES = {
    "output, p": "output, worst quantile",
    "output, mean": "output, mean",
    "output, share of top": "tokens of the longest 1 %, 10 %",
    "output, Hill": "tail index",
    "client and window": "rates by client and window",
    "gaps of a client": "CV of a client's gaps",
}
"""What a fit is asked for, by how the names of its figures begin."""


def _tile(asked: Sequence[Mapping[str, Any]], beginning: str, label: str) -> Tile | None:
    """The worst of the figures whose names begin so, and how far off it may be."""
    mine = [row for row in asked if str(row["name"]).startswith(beginning)]
    if not mine:
        return None
    worst = max(mine, key=lambda row: (not row["near"], abs(float(row["distance"]))))
    shares = beginning.startswith("output, share")
    far = formats.number(100 * float(worst["bar"]), 3) + (" points" if shares else " %")
    value = f"{100 * float(worst['distance']):+.2f} points" if shares else _distance(worst).replace("%", " %")
    if worst["absolute"] and not shares:
        far = f"{float(worst['bar']):g}"
    detail = f"{_figure(worst['real'])} real, {_figure(worst['generated'])} drawn"
    if beginning == "client and window":
        value, detail = f"{float(worst['distance']):.2f}", "RMS of standard errors; luck alone gives 1"
    elif beginning == "output, p":
        detail = f"{str(worst['name']).split(', ')[1]}: {detail}"
    tone: Tone = "good" if worst["near"] else "warn"
    return Tile(label, value, detail, target=f"up to {far}", tone=tone)


def _sentence(line: str) -> str:
    """A *line* of the terminal, whose label stands apart from what is said."""
    label, _, said = line.partition("  ")
    return f"{label}: {said.strip()}"


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


def _told(sections: Sequence[Section]) -> list[Section]:
    """Those that have something to show: a trace of one row has no curves."""
    return [section for section in sections if section.exhibits or section.blocks]


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
