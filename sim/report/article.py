"""The page of the reproduced article: its figures, published ones and ours side by side, and why they differ.

Everything comes from the data of ``reproduce.json``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.report import formats, theme
from sim.report.article_text import MARKS, TIMES, interval, say
from sim.report.html import (
    Banner,
    Code,
    Definitions,
    Exhibit,
    Fold,
    Items,
    Page,
    Section,
    Table,
    Text,
    Tile,
    render,
)

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Row = Mapping[str, Any]

LONG, SHORT = 46, 24
"""Letters a line of a label beside an axis, on a screen and on a phone."""
ROW_PX = 38
DRAWN: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    # by table: (unit, begin of the rows or "", what the axis says)
    "serving_configurations": (("change", "", "change against the standard configuration"),),
    "recommendations": (("x", "", "times as much"), ("points", "", "accuracy, points")),
    "kv_cache": (("requests", "", "requests"),),
    "tokens_per_query": (("tokens", "", "tokens a query"),),
    "verification_math500": (("share", "", "accuracy"),),
    "majority_vote_p06": (("share", "", "accuracy"),),
    "compute_equivalent_math500": (("TFLOP", "", "TFLOP a query"), ("x", "", "over medium moderate")),
    "accuracy_gain_per_range_math500": (("points", "", "accuracy gained, points"),),
    "aime_2024": (("share", "", "accuracy"),),
    "chain_of_thought_palm_540b": (("share", "", "accuracy"),),
    "training_for_reasoning": (("x", "", "states over the policy's alone"),),
}
LOGARITHMIC = {"tokens", "TFLOP", "x"}
TITLES = {
    "serving_configurations": "Most of what an optimisation does depends on whether memory is the limit",
    "recommendations": "Savings and costs: smaller, and larger, than claimed",
    "kv_cache": "Six reasoning requests fit when peaks are reserved; more run when memory is paged",
    "tokens_per_query": "Claims against what was measured: reasoning is shorter on schoolwork, code longer",
    "verification_math500": "Rows of 64 are predicted from those up to 16",
    "majority_vote_p06": "64 votes at p = 0.6 are 95 %, not 99 %",
    "compute_equivalent_math500": "Attention is left out, and equal FLOP are not equal GPU time",
    "accuracy_gain_per_range_math500": "Most is gained before 4,096 tokens",
    "aime_2024": "83.3 % is a vote of 64 chains, not one chain",
    "chain_of_thought_palm_540b": "The gain grows with the steps of a task",
    "training_for_reasoning": "PPO holds twice what GRPO trains",
}


def table(rows: Sequence[Row]) -> pd.DataFrame:
    """``what, unit, article_low, article_high, published_low, published_high, ours_low … verdict, basis``."""
    import pandas as pd

    def ends(value: Any) -> tuple[float, float]:
        if value is None:
            return math.nan, math.nan
        low, high = value if isinstance(value, (list, tuple)) else (value, value)
        return float("nan" if low is None else low), float("nan" if high is None else high)

    made = [
        (
            row["what"],
            row["unit"],
            *ends(row["article"]),
            *ends(row["published"]),
            *ends(row["ours"]),
            *(math.nan if row[key] is None else row[key] for key in ("low", "high")),
            row["basis"],
            row["verdict"],
        )
        for row in rows
    ]
    names = ["what", "unit", "article", "article_to", "published", "published_to", "ours", "ours_to", "low", "high"]
    return pd.DataFrame(made, columns=[*names, "basis", "verdict"])


def dots(data: pd.DataFrame, unit: str, axis: str, title: str) -> go.Figure:
    """Each row's figures on one line: the article's, a published one, ours with its interval."""
    import plotly.graph_objects as go

    scale = 100.0 if unit in ("share", "points", "change") else 1.0
    suffix = {"share": " %", "change": " %", "x": TIMES}.get(unit, "")
    fig = theme.new_figure(110 + ROW_PX * len(data))
    labels = [_label(what) for what in data["what"]]
    kinds = (
        ("article", "article_to", theme.VERMILLION, "diamond-open", "article"),
        ("published", "published_to", theme.GREEN, "square-open", "published"),
        ("ours", "ours_to", theme.BLUE, "circle", "ours, 95 % interval"),
    )
    for first, last, style, symbol, name in kinds:
        lows, highs = data[first].to_numpy(float) * scale, data[last].to_numpy(float) * scale
        known = [place for place in range(len(data)) if math.isfinite(lows[place])]
        if not known:
            continue
        x: list[float | None] = []
        y: list[str | None] = []
        for place in known:
            if highs[place] != lows[place]:
                x += [lows[place], highs[place], None]
                y += [labels[place], labels[place], None]
        if x:
            fig.add_trace(
                go.Scatter(x=x, y=y, mode="lines", line={"color": style.color, "width": 3, "dash": style.dash},
                           showlegend=False, hoverinfo="skip")
            )  # fmt: skip
        ranges = [place for place in known if highs[place] != lows[place]]
        places = [*known, *ranges]
        values = [*(lows[place] for place in known), *(highs[place] for place in ranges)]
        bars: dict[str, Any] = {}
        if first == "ours":
            bars = {"error_x": _bars(data, places, values, scale, unit)}
        words = [say([row, to] if row != to else row, unit) for row, to in zip(data[first], data[last], strict=True)]
        fig.add_trace(
            go.Scatter(
                x=values,
                y=[labels[place] for place in places],
                mode="markers",
                name=name,
                marker={"color": style.color, "symbol": symbol, "size": 10, "line": {"width": 2}},
                customdata=[[theme.safe(data["what"].iloc[place]), words[place]] for place in places],
                hovertemplate="%{customdata[0]}<br>%{customdata[1]}<extra>" + name.split(",")[0] + "</extra>",
                **bars,
            )
        )
    if unit in ("change", "points"):
        fig.add_vline(x=0, line={"color": theme.GREY.color, "width": 1})
    fig.update_yaxes(categoryorder="array", categoryarray=labels[::-1], automargin=True)
    fig.update_xaxes(title_text=axis, ticksuffix=suffix)
    if unit in LOGARITHMIC:
        shown = data[["article", "article_to", "published", "published_to", "ours", "ours_to"]].to_numpy(float)
        positive = shown[shown > 0]
        if len(positive):
            low, high = float(positive.min()) / 1.3, float(positive.max()) * 1.3
            ticks, names = formats.log_ticks(low, high, "tokens" if unit == "tokens" else "plain", most=7)
            fig.update_xaxes(type="log", range=[math.log10(low), math.log10(high)], tickvals=ticks, ticktext=names)
    theme.narrow(
        fig,
        margin={"l": 4, "r": 8},
        yaxis={
            "tickfont": {"size": 10},
            "tickmode": "array",
            "tickvals": labels,
            "ticktext": [_label(what, SHORT) for what in data["what"]],
        },
        xaxis={"nticks": 4},
    )
    compared = int((data["verdict"] == "agrees").sum())
    return theme.describe(
        fig,
        title=title,
        caption="Diamonds: the article. Squares: published. Circles: ours; bars are 95 % intervals over replications.",
        alt=f"{len(data)} figures, one a line, of the article, of publications and of ours; {compared} agree. "
        "The table below has each.",
    )


def _bars(
    data: pd.DataFrame, places: Sequence[int], values: Sequence[float], scale: float, unit: str
) -> dict[str, Any]:
    up, down = [], []
    for place, value in zip(places, values, strict=True):
        low, high = float(data["low"].iloc[place]) * scale, float(data["high"].iloc[place]) * scale
        if not math.isfinite(low) or not math.isfinite(high):
            low = high = value
        if unit not in ("change", "points"):
            low = max(low, value / 20)
        up.append(max(0.0, high - value))
        down.append(max(0.0, value - low))
    return {"type": "data", "array": up, "arrayminus": down, "thickness": 1.5, "width": 4}


def _label(what: str, letters: int = LONG) -> str:
    import textwrap

    return "<br>".join(theme.safe(line) for line in textwrap.wrap(what, letters))


def _serving(rows: Sequence[Row]) -> list[Exhibit]:
    """A figure a metric: optimisations, each at both loads."""
    made = []
    for what, words in (
        ("tokens a second", "Tokens a second"),
        ("queries a second", "Queries a second"),
        ("mean time to answer", "Mean time to answer"),
        ("p99 time to answer", "p99 time to answer"),
    ):
        mine = [
            row for row in rows if row["unit"] == "change" and f": {what}," in row["what"] and row["ours"] is not None
        ]
        if not mine:
            continue
        data = table(mine)
        data["what"] = [text.replace(f": {what}", "").replace(", more than memory holds", "") for text in data["what"]]
        data["what"] = [text.replace(", memory is not the limit", "") for text in data["what"]]
        figure = dots(data, "change", "change against standard", f"{words}: {_span(mine)}")
        made.append(Exhibit(f"serving_{what.replace(' ', '_')}", figure, data, "half"))
    return made


def _span(rows: Sequence[Row]) -> str:
    values = [row["ours"] for row in rows]
    return f"from {say(min(values), 'change')} to {say(max(values), 'change')}, by optimisation and load"


def _exhibits(part: Mapping[str, Any]) -> list[Exhibit]:
    name, rows = part["name"], part["rows"]
    if name == "serving_configurations":
        return _serving(rows)
    made = []
    for number, (unit, start, axis) in enumerate(DRAWN.get(name, ())):
        mine = [
            row
            for row in rows
            if row["unit"] == unit and row["what"].startswith(start) and (row["ours"] is not None or row["published"])
        ]
        if not mine:
            continue
        data = table(mine)
        title = TITLES.get(name, part["question"]) if number == 0 else f"The same in {axis}"
        made.append(Exhibit(f"{name}_{unit}", dots(data, unit, axis, title), data))
    return made


def _section(part: Mapping[str, Any]) -> Section:
    rows = []
    for row in part["rows"]:
        unit = row["unit"]
        published = say(row["published"], unit)
        why = "; ".join(
            filter(None, (row["why"], f"published: {row['source']}" if published and row["source"] else ""))
        )
        rows.append(
            (
                row["what"],
                say(row["article"], unit),
                published,
                say(row["ours"], unit) or ("not run" if row["basis"] == "not run" else ""),
                interval(row),
                _verdict(row),
                why,
            )
        )
    return Section(
        part["name"],
        part["question"],
        _exhibits(part),
        [
            Text(part["finding"]),
            Table(
                ("figure", "article", "published", "ours", "95 % interval", "verdict", "why"),
                rows,
                numeric=frozenset({1, 2, 3, 4}),
                caption=f"The article, section {part['section']}",
                prose=True,
            ),
            Items(part["notes"]),
        ],
    )


def _verdict(row: Row) -> str:
    if row["verdict"] == "no claim":
        return "" if row["basis"] in ("simulated", "computed") else str(row["basis"])
    told = f"{MARKS[row['verdict']]} {row['verdict']}"
    return f"{told} ({row['basis']})" if row["basis"] == "predicted" else told


def page(found: Mapping[str, Any]) -> Page:
    """All of it; *found* is what ``sim.validation.article.reproduce`` returns."""
    tables = found["tables"]
    rows = {(part["name"], row["what"]): row for part in tables for row in part["rows"]}
    counts: Mapping[str, int] = found["verdicts"]
    agree = counts.get("agrees", 0) + counts.get("same direction", 0)
    differ = sum(counts.get(name, 0) for name in ("differs", "opposite", "no clear effect"))
    missing = counts.get("not run", 0)
    undecided = counts.get("undecided", 0)
    judged = agree + differ + undecided
    banners = []
    if found["quick"]:
        banners.append(
            Banner(
                "These runs measured a few queries each: the page is a look, not evidence.", "Run it without `--quick`."
            )
        )
    left = sorted(
        {
            row["what"].split(":")[0]
            for row in rows.values()
            if row["verdict"] == "not run" and row["basis"] == "not run"
        }
    )
    if left:
        banners.append(Banner(f"Not run: {'; '.join(left)}.", "These rows say so; nothing stands in for them."))
    if any(part["name"] == "serving_configurations" for part in tables):
        banners.append(
            Banner(
                "The article's serving table states no hardware, model, traffic or rate. Ours are in "
                "`scenarios/article/serving.yaml`; only directions and sizes of changes can be compared.",
                tone="none",
            )
        )
    answer = (
        f"Of {judged} figures of the article that can be checked, {agree} agree or point the same way and {differ} do not"
        + (f"; {undecided} remain undecided" if undecided else "")
        + (f"; {missing} could not be run." if missing else ".")
    )
    commands = [f"# {part['question']}\n" + "\n".join(part["commands"]) for part in tables if part["commands"]]
    return Page(
        title="The article, reproduced",
        kicker="inference-time compute: the article, what is published, and what we compute and simulate",
        answer=answer,
        verdict=f"{agree} of {judged} agree",
        tone="none",
        reason=" ".join(part["finding"] for part in tables[:1]),
        tiles=_tiles(rows, agree, differ, missing),
        banners=banners,
        sections=[_section(part) for part in tables],
        folds=[
            Fold("commands", "Run each case yourself", [Code("\n\n".join(commands))]),
            Fold("words", "What the verdicts mean", [Definitions(_WORDS)]),
        ],
        footer=f"ThinkCap, {found['points']} simulated points",
    )


_WORDS = (
    ("agrees", "", "the article's figure lies within 5 % of ours (shares: 2 points) or within its interval"),
    ("same direction", "", "a change of the same sign, but another size"),
    ("differs", "", "outside both"),
    ("opposite", "", "a change of the other sign"),
    ("no clear effect", "", "the interval of a change holds zero, and not the article's"),
    ("undecided", "", "the interval is too wide to tell (half of it over 30 % of the figure, or 6 points)"),
    ("fitted", "", "a parameter was fitted to this very row, so that it proves nothing"),
    ("predicted", "", "from parameters fitted to other rows, or to other models"),
    ("input", "", "put in by hand"),
    ("not run", "", "not modelled in this version, or nothing of ours to set beside it"),
)


def _tiles(rows: Mapping[tuple[str, str], Row], agree: int, differ: int, missing: int) -> list[Tile]:
    tiles = [Tile("Agree, or same direction", f"{agree}"), Tile("Differ", f"{differ}"), Tile("Not run", f"{missing}")]
    for label, key in (
        ("Reasoning requests that fit, reserved", ("kv_cache", "reasoning requests that fit, peak reserved")),
        ("Majority of 64, predicted", ("verification_math500", "majority 64: accuracy, closed form")),
        ("Best of 64 with a PRM, predicted", ("verification_math500", "best of 64 prm: accuracy, closed form")),
        ("Routing: cost falls", ("recommendations", "1 routing, hardest 20 %: cost a query falls, GPUs paid")),
        ("32B distillate: cost falls", ("recommendations", "2 distilled 32B: cost a query falls")),
    ):
        row = rows.get(key)
        if row is not None and row["ours"] is not None:
            good = row["verdict"] == "agrees"
            tiles.append(
                Tile(label, say(row["ours"], row["unit"]), interval(row),
                     f"article {say(row['article'], row['unit'])}", "good" if good else "bad")
            )  # fmt: skip
    return tiles


def write(found: Mapping[str, Any], path: Path) -> None:
    """Write the page to *path*."""
    path.write_text(render(page(found)), encoding="utf-8")
