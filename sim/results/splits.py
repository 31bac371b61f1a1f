"""Rows of runs behind which somebody joined the queue: one becomes several, one for each length of the queue.

The engine goes on past an arrival that changes nothing, and notes from which step on how many wait. What that makes of the
row is worked out for many rows at once, by the rules of :meth:`Run.part`, in whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
Parts = dict[int, tuple[bytes, bytes]]


class Place(NamedTuple):
    """Which column is which in a row: its number in SEGMENT_ROW, and the two of its pattern behind these."""

    start_ps: int
    steps: int
    step_ps: int
    step_growth_ps: int
    decodes: int
    fresh: int
    dropped: int
    context: int
    reserved_blocks: int
    reserved_blocks_last: int
    live_tokens: int
    waiting: int
    preempted: int
    cached_blocks: int
    unused_blocks: int
    window_blocks: int
    at: int
    length: int


class _Patterns:
    """Patterns of rows one after the other, and what pieces of these rows have grown by."""

    def __init__(self, values: NDArray[np.uint16], length: IntArray) -> None:
        self.values = values
        self.begins = np.cumsum(length) - length
        self.summed = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])

    def grown(self, row: IntArray, length: IntArray, at: IntArray, steps: IntArray) -> IntArray:
        """What the pattern of *row* sums up to after *steps* steps; 0 where its *length* is 0."""
        begins = self.begins[row]
        rounds, rest = np.divmod(steps, np.maximum(length, 1))
        low = at - rest + 1  # a step looks one place further down, round and round
        to = np.where(length > 0, begins + at + 1, begins)
        upto, begin = self.summed[to], self.summed[begins]
        whole = self.summed[begins + length] - begin
        turned = np.where(low < 0, length, 0)
        part = upto - self.summed[np.where(length > 0, begins + low + turned, begins)]
        result: IntArray = np.where(length > 0, rounds * whole + part + np.where(low < 0, whole, 0), 0)
        return result

    def again(self, row: IntArray, length: IntArray) -> NDArray[np.uint16]:
        """The patterns of *row*, one after the other; none where *length* is 0."""
        ends = np.cumsum(length)
        total = int(ends[-1]) if len(ends) else 0
        return self.values[np.repeat(self.begins[row] - (ends - length), length) + np.arange(total)]


def split(
    rows: IntArray,
    takes: NDArray[np.uint16],
    parts: Parts,
    splits: Sequence[tuple[int, int, int]],
    place: Place,
    blocks: int,
) -> tuple[IntArray, NDArray[np.uint16], Parts]:
    """*rows* with their patterns *takes* and *parts*, cut by *splits*: (number of the row, step, who waits from that step on),
    in order. A step that the row does not come to counts for nothing; of several at one step the last holds. *blocks* is
    the size of the pool.
    """
    joined = np.array(splits, dtype=np.int64).reshape(-1, 3)
    joined = joined[joined[:, 1] < rows[joined[:, 0], place.steps]]
    row = np.concatenate([np.arange(len(rows)), joined[:, 0]])
    first = np.concatenate([np.zeros(len(rows), dtype=np.int64), joined[:, 1]])
    waiting = np.concatenate([rows[:, place.waiting], joined[:, 2]])
    order = np.lexsort((first, row))  # stable: at one step the last to be noted is the last here
    row, first, waiting = row[order], first[order], waiting[order]
    last = np.ones(len(row), dtype=bool)
    last[:-1] = (row[1:] != row[:-1]) | (first[1:] != first[:-1])
    row, first, waiting = row[last], first[last], waiting[last]
    new = rows[row]
    steps = new[:, place.steps].copy()
    end = steps.copy()
    end[:-1] = np.where(row[1:] == row[:-1], first[1:], end[:-1])
    cut = np.flatnonzero((first > 0) | (end < steps))
    _cut(new, cut, first[cut], end[cut], row[cut], rows, takes, parts, place, blocks)
    new[:, place.waiting] = waiting
    patterns = _Patterns(takes, rows[:, place.length])
    again = patterns.again(row, new[:, place.length])
    kept: Parts = {}
    if parts:
        kept = {
            number: parts[old]
            for number, (old, length) in enumerate(zip(row.tolist(), new[:, place.length].tolist(), strict=True))
            if length and old in parts
        }
    return new, again, kept


def _cut(
    new: IntArray,
    cut: IntArray,
    first: IntArray,
    end: IntArray,
    row: IntArray,
    rows: IntArray,
    takes: NDArray[np.uint16],
    parts: Parts,
    place: Place,
    blocks: int,
) -> None:
    """Make the rows of *new* numbered *cut* the steps [*first*, *end*) of the rows of *rows* that they are copies of."""
    piece = new[cut]
    columns = piece.T
    steps, length, at = (columns[number].copy() for number in (place.steps, place.length, place.at))
    patterns = _Patterns(takes, rows[:, place.length])
    reserved, cached = columns[place.reserved_blocks].copy(), columns[place.cached_blocks].copy()
    taken = patterns.grown(row, length, at, first)
    growth, decodes = columns[place.step_growth_ps], columns[place.decodes]
    columns[place.reserved_blocks_last] = reserved + patterns.grown(row, length, at, end - 1)
    columns[place.start_ps] += first * columns[place.step_ps] + growth * (first * (first - 1) // 2)
    columns[place.step_ps] += growth * first
    columns[place.context] += decodes * first
    columns[place.live_tokens] += decodes * first
    evicted = np.where(first > 0, taken - (blocks - reserved - cached), 0)
    columns[place.cached_blocks] = np.where(evicted > 0, np.maximum(cached - evicted, 0), cached)
    columns[place.reserved_blocks] += taken
    for number in (place.fresh, place.preempted):
        columns[number] *= first == 0
    columns[place.dropped] *= end == steps
    for which, number, sign in ((0, place.unused_blocks, -1), (1, place.window_blocks, 1)):
        if parts:
            found = [parts.get(old, (b"", b""))[which] for old in range(len(rows))]
            lengths = np.array([len(each) // takes.itemsize for each in found], dtype=np.int64)
            other = _Patterns(np.frombuffer(b"".join(found), dtype=takes.dtype), lengths)
            columns[number] += sign * other.grown(row, lengths[row], at, first)
    columns[place.steps] = end - first
    several = columns[place.steps] > 1
    columns[place.at] = np.where(several, (at - first) % np.maximum(length, 1), 0)
    columns[place.length] = np.where(several, length, 0)
    new[cut] = piece
