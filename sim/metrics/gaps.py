"""Inter-token latency, exactly, without a value for every token.

A segment of k steps with B decodes holds B gaps of each of step, step + growth, …: a weighted arithmetic
progression. Together with the listed stalls these are all gaps. Quantiles come from counting how many gaps
are at most v and bisecting on v, in integer picoseconds; memory is that of the segments, whatever the
number of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from sim.results.columns import Role
from sim.results.info import RunInfo
from sim.results.results import Results
from sim.results.tables import PS_PER_S, Table

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Gaps:
    """Progressions: ``count`` values ``first_ps + i·growth_ps`` (growth ≥ 0), each ``weight`` times."""

    first_ps: IntArray
    growth_ps: IntArray
    count: IntArray
    weight: IntArray

    @property
    def n(self) -> int:
        """Number of gaps."""
        return int((self.count * self.weight).sum())

    def mean_s(self) -> float:
        """Mean gap in seconds; NaN when there is none."""
        if not self.n:
            return float("nan")
        count = self.count.astype(np.float64)
        total = count * self.first_ps + self.growth_ps * (count * (count - 1) / 2)
        return float((total * self.weight).sum() / self.n / PS_PER_S)

    def max_s(self) -> float:
        """Longest gap in seconds; NaN when there is none."""
        return float(self._last().max() / PS_PER_S) if len(self.count) else float("nan")

    def quantile_s(self, q: float) -> float:
        """The *q* quantile in seconds, as ``numpy.quantile`` (linear) of all gaps written out; NaN when
        there is none."""
        n = self.n
        if not n:
            return float("nan")
        place = q * (n - 1)
        rank = int(place)
        low, at_most = self._ranked(rank)
        if place == rank:
            return low / PS_PER_S
        high = low if at_most > rank + 1 else self._next_above(low)
        return (low + (high - low) * (place - rank)) / PS_PER_S

    def share_at_most(self, time_s: float) -> float:
        """Share of gaps that are at most *time_s* seconds; NaN when there is none."""
        n = self.n
        limit = int(np.floor(time_s * PS_PER_S + 0.5))
        return _count(limit, self.first_ps, self.growth_ps, self.count, self.weight) / n if n else float("nan")

    @cached_property
    def _by_first(self) -> tuple[IntArray, IntArray]:
        """The shortest gap of each progression in order, and how many gaps there are up to it."""
        order = np.argsort(self.first_ps)
        return self.first_ps[order], np.cumsum((self.count * self.weight)[order])

    @cached_property
    def _by_last(self) -> tuple[tuple[IntArray, ...], IntArray]:
        """First, growth, count, weight and longest gap of each progression, in the order of the longest, and how many gaps
        there are up to it.
        """
        last = self._last()
        order = np.argsort(last)
        first, growth, count, weight, last = (
            array[order] for array in (self.first_ps, self.growth_ps, self.count, self.weight, last)
        )
        return (first, growth, count, weight, last), np.cumsum(count * weight)

    def _last(self) -> IntArray:
        last: IntArray = self.first_ps + self.growth_ps * (self.count - 1)
        return last

    def _ranked(self, rank: int) -> tuple[int, int]:
        """The gap of that rank (0 = the shortest), and how many are not longer."""
        # Were every gap the first of its progression, that rank would be no longer; were it the last, no shorter.
        (least, least_upto), (most, most_upto) = self._by_first, self._by_last
        low = int(least[np.searchsorted(least_upto, rank, side="right")])
        high = int(most[4][np.searchsorted(most_upto, rank, side="right")])
        # first of all, leave out what does not reach into this bracket
        start = int(np.searchsorted(most[4], low))
        below = int(most_upto[start - 1]) if start else 0
        inside = most[0][start:] <= high
        first, growth, count, weight, last = (array[start:][inside] for array in most)
        while low < high:
            middle = (low + high) // 2
            if below + _count(middle, first, growth, count, weight) > rank:
                high = middle
            else:
                low = middle + 1
            # what lies wholly below is counted once and left out, what lies wholly above is left out
            under = last < low
            below += int((count[under] * weight[under]).sum())
            keep = ~under & (first <= high)
            first, growth, count, weight, last = (array[keep] for array in (first, growth, count, weight, last))
        return low, below + _count(low, first, growth, count, weight)

    def _next_above(self, value: int) -> int:
        """The shortest gap longer than *value*."""
        longer = self._last() > value
        first, growth = self.first_ps[longer], self.growth_ps[longer]
        skipped = np.where(first > value, 0, (value - first) // np.maximum(growth, 1) + 1)
        return int((first + growth * skipped).min())


def _count(limit: int, first: IntArray, growth: IntArray, count: IntArray, weight: IntArray) -> int:
    """How many gaps are at most *limit*."""
    inside = np.where(growth > 0, (limit - first) // np.maximum(growth, 1) + 1, count)
    inside = np.where(first > limit, 0, np.minimum(inside, count))
    return int((inside * weight).sum())


def token_gaps(run: RunInfo, segments: Table, stalls: Table, requests: Table) -> Gaps:
    """All gaps of *run* whose later token appeared in the measured window.

    Pools that serve verification and probes only are left out; a pool that also generates counts with all
    its decodes.
    """
    keep = _generating(requests, segments) & (segments["replication"] == run.replication)
    start, step, growth = (_ps(segments[name][keep]) for name in ("start_s", "step_s", "step_growth_s"))
    steps, decodes, fresh, dropped = (
        segments[name][keep].astype(np.int64) for name in ("steps", "decodes", "fresh", "dropped")
    )
    skip, stop = _steps_within(start, step, growth, steps, run.window_start_ps, run.window_end_ps)
    plain = (fresh == 0) & (dropped == 0)  # all steps alike: one progression; of the others the two ends differ
    rest = ~plain
    all_of = (step + growth * skip, growth, np.maximum(stop - skip, 0), decodes)
    alike = tuple(array[plain] for array in all_of)
    step, growth, steps, decodes, fresh, dropped, skip, stop = (
        array[rest] for array in (step, growth, steps, decodes, fresh, dropped, skip, stop)
    )
    last = steps - 1
    low, high = np.maximum(skip, 1), np.minimum(stop, last)
    first_in = ((skip == 0) & (stop > 0)).astype(np.int64)
    last_in = ((last > 0) & (skip <= last) & (stop == steps)).astype(np.int64)
    parts = [
        alike,
        (step, growth, first_in, decodes - fresh - np.where(last == 0, dropped, 0)),
        (step + growth * low, growth, np.maximum(high - low, 0), decodes),
        (step + growth * last, growth, last_in, decodes - dropped),
    ]
    inside = _stalls_within(run, stalls, requests)
    ones = np.ones(len(inside), dtype=np.int64)
    parts.append((inside, np.zeros_like(ones), ones, ones))
    joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    some = (joined[2] > 0) & (joined[3] > 0)
    return Gaps(*(array[some] for array in joined))


_GATHERED: WeakKeyDictionary[Results, dict[int, Gaps]] = WeakKeyDictionary()
"""Gaps by replication, of the results that are being summarised."""


@contextmanager
def gathered_once(results: Results) -> Iterator[None]:
    """Inside, `window_gaps` of *results* gathers the gaps of each run only once: several metrics ask for them."""
    _GATHERED[results] = {}
    try:
        yield
    finally:
        del _GATHERED[results]


def window_gaps(results: Results, run: RunInfo) -> Gaps:
    """`token_gaps` of *run*, one of *results*."""
    gathered = _GATHERED.get(results, {})
    if run.replication not in gathered:
        tables = results.tables
        gathered[run.replication] = token_gaps(run, tables["segments"], tables["stalls"], tables["requests"])
    return gathered[run.replication]


def _steps_within(
    start: IntArray, step: IntArray, growth: IntArray, steps: IntArray, low: int, high: int
) -> tuple[IntArray, IntArray]:
    """Steps i with skip ≤ i < stop end at or after *low* and before *high*."""
    end = start + steps * step + growth * (steps * (steps - 1) // 2)
    skip = np.where(end < low, steps, 0)
    stop = np.where(end < high, steps, 0)
    for limit, array in ((low, skip), (high, stop)):
        for row in np.flatnonzero((start < limit) & (end >= limit)):
            each = step[row] + growth[row] * np.arange(steps[row], dtype=np.int64)
            array[row] = int(np.searchsorted(start[row] + np.cumsum(each), limit, side="left"))
    return skip, stop


def _stalls_within(run: RunInfo, stalls: Table, requests: Table) -> IntArray:
    mine = stalls["replication"] == run.replication
    at, gap, request = _ps(stalls["at_s"][mine]), _ps(stalls["gap_s"][mine]), stalls["request"][mine]
    inside = (at >= run.window_start_ps) & (at < run.window_end_ps)
    rows = requests["replication"] == run.replication
    generate = requests["request"][rows & requests.equals("role", Role.GENERATE.name.lower())]
    return gap[inside & np.isin(request, generate)]


def _generating(requests: Table, segments: Table) -> NDArray[np.bool_]:
    """Which segments are of pools that serve generation requests."""
    generate = requests.equals("role", Role.GENERATE.name.lower())
    if generate.all():
        return np.ones(len(segments), dtype=bool)
    names = requests.names["pool"]
    pools = {names[code] for code in np.unique(requests["pool"][generate]) if code >= 0}
    codes = [code for code, name in enumerate(segments.names["pool"]) if name in pools]
    return np.isin(segments["pool"], codes)


def _ps(seconds: NDArray[np.float64]) -> IntArray:
    """Integer picoseconds; exact, since the seconds were made from them and stay below 2**53 ps in a gap."""
    return np.rint(seconds * PS_PER_S).astype(np.int64)


def joined(parts: list[Gaps]) -> Gaps:
    """All gaps of *parts* together."""
    if len(parts) == 1:
        return parts[0]
    return Gaps(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("first_ps", "growth_ps", "count", "weight")
        )
    )
