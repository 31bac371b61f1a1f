"""Targets: which queries met them, and what was attained."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.metrics.censored import Censored
from sim.metrics.definitions import METRICS
from sim.metrics.gaps import joined, window_gaps
from sim.metrics.intervals import interval
from sim.metrics.samples import measured, window_s
from sim.results.columns import Role, Status
from sim.results.info import RunInfo, SloTarget
from sim.results.results import Results
from sim.results.tables import PS_PER_S

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

PER_QUERY = ("ttft", "ttfo", "tpot", "answer_tpot", "e2e", "tta", "queue_time", "slowdown")
"""Metrics that a query can be held to. A target for itl is judged over tokens and enters no query's
verdict."""


def query_values(results: Results, metric: str) -> FloatArray:
    """*metric* of each query, NaN where it has none: of several generation requests the slowest; of ttft
    the first."""
    queries, requests = results.tables["queries"], results.tables["requests"]
    own = {"tta": "tta_s", "ttfo": "ttfo_s", "slowdown": "slowdown"}.get(metric)
    if own is not None:
        values: FloatArray = queries[own].copy()
        return values
    generate = requests["role"] == Role.GENERATE
    size = int(queries["query"].max(initial=0)) + 2
    place = np.searchsorted(
        queries["replication"] * size + queries["query"], requests["replication"] * size + requests["query"]
    )[generate]
    column = {"queue_time": "queue_s"}.get(metric, f"{metric}_s")
    of_request = requests[column][generate]
    known = ~np.isnan(of_request)
    if metric == "ttft":
        # from the query's own arrival: a request sent again after a failure has made its user wait
        of_request = of_request + (requests["arrived_s"][generate] - queries["arrived_s"][place])
        result = np.full(len(queries), np.inf)
        np.minimum.at(result, place[known], of_request[known])
    else:
        result = np.full(len(queries), -np.inf)
        np.maximum.at(result, place[known], of_request[known])
    result[~np.isfinite(result)] = np.nan
    return result


def meets_all(results: Results) -> BoolArray:
    """Which queries were completed and met every target of theirs; a metric that a query cannot have (tpot
    of one token) counts as met."""
    queries = results.tables["queries"]
    met: BoolArray = queries["status"] == Status.COMPLETED
    for target in results.runs[0].slo:
        if target.metric in PER_QUERY:
            values = query_values(results, target.metric)
            met &= ~_concerned(results, target) | np.isnan(values) | (values <= target.target_s)
    return met


def slo_summary(results: Results) -> dict[str, Any]:
    """Attainment of all targets together, and each target: share of queries meeting it, attained value, met
    or not."""
    queries = results.tables["queries"]
    window = measured(queries, results.runs)
    met = queries["slo_met"]
    shares = [_share(met[measured(queries, [run])]) for run in results.runs]
    attainment = _share(met[window])
    entry: dict[str, Any] = {"attainment": attainment, "n": int(window.sum())}
    bounds = interval(attainment, shares)
    if bounds is not None:
        entry["attainment_ci"] = [max(bounds[0], 0.0), min(bounds[1], 1.0)]
    targets = [_target(results, target) for target in results.runs[0].slo]
    entry["targets"] = targets
    entry["met"] = all(target["met"] is not False for target in targets) if targets else None
    return entry


def goodput(results: Results) -> dict[str, Any]:
    """Queries a second of the window that met all targets (that were completed, where there are no
    targets)."""
    queries = results.tables["queries"]
    met = queries["slo_met"]
    counts = [int(met[measured(queries, [run])].sum()) for run in results.runs]
    lengths = [window_s(run) for run in results.runs]
    point = sum(counts) / sum(lengths) if sum(lengths) > 0 else float("nan")
    entry: dict[str, Any] = {"value": point, "unit": METRICS["goodput"].unit, "n": sum(counts)}
    bounds = interval(
        point,
        [count / length if length > 0 else float("nan") for count, length in zip(counts, lengths, strict=True)],
    )
    if bounds is not None:
        entry["value_ci"] = [max(bounds[0], 0.0), bounds[1]]
    return entry


def _target(results: Results, target: SloTarget) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "metric": target.metric,
        "percentile": target.percentile,
        "target": target.target_s,
        "unit": METRICS[target.metric].unit,
        "category": target.category,
    }
    if target.metric == "itl" and target.category is not None:
        # segments tell no categories apart
        return entry | {"attained": float("nan"), "share": float("nan"), "met": None, "n": 0}
    if target.metric == "itl":
        return entry | _token_target(results, target)
    values = query_values(results, target.metric)
    whole = _target_sample(results, target, values, results.runs)
    share = whole.below(target.target_s)
    attained = whole.quantile(target.percentile / 100)
    entry["attained"] = attained.value
    if np.isnan(attained.value):
        entry["attained_at_least"] = attained.at_least
    entry["share"] = share
    bounds = interval(
        share, [_target_sample(results, target, values, [run]).below(target.target_s) for run in results.runs]
    )
    if bounds is not None:
        entry["share_ci"] = [max(bounds[0], 0.0), min(bounds[1], 1.0)]
    entry["met"] = bool(whole.n) and share >= target.percentile / 100 - 1e-12
    entry["n"] = whole.n
    return entry


def _target_sample(
    results: Results, target: SloTarget, values: FloatArray, runs: tuple[RunInfo, ...] | list[RunInfo]
) -> Censored:
    """Measured queries as the target sees them: never answered counts as never, still open as censored."""
    times, open_ = outcomes(results, target, runs, values)
    return Censored(times[~open_], times[open_])


def outcomes(
    results: Results,
    target: SloTarget,
    runs: tuple[RunInfo, ...] | list[RunInfo],
    values: FloatArray | None = None,
) -> tuple[FloatArray, BoolArray]:
    """What each measured query that *target* holds for took, in the order of their arrival, infinite where it was
    never answered; and which are still open, with what they have waited so far.

    *values* are those of `query_values`, where they are known.
    """
    queries = results.tables["queries"]
    if values is None:
        values = query_values(results, target.metric)
    rows = measured(queries, runs) & _concerned(results, target)
    known = rows & ~np.isnan(values)
    open_ = rows & ~known & (queries["status"] == Status.UNFINISHED)
    never = rows & ~known & ~open_
    if target.metric in ("tpot", "answer_tpot"):
        # a completed query without the metric (one token) has nothing to miss; an open one has no tpot yet
        never &= queries["status"] != Status.COMPLETED
        open_ = np.zeros_like(open_)
    end = np.zeros(len(queries))
    for run in runs:
        end[queries["replication"] == run.replication] = run.end_ps / PS_PER_S
    times = np.where(known, values, np.where(never, np.inf, end - queries["arrived_s"]))
    if target.metric == "slowdown":
        times = np.where(open_, times / queries["alone_s"], times)
    kept = (known | never | open_) & ~np.isnan(times)
    return times[kept], open_[kept]


def _concerned(results: Results, target: SloTarget) -> BoolArray:
    """Queries that *target* holds for: those of its category, or of all without a target of their own."""
    queries = results.tables["queries"]
    if target.category is not None:
        return queries.equals("category", target.category)
    rows: BoolArray = np.ones(len(queries), dtype=bool)
    for other in results.runs[0].slo:
        if other.category is not None and other.metric == target.metric:
            rows &= ~queries.equals("category", other.category)
    return rows


def _token_target(results: Results, target: SloTarget) -> dict[str, Any]:
    gaps = joined([window_gaps(results, run) for run in results.runs])
    share = gaps.share_at_most(target.target_s)
    return {
        "attained": gaps.quantile_s(target.percentile / 100),
        "share": share,
        "met": gaps.n > 0 and share >= target.percentile / 100 - 1e-12,
        "n": gaps.n,
    }


def _share(flags: BoolArray) -> float:
    return float(flags.mean()) if len(flags) else float("nan")
