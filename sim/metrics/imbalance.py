"""How unevenly the replicas of a pool are loaded: the busiest over its part, less 1.

A replica's part is what the mean replica does while it is on: between two changes of the fleet every replica that has
started gets an equal part of what the pool does. So a replica that is on for the busy hours alone is not called
overloaded, and one that is off for the night is not called idle. In a fleet that never changes the part is the mean.
Replicas whose part is small, since they were on for a short time, say little and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.metrics.samples import overlap_s
from sim.results.info import PoolInfo, RunInfo
from sim.results.results import Results
from sim.results.tables import PS_PER_S, Table

FloatArray = NDArray[np.float64]

SMALL_PART = 0.1
"""Of the largest part in the pool: replicas with less are not judged."""


def load_imbalance(results: Results) -> dict[str, Any]:
    """By pool of several replicas: time in steps of the busiest over its part, less 1, and the same of tokens
    computed."""
    segments = results.tables["segments"]
    pools: dict[str, Any] = {}
    for pool in results.runs[0].pools:
        busy_ratio, token_ratio = [], []
        for run in results.runs:
            mine = next((other for other in run.pools if other.name == pool.name), None)
            if mine is None:
                continue
            rows = segments.equals("pool", pool.name) & (segments["replication"] == run.replication)
            part = segments.rows(rows)
            tokens = (part["steps"] * part["decodes"] + part["chunk_tokens"]).astype(np.float64)
            if mine.served_ps:
                on = _served_s(mine, run)
                length = part["end_s"] - part["start_s"]
                busy_ratio.append(_excess_while_on(part, length, on))
                token_ratio.append(_excess_while_on(part, tokens, on))
                continue
            count = max(mine.replicas, int(part["replica"].max(initial=-1)) + 1)
            inside = overlap_s(part, run, run.window_start_ps, run.window_end_ps)
            length = part["end_s"] - part["start_s"]
            share = np.divide(inside, length, out=np.zeros_like(inside), where=length > 0)
            busy_ratio.append(_excess(np.bincount(part["replica"], weights=inside, minlength=count)))
            token_ratio.append(_excess(np.bincount(part["replica"], weights=tokens * share, minlength=count)))
        pools[pool.name] = {"busy": float(np.mean(busy_ratio)), "tokens": float(np.mean(token_ratio))}
    return {
        "value": max((entry["busy"] for entry in pools.values()), default=0.0),
        "unit": "",
        "pools": pools,
    }


def excess_over_parts(work: FloatArray, on: NDArray[np.bool_]) -> float:
    """The largest *work* of a replica over its part, less 1.

    Rows are replicas, columns stretches of time; *on* says who was on in which.
    """
    parts = _parts(work, on)
    judged = parts > SMALL_PART * parts.max(initial=0.0)
    return float((work[judged].sum(axis=1) / parts[judged]).max()) - 1 if judged.any() else 0.0


def work_and_parts(
    segments: Mapping[str, NDArray[Any]], amounts: FloatArray, pool: PoolInfo, run: RunInfo
) -> tuple[FloatArray, FloatArray]:
    """By replica of *pool*: what it did within the window of *run*, and its part, in the unit of *amounts*, which say what each
    of its *segments* did. Who did nothing is there, too."""
    served = _served_s(pool, run)
    if not pool.served_ps:
        low, high = run.window_start_ps / PS_PER_S, run.window_end_ps / PS_PER_S
        served = [(replica, low, high) for replica in range(pool.replicas)] if high > low else []
    found = _while_on(segments, amounts, served)
    if found is None:
        return np.zeros(0), np.zeros(0)
    work, on = found
    return work.sum(axis=1), _parts(work, on)


def _parts(work: FloatArray, on: NDArray[np.bool_]) -> FloatArray:
    """What the mean replica did while each was on."""
    number = on.sum(axis=0)
    mean = np.divide(work.sum(axis=0), number, out=np.zeros(work.shape[1]), where=number > 0)
    return np.asarray((on * mean).sum(axis=1))


def _served_s(pool: PoolInfo, run: RunInfo) -> list[tuple[int, float, float]]:
    """(replica, from, to) in seconds, within the window of *run*."""
    low, high = run.window_start_ps, run.window_end_ps
    found = []
    for replica, start, end in zip(*(iter(pool.served_ps),) * 3, strict=True):
        start, end = max(start, low), min(high if end < 0 else end, high)
        if end > start:
            found.append((replica, start / PS_PER_S, end / PS_PER_S))
    return found


def _excess_while_on(segments: Table, amounts: FloatArray, served: list[tuple[int, float, float]]) -> float:
    """The excess of what *segments* of one pool did within the times *served*; *amounts* are spread evenly over each."""
    found = _while_on(segments, amounts, served)
    return 0.0 if found is None else excess_over_parts(*found)


def _while_on(
    segments: Table | Mapping[str, NDArray[Any]], amounts: FloatArray, served: list[tuple[int, float, float]]
) -> tuple[FloatArray, NDArray[np.bool_]] | None:
    """By replica and stretch of time between two changes of who *served*: what was done, and whether it served; None where
    nobody did."""
    edges = np.unique([time for _, start, end in served for time in (start, end)])
    if len(edges) < 2:
        return None
    count = max(replica for replica, _, _ in served) + 1
    work, on = np.zeros((count, len(edges) - 1)), np.zeros((count, len(edges) - 1), dtype=bool)
    for replica, start, end in served:
        on[replica] |= (edges[:-1] >= start) & (edges[1:] <= end)
    for replica in range(count):
        mine = np.flatnonzero(segments["replica"] == replica)
        order = mine[np.argsort(segments["start_s"][mine], kind="stable")]
        corners = np.ravel(np.column_stack([segments["start_s"][order], segments["end_s"][order]]))
        if not len(corners):
            continue
        sums = np.cumsum(amounts[order])
        done = np.ravel(np.column_stack([sums - amounts[order], sums]))
        work[replica] = np.diff(np.interp(edges, corners, done)) * on[replica]
    return work, on


def _excess(loads: NDArray[Any]) -> float:
    mean = float(loads.mean()) if len(loads) else 0.0
    return float(loads.max()) / mean - 1 if mean > 0 else 0.0
