"""Was the warm-up long enough? A second opinion on what the scenario states.

MSER (White, Simulation 69, 1997): of the number of queries in the system over time, cut off what makes the
mean of the rest most certain, that is, d that minimises the variance of what follows over its length. The
scenario's warm-up is never changed; where MSER wants clearly more, the summary says so.

MSER takes a rate that goes up and down (a day, a ramp) for a transient. Where counts of arrivals of neighbouring parts
are alike, it is not asked. Instead: a system that starts empty lacks the queries that would have come before and would
still be there. With many servers that is, of the steady number, the share E[(T - t)+] / E[T] at time t, T being the time
in the system; the warm-up should last until it is below LACKING.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.metrics.samples import window_s
from sim.metrics.verdict import number_in_system
from sim.results.results import Results
from sim.results.tables import PS_PER_S

PARTS = 200
COUNTS = 40
"""Equal parts that arrivals are counted in."""
ALIKE = 0.5
"""Correlation of neighbouring counts from which on a rate goes up and down: over 3 deviations of independent ones."""
LACKING = 0.05
"""Share of the steady number of queries that may be missing when measuring begins."""


def warm_up(results: Results) -> dict[str, Any]:
    """The stated warm-up of the first replication, MSER's, and whether the stated one suffices (None:
    cannot say).

    MSER looks no further than half of the time up to the window's end, so a run that never settles is not
    blamed on its warm-up; ``adequate`` allows a tenth of the window.
    """
    run = results.runs[0]
    stated = run.window_start_ps / PS_PER_S
    entry: dict[str, Any] = {
        "stated": dict(run.warm_up),
        "seconds": stated,
        "suggested_s": None,
        "method": None,
        "adequate": None,
    }
    if window_s(run) <= 0 or run.closed_loop is not None or len(results.tables["queries"]) < PARTS:
        return entry
    lengths = [r.window_end_ps / PS_PER_S for r in results.runs]
    unsteady = _rate_varies(results)
    suggested = _residual_s(results) if unsteady else _by_mser(results, lengths)
    entry["method"] = "residual" if unsteady else "mser"
    entry["suggested_s"] = suggested
    entry["adequate"] = suggested <= stated + 0.1 * window_s(run)
    return entry


def _by_mser(results: Results, lengths: list[float]) -> float:
    """What MSER cuts, in seconds of the first replication."""
    series = np.mean(
        [
            number_in_system(results.tables["queries"], r, np.linspace(0.0, length, PARTS + 1))
            for r, length in zip(results.runs, lengths, strict=True)
        ],
        axis=0,
    )
    return mser(series) / PARTS * lengths[0]


def _rate_varies(results: Results) -> bool:
    """Whether the rate of arrivals in the first replication goes up and down slowly, more than chance makes it."""
    run, queries = results.runs[0], results.tables["queries"]
    arrived = queries["arrived_s"][queries["replication"] == run.replication]
    counts, _ = np.histogram(arrived, COUNTS, range=(0.0, run.window_end_ps / PS_PER_S))
    return neighbours_alike(counts.astype(np.float64))


def neighbours_alike(counts: NDArray[np.float64]) -> bool:
    """Whether the correlation of each count with the next one exceeds ALIKE."""
    around = counts - counts.mean()
    spread = float((around**2).sum())
    return spread > 0 and float((around[1:] * around[:-1]).sum()) / spread > ALIKE


def _residual_s(results: Results) -> float:
    """The residual criterion over all replications; what is open counts with the time that it has been there."""
    queries = results.tables["queries"]
    times = []
    for run in results.runs:
        rows = queries["replication"] == run.replication
        finished = queries["finished_s"][rows]
        end = np.where(np.isnan(finished), run.end_ps / PS_PER_S, finished)
        times.append(np.maximum(end - queries["arrived_s"][rows], 0.0))
    return until_filled(np.concatenate(times))


def until_filled(times_s: NDArray[np.float64]) -> float:
    """The least t with E[(T - t)+] ≤ LACKING · E[T], T drawn from *times_s*; exact for the sample."""
    ordered = np.sort(times_s)[::-1]
    count = np.arange(1, len(ordered) + 1)
    allowed = LACKING * float(ordered.sum())
    over = np.cumsum(ordered) - count * ordered  # Σ (T - t)+ at t = each time, the longest first
    last = int(np.searchsorted(over, allowed, side="right")) - 1
    if last < 0:
        return 0.0
    return max(0.0, float((ordered[: last + 1].sum() - allowed) / (last + 1)))


def mser(series: NDArray[np.float64]) -> int:
    """How many leading values to cut: argmin over d ≤ n/2 of Σ(x_i - mean of the rest)² / (n - d)²."""
    count = len(series)
    rest = series[::-1]
    sizes = np.arange(1, count + 1)
    sums, squares = np.cumsum(rest), np.cumsum(rest**2)
    error = np.maximum(squares - sums**2 / sizes, 0.0) / sizes.astype(np.float64) ** 2
    by_cut = error[::-1]  # by_cut[d] is the error of what follows the first d
    return int(np.argmin(by_cut[: count // 2 + 1]))
