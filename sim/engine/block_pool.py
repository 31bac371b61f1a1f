"""The same KV pool block by block, as vLLM keeps it: the oracle of ``paged_kv.py``.

Blocks are numbers, the free list is an ordered dictionary (front = next to be handed out), every full block has its key.
Slow and obvious; used by the stepwise engine only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from sim.engine.paged_kv import PagedKv, Space

if TYPE_CHECKING:
    from sim.engine.host_tier import HostTier
    from sim.engine.request import Request

Key = tuple[Space, int]
_NEVER = 1 << 60


class BlockPool:
    """A replica's KV pool with real block tables; same interface as :class:`PagedKv`."""

    def __init__(
        self, usable_blocks: int, block_size: int, *, caching: bool, committed: Callable[[Request], int]
    ) -> None:
        self.total = usable_blocks
        self.block_size = block_size
        self.caching = caching
        self._committed = committed
        self.host: HostTier | None = None
        self.cached = 0
        """Blocks without a reference that have a hash."""
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, usable_blocks + 1))
        self._references = [0] * (usable_blocks + 1)
        self._key: list[Key | None] = [None] * (usable_blocks + 1)
        self._cached: dict[Key, list[int]] = {}
        self._keys = PagedKv(0, block_size, caching=caching, committed=committed)

    @property
    def free(self) -> int:
        """Blocks without a reference."""
        return len(self._free)

    def enter(self, request: Request) -> None:
        """Give *request* its keys."""
        self._keys.enter(request)

    def _key_of(self, request: Request, index: int) -> Key:
        assert request.pieces is not None
        for lo, hi, space in request.pieces:
            if lo <= index < hi:
                return (space, index)
        raise AssertionError("every block has a piece")

    def lookup(self, request: Request) -> tuple[list[int], int]:
        """Cached blocks that hold the longest prefix of *request*, and their number."""
        found: list[int] = []
        until = min(request.known, request.point) if request.point else request.known
        until = request.lasting(until)
        for index in range((until - 1) // self.block_size):
            copies = self._cached.get(self._key_of(request, index))
            if not copies:
                break
            found.append(copies[0])
        return found, len(found)

    @staticmethod
    def finds_unheld(request: Request) -> bool:
        """See :meth:`PagedKv.finds_unheld`; here it is always looked."""
        return False

    def revived(self, hits: list[int]) -> int:
        """How many of *hits* have no reference now."""
        return sum(self._references[block] == 0 for block in hits)

    def admit(self, request: Request, hits: list[int], hit_blocks: int, new_blocks: int) -> None:
        """Give *request* a table: *hits*, then *new_blocks* from the free list."""
        for block in hits:
            if self._references[block] == 0:
                del self._free[block]
                self.cached -= 1
            self._references[block] += 1
        request.table = list(hits)
        request.registered = hit_blocks
        self.extend(request, new_blocks)

    def extend(self, request: Request, blocks: int) -> None:
        """Append *blocks* from the front of the free list to the request's table; a cached one loses its hash."""
        assert request.table is not None
        for _ in range(blocks):
            block, _none = self._free.popitem(last=False)
            key = self._key[block]
            if key is not None:
                self.cached -= 1
                if self.host is not None:
                    self.host.store(key)
                self._key[block] = None
                copies = self._cached[key]
                copies.remove(block)
                if not copies:
                    del self._cached[key]
            self._references[block] = 1
            request.table.append(block)

    def register(self, request: Request, upto: int) -> None:
        """Give the request's full blocks below *upto* their hashes."""
        if not self.caching:
            return
        assert request.table is not None
        upto = request.lasting(upto * self.block_size) // self.block_size
        for index in range(request.registered, upto):
            key = self._key_of(request, index)
            self._key[request.table[index]] = key
            self._cached.setdefault(key, []).append(request.table[index])
        request.registered = max(request.registered, upto)

    def release(self, request: Request, blocks: int, committed: int) -> None:
        """Give the table back, tail first: blocks without a hash to the front, cached ones to the back."""
        self.register(request, committed // self.block_size)
        assert request.table is not None
        assert len(request.table) == blocks
        freed = []
        for block in reversed(request.table):
            self._references[block] -= 1
            if self._references[block] == 0:
                freed.append(block)
        plain = [block for block in freed if self._key[block] is None]
        for block in reversed(plain):
            self._free[block] = None
            self._free.move_to_end(block, last=False)
        for block in freed:
            if self._key[block] is not None:
                self._free[block] = None
                self.cached += 1
        request.table = None

    def releasable(self, request: Request, blocks: int) -> int:
        """How many of its *blocks* nobody else holds."""
        assert request.table is not None
        return sum(self._references[block] == 1 for block in request.table)

    def compact(self, request: Request, blocks: int, kept_blocks: int, committed: int) -> None:
        """Give the table of *blocks* back and take *kept_blocks*, which never get a hash."""
        self.release(request, blocks, committed)
        request.table = []
        self.extend(request, kept_blocks)
        request.registered = _NEVER

    def shrink(self, request: Request, blocks: int) -> None:
        """Give the last *blocks* of the table back, which have no hash, to the front of the free list."""
        assert request.table is not None
        for _ in range(blocks):
            block = request.table.pop()
            assert self._key[block] is None
            assert self._references[block] == 1
            self._references[block] = 0
            self._free[block] = None
            self._free.move_to_end(block, last=False)

    def check(self, held: int) -> None:
        """Raise AssertionError unless references, free list and *held* agree."""
        assert sum(count > 0 for count in self._references) == held
        assert len(self._free) + held == self.total
