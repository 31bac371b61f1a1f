"""Which blocks of common prefixes are held several times over?

Requests with a common prefix, of a group or of a parent, each hold a copy where they were not served by the prefix cache:
always with the cache off, and for the last block of a prompt even with it on. Counted are full blocks that running
requests have computed for themselves, copies beyond the first. A parent's own blocks are not counted as a copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sim.engine.paged_kv import Space
    from sim.engine.request import Request


class Copies:
    """Copies of shared blocks that running requests hold; ``duplicates`` counts those beyond the first."""

    __slots__ = ("_counts", "_own", "duplicates")

    def __init__(self) -> None:
        self.duplicates = 0
        self._counts: dict[Space, tuple[int, int] | NDArray[np.int32]] = {}  # (from, to): each of these blocks once
        self._own: dict[Request, tuple[int, int]] = {}

    def begin(self, request: Request, hit_blocks: int, full_blocks: int) -> None:
        """*request* was admitted: its blocks below *hit_blocks* are others', below *full_blocks* they are full."""
        self._own[request] = (hit_blocks, hit_blocks)
        self.grow(request, full_blocks)

    def grow(self, request: Request, full_blocks: int) -> None:
        """More of the prompt of *request* is computed: its blocks below *full_blocks* are full."""
        lo, hi = self._own[request]
        full = min(full_blocks, request.shared_blocks)
        if full > hi:
            self._count(request, hi, full, 1)
            self._own[request] = (lo, full)

    def drop(self, request: Request) -> None:
        """*request* gave its blocks up."""
        lo, hi = self._own.pop(request)
        if hi > lo:
            self._count(request, lo, hi, -1)

    def leave(self, request: Request) -> None:
        """*request* compressed its cache: it holds nothing of what others hold, and never will again."""
        self.drop(request)
        self._own[request] = (request.shared_blocks, request.shared_blocks)

    def _count(self, request: Request, lo: int, hi: int, change: int) -> None:
        assert request.pieces is not None
        for piece in request.pieces[:-1]:
            first, end = max(lo, piece.lo), min(hi, piece.hi)
            if first >= end:
                continue
            if not self._one_holder(piece.space, first, end, change):
                self._several(piece.space, first, end, change)

    def _one_holder(self, space: Space, first: int, end: int, change: int) -> bool:
        """The same as `_several`, without an array, where nobody else holds blocks of *space*: True; else False."""
        counts = self._counts.get(space)
        if counts is None:
            self._counts[space] = (first, end)
            return True
        if type(counts) is not tuple:
            return False
        begin, last = counts
        if change > 0:
            if first != last:
                return False
            self._counts[space] = (begin, end)
        elif end != last:
            return False
        elif first > begin:
            self._counts[space] = (begin, first)
        else:
            del self._counts[space]
        return True

    def _several(self, space: Space, first: int, end: int, change: int) -> None:
        counts = self._counts[space]
        if isinstance(counts, tuple) or len(counts) < end:
            longer = np.zeros(max(end, counts[1] if isinstance(counts, tuple) else 0), dtype=np.int32)
            if isinstance(counts, tuple):
                longer[counts[0] : counts[1]] = 1
            else:
                longer[: len(counts)] = counts
            self._counts[space] = counts = longer
        part = counts[first:end]
        if change > 0:
            self.duplicates += int(np.count_nonzero(part))
            part += 1
        else:
            part -= 1
            self.duplicates -= int(np.count_nonzero(part))
            if not counts.any():
                del self._counts[space]
