"""Who suffers: slowdown by length and by client, evenness, the longest wait; and signs of thrashing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.metrics.censored import quantile_of_sorted
from sim.metrics.kinds import by_kind
from sim.metrics.samples import measured, sample, waited_s
from sim.results.columns import Status
from sim.results.results import Results
from sim.results.tables import PS_PER_S

FloatArray = NDArray[np.float64]

CLIENTS_SHOWN = 20
"""Clients listed apart, those with most service; the others are summed up."""


def jain(values: FloatArray) -> float:
    """Jain's index (Σx)² / (n·Σx²): 1 when all are equal, 1/n when one has everything; NaN for none."""
    values = values[np.isfinite(values)]
    squares = float((values**2).sum())
    return float(values.sum()) ** 2 / (len(values) * squares) if squares > 0 else float("nan")


def fairness(results: Results) -> dict[str, Any]:
    """Slowdown by decile of output length and by client, Jain's index, the longest wait, shares of
    service."""
    queries, requests = results.tables["queries"], results.tables["requests"]
    rows = measured(queries, results.runs) & (queries["status"] == Status.COMPLETED)
    tokens = (queries["reasoning_tokens"] + queries["answer_tokens"])[rows]
    slowdown, tta = queries["slowdown"][rows], queries["tta_s"][rows]
    clients = queries["client"][rows]
    waits = sample(results, "queue_time").maximum()
    by_client = _by_client(results, clients, slowdown)
    rates = np.array([1 / entry["slowdown_mean"] for entry in by_client if entry["n"] and entry["slowdown_mean"] > 0])
    generate = measured(requests, results.runs)
    return {
        "jain_queries": jain(1 / slowdown[slowdown > 0]),
        "jain_clients": jain(rates),
        "longest_wait_s": waits.value if np.isfinite(waits.value) else waits.at_least,
        "longest_wait_open": bool(not np.isfinite(waits.value) and np.isfinite(waits.at_least)),
        "by_length_decile": _by_decile(tokens, slowdown, tta),
        "by_client": by_client[:CLIENTS_SHOWN],
        "by_kind": by_kind(results),
        "clients": len(by_client),
        "requests": int(generate.sum()),
    }


def _by_decile(tokens: NDArray[np.int64], slowdown: FloatArray, tta: FloatArray) -> list[dict[str, Any]]:
    """Deciles by rank of output length (equal lengths in order of arrival), the shortest first."""
    if not len(tokens):
        return []
    order = np.argsort(tokens, kind="stable")
    parts = np.array_split(order, min(10, len(order)))
    return [
        {
            "decile": number + 1,
            "n": len(part),
            "tokens_min": int(tokens[part].min()),
            "tokens_max": int(tokens[part].max()),
            "slowdown_mean": _mean(slowdown[part]),
            "slowdown_p50": _quantile(slowdown[part], 0.5),
            "slowdown_p95": _quantile(slowdown[part], 0.95),
            "tta_p50_s": _quantile(tta[part], 0.5),
        }
        for number, part in enumerate(parts)
    ]


def _by_client(results: Results, clients: NDArray[np.int32], slowdown: FloatArray) -> list[dict[str, Any]]:
    """Clients, most service first; service is tokens computed for requests of the windows."""
    requests = results.tables["requests"]
    names = requests.names["client"]
    rows = measured(requests, results.runs)
    codes = requests["client"][rows]
    service = np.bincount(
        codes[codes >= 0], weights=requests["scheduled_tokens"][rows][codes >= 0], minlength=len(names)
    )
    own = results.tables["queries"].names["client"]
    total = float(service.sum())
    entries = []
    for code in np.lexsort((np.arange(len(names)), -service)):
        name = names[code]
        mine = slowdown[clients == own.index(name)] if name in own else slowdown[:0]
        if not len(mine) and not service[code]:
            continue
        entries.append(
            {
                "client": name,
                "n": len(mine),
                "share_of_service": float(service[code]) / total if total else float("nan"),
                "slowdown_mean": _mean(mine),
                "slowdown_p95": _quantile(mine, 0.95),
            }
        )
    return entries


def pressure(results: Results) -> dict[str, Any]:
    """Signs of thrashing and starvation over the windows' requests."""
    requests, stalls = results.tables["requests"], results.tables["stalls"]
    rows = measured(requests, results.runs)
    generated = int((requests["reasoning_tokens"] + requests["answer_tokens"])[rows].sum())
    recomputed = int(requests["recomputed_tokens"][rows].sum())
    preemptions = int(requests["preemptions"][rows].sum())
    count = int(rows.sum())
    longest_gap = 0.0
    for run in results.runs:
        mine = stalls["replication"] == run.replication
        at = stalls["at_s"]
        inside = mine & (at >= run.window_start_ps / PS_PER_S) & (at < run.window_end_ps / PS_PER_S)
        longest_gap = max(longest_gap, float(stalls["gap_s"][inside].max(initial=0.0)))
    wait = sample(results, "queue_time").maximum()
    longest_wait = wait.value if np.isfinite(wait.value) else wait.at_least
    return {
        "recomputed_per_generated": recomputed / generated if generated else float("nan"),
        "preemptions_per_request": preemptions / count if count else float("nan"),
        "preempted_requests_share": float((requests["preemptions"][rows] > 0).mean()) if count else float("nan"),
        "starvation_age_s": float(np.nanmax([longest_wait, longest_gap])),
        "longest_stall_s": longest_gap,
        "passed_over_by": _passed_over_by(results),
        "n": count,
    }


def _passed_over_by(results: Results) -> int:
    """How many came to its replica after the request that waited longest for its first step, and had theirs before it."""
    requests = results.tables["requests"]
    arrived, started = requests["arrived_s"], requests["first_scheduled_s"]
    never = np.isnan(started) & (requests["status"] != Status.REJECTED)
    waited = np.where(never, waited_s(requests, results.runs), requests["queue_s"])
    waited[~measured(requests, results.runs)] = np.nan
    if not np.isfinite(waited).any():
        return 0
    started = np.where(never, np.inf, started)
    longest = int(np.nanargmax(waited))
    beside = np.ones(len(requests), dtype=bool)
    for name in ("replication", "pool", "replica"):
        beside &= requests[name] == requests[name][longest]
    return int((beside & (arrived > arrived[longest]) & (started < started[longest])).sum())


def _mean(values: FloatArray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")


def _quantile(values: FloatArray, q: float) -> float:
    values = values[np.isfinite(values)]
    return quantile_of_sorted(np.sort(values), q) if len(values) else float("nan")
