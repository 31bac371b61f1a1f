"""Figures of several replications together: quantiles from all their queries, never averages of quantiles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.metrics.censored import Censored
from sim.metrics.intervals import interval
from sim.results.columns import Status

if TYPE_CHECKING:
    import pandas as pd

    from sim.planning.runs import Store

STATS = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
HOURS_PER_MONTH = 730.0
"""Of a mean month: 8,760 / 12."""


def sample(frame: pd.DataFrame, column: str) -> Censored:
    """A time of the measured queries as `sim.metrics.samples` has it: what ended without an answer, or is open, is
    censored at the time it had waited; what was rejected is left out."""
    values = frame[column].to_numpy(np.float64)
    known = ~np.isnan(values)
    open_ = ~known & (frame["status"].to_numpy() != int(Status.REJECTED))
    return Censored(values[known], frame["waited_s"].to_numpy(np.float64)[open_])


def pooled(records: Sequence[Mapping[str, Any]], store: Store) -> dict[str, Any]:
    """The figures of a configuration from the *records* of its replications, with intervals over them.

    Times in seconds, cost in US dollars. ``p99_tta_s`` is NaN where queries still open hide it; then
    ``p99_tta_at_least_s`` bounds it.
    """
    import pandas as pd

    done = [record for record in records if record["state"] == "done"]
    summaries = [record["summary"] for record in done]
    frames = [store.frame(record["key"]) for record in done]
    whole = pd.concat(frames, ignore_index=True)
    row: dict[str, Any] = {"replications": len(done), "n": len(whole)}
    for metric in ("tta", "ttfo"):
        all_, each = sample(whole, f"{metric}_s"), [sample(frame, f"{metric}_s") for frame in frames]
        for name, q in STATS.items():
            estimate = all_.quantile(q)
            row[f"{name}_{metric}_s"] = estimate.value
            if math.isnan(estimate.value):
                row[f"{name}_{metric}_at_least_s"] = estimate.at_least
            bounds = interval(estimate.value, [part.quantile(q).value for part in each])
            if name in ("p50", "p99") and bounds is not None:
                row[f"{name}_{metric}_low_s"], row[f"{name}_{metric}_high_s"] = max(bounds[0], 0.0), bounds[1]
    for metric, stat in (("ttft", "p95"), ("tpot", "p95")):
        row[f"{stat}_{metric}_s"] = _mean([summary["metrics"][metric][stat] for summary in summaries])
    row["attainment"] = float(whole["slo_met"].mean()) if len(whole) else math.nan
    bounds = interval(row["attainment"], [float(frame["slo_met"].mean()) for frame in frames])
    if bounds is not None:
        row["attainment_low"], row["attainment_high"] = max(bounds[0], 0.0), min(bounds[1], 1.0)
    for name, key in (
        ("arrivals_per_s", "arrivals_per_s"),
        ("queries_per_s", "queries_per_s"),
        ("output_tokens_per_s", "output_tokens_per_s"),
    ):
        row[name] = _mean([summary["throughput"][key] for summary in summaries])
    row["goodput_per_s"] = _mean([summary["goodput"]["value"] for summary in summaries])
    costs = [summary["cost"] for summary in summaries]
    total = [cost["total"] for cost in costs]
    if all(value is not None for value in total):
        queries, tokens = (sum(cost[key] for cost in costs) for key in ("queries_completed", "output_tokens"))
        row["cost_per_query_usd"] = sum(total) / queries if queries else math.nan
        row["usd_per_million_output_tokens"] = 1e6 * sum(total) / tokens if tokens else math.nan
    row |= _accuracy(whole, frames, costs, priced=all(value is not None for value in total))
    steps = [summary["rollout"] for summary in summaries if summary.get("rollout")]
    if steps:
        for name, key in (
            ("training_step_s", "step_s"),
            ("gpu_hours_per_step", "gpu_hours_per_step"),
            ("bubble_share", "bubble_share"),
        ):
            row[name] = _mean([each[key] for each in steps])
    found = [summary["trace_cache"] for summary in summaries if summary.get("trace_cache")]
    if found:
        looked = sum(each["lookups"] for each in found)
        row["hit_rate"] = sum(each["hits"] for each in found) / looked if looked else math.nan
    row["overloaded"] = sum(summary["verdict"] == "overloaded" for summary in summaries)
    row["saturated"] = sum(summary["verdict"] == "saturated" for summary in summaries)
    row["kv_use_max"] = max(
        (pool["use_max"] or 0.0 for summary in summaries for pool in summary["kv"]["pools"].values()), default=0.0
    )
    row["warm_up_adequate"] = all(summary["warm_up"]["adequate"] is not False for summary in summaries)
    return row


def _accuracy(
    whole: pd.DataFrame, frames: Sequence[pd.DataFrame], costs: Sequence[Mapping[str, Any]], *, priced: bool
) -> dict[str, float]:
    """Share of right answers with its interval, and the cost of one; nothing without a quality model."""
    from sim.metrics.quality import share_interval

    known = ~np.isnan(whole["correct"].to_numpy(np.float64))
    if not known.any():
        return {}
    right = whole["correct"].to_numpy(np.float64)[known]
    prompt = np.concatenate([frame["prompt"].to_numpy(np.int64) for frame in frames])
    number = np.repeat(np.arange(len(frames)), [len(frame) for frame in frames])
    shared = np.unique(np.stack([number, prompt], axis=1), axis=0, return_inverse=True)[1].ravel()
    clusters = np.where(prompt < 0, -1 - np.arange(len(prompt)), shared)[known]
    low, high = share_interval(right, clusters)
    row = {"accuracy": float(right.mean()), "accuracy_low": low, "accuracy_high": high}
    if priced and right.any():
        queries = sum(cost["queries_completed"] for cost in costs)
        per_query = sum(cost["total"] for cost in costs) / queries if queries else math.nan
        row["cost_per_correct_usd"] = per_query / row["accuracy"]
    return row


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else math.nan


def gpus_of(pools: Mapping[str, Mapping[str, Any]]) -> int:
    """GPUs of all replicas."""
    return sum(pool["replicas"] * pool["gpus_per_replica"] for pool in pools.values())
