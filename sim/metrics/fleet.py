"""Replicas over time, and what their coming and going cost: GPU-hours, requests sent again, targets missed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.metrics.samples import measured
from sim.results.columns import Status
from sim.results.info import PoolInfo, RunInfo
from sim.results.results import Results
from sim.results.tables import PS_PER_S


def fleet(results: Results) -> dict[str, Any]:
    """The ``fleet`` section of a summary, over the windows of all replications.

    A miss *with a retry* is one of a query that was sent again at least once or failed; a miss *while
    starting* is one of a query that arrived while a replica was being started. Both may have other causes
    too: they bound what failures and cold starts cost.
    """
    queries = results.tables["queries"]
    inside = measured(queries, results.runs)
    missed = inside & ~queries["slo_met"].astype(bool)
    again = (queries["retries"] > 0) | (queries["status"] == Status.FAILED)
    starting = np.zeros(len(queries), dtype=bool)
    for run in results.runs:
        mine = queries["replication"] == run.replication
        for start_s, end_s in _boots_s(run):
            starting |= mine & (queries["arrived_s"] >= start_s) & (queries["arrived_s"] < end_s)
    return {
        "pools": {pool.name: _pool(results, pool.name) for pool in results.runs[0].pools},
        "queries_retried": int((inside & (queries["retries"] > 0)).sum()),
        "requests_retried": int(queries["retries"][inside].sum()),
        "queries_failed": int((inside & (queries["status"] == Status.FAILED)).sum()),
        "queries_arrived_while_starting": int((inside & starting).sum()),
        "slo_missed": int(missed.sum()),
        "slo_missed_with_retry": int((missed & again).sum()),
        "slo_missed_while_starting": int((missed & starting).sum()),
    }


def replicas(pool: PoolInfo) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times in seconds and how many replicas of *pool* are on from each of them."""
    if not pool.on_at_ps:
        return np.zeros(1), np.full(1, float(pool.replicas))
    return np.array(pool.on_at_ps, dtype=float) / PS_PER_S, np.array(pool.on_replicas, dtype=float)


def mean_on(pool: PoolInfo, edges_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Replicas of *pool* that are on, mean between each two of *edges_s*."""
    times, counts = replicas(pool)
    last = max(float(edges_s[-1]), float(times[-1]))
    corners = np.append(times, last)
    area = np.concatenate(([0.0], np.cumsum(counts * np.diff(corners))))
    mean: NDArray[np.float64] = np.diff(np.interp(edges_s, corners, area)) / np.diff(edges_s)
    return mean


def _boots_s(run: RunInfo) -> list[tuple[float, float]]:
    return [
        (start / PS_PER_S, end / PS_PER_S)
        for pool in run.pools
        for start, end in zip(pool.boots_ps[::2], pool.boots_ps[1::2], strict=True)
    ]


def _pool(results: Results, name: str) -> dict[str, Any]:
    means, lengths, low, high = [], [], [], []
    crashes = boots = 0
    boot_hours = 0.0
    for run in results.runs:
        pool = next(pool for pool in run.pools if pool.name == name)
        start_s, end_s = run.window_start_ps / PS_PER_S, run.window_end_ps / PS_PER_S
        times, counts = replicas(pool)
        held = counts[
            max(int(np.searchsorted(times, start_s, side="right")) - 1, 0) : max(
                int(np.searchsorted(times, end_s, side="left")), 1
            )
        ]
        low.append(held.min())
        high.append(held.max())
        lengths.append(end_s - start_s)
        means.append(float(mean_on(pool, np.array([start_s, end_s]))[0]) if end_s > start_s else float(held[0]))
        crashes += pool.crashes
        pairs = list(zip(pool.boots_ps[::2], pool.boots_ps[1::2], strict=True))
        boots += len(pairs)
        inside = sum(max(0, min(end, run.window_end_ps) - max(start, run.window_start_ps)) for start, end in pairs)
        boot_hours += pool.gpus_per_replica * inside / PS_PER_S / 3600
    weights = lengths if sum(lengths) > 0 else None
    return {
        "replicas_mean": float(np.average(means, weights=weights)),
        "replicas_min": int(min(low)),
        "replicas_max": int(max(high)),
        "crashes": crashes,
        "cold_starts": boots,
        "cold_start_gpu_hours": boot_hours,
    }
