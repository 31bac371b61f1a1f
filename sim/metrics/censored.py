"""Quantiles and means of times some of which are known only to be longer than so much (Kaplan and Meier,
JASA 53, 1958).

An open query has waited *at least* until now. Dropping it would flatter an overloaded run, counting it as
ended too; the Kaplan-Meier estimate takes it for what it is. Without censoring everything here equals numpy
on the raw values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """*value* is NaN where the data do not reach it; then it is at least *at_least* (NaN: nothing is
    known)."""

    value: float
    at_least: float = float("nan")


class Censored:
    """A sample of times: *events* ended then, *open_at* had not ended by then (right-censored). NaN is no
    time.

    >>> sample = Censored([1.0, 2.0, 4.0], open_at=[3.0])
    >>> sample.quantile(0.5).value
    2.25
    >>> Censored([1.0, 2.0], open_at=[5.0, 5.0]).quantile(0.9)
    Estimate(value=nan, at_least=5.0)
    """

    def __init__(self, events: FloatArray | list[float], open_at: FloatArray | list[float] = ()) -> None:  # type: ignore[assignment]
        self.events: FloatArray = np.sort(np.asarray(events, dtype=np.float64))
        self.open_at: FloatArray = np.sort(np.asarray(open_at, dtype=np.float64))
        if np.isnan(self.events).any() or np.isnan(self.open_at).any():
            raise ValueError("a time is NaN")
        self.n = len(self.events) + len(self.open_at)
        """Observations, censored ones included."""

    @cached_property
    def _cumulative(self) -> FloatArray:
        """Probability at or below each event, ties one after the other; an event comes before a censoring
        of its time."""
        before = np.searchsorted(self.open_at, self.events, side="left")
        at_risk = self.n - np.arange(len(self.events)) - before
        with np.errstate(divide="ignore"):
            survival = np.exp(np.cumsum(np.log1p(-1.0 / at_risk)))
        cumulative: FloatArray = 1.0 - survival
        if len(cumulative) and at_risk[-1] == 1:
            cumulative[-1] = 1.0
        return cumulative

    def below(self, time: float) -> float:
        """Estimated share of times that are at most *time*; the plain share without censoring. NaN for an
        empty sample."""
        if self.n == 0:
            return float("nan")
        count = int(np.searchsorted(self.events, time, side="right"))
        if not len(self.open_at) or time < self.open_at[0]:
            return count / self.n
        return float(self._cumulative[count - 1]) if count else 0.0

    def quantile(self, q: float) -> Estimate:
        """The *q* quantile (0 ≤ q ≤ 1), interpolated as numpy's ``linear`` method does.

        Events stand at places 0 to n - 1, one apart; one whose share of the probability has grown to w,
        because others left before it, fills n·w places. Beyond the last event, when something longer is
        still open, there is no value, only the bound of the longest time seen.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"a quantile lies between 0 and 1, not at {q}")
        if self.n == 0:
            return Estimate(float("nan"))
        if not len(self.open_at) and np.isfinite(self.events[-1]):
            return Estimate(quantile_of_sorted(self.events, q))
        return self._general(q)

    def _general(self, q: float) -> Estimate:
        longest = float(max(self.events[-1:].max(initial=-np.inf), self.open_at[-1:].max(initial=-np.inf)))
        if not len(self.events):
            return Estimate(float("nan"), longest)
        if self.n == 1:
            return Estimate(float(self.events[0]))
        place = q * (self.n - 1)
        ends = self.n * self._cumulative - 1.0
        starts = np.concatenate([[0.0], ends[:-1] + 1.0])
        finite = int(np.isfinite(self.events).sum())
        if place > ends[-1] + 1e-9:
            return Estimate(float("nan"), longest)
        if not finite or place > ends[finite - 1] + 1e-9:
            return Estimate(float("nan"), float(self.events[finite - 1]) if finite else float("nan"))
        knots = np.column_stack([starts[:finite], np.maximum(ends, starts)[:finite]]).ravel()
        return Estimate(float(np.interp(place, knots, np.repeat(self.events[:finite], 2))))

    def mean(self) -> Estimate:
        """The mean; where the longest time is open, no value, and the mean up to that time as its lower
        bound."""
        if self.n == 0:
            return Estimate(float("nan"))
        if not len(self.open_at):
            return Estimate(float(np.mean(self.events)))
        weights = np.diff(self._cumulative, prepend=0.0)
        known = float(np.sum(weights * self.events))
        rest = 1.0 - (float(self._cumulative[-1]) if len(self._cumulative) else 0.0)
        if rest <= 1e-12:
            return Estimate(known)
        return Estimate(float("nan"), known + rest * float(self.open_at[-1]))

    def maximum(self) -> Estimate:
        """The longest time, or the bound where it is open."""
        if self.n == 0:
            return Estimate(float("nan"))
        last = float(self.events[-1]) if len(self.events) else -np.inf
        if len(self.open_at) and self.open_at[-1] >= last:
            return Estimate(float("nan"), float(self.open_at[-1]))
        return Estimate(last)


def quantile_of_sorted(values: FloatArray, q: float) -> float:
    """``numpy.quantile`` (linear) of finite *values* in rising order, at least one, to the last bit.

    >>> quantile_of_sorted(np.array([1.0, 2.0, 4.0]), 0.75)
    3.0
    """
    place = q * (len(values) - 1)
    before = int(place)
    low, high = float(values[before]), float(values[min(before + 1, len(values) - 1)])
    share, distance = place - before, high - low
    return high - distance * (1 - share) if share >= 0.5 else low + distance * share
