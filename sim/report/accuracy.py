"""The page of an accuracy run: predicted against measured, signed errors by regime, the worst, what was fitted.

Everything comes from the records of ``accuracy.json``; nothing is computed here but what a figure needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.report import formats, theme
from sim.report.html import Exhibit, Fold, Items, Page, Section, Table, Text, Tile, render

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Record = Mapping[str, Any]
Bars = Mapping[str, Sequence[Sequence[str]]]
"""Tables of what was judged by what was replayed: rows of metric, bar, a cell a regime."""

STYLES = {
    "below_knee": theme.BLUE,
    "knee": theme.VERMILLION,
    "kv_limited": theme.GREEN,
    "overloaded": theme.PURPLE,
}
SHOWN = {
    "ttft": ("mean TTFT", "ms", ("ttft_ms_mean", "ttft_ms_stat")),
    "tpot": ("mean TPOT", "ms", ("tpot_ms_mean", "tpot_ms_stat")),
    "itl": ("median ITL", "ms", ("itl_ms_p50",)),
    "e2e": ("mean E2E", "ms", ("e2e_ms_mean",)),
    "throughput": ("output throughput", "tokens/s", ("output_tps", "derived_output_tps")),
}
CLIP = 0.6
"""Errors beyond it are drawn at the edge."""
REGIMES = {"below_knee": "below the knee", "knee": "knee", "kv_limited": "KV-limited", "overloaded": "overloaded"}
WORST, OF_A_FAMILY = 25, 4
"""So many of the worst figures are listed, at most so many of one family."""


def percent(share: float) -> str:
    """*share* in whole percent."""
    return f"{100 * share:.0f} %"


def signed(error: float, digits: int = 1) -> str:
    """A signed error with a minus sign that is one."""
    return f"{100 * error:+,.{digits}f} %".replace("-", "\u2212")


def table(records: Sequence[Record], metrics: Sequence[str]) -> pd.DataFrame:
    """``id, regime, metric, measured, predicted, low, high, signed_error, used_in_fitting`` of compared *metrics*."""
    import pandas as pd

    rows = []
    for record in records:
        if record.get("signed_error") is None or record["metric"] not in metrics:
            continue
        low, high = record.get("band", (record["predicted"], record["predicted"]))
        rows.append(
            (
                record["id"],
                record["regime"],
                record["metric"],
                record["measured"],
                record["predicted"],
                low,
                high,
                record["signed_error"],
                bool(record["used_in_fitting"]),
            )
        )
    names = ["id", "regime", "metric", "measured", "predicted", "low", "high", "signed_error", "used_in_fitting"]
    return pd.DataFrame(rows, columns=names)


def against(data: pd.DataFrame, what: str, unit: str) -> go.Figure:
    """Predicted over measured, one mark a case, with lines at ±5 % and ±10 % and whiskers of ±3 % of step cost."""
    import plotly.graph_objects as go

    fig = theme.new_figure(460)
    ends = data[["measured", "predicted"]].to_numpy(float)
    low, high = float(ends.min()) / 1.3, float(ends.max()) * 1.3
    banded = bool((data["low"] < data["high"]).any())
    for factor, dash in ((1.0, "solid"), (0.95, "dash"), (1.05, "dash"), (0.9, "dot"), (1.1, "dot")):
        fig.add_trace(
            go.Scatter(
                x=[low, high],
                y=[low * factor, high * factor],
                mode="lines",
                showlegend=False,
                hoverinfo="skip",
                line={"color": theme.GREY.color, "dash": dash, "width": 1},
            )
        )
    for regime, style in STYLES.items():
        rows = data[data["regime"] == regime]
        if rows.empty:
            continue
        fig.add_trace(
            go.Scatter(
                x=rows["measured"].tolist(),
                y=rows["predicted"].tolist(),
                error_y={
                    "type": "data",
                    "array": (rows["high"] - rows["predicted"]).clip(lower=0).tolist(),
                    "arrayminus": (rows["predicted"] - rows["low"]).clip(lower=0).tolist(),
                    "thickness": 1,
                    "width": 0,
                }
                if banded
                else None,
                mode="markers",
                name=REGIMES[regime],
                marker={"color": style.color, "symbol": style.symbol, "size": 6, "opacity": 0.75},
                customdata=[
                    [theme.safe(name), 100 * error]
                    for name, error in zip(rows["id"], rows["signed_error"], strict=True)
                ],
                hovertemplate="%{customdata[0]}<br>measured %{x:.4~g}, predicted %{y:.4~g} "
                "(%{customdata[1]:+.1f} %)<extra>%{fullData.name}</extra>",
            )
        )
    ticks, labels = formats.log_ticks(low, high, most=7)
    axis = {
        "type": "log",
        "range": [float(np.log10(low)), float(np.log10(high))],
        "tickvals": ticks,
        "ticktext": labels,
        "minor": {"showgrid": False},
    }
    fig.update_xaxes(title_text=f"measured {what}, {unit}", **axis)
    fig.update_yaxes(title_text=f"predicted {what}, {unit}", **axis)
    errors = np.abs(data["signed_error"].to_numpy(float))
    inside = float((errors <= 0.05).mean()), float((errors <= 0.10).mean())
    return theme.describe(
        fig,
        title=f"{what[0].upper()}{what[1:]}: {percent(inside[0])} of {len(data):,} within 5 %, "
        f"{percent(inside[1])} within 10 %",
        caption="Dashed: ±5 %. Dotted: ±10 %."
        + (" Whiskers: the prediction with every step 3 % shorter and 3 % longer." if banded else ""),
        alt=f"Scatter of predicted over measured {what}, {len(data)} runs, "
        f"median absolute error {100 * np.median(errors):.1f} %.",
    )


def by_regime(records: Sequence[Record]) -> tuple[go.Figure, pd.DataFrame]:
    """Signed errors, one mark a figure, by metric and regime."""
    import pandas as pd
    import plotly.graph_objects as go

    frames = [table(records, metrics).assign(what=what) for what, _, metrics in SHOWN.values()]
    data = pd.concat([frame for frame in frames if not frame.empty], ignore_index=True)
    fig = theme.new_figure(440)
    for regime, style in STYLES.items():
        rows = data[data["regime"] == regime]
        if rows.empty:
            continue
        fig.add_trace(
            go.Box(
                x=rows["what"].tolist(),
                y=(100 * rows["signed_error"].clip(-CLIP, CLIP)).tolist(),
                name=REGIMES[regime],
                boxpoints="outliers",
                marker={"color": style.color, "symbol": style.symbol, "size": 4},
                line={"color": style.color, "width": 1.5},
                text=[theme.safe(name) for name in rows["id"]],
                hovertemplate="%{text}: %{y:+.1f} %<extra>%{fullData.name}</extra>",
            )
        )
    fig.add_hline(y=0, line={"color": theme.GREY.color, "dash": "dot"})
    fig.update_layout(boxmode="group")
    fig.update_yaxes(title_text="predicted over measured", ticksuffix=" %")
    medians = {str(what): float(np.median(rows["signed_error"])) for what, rows in data.groupby("what")}
    worst = max(medians, key=lambda what: abs(medians[what]))
    theme.describe(
        fig,
        title=f"No metric is off by more than {100 * abs(medians[worst]):.1f} % in the median; {worst} is furthest",
        caption=f"Above zero: predicted slower (or more throughput). Errors beyond {percent(CLIP)} are drawn there. "
        "Boxes hold the middle half. Regimes are decided by what was measured.",
        alt="Boxes of signed error by metric and regime: "
        + ", ".join(f"{what} median {signed(value)}" for what, value in medians.items()),
    )
    return fig, data


def bars_section(bars: Bars) -> Section:
    """Every judged figure beside its bar, one table for each way of replaying a run."""
    head = ("judged", "bar", *REGIMES.values())
    blocks = [
        Table(head, [(row[0], *(text.replace(" %", "\u00a0%") for text in row[1:])) for row in rows], caption=runs)
        for runs, rows in bars.items()
    ]
    return Section("bars", "Is it within the bars?", blocks=blocks)


def listed(judged: Sequence[Record]) -> list[Record]:
    """The worst of *judged*, at most `OF_A_FAMILY` of a family so that one does not hide the others."""
    counts: dict[str, int] = {}
    found: list[Record] = []
    for record in sorted(judged, key=lambda record: -abs(record["signed_error"])):
        family = str(record["id"]).partition("-")[0]
        counts[family] = counts.get(family, 0) + 1
        if counts[family] <= OF_A_FAMILY and len(found) < WORST:
            found.append(record)
    return found


def page(
    records: Sequence[Record],
    summary: Sequence[Record],
    skipped: Mapping[str, int],
    *,
    bars: Bars,
    source: str,
    wall_s: float,
) -> Page:
    """All of it; *summary*, *skipped* and *bars* are those of ``sim.validation.accuracy_summary``."""
    exhibits = []
    for key, (what, unit, metrics) in SHOWN.items():
        data = table(records, metrics)
        if not data.empty:
            exhibits.append(Exhibit(f"against_{key}", against(data, what, unit), data, "half"))
    compared = [record for record in records if record.get("signed_error") is not None]
    judged = [record for record in compared if "within_bar" in record]
    fresh = [record for record in judged if not record["used_in_fitting"]]
    share = sum(record["within_bar"] for record in judged) / max(1, len(judged))
    fresh_share = sum(record["within_bar"] for record in fresh) / max(1, len(fresh))
    knee = [record for record in compared if record["regime"] == "knee" and "band" in record]
    banded = sum(record["band"][0] <= record["measured"] <= record["band"][1] for record in knee)
    sections = [Section("against", "How close is it?", exhibits)]
    if bars:
        sections.append(bars_section(bars))
    if exhibits:
        figure, data = by_regime(records)
        sections.append(Section("regimes", "Where is it off?", [Exhibit("regimes", figure, data)]))
    sections.append(
        Section(
            "families",
            "Which runs, which regime, which metric?",
            blocks=[
                Table(
                    ("family", "regime", "metric", "n", "median", "worst", "within bar"),
                    [
                        (
                            row["family"],
                            REGIMES[row["regime"]],
                            row["metric"],
                            f"{row['n']:,}",
                            signed(row["median"]),
                            signed(row["worst"]),
                            f"{row['within_bar']} of {row['judged']}" if row["judged"] else "",
                        )
                        for row in summary
                    ],
                    numeric=frozenset({3, 4, 5, 6}),
                    caption="signed errors of what was compared; throughput of open loads below saturation is left out",
                )
            ],
        )
    )
    sections.append(
        Section(
            "worst",
            "What is worst?",
            blocks=[
                Table(
                    ("metric", "error", "measured", "predicted", "at \u22123 % … +3 % of step cost", "regime", "case"),
                    [
                        (
                            record["metric"],
                            signed(record["signed_error"], 0),
                            formats.number(record["measured"]),
                            formats.number(record["predicted"]),
                            " … ".join(map(formats.number, record["band"])) if "band" in record else "",
                            REGIMES[record["regime"]],
                            record["id"],
                        )
                        for record in listed(judged)
                    ],
                    numeric=frozenset({1, 2, 3, 4}),
                    caption=f"judged figures, at most {OF_A_FAMILY} of a family",
                )
            ],
        )
    )
    fitted = sorted({record["id"] for record in records if record["used_in_fitting"]})
    return Page(
        title="Accuracy",
        kicker="validation against real runs",
        answer=f"{percent(share)} of {len(judged):,} judged figures are within their bar; {percent(fresh_share)} of the "
        f"{len(fresh):,} from runs that were neither fitted on nor in view when something was chosen."
        if judged
        else "Nothing was compared: every figure was skipped, for the reasons below.",
        verdict=percent(share) if judged else "nothing",
        tone="none",
        reason=f"Cases of {source}, replayed in {wall_s:,.0f} s.",
        tiles=[
            Tile("Runs compared", f"{len({record['id'] for record in compared}):,}"),
            Tile("Figures compared", f"{len(compared):,}"),
            Tile("Within the bar", percent(share) if judged else formats.MISSING, f"of {len(judged):,} judged"),
            Tile("At the knee", f"{banded} of {len(knee)}", "measured figures inside the ±3 % band")
            if knee
            else Tile(
                "At the knee",
                formats.MISSING,
                "run without the band" if any(r["regime"] == "knee" for r in compared) else "no such run",
            ),
        ],
        sections=sections,
        folds=[
            Fold(
                "skipped",
                "What was not compared",
                [
                    Table(
                        ("reason", "figures"),
                        [(reason, f"{count:,}") for reason, count in skipped.items()],
                        numeric=frozenset({1}),
                    )
                ],
            ),
            Fold(
                "fitted",
                "Runs used in fitting, or in view",
                [
                    Text("Constants of the engine were identified on these, or chosen with their errors in view:"),
                    Items(fitted),
                ]
                if fitted
                else [Text("None.")],
            ),
        ],
        footer="ThinkCap",
    )


def write(
    records: Sequence[Record],
    summary: Sequence[Record],
    skipped: Mapping[str, int],
    path: Path,
    *,
    bars: Bars,
    source: str,
    wall_s: float,
) -> None:
    """Write the page to *path*."""
    path.write_text(render(page(records, summary, skipped, bars=bars, source=source, wall_s=wall_s)), encoding="utf-8")
