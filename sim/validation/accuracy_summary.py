"""What the records of an accuracy run say together: shares within the bars and signed errors, never only means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from sim.validation.accuracy_regime import REGIMES

Record = dict[str, Any]

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
    found = []
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
