"""How the KV blocks of a run of decode steps grow, step by step, although nobody walked it.

A run is one row, whatever its length. Between its steps only decodes happen, so the blocks that a step takes follow a
pattern as long as a block: the engine's histogram of where its decodes stand within their blocks. The pattern is kept
beside the row, and from it follow the blocks of any step, in whole numbers, and sums over all steps in closed form.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

WIDTH = 2
"""Bytes of one entry of a pattern."""


class RunGrowth:
    """Patterns of the rows that have one, in the order of the rows.

    The i-th step of a row, from 1 on (the row's figures are those of step 0), takes ``takes[(at - i + 1) mod length]``
    blocks more. Rows of an engine with reserved blocks or windows have two more patterns of that form: by how much the
    reserved blocks without tokens become fewer, and by how much the blocks of windows become more.
    """

    __slots__ = ("at", "length", "parts", "rows", "takes")

    def __init__(
        self,
        rows: array[int] | None = None,
        length: array[int] | None = None,
        at: array[int] | None = None,
        takes: bytearray | None = None,
        parts: dict[int, tuple[bytes, bytes]] | None = None,
    ) -> None:
        self.rows = array("q") if rows is None else rows
        self.length = array("H") if length is None else length
        self.at = array("H") if at is None else at
        self.takes = bytearray() if takes is None else takes
        self.parts = {} if parts is None else parts

    def add(self, row: int, takes: bytes, at: int) -> None:
        """Row number *row* grows by *takes*."""
        self.rows.append(row)
        self.length.append(len(takes) // WIDTH)
        self.at.append(at)
        self.takes += takes

    def add_parts(self, unused: bytes, window: bytes) -> None:
        """The row added last has these parts."""
        self.parts[self.rows[-1]] = (unused, window)

    def copy(self, other: RunGrowth, first: int, end: int, shift: int) -> None:
        """Give *other* the growth of rows [*first*, *end*), whose numbers are *shift* higher there."""
        low, high = bisect_left(self.rows, first), bisect_left(self.rows, end)
        numbers = np.array(self.rows[low:high], dtype=np.int64) + shift
        other.rows += array("q", numbers.tobytes())
        other.length += self.length[low:high]
        other.at += self.at[low:high]
        other.takes += self.takes[self._begin(low) : self._begin(high)]
        other.parts |= {row + shift: parts for row, parts in self.parts.items() if first <= row < end}

    def of(self, row: int) -> Run:
        """The growth of *row*."""
        place = bisect_left(self.rows, row)
        if place == len(self.rows) or self.rows[place] != row:
            return Run(b"", 0)
        takes = bytes(self.takes[self._begin(place) : self._begin(place + 1)])
        return Run(takes, self.at[place], *self.parts.get(row, (b"", b"")))

    def _begin(self, place: int) -> int:
        return int(np.array(self.length[:place], dtype=np.int64).sum()) * WIDTH


@dataclass(frozen=True)
class Run:
    """Growth of one row; empty patterns: nothing changes."""

    takes: bytes
    at: int
    unused: bytes = b""
    window: bytes = b""

    def _grown(self, pattern: bytes, steps: int) -> int:
        """What *pattern* sums up to after *steps* steps."""
        if not pattern or not steps:
            return 0
        values = array("H", pattern)
        size = len(values)
        rounds, rest = divmod(steps, size)
        whole = rounds * sum(values) if rounds else 0
        low = self.at - rest + 1  # a step looks one place further down, round and round
        if low >= 0:
            return whole + sum(values[low : self.at + 1])
        return whole + sum(values[: self.at + 1]) + sum(values[low:])

    def part(
        self, row: tuple[int, ...], first: int, end: int, blocks: int, waiting: int | None = None
    ) -> tuple[int, ...]:
        """Steps [*first*, *end*) of *row* (both in the order of ``SEGMENT_ROW``) as a row of their own, with *waiting* in the
        queue; its growth is ``rest(first)``. *blocks* is the size of the pool.
        """
        (
            start, steps, step_ps, growth, decodes, fresh, dropped, context, chunks, chunk_tokens, pairs, cached, reserved, _,
            live, running, waited, preempted, cached_blocks, unused, window, duplicates,
        ) = row  # fmt: skip
        takes = self.takes
        last = reserved + self._grown(takes, end - 1) if takes else reserved
        if first:
            taken = self._grown(takes, first)
            start += first * step_ps + growth * (first * (first - 1) // 2)
            step_ps += growth * first
            context += decodes * first
            live += decodes * first
            fresh = preempted = 0
            evicted = taken - (blocks - reserved - cached_blocks)
            if evicted > 0:
                cached_blocks = cached_blocks - evicted if evicted < cached_blocks else 0
            reserved += taken
            if self.unused:
                unused -= self._grown(self.unused, first)
                window += self._grown(self.window, first)
        if end < steps:
            dropped = 0
        if waiting is None:
            waiting = waited
        return (
            start, end - first, step_ps, growth, decodes, fresh, dropped, context, chunks, chunk_tokens, pairs, cached, reserved,
            last, live, running, waiting, preempted, cached_blocks, unused, window, duplicates,
        )  # fmt: skip

    def moved(self, first: int) -> tuple[bytes, int]:
        """Pattern and place of the steps from *first* on."""
        return self.takes, (self.at - first) % (len(self.takes) // WIDTH)

    def rest(self, first: int) -> list[bytes | int]:
        """Arguments of ``add`` and ``add_parts`` for the steps from *first* on."""
        if not self.takes:
            return []
        return [*self.moved(first), self.unused, self.window] if self.unused else [*self.moved(first)]


def ended_before(row: tuple[int, ...], now_ps: int) -> int:
    """How many steps of *row* have ended at *now_ps*."""
    start, high, first, growth = row[:4]
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        if start + middle * first + growth * (middle * (middle - 1) // 2) <= now_ps:
            low = middle
        else:
            high = middle - 1
    return low
