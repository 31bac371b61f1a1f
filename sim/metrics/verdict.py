"""Is the system stable, saturated or overloaded? In words, with the figures behind them.

*Overloaded*: the backlog grows. Backlog is the number of queries in the system, averaged over equal parts
of the measured window (and over replications). Its slope is the mean of its increments from part to part,
tested against 0 by Student's t at 95 %, one-sided: right for a queue that drifts away, whose increments are
independent, and cautious for one that comes back, whose increments cancel. A slope that is real but slight
is none: the growth over the window must also exceed a tenth of the mean number and two standard deviations
of a Poisson number of that mean, and at least a quarter of it must fall into the second half, else the
system was merely filling up. *Saturated*: not overloaded, but the queue's head is blocked, or all seats are
taken, for more than 20 % of the window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.metrics.intervals import t_quantile
from sim.metrics.samples import overlap_s, window_s
from sim.results.info import PoolInfo, RunInfo
from sim.results.results import Results
from sim.results.tables import PS_PER_S, Table

FloatArray = NDArray[np.float64]

PARTS = 20
"""Equal parts of the window that the backlog is averaged over."""
CONFIDENCE = 0.95
BLOCKED_LIMIT = 0.20
"""Share of the window beyond which a blocked head or full seats make a pool saturated."""


@dataclass(frozen=True)
class Slope:
    """Growth of the backlog: queries a second, the lower end of its one-sided 95 % interval, its mean, and
    the test's answer."""

    per_s: float
    low_per_s: float
    mean: float
    start: float
    end: float
    grows: bool


@dataclass(frozen=True)
class Blocking:
    """Shares of the window of one pool, averaged over its replicas: by what kept the head of the queue
    out."""

    head_blocked: float
    by_kv: float
    by_seats: float
    by_token_budget: float
    seats_full: float


def number_in_system(table: Table, run: RunInfo, edges_s: FloatArray) -> FloatArray:
    """Mean number of rows of *run* that have arrived and not ended, between each two neighbouring
    *edges_s*."""
    rows = table["replication"] == run.replication
    arrived = np.sort(table["arrived_s"][rows])
    finished = table["finished_s"][rows]
    left = np.sort(finished[~np.isnan(finished)])
    area = _count_area(arrived, edges_s) - _count_area(left, edges_s)
    width = np.diff(edges_s)
    moment = np.searchsorted(arrived, edges_s[1:], side="right") - np.searchsorted(left, edges_s[1:], side="right")
    number: FloatArray = np.divide(np.diff(area), width, out=moment.astype(np.float64), where=width > 0)
    return number


def _count_area(moments: FloatArray, edges_s: FloatArray) -> FloatArray:
    """Integral from 0 to each edge of the number of *moments* (sorted) that have passed."""
    passed = np.searchsorted(moments, edges_s, side="right")
    sums = np.concatenate([[0.0], np.cumsum(moments)])
    area: FloatArray = passed * edges_s - sums[passed]
    return area


def backlog_slope(results: Results) -> Slope | None:
    """The backlog's growth over the windows of all replications; None where a window is empty or a closed
    loop bounds it."""
    runs = results.runs
    if any(window_s(run) <= 0 or run.closed_loop is not None for run in runs):
        return None
    lengths = [window_s(run) for run in runs]
    series = np.mean([in_window(results.tables["queries"], run) for run in runs], axis=0)
    return slope(series, math.fsum(lengths) / len(lengths), replications=len(runs))


def in_window(queries: Table, run: RunInfo) -> FloatArray:
    """Mean number of queries in the system over each of `PARTS` equal times of the window of *run*."""
    edges = np.linspace(run.window_start_ps / PS_PER_S, run.window_end_ps / PS_PER_S, PARTS + 1)
    return number_in_system(queries, run, edges)


def slope(series: FloatArray, length_s: float, replications: int = 1) -> Slope:
    """Test whether *series*, means over equal parts of *length_s* seconds, grows; see the module for how."""
    count = len(series)
    increments = np.diff(series)
    per_part = length_s / count
    mean, drift = float(series.mean()), float(increments.mean())
    deviation = float(increments.std(ddof=1)) / math.sqrt(len(increments))
    low = drift - t_quantile(CONFIDENCE, len(increments) - 1) * deviation
    growth = drift * count
    material = growth > max(0.1 * mean, 2 * math.sqrt(max(mean, 1.0) / replications))
    goes_on = float(series[-1] - series[count // 2]) >= 0.25 * (float(series[-1] - series[0]))
    return Slope(
        per_s=drift / per_part,
        low_per_s=low / per_part,
        mean=mean,
        start=float(series[0]),
        end=float(series[-1]),
        grows=low > 0 and material and goes_on,
    )


def blocking(results: Results, pool: PoolInfo, runs: Sequence[RunInfo] | None = None) -> Blocking:
    """How long the head of *pool*'s queues was blocked and its seats were full, as shares of replica time
    in the windows."""
    segments = results.tables["segments"]
    total = 0.0
    sums = np.zeros(5)
    for run in results.runs if runs is None else runs:
        mine = next((p for p in run.pools if p.name == pool.name), None)
        if mine is None or window_s(run) <= 0:
            continue
        on_s = mine.gpu_hours * 3600 / mine.gpus_per_replica
        total += on_s if on_s > 0 else mine.replicas * window_s(run)
        rows = segments.equals("pool", pool.name)
        time = np.where(rows, overlap_s(segments, run, run.window_start_ps, run.window_end_ps), 0.0)
        blocked = segments["waiting"] > 0
        seats = segments["running"] >= mine.max_num_seqs
        budget = segments["decodes"] + segments["chunk_tokens"] >= mine.max_num_batched_tokens
        for i, which in enumerate(
            (blocked, blocked & ~seats & ~budget, blocked & seats, blocked & budget & ~seats, seats)
        ):
            sums[i] += float(time[which].sum())
    shares = sums / total if total else sums
    return Blocking(*(float(share) for share in shares))


def verdict(results: Results) -> tuple[str, str, dict[str, Any]]:
    """(state, reason in words, figures): state is ``stable``, ``saturated`` or ``overloaded``."""
    growth = backlog_slope(results)
    pools = {pool.name: blocking(results, pool) for pool in results.runs[0].pools}
    worst = max(pools, key=lambda name: max(pools[name].head_blocked, pools[name].seats_full))
    figures: dict[str, Any] = {
        "backlog_slope_per_s": None if growth is None else growth.per_s,
        "backlog_slope_low_per_s": None if growth is None else growth.low_per_s,
        "backlog_mean": None if growth is None else growth.mean,
        "confidence": CONFIDENCE,
        "blocked_limit": BLOCKED_LIMIT,
        "pools": {
            name: {
                "head_blocked_share": shares.head_blocked,
                "blocked_by_kv_share": shares.by_kv,
                "blocked_by_seats_share": shares.by_seats,
                "blocked_by_token_budget_share": shares.by_token_budget,
                "seats_full_share": shares.seats_full,
            }
            for name, shares in pools.items()
        },
    }
    if growth is not None and growth.grows:
        reason = (
            f"the backlog grows by {_number(growth.per_s * 3600)} queries an hour (at least "
            f"{_number(growth.low_per_s * 3600)} at 95 %): from {_number(max(growth.start, 0))} to "
            f"{_number(growth.end)} queries in the system over the window"
        )
        return "overloaded", reason, figures
    shares = pools[worst]
    blocked = f"the head of the queue of pool {worst} is blocked {100 * shares.head_blocked:.0f} % of the window"
    full = f"its seats are full {100 * shares.seats_full:.0f} %"
    limit = f"{100 * BLOCKED_LIMIT:.0f} % is the limit"
    if max(shares.head_blocked, shares.seats_full) > BLOCKED_LIMIT:
        why = max(
            (shares.by_kv, "KV memory"),
            (shares.by_seats, "max_num_seqs"),
            (shares.by_token_budget, "max_num_batched_tokens"),
        )
        cause = f", mostly by {why[1]}" if shares.head_blocked > 0 else ""
        return "saturated", f"the backlog does not grow, but {blocked}{cause}, and {full} ({limit})", figures
    flat = "the number of slots bounds the backlog" if growth is None else "the backlog does not grow"
    return "stable", f"{flat}; {blocked} and {full} ({limit})", figures


def _number(value: float) -> str:
    return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
