"""From tables to samples: which rows each metric looks at, and what counts as still open."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from sim.metrics.censored import Censored
from sim.results.columns import Role, Status
from sim.results.info import RunInfo
from sim.results.results import Results
from sim.results.tables import PS_PER_S, Table

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_TIMES = {
    "ttft": ("requests", "ttft_s"),
    "ttfo": ("queries", "ttfo_s"),
    "tpot": ("requests", "tpot_s"),
    "answer_tpot": ("requests", "answer_tpot_s"),
    "e2e": ("requests", "e2e_s"),
    "tta": ("queries", "tta_s"),
    "queue_time": ("requests", "queue_s"),
    "slowdown": ("queries", "slowdown"),
}
_RATES = ("tpot", "answer_tpot")


def sample(
    results: Results, metric: str, runs: Iterable[RunInfo] | None = None, where: BoolArray | None = None
) -> Censored:
    """All observations of *metric* (every distribution but itl) in the measured windows of *runs* (default:
    all).

    *where* selects rows of the metric's table further. What ended without the event it waits for (timed
    out, cancelled, failed) or is still open is censored at the time that it had waited by then; what was
    rejected never entered service and is left out (totals and SLOs count it); tpot exists for completed
    requests alone and has no censoring.
    """
    name, column = _TIMES[metric]
    table = results.tables[name]
    rows = measured(table, results.runs if runs is None else runs)
    if where is not None:
        rows &= where
    values = table[column][rows]
    known = ~np.isnan(values)
    if metric in _RATES:
        return Censored(values[known])
    waited = waited_s(table, results.runs)[rows]
    if metric == "slowdown":
        waited = waited / table["alone_s"][rows]
    open_ = ~known & (table["status"][rows] != Status.REJECTED) & ~np.isnan(waited)
    return Censored(values[known], waited[open_])


def measured(table: Table, runs: Iterable[RunInfo]) -> BoolArray:
    """Rows of queries, or of requests that generate, that arrived in the window of *runs*."""
    rows: BoolArray = np.zeros(len(table), dtype=bool)
    for run in runs:
        rows |= table["replication"] == run.replication
    rows &= table["in_window"]
    if table.name == "requests":
        rows &= table["role"] == Role.GENERATE
    return rows


def waited_s(table: Table, runs: Iterable[RunInfo]) -> FloatArray:
    """Seconds from arrival to the row's end, or to the end of its run while it is open."""
    end = np.zeros(len(table))
    for run in runs:
        end[table["replication"] == run.replication] = run.end_ps / PS_PER_S
    finished = table["finished_s"]
    waited: FloatArray = np.maximum(np.where(np.isnan(finished), end, finished) - table["arrived_s"], 0.0)
    return waited


def overlap_s(segments: Table, run: RunInfo, low_ps: int, high_ps: int) -> FloatArray:
    """Seconds that each segment of *run* lies between the two times; 0 for segments of other replications."""
    low, high = low_ps / PS_PER_S, high_ps / PS_PER_S
    inside = np.minimum(segments["end_s"], high) - np.maximum(segments["start_s"], low)
    return np.where(segments["replication"] == run.replication, np.maximum(inside, 0.0), 0.0)


def window_s(run: RunInfo) -> float:
    """Length of the measured window in seconds."""
    return (run.window_end_ps - run.window_start_ps) / PS_PER_S
