"""How each kind of query fares: by priority and category, so that interactive and batch work are told apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.metrics.censored import Censored
from sim.metrics.samples import measured, sample, window_s
from sim.results.columns import Role, Status
from sim.results.results import Results

KINDS_SHOWN = 20
"""Kinds listed, those with most queries."""


def by_kind(results: Results) -> list[dict[str, Any]]:
    """The measured queries by priority (0, the most urgent, first) and category."""
    queries, requests = results.tables["queries"], results.tables["requests"]
    names = queries.names["category"]
    inside = measured(queries, results.runs)
    priorities = _priorities(results)
    found, counts = np.unique(
        np.column_stack([priorities[inside], queries["category"][inside]]), axis=0, return_counts=True
    )
    most = sorted(np.argsort(-counts, kind="stable")[:KINDS_SHOWN].tolist())
    length_s = sum(window_s(run) for run in results.runs)
    entries = []
    for priority, category in found[most].tolist():
        mine = (priorities == priority) & (queries["category"] == category)
        own = mine & inside
        asked = requests["priority"] == priority
        if category >= 0:
            asked &= requests.equals("category", names[category])
        status = queries["status"][own]
        done = own & (queries["status"] == Status.COMPLETED)
        tokens = int((queries["reasoning_tokens"] + queries["answer_tokens"])[done].sum())
        ttft, tta = sample(results, "ttft", where=asked), sample(results, "tta", where=mine)
        entries.append(
            {
                "priority": priority,
                "category": names[category] if category >= 0 else "",
                "n": int(own.sum()),
                **{each.name.lower(): int((status == each).sum()) for each in _ENDS},
                "slo_attainment": float(queries["slo_met"][own].astype(bool).mean()),
                "ttft_p50_s": _quantile(ttft, 0.5),
                "ttft_p95_s": _quantile(ttft, 0.95),
                "tta_p50_s": _quantile(tta, 0.5),
                "tta_p95_s": _quantile(tta, 0.95),
                "output_tokens_per_s": tokens / length_s if length_s > 0 else None,
            }
        )
    return entries


_ENDS = (Status.COMPLETED, Status.REJECTED, Status.TIMED_OUT)


def _priorities(results: Results) -> NDArray[np.int64]:
    """Priority of each query, that of its requests; 0 where it made none."""
    queries, requests = results.tables["queries"], results.tables["requests"]
    found = np.zeros(len(queries), dtype=np.int64)
    size = int(queries["query"].max(initial=0)) + 2
    mine = requests["role"] == Role.GENERATE
    place = np.searchsorted(
        queries["replication"] * size + queries["query"], (requests["replication"] * size + requests["query"])[mine]
    )
    found[place] = requests["priority"][mine]
    return found


def _quantile(values: Censored, q: float) -> float | None:
    value = values.quantile(q).value
    return float(value) if np.isfinite(value) else None
