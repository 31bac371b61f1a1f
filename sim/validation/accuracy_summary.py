"""What the records of an accuracy run say together: shares within the bars and signed errors, never only means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sim.validation.accuracy_regime import REGIMES

Record = Mapping[str, Any]

GROUPS = {
    "TTFT": ("ttft_ms_mean", "ttft_ms_stat"),
    "TPOT": ("tpot_ms_mean", "tpot_ms_stat"),
    "ITL": ("itl_ms_p50",),
    "E2E": ("e2e_ms_mean",),
    "E2E p99": ("e2e_ms_p99",),
    "throughput": ("req_throughput", "output_tps", "derived_output_tps"),
}
"""What a reader asks for, and the columns that answer it."""


def compared(records: Iterable[Record]) -> list[Record]:
    """Records with an error: neither skipped nor vacuous."""
    return [record for record in records if record.get("signed_error") is not None]


def errors_of(records: Sequence[Record]) -> dict[str, Any]:
    """Signed errors of *records*: how many, median, median of the absolute, p95 of the absolute, worst, bar."""
    errors = np.array([record["signed_error"] for record in records], dtype=float)
    if not len(errors):
        return {"n": 0}
    worst = records[int(np.argmax(np.abs(errors)))]
    judged = [record["within_bar"] for record in records if "within_bar" in record]
    banded = [record["band"][0] <= record["measured"] <= record["band"][1] for record in records if "band" in record]
    return {
        "n": len(errors),
        "median": float(np.median(errors)),
        "median_absolute": float(np.median(np.abs(errors))),
        "p95_absolute": float(np.quantile(np.abs(errors), 0.95)),
        "worst": float(worst["signed_error"]),
        "worst_id": worst["id"],
        "judged": len(judged),
        "within_bar": int(sum(judged)),
        "in_band": int(sum(banded)),
        "banded": len(banded),
    }


def summarise(records: Sequence[Record]) -> list[Record]:
    """One row a (family of cases, regime, metric): what is compared, how far off, and what share is within the bar."""
    found: list[Record] = []
    usable = compared(records)
    for family in dict.fromkeys(record["id"].partition("-")[0] for record in usable):
        for regime in REGIMES:
            for label, names in GROUPS.items():
                rows = [
                    record
                    for record in usable
                    if record["id"].partition("-")[0] == family
                    and record["regime"] == regime
                    and record["metric"] in names
                ]
                if rows:
                    found.append({"family": family, "regime": regime, "metric": label, **errors_of(rows)})
    return found


LONG_OUTPUT = 1400
"""Output tokens, in the mean of a run, from which it anchors what is said of reasoning: nobody reports fidelity beyond."""

EXACT_METRICS = {
    "mean TPOT": ("5 %", ("tpot_ms_mean",)),
    "mean E2E": ("7 %", ("e2e_ms_mean",)),
    "p99 E2E": ("10 %", ("e2e_ms_p99",)),
    "mean TTFT": ("15 % or 10 ms", ("ttft_ms_mean",)),
    "throughput, where it can differ": ("3 %", ("req_throughput", "output_tps")),
}
"""What is judged of exact replays: the bar as a reader names it, and its columns."""
ANCHOR_METRICS = {
    "throughput": ("req_throughput", "output_tps", "derived_output_tps"),
    "TPOT or median ITL": ("tpot_ms_mean", "tpot_ms_stat", "itl_ms_p50"),
    "median TPOT": ("tpot_ms_p50",),
    "mean batch": ("batch_mean",),
}
"""The same of runs that are replayed from lengths and settings."""


@dataclass(frozen=True)
class BarRow:
    """One bar and what stands against it: *regimes* maps a regime to `errors_of` its judged records."""

    runs: str
    metric: str
    bar: str
    part: bool
    """Whether its records are among those of an earlier row."""
    regimes: dict[str, dict[str, Any]]


def against_bars(records: Iterable[Record]) -> list[BarRow]:
    """Every judged figure beside its bar, by what replayed the run, metric and regime."""
    judged = [record for record in compared(records) if "within_bar" in record]
    exact = [record for record in judged if record["tier"].startswith("A")]
    others = [record for record in judged if not record["tier"].startswith("A")]
    measured = [record for record in others if record.get("profile") != "prior"]
    rows = [
        BarRow("exact replays", name, bar, False, _by_regime(exact, metrics))
        for name, (bar, metrics) in EXACT_METRICS.items()
    ]
    kinds: tuple[tuple[str, str, bool, Callable[[Record], bool]], ...] = (
        ("from lengths and settings, costed by a profile", "10 %", False, lambda record: True),
        (
            f"of these, outputs of {LONG_OUTPUT:,} tokens and more",
            "10 %",
            True,
            lambda record: (record.get("output_tokens") or 0) >= LONG_OUTPUT,
        ),
    )
    for runs, bar, part, chosen in kinds:
        some = [record for record in measured if chosen(record)]
        rows += [BarRow(runs, name, bar, part, _by_regime(some, metrics)) for name, metrics in ANCHOR_METRICS.items()]
    priors = [record for record in others if record.get("profile") == "prior"]
    rows += [
        BarRow("from lengths and settings, costed by the prior", name, "20 %", False, _by_regime(priors, metrics))
        for name, metrics in ANCHOR_METRICS.items()
    ]
    return [row for row in rows if any(found["n"] for found in row.regimes.values())]


def _by_regime(records: Sequence[Record], metrics: Sequence[str]) -> dict[str, dict[str, Any]]:
    return {
        regime: errors_of([r for r in records if r["regime"] == regime and r["metric"] in metrics])
        for regime in REGIMES
    }


def bar_tables(records: Iterable[Record]) -> dict[str, list[tuple[str, ...]]]:
    """`against_bars` as text: what was replayed, and its rows of metric, bar, and a cell a regime.

    A cell says how many are within the bar and the median error, and at the knee, whose bar it is, how many are in the
    band.
    """
    tables: dict[str, list[tuple[str, ...]]] = {}
    for row in against_bars(records):
        cells = [_cell(found, banded=regime == "knee") for regime, found in row.regimes.items()]
        tables.setdefault(row.runs, []).append((row.metric, row.bar, *cells))
    return tables


def _cell(found: Mapping[str, Any], *, banded: bool) -> str:
    if not found["n"]:
        return "\u2013"
    text = f"{found['within_bar']:,} of {found['judged']:,}, median {100 * found['median_absolute']:.1f} %"
    return text + (f"; {found['in_band']:,} in the band" if banded and found["banded"] else "")


def skips(records: Sequence[Record]) -> dict[str, int]:
    """Why cases or figures were not compared, most frequent first: reason and number of records."""
    counts: dict[str, int] = {}
    for record in records:
        if record.get("skipped"):
            counts[record["skipped"]] = counts.get(record["skipped"], 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def lines(records: Sequence[Record]) -> list[str]:
    """The summary as aligned text."""
    out = [
        f"{'family':<10} {'regime':<11} {'metric':<11} {'n':>4}  {'median':>8}  {'absolute':>8}  {'worst':>8}  in bar"
    ]
    for row in summarise(records):
        share = f"{row['within_bar']}/{row['judged']}" if row["judged"] else ""
        out.append(
            f"{row['family']:<10} {row['regime']:<11} {row['metric']:<11} {row['n']:>4}  {row['median']:>+8.1%}  "
            f"{row['median_absolute']:>8.1%}  {row['worst']:>+8.1%}  {share}"
        )
    judged = [record["within_bar"] for record in compared(records) if "within_bar" in record]
    fresh = [r["within_bar"] for r in compared(records) if "within_bar" in r and not r["used_in_fitting"]]
    if judged:
        out.append(
            f"within the bars: {sum(judged):,} of {len(judged):,}; of cases not used in fitting: "
            f"{sum(fresh):,} of {len(fresh):,}"
        )
    for reason, count in skips(records).items():
        out.append(f"skipped {count:>5,}: {reason}")
    return out
