"""How the KV blocks of a run of decode steps grow, step by step, although nobody walked it.

A run is one row, whatever its length. Between its steps only decodes happen, so the blocks that a step takes follow a
pattern as long as a block: the engine's histogram of where its decodes stand within their blocks. The pattern is kept
beside the row, and from it follow the blocks of any step, in whole numbers, and sums over all steps in closed form.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Mapping
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

    def __init__(self) -> None:
        self.rows = array("q")
        self.length = array("H")
        self.at = array("H")
        self.takes = bytearray()
        self.parts: dict[int, tuple[bytes, bytes]] = {}

    def add(self, row: int, takes: bytes, at: int) -> None:
        """Row number *row* grows by *takes*."""
        self.rows.append(row)
        self.length.append(len(takes) // WIDTH)
        self.at.append(at)
        self.takes += takes

    def add_parts(self, unused: bytes, window: bytes) -> None:
        """The row added last has these parts."""
        self.parts[self.rows[-1]] = (unused, window)

    def pop(self, row: int) -> Run:
        """Take the growth of *row*, the last one, away."""
        if not self.rows or self.rows[-1] != row:
            return Run(b"", 0)
        self.rows.pop()
        size = self.length.pop() * WIDTH
        takes = bytes(self.takes[-size:])
        del self.takes[-size:]
        return Run(takes, self.at.pop(), *self.parts.pop(row, (b"", b"")))

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

    def part(self, row: Mapping[str, int], first: int, end: int, blocks: int) -> dict[str, int]:
        """Steps [*first*, *end*) of *row* as a row of their own; its growth is ``rest(first)``."""
        steps, growth, decodes = row["steps"], row["step_growth_ps"], row["decodes"]
        taken, last = self._grown(self.takes, first), self._grown(self.takes, end - 1)
        plain = blocks - row["reserved_blocks"] - row["cached_blocks"]
        return {
            **row,
            "start_ps": row["start_ps"] + first * row["step_ps"] + growth * (first * (first - 1) // 2),
            "steps": end - first,
            "step_ps": row["step_ps"] + growth * first,
            "fresh": 0 if first else row["fresh"],
            "dropped": row["dropped"] if end == steps else 0,
            "context": row["context"] + decodes * first,
            "reserved_blocks": row["reserved_blocks"] + taken,
            "reserved_blocks_last": row["reserved_blocks"] + last,
            "live_tokens": row["live_tokens"] + decodes * first,
            "preempted": 0 if first else row["preempted"],
            "cached_blocks": max(0, row["cached_blocks"] - max(0, taken - plain)),
            "unused_blocks": row["unused_blocks"] - self._grown(self.unused, first),
            "window_blocks": row["window_blocks"] + self._grown(self.window, first),
        }

    def moved(self, first: int) -> tuple[bytes, int]:
        """Pattern and place of the steps from *first* on."""
        return self.takes, (self.at - first) % (len(self.takes) // WIDTH)

    def rest(self, first: int) -> list[bytes | int]:
        """Arguments of ``add`` and ``add_parts`` for the steps from *first* on."""
        if not self.takes:
            return []
        return [*self.moved(first), self.unused, self.window] if self.unused else [*self.moved(first)]


def ended_before(row: Mapping[str, int], now_ps: int) -> int:
    """How many steps of *row* have ended at *now_ps*."""
    start, first, growth = row["start_ps"], row["step_ps"], row["step_growth_ps"]
    low, high = 0, row["steps"]
    while low < high:
        middle = (low + high + 1) // 2
        if start + middle * first + growth * (middle * (middle - 1) // 2) <= now_ps:
            low = middle
        else:
            high = middle - 1
    return low
