"""How often answers are right, and what a right one costs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.metrics.intervals import CONFIDENCE, interval
from sim.results.columns import Status
from sim.results.tables import PS_PER_S

if TYPE_CHECKING:
    from sim.results.info import RunInfo
    from sim.results.results import Results


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
    if n:
        entry["accuracy_ci"] = wilson(correct, n)
        tokens = int((queries["reasoning_tokens"] + queries["answer_tokens"])[known].sum())
        entry["tokens_per_correct_answer"] = tokens / correct if correct else None
        entry["verification_tokens_per_query"] = float(queries["verification_tokens"][known].sum()) / n
    _costs(results, entry)
    for code in range(len(entry["by_category"])):
        mine = known & (queries["category"] == code)
        count, good = int(mine.sum()), int(right[mine].sum())
        if count:
            entry["by_category"][code].update(accuracy=good / count, accuracy_ci=wilson(good, count), n=count)
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


def wilson(successes: int, n: int, confidence: float = CONFIDENCE) -> list[float]:
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
