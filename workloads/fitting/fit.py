"""A trace turned into a spec: clients with their rates by window, their burstiness, and mixtures for their
lengths.

What is kept is fitted figures alone: names are replaced by numbers unless asked for, no row of the trace
survives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from workloads.arrivals import LONGEST_S
from workloads.fitting.arrivals import Arrivals, arrivals_of
from workloads.fitting.lengths import lengths_of
from workloads.measures import Held

FloatArray = npt.NDArray[np.float64]

_LEAST_ROWS = 200
_MOST_MEMBERS = 120
_STREAM_WINDOWS = 288
_MOST_RATES = 20_000
"""Windows times groups: as many numbers as a YAML file may sensibly hold."""


@dataclass
class Fit:
    """The ``workload`` section as plain data, and what was assumed on the way."""

    workload: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def fit(held: Held, *, window_s: float | None = None, keep_names: bool = False) -> Fit:
    """A generator of traffic like *held*: as many queries, window by window, client by client.

    Clients (or categories, where the trace names no clients) with at least 200 rows are fitted each by
    itself, up to 120 of them; all others together. Windows last *window_s*, by default ten minutes in traces
    of two hours and more.
    """
    arrived = held.arrived
    notes: list[str] = []
    if arrived[-1] <= arrived[0]:
        return _burst(held, notes)
    if arrived[-1] - arrived[0] > LONGEST_S:
        rows = int(np.searchsorted(arrived, arrived[0] + LONGEST_S))
        notes.append(f"only the first {LONGEST_S / 86_400:g} days are fitted: a workload cannot last longer")
        held, arrived = held.first(rows), arrived[:rows]
    groups = _groups(held, notes)
    given = window_s is not None
    if window_s is None:
        window_s = _window(float(arrived[-1] - arrived[0]), len(held), len(groups))
    # Time is counted from the trace's own zero, unless traffic starts later than a window after it.
    times = arrived if arrived[0] < window_s else arrived - arrived[0]
    whens = [_windowed(times[rows], float(times[-1]), window_s) for _, rows in groups]
    if len(groups) == 1:
        # One stream: shorter windows may carry what bursts a single renewal process cannot have.
        tries = [window_s, window_s / 4, max(times[-1] / _STREAM_WINDOWS, 50 * times[-1] / len(held), 1.0)]
        for shorter in [] if given else sorted({length for length in tries if length < window_s}, reverse=True):
            if whens[0][1].distance <= 0.5:
                break
            other = _windowed(times, float(times[-1]), shorter)
            whens = [other] if other[1].distance < whens[0][1].distance else whens
    members: dict[str, Any] = {}
    for number, ((name, mine), (_, when)) in enumerate(zip(groups, whens, strict=True)):
        shown = name if keep_names else f"client-{number + 1}"
        members[shown] = when.keys | {"lengths": lengths_of(held, mine)}
    if held.grouped_by == "category":
        for (name, _), member in zip(groups, members.values(), strict=True):
            member["category"] = name
    workload = {
        "queries": len(held),
        "profile": "day",
        "even_draws": True,
        "clients": {"window": f"{whens[0][0]:.9g} s", "members": members},
    }
    return Fit(workload, notes)


def _window(seconds: float, rows: int, groups: int) -> float:
    """Length of a window in s: ten minutes, shorter in short traces, longer where few arrive or there are too many to write."""
    window_s = 600.0 if seconds >= 7200 else float(np.clip(seconds / 12, 1.0, 600.0))
    most = max(min(_MOST_RATES / groups, rows / 5), 12)
    return window_s * max(1, math.ceil(seconds / window_s / most))


def _windowed(times: FloatArray, last_s: float, window_s: float) -> tuple[float, Arrivals]:
    """Arrivals at *times* by whole windows of about *window_s* up to *last_s*, and how long these are.

    A part of a window at the end would be drawn out to its full length.
    """
    count = max(1, round(last_s / window_s))
    window_s = last_s / count * (1 + 1e-9)
    return window_s, arrivals_of(times, window_s, count)


def _burst(held: Held, notes: list[str]) -> Fit:
    notes.append("all queries arrive at once: fitted as a burst")
    rows = np.arange(len(held))
    arrivals = {"process": "burst", "size": len(held)}
    return Fit({"arrivals": arrivals, "lengths": lengths_of(held, rows)}, notes)


def _groups(held: Held, notes: list[str]) -> list[tuple[str, npt.NDArray[np.int64]]]:
    """(name, rows) of each group that is fitted by itself, largest first, and of the others together."""
    sizes = np.bincount(held.client, minlength=len(held.names))
    large = [code for code in np.argsort(-sizes, kind="stable").tolist() if sizes[code] >= _LEAST_ROWS]
    large = large[:_MOST_MEMBERS]
    order = np.argsort(held.client, kind="stable")
    first = np.concatenate([[0], np.cumsum(sizes)])
    groups = [(held.names[code], order[first[code] : first[code + 1]]) for code in large]
    rest = [order[first[code] : first[code + 1]] for code in range(len(sizes)) if code not in large and sizes[code]]
    if rest:
        together = np.sort(np.concatenate(rest))
        groups.append(("others", together))
        if len(groups) > 1:
            notes.append(f"{len(rest)} small groups ({len(together):,} queries) are fitted together")
    return groups
