"""Was the warm-up long enough? A second opinion on what the scenario states.

MSER (White, Simulation 69, 1997): of the number of queries in the system over time, cut off what makes the
mean of the rest most certain, that is, d that minimises the variance of what follows over its length. The
scenario's warm-up is never changed; where MSER wants clearly more, the summary says so.
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
        "adequate": None,
    }
    if window_s(run) <= 0 or run.closed_loop is not None or len(results.tables["queries"]) < PARTS:
        return entry
    lengths = [r.window_end_ps / PS_PER_S for r in results.runs]
    series = np.mean(
        [
            number_in_system(results.tables["queries"], r, np.linspace(0.0, length, PARTS + 1))
            for r, length in zip(results.runs, lengths, strict=True)
        ],
        axis=0,
    )
    suggested = mser(series) / PARTS * lengths[0]
    entry["suggested_s"] = suggested
    entry["adequate"] = suggested <= stated + 0.1 * window_s(run)
    return entry


def mser(series: NDArray[np.float64]) -> int:
    """How many leading values to cut: argmin over d ≤ n/2 of Σ(x_i - mean of the rest)² / (n - d)²."""
    count = len(series)
    rest = series[::-1]
    sizes = np.arange(1, count + 1)
    sums, squares = np.cumsum(rest), np.cumsum(rest**2)
    error = np.maximum(squares - sums**2 / sizes, 0.0) / sizes.astype(np.float64) ** 2
    by_cut = error[::-1]  # by_cut[d] is the error of what follows the first d
    return int(np.argmin(by_cut[: count // 2 + 1]))
