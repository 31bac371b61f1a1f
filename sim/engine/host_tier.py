"""The second tier of the prefix cache: blocks that the GPU gave up, kept in host memory.

A cached block that is handed out again is copied to the host first; the least recently used one makes room. A request
that is admitted takes what the GPU has of its prefix, then what the host has from there on; that is loaded into blocks of
its own. The order is that of vLLM's own offloading manager: the tail of a prefix is older than its head.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.engine.paged_kv import Space
    from sim.engine.request import Request

Key = tuple["Space", int]


class HostTier:
    """Up to *blocks* blocks by their keys, the least recently used first."""

    __slots__ = ("_keys", "blocks")

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self._keys: OrderedDict[Key, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._keys)

    def store(self, key: Key) -> None:
        """The GPU gives the block *key* up."""
        keys = self._keys
        if key in keys:
            keys.move_to_end(key)
            return
        keys[key] = None
        if len(keys) > self.blocks:
            keys.popitem(last=False)

    def found(self, request: Request, first: int, end: int) -> int:
        """How many blocks of *request* are here, one after the other from number *first* on and below *end*."""
        assert request.pieces is not None
        keys, at = self._keys, first
        for lo, hi, space in request.pieces:
            if hi <= at:
                continue
            if lo > at or at >= end:
                break
            stop = min(hi, end)
            while at < stop:
                if (space, at) not in keys:
                    return at - first
                at += 1
        return at - first

    def touch(self, request: Request, first: int, end: int) -> None:
        """Blocks [*first*, *end*) of *request*, all of them here, are used."""
        assert request.pieces is not None
        for lo, hi, space in reversed(request.pieces):
            for index in range(min(hi, end) - 1, max(lo, first) - 1, -1):
                self._keys.move_to_end((space, index))
