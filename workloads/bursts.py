"""How bunched arrivals are, measured as they pass by: nothing is kept but sums.

All meters take arrivals in order of time, a part at a time; how they are cut into parts changes no figure.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]


class CountMeter:
    """Counts in whole intervals of *scale_s* from the first arrival to the last: their spread and how they go on."""

    def __init__(self, scale_s: float) -> None:
        self.scale_s = scale_s
        self._origin = 0.0
        self._cell = -1
        """Interval of the last arrival, which may still grow, and what it holds so far."""
        self._open = 0
        self._before = (-2, 0)
        self._first = 0
        self._sum = self._squares = self._products = 0.0

    def add(self, arrived: FloatArray) -> None:
        """Count *arrived* (s)."""
        if not len(arrived):
            return
        if self._cell < 0:
            self._origin, self._cell = float(arrived[0]), 0
        cell = ((arrived - self._origin) / self.scale_s).astype(np.int64)
        first = np.concatenate([[0], np.flatnonzero(np.diff(cell)) + 1])
        size = np.diff(np.append(first, len(cell)))
        cell = cell[first]
        if cell[0] == self._cell:
            size[0] += self._open
        else:
            cell, size = np.concatenate([[self._cell], cell]), np.concatenate([[self._open], size])
        self._cell, self._open = int(cell[-1]), int(size[-1])
        cell, size = cell[:-1], size[:-1].astype(np.float64)
        if not len(cell):
            return
        if cell[0] == 0:
            self._first = int(size[0])
        self._sum += float(size.sum())
        self._squares += float((size**2).sum())
        with_before = np.concatenate([[self._before[0]], cell])
        sizes = np.concatenate([[self._before[1]], size])
        self._products += float((sizes[1:] * sizes[:-1])[np.diff(with_before) == 1].sum())
        self._before = int(cell[-1]), int(size[-1])

    @property
    def intervals(self) -> int:
        """Whole intervals; the last one, which the trace ends in, is none."""
        return max(self._cell, 0)

    @property
    def mean(self) -> float:
        return self._sum / self.intervals if self.intervals else 0.0

    @property
    def _variance(self) -> float:
        return max(self._squares / self.intervals - self.mean**2, 0.0)

    def dispersion(self, least: int = 10) -> float:
        """Variance over mean of the counts, 1 for Poisson; NaN below *least* intervals."""
        return self._variance / self.mean if self.intervals >= least and self.mean > 0 else float("nan")

    def autocorrelation(self, least: int = 20) -> float:
        """Autocorrelation of neighbouring counts; NaN below *least* intervals."""
        if self.intervals < least or self._variance <= 0:
            return float("nan")
        last = self._before[1] if self._before[0] == self.intervals - 1 else 0
        pairs = self.intervals - 1
        ends = 2 * self._sum - self._first - last
        return (self._products - self.mean * ends + pairs * self.mean**2) / pairs / self._variance


class GapMeter:
    """Gaps of each client within each window of *window_s*.

    With *tables* every window of every client is kept, for few clients; without, their mean alone.
    """

    def __init__(self, window_s: float, *, tables: bool = False) -> None:
        self.window_s = window_s
        self._tables = tables
        self._weighted, self._number = 0.0, 0
        none = np.empty(0)
        self._open = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64), none, none, none, none)
        self._done: list[tuple[Int64Array, Int64Array, Int64Array, FloatArray]] = []

    def add(self, arrived: FloatArray, client: npt.NDArray[np.integer]) -> None:
        """Take the gaps of *arrived* (s) of each *client* (a code)."""
        if not len(arrived):
            return
        window = (arrived / self.window_s).astype(np.int64)
        order = np.lexsort((client, window))
        window, whose, times = window[order], client[order].astype(np.int64), arrived[order]
        first = np.flatnonzero(np.append(True, (np.diff(window) != 0) | (np.diff(whose) != 0)))
        size = np.diff(np.append(first, len(times)))
        gaps = np.diff(times, prepend=0.0)
        gaps[first] = 0.0
        found = (
            window[first],
            whose[first],
            size,
            times[first],
            times[first + size - 1],
            np.add.reduceat(gaps, first),
            np.add.reduceat(gaps**2, first),
        )
        joined = [np.concatenate(pair) for pair in zip(self._open, found, strict=True)]
        order = np.lexsort((joined[1], joined[0]))
        window, whose, size, begin, end, total, square = (column[order] for column in joined)
        # What was open goes on: at most two parts have one window and client, the older one first.
        twice = np.flatnonzero((np.diff(window) == 0) & (np.diff(whose) == 0))
        between = begin[twice + 1] - end[twice]
        size[twice + 1] += size[twice]
        total[twice + 1] += total[twice] + between
        square[twice + 1] += square[twice] + between**2
        begin[twice + 1] = begin[twice]
        keep = np.ones(len(window), np.bool_)
        keep[twice] = False
        last = window[-1]
        ended = keep & (window < last)
        self._close(window[ended], whose[ended], size[ended], total[ended], square[ended])
        here = keep & (window == last)
        self._open = (window[here], whose[here], size[here], begin[here], end[here], total[here], square[here])

    def _close(
        self, window: Int64Array, whose: Int64Array, size: Int64Array, total: FloatArray, square: FloatArray
    ) -> None:
        cv = _cvs(size, total, square)
        if self._tables:
            self._done.append((window, whose, size, cv))
        good = np.isfinite(cv)
        self._weighted += float((cv[good] * size[good]).sum())
        self._number += int(size[good].sum())

    def groups(self) -> tuple[Int64Array, Int64Array, Int64Array, FloatArray]:
        """(window, client, queries, CV of the gaps) where a client asked, windows in order; NaN below three queries."""
        window, whose, size, _, _, total, square = self._open
        parts = [*self._done, (window, whose, size, _cvs(size, total, square))]
        windows, clients, sizes, cvs = (np.concatenate(column) for column in zip(*parts, strict=True))
        return windows, clients, sizes, cvs

    def cv(self) -> float:
        """CV of a client's gaps in a window, averaged over windows by their queries.

        Windows in which a client has fewer than three queries do not count.
        """
        _, _, size, _, _, total, square = self._open
        cv = _cvs(size, total, square)
        good = np.isfinite(cv)
        number = self._number + int(size[good].sum())
        return (self._weighted + float((cv[good] * size[good]).sum())) / number if number else float("nan")


def _cvs(size: Int64Array, total: FloatArray, square: FloatArray) -> FloatArray:
    """CV of the gaps between so many arrivals, from the sums of gaps and of their squares."""
    number = np.maximum(size - 1, 1)
    mean = total / number
    with np.errstate(divide="ignore", invalid="ignore"):
        cv = np.sqrt(np.maximum(square / number - mean**2, 0.0)) / mean
    return np.asarray(np.where((size >= 3) & np.isfinite(cv), cv, np.nan))


class Moments:
    """Mean and standard deviation of what passes by."""

    def __init__(self) -> None:
        self.count = 0
        self._sum = self._squares = 0.0

    def add(self, values: FloatArray) -> None:
        self.count += len(values)
        self._sum += float(values.sum(dtype=np.float64))
        self._squares += float((values.astype(np.float64) ** 2).sum())

    @property
    def mean(self) -> float:
        return self._sum / self.count if self.count else float("nan")

    @property
    def cv(self) -> float:
        """Standard deviation over mean."""
        if not self.count or self._sum <= 0:
            return float("nan")
        return float(np.sqrt(max(self._squares / self.count - self.mean**2, 0.0)) / self.mean)
