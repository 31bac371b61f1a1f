"""Whole numbers counted instead of kept: every quantile, sum and tail figure of a column of any length."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

_EXACT_BITS = 18
EXACT = 1 << _EXACT_BITS
"""Values below are counted one by one; larger ones to 18 binary digits, four in a million."""


class Tally:
    """How often each value occurs: a few MB, whatever is added.

    The figures are those of the sorted column, as numpy has them (quantiles: its linear method).
    """

    def __init__(self, values: npt.ArrayLike | None = None) -> None:
        self._counts = np.zeros(0, np.int64)
        self._large: dict[int, int] = {}
        self._known: tuple[Int64Array, Int64Array] | None = None
        self._cumulated: tuple[Int64Array, FloatArray] | None = None
        self.total = 0
        """Number of values."""
        self.sum = 0.0
        if values is not None:
            self.add(np.asarray(values))

    def add(self, values: npt.NDArray[np.integer]) -> None:
        """Count *values*, none of which is negative."""
        if not len(values):
            return
        self._known = self._cumulated = None
        self.total += len(values)
        self.sum += float(values.sum(dtype=np.float64))
        small = values < EXACT
        if not small.all():
            rest = values[~small].astype(np.int64)
            step = 1 << np.maximum(np.frexp(rest)[1].astype(np.int64) - _EXACT_BITS, 0)
            found, often = np.unique(rest // step * step, return_counts=True)
            for value, count in zip(found.tolist(), often.tolist(), strict=True):
                self._large[value] = self._large.get(value, 0) + count
            values = values[small]
        counted = np.bincount(values)
        if len(counted) > len(self._counts):
            self._counts = np.concatenate([self._counts, np.zeros(len(counted) - len(self._counts), np.int64)])
        self._counts[: len(counted)] += counted

    @property
    def counted(self) -> tuple[Int64Array, Int64Array]:
        """(values that occur, rising, how often each does)."""
        if self._known is None:
            values = np.flatnonzero(self._counts)
            counts = self._counts[values]
            if self._large:
                large = np.array(sorted(self._large), np.int64)
                counts = np.concatenate([counts, np.array([self._large[value] for value in large.tolist()], np.int64)])
                values = np.concatenate([values, large])
            self._known = values.astype(np.int64), counts
        return self._known

    def _up_to(self) -> tuple[Int64Array, FloatArray]:
        """How many values, and how much of their sum, lie at each value that occurs or below."""
        if self._cumulated is None:
            values, counts = self.counted
            self._cumulated = np.cumsum(counts), np.cumsum(values * counts.astype(np.float64))
        return self._cumulated

    @property
    def mean(self) -> float:
        return self.sum / self.total if self.total else float("nan")

    @property
    def max(self) -> int:
        return int(self.counted[0][-1]) if self.total else 0

    def at(self, place: npt.ArrayLike) -> Int64Array:
        """The values at these *place* s of the sorted column, from 0."""
        return self.counted[0][np.searchsorted(self._up_to()[0], place, side="right")]

    def quantile(self, levels: npt.ArrayLike) -> FloatArray:
        """Quantiles at *levels* (0 to 1), lines between neighbours."""
        place = np.asarray(levels, np.float64) * (self.total - 1)
        low = np.floor(place).astype(np.int64)
        below, above = self.at(low), self.at(np.minimum(low + 1, self.total - 1))
        return np.asarray(below + (above - below) * (place - low))

    def largest(self, count: npt.ArrayLike) -> FloatArray:
        """Sum of the *count* largest values."""
        number, sums = self._up_to()
        values, _ = self.counted
        left = self.total - np.asarray(count, np.int64)
        place = np.minimum(np.searchsorted(number, left, side="right"), len(number) - 1)
        whole = sums[place] - (number[place] - left) * values[place]
        return np.asarray(sums[-1] - whole, np.float64)

    def top_share(self, share: float) -> float:
        """Share of the sum that the largest *share* of the values makes."""
        count = max(1, round(self.total * share))
        return float(self.largest(count)) / self.sum if self.sum else 0.0

    def hill(self, share: float = 0.05) -> float:
        """Hill's tail index of the largest *share* of the values: P(X > x) falls as x to the minus index."""
        count = max(2, round(self.total * share))
        return float(self.hills(np.array([count]))[0]) if self.total > count else float("nan")

    def hills(self, counts: Int64Array) -> FloatArray:
        """Hill's index of the so many largest values, for each of *counts* (below the number of values)."""
        values, often = self.counted
        logs = np.log(np.maximum(values, 1e-9))
        number = self._up_to()[0]
        sums = np.cumsum(logs * often)
        left = self.total - counts
        place = np.minimum(np.searchsorted(number, left, side="right"), len(number) - 1)
        above = sums[-1] - (sums[place] - (number[place] - left) * logs[place])
        excess = above / counts - np.log(np.maximum(self.at(left - 1), 1e-9))
        with np.errstate(divide="ignore"):
            return np.asarray(np.where(excess > 1e-12, 1.0 / np.maximum(excess, 1e-300), np.inf))

    def share_above(self, values: npt.ArrayLike) -> FloatArray:
        """Share of the column above each of *values*."""
        found, _ = self.counted
        number = np.concatenate([[0], self._up_to()[0]])
        return np.asarray(1.0 - number[np.searchsorted(found, values, side="right")] / self.total)

    def distance(self, other: Tally) -> float:
        """Kolmogorov-Smirnov distance of two columns."""
        at = np.concatenate([self.counted[0], other.counted[0]])
        return float(np.abs(self.share_above(at) - other.share_above(at)).max())
