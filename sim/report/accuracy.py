"""The page of an accuracy run: predicted against measured, signed errors by regime, the worst, what was fitted.

Everything comes from the records of ``accuracy.json``; nothing is computed here but what a figure needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.report import theme
from sim.report.html import Exhibit, Fold, Items, Page, Section, Table, Text, Tile, render

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Record = Mapping[str, Any]

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
    low, high = float(data["measured"].min()) / 1.5, float(data["measured"].max()) * 1.5
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
                },
                mode="markers",
                name=regime.replace("_", " "),
                marker={"color": style.color, "symbol": style.symbol, "size": 6, "opacity": 0.75},
                customdata=[
                    [theme.safe(name), 100 * error]
                    for name, error in zip(rows["id"], rows["signed_error"], strict=True)
                ],
                hovertemplate="%{customdata[0]}<br>measured %{x:.4~g}, predicted %{y:.4~g} "
                "(%{customdata[1]:+.1f} %)<extra>%{fullData.name}</extra>",
            )
        )
    fig.update_xaxes(type="log", title_text=f"measured {what}, {unit}")
    fig.update_yaxes(type="log", title_text=f"predicted {what}, {unit}")
    errors = np.abs(data["signed_error"].to_numpy(float))
    inside = float((errors <= 0.05).mean()), float((errors <= 0.10).mean())
    return theme.describe(
        fig,
        title=f"{what[0].upper()}{what[1:]}: {inside[0]:.0%} of {len(data):,} within 5 %, {inside[1]:.0%} in 10 %",
        caption="Dashed: ±5 %. Dotted: ±10 %. Whiskers: the prediction with every step 3 % shorter and 3 % longer.",
        alt=f"Scatter of predicted over measured {what}, {len(data)} runs, "
        f"median absolute error {np.median(errors):.1%}.",
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
                name=regime.replace("_", " "),
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
        title=f"No metric is off by more than {abs(medians[worst]):.1%} in the median; {worst} is furthest",
        caption=f"Above zero: predicted slower (or more throughput). Errors beyond {CLIP:.0%} are drawn there. "
        "Boxes hold the middle half. Regimes are decided by what was measured.",
        alt="Boxes of signed error by metric and regime: "
        + ", ".join(f"{what} median {value:+.1%}" for what, value in medians.items()),
    )
    return fig, data


def page(
    records: Sequence[Record], summary: Sequence[Record], skipped: Mapping[str, int], *, source: str, wall_s: float
) -> Page:
    """All of it; *summary* and *skipped* are those of ``sim.validation.accuracy_summary``."""
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
    worst = sorted(judged, key=lambda record: -abs(record["signed_error"]))[:25]
    sections = [Section("against", "How close is it?", exhibits)]
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
                            row["regime"].replace("_", " "),
                            row["metric"],
                            f"{row['n']:,}",
                            f"{row['median']:+.1%}",
                            f"{row['worst']:+.1%}",
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
                    ("case", "regime", "metric", "measured", "predicted", "error", "at -3 % … +3 % of step cost"),
                    [
                        (
                            record["id"],
                            record["regime"].replace("_", " "),
                            record["metric"],
                            f"{record['measured']:,.4g}",
                            f"{record['predicted']:,.4g}",
                            f"{record['signed_error']:+.1%}",
                            "{:,.4g} … {:,.4g}".format(*record["band"]) if "band" in record else "",
                        )
                        for record in worst
                    ],
                    numeric=frozenset({3, 4, 5, 6}),
                )
            ],
        )
    )
    fitted = sorted({record["id"] for record in records if record["used_in_fitting"]})
    return Page(
        title="Accuracy",
        kicker="validation against real runs",
        answer=f"{share:.0%} of {len(judged):,} judged figures are within their bar; "
        f"{fresh_share:.0%} of the {len(fresh):,} from runs that no constant was fitted on.",
        verdict=f"{share:.0%}",
        tone="none",
        reason=f"Cases of {source}, replayed in {wall_s:,.0f} s.",
        tiles=[
            Tile("Runs compared", f"{len({record['id'] for record in compared}):,}"),
            Tile("Figures compared", f"{len(compared):,}"),
            Tile("Within the bar", f"{share:.0%}", f"of {len(judged):,} judged"),
            Tile("At the knee", f"{banded} of {len(knee)}", "measured figures inside the ±3 % band"),
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
                "Runs used in fitting",
                [Text("Constants of the engine were identified on these:"), Items(fitted)]
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
    source: str,
    wall_s: float,
) -> None:
    """Write the page to *path*."""
    path.write_text(render(page(records, summary, skipped, source=source, wall_s=wall_s)), encoding="utf-8")
