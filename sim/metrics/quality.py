"""How often answers are right, and what a right one costs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sim.metrics.intervals import CONFIDENCE, interval, t_quantile
from sim.results.columns import Status
from sim.results.tables import PS_PER_S

if TYPE_CHECKING:
    from sim.results.info import RunInfo
    from sim.results.results import Results
    from sim.results.tables import Table

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def quality(results: Results) -> dict[str, Any]:
    """Accuracy of the measured queries with its interval, by category too, and the cost of a right answer."""
    queries = results.tables["queries"]
    known = queries["in_window"] & np.isfinite(queries["correct"])
    modelled = bool(np.isfinite(queries["correct"]).any())
    right = np.where(known, queries["correct"], 0.0)
    n, correct = int(known.sum()), int(right.sum())
    entry: dict[str, Any] = {
        "modelled": modelled,
        "accuracy": correct / n if n else None,
        "accuracy_ci": None,
        "n": n,
        "correct": correct if modelled else None,
        "answered": int((known & (queries["status"] == Status.COMPLETED)).sum()) if modelled else None,
        "cost_per_correct_answer": None,
        "cost_per_correct_answer_ci": None,
        "tokens_per_correct_answer": None,
        "verification_tokens_per_query": None,
        "value_per_query": None,
        "by_category": [
            {"category": name, "accuracy": None, "accuracy_ci": None, "n": 0} for name in queries.names["category"]
        ],
    }
    if not modelled:
        return entry
    clusters = _clusters(queries)
    if n:
        entry["accuracy_ci"] = share_interval(right[known], clusters[known])
        tokens = int((queries["reasoning_tokens"] + queries["answer_tokens"])[known].sum())
        entry["tokens_per_correct_answer"] = tokens / correct if correct else None
        entry["verification_tokens_per_query"] = float(queries["verification_tokens"][known].sum()) / n
    _costs(results, entry)
    for code in range(len(entry["by_category"])):
        mine = known & (queries["category"] == code)
        count, good = int(mine.sum()), int(right[mine].sum())
        if count:
            entry["by_category"][code].update(
                accuracy=good / count, accuracy_ci=share_interval(right[mine], clusters[mine]), n=count
            )
    return entry


def _costs(results: Results, entry: dict[str, Any]) -> None:
    from sim.metrics.usage import cost

    paid = cost(results)
    if paid["unpriced_pools"]:
        return
    counted = [_completed(results, run, paid["basis"]) for run in results.runs]
    correct, completed = (sum(column) for column in zip(*counted, strict=True))
    if correct:
        each = paid["total"] / correct
        entry["cost_per_correct_answer"] = each
        hours = [sum(_usd(run, paid["basis"])) for run in results.runs]
        replicated = [usd / good if good else math.inf for usd, (good, _) in zip(hours, counted, strict=True)]
        bounds = interval(each, replicated)
        if bounds is not None:
            entry["cost_per_correct_answer_ci"] = [max(0.0, bounds[0]), bounds[1]]
    worth = results.runs[0].value_of_correct, results.runs[0].cost_of_wrong
    if completed and any(worth):
        gain = worth[0] * correct - worth[1] * (completed - correct) - paid["total"]
        entry["value_per_query"] = gain / completed


def _usd(run: RunInfo, basis: str) -> list[float]:
    return [
        (pool.gpu_hours if basis == "window" else pool.gpu_hours_run) * (pool.price_usd_per_gpu_hour or 0.0)
        for pool in run.pools
    ]


def _completed(results: Results, run: RunInfo, basis: str) -> tuple[int, int]:
    """(right answers, answers) that the cost is shared by."""
    queries = results.tables["queries"]
    mine = (queries["replication"] == run.replication) & (queries["status"] == Status.COMPLETED)
    if basis == "window":
        finished = queries["finished_s"]
        mine &= (finished >= run.window_start_ps / PS_PER_S) & (finished < run.window_end_ps / PS_PER_S)
    return int(np.nansum(queries["correct"][mine])), int(mine.sum())


def _clusters(queries: Table) -> IntArray:
    """A number for each group of queries that share a prompt in one replication: these stand or fall together."""
    own = queries["prompt"] < 0
    pairs = np.stack([queries["replication"].astype(np.int64), queries["prompt"]], axis=1)
    _, group = np.unique(pairs, axis=0, return_inverse=True)
    group = np.asarray(group, dtype=np.int64).ravel()
    return np.where(own, -1 - np.arange(len(own)), group)


def share_interval(right: FloatArray, clusters: IntArray, confidence: float = CONFIDENCE) -> list[float]:
    """Interval of a share whose observations depend on each other within *clusters*.

    Wilson's, at the effective number of observations: n over the design effect, which is the between-cluster
    variance of the share over the binomial one, at least 1; reduced by (z/t)^2 for the few clusters that it
    is estimated from (Korn and Graubard, Survey Methodology 24, 1998). Where all are equal the variance says
    nothing, and clusters are counted. With clusters of one it is Wilson's own.
    """
    from scipy.special import ndtri

    n, share = len(right), float(np.mean(right))
    _, group, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    count = len(sizes)
    if count == n:
        return wilson(int(np.sum(right)), n, confidence)
    if count < 2:
        return [0.0, 1.0]
    if not 0 < share < 1:
        return wilson(share * count, count, confidence)
    sums = np.bincount(np.asarray(group).ravel(), weights=right - share, minlength=count)
    variance = count / (count - 1) * float(np.sum(sums**2)) / n**2
    effect = max(1.0, variance / (share * (1 - share) / n))
    z = float(ndtri(0.5 + confidence / 2))
    effective = n / effect * (z / t_quantile(0.5 + confidence / 2, count - 1)) ** 2
    return wilson(share * effective, effective, confidence)


def wilson(successes: float, n: float, confidence: float = CONFIDENCE) -> list[float]:
    """Wilson's score interval of a share.

    >>> [round(bound, 3) for bound in wilson(8, 10)]
    [0.49, 0.943]
    """
    from scipy.special import ndtri

    z = float(ndtri(0.5 + confidence / 2))
    p = successes / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return [max(0.0, middle - half), min(1.0, middle + half)]
