"""The paged KV pool with vLLM's prefix cache, exact, without representing a single block.

vLLM keeps free blocks in a list: blocks without a hash at the front, cached ones behind them in the order in which they
were given back, a request's tail before its head. Only *how many* blocks are taken matters, never who takes which, so the
list is a counter of blocks without a hash followed by a queue of extents of cached blocks, each consumed from its end. A
request's table is what it hit plus its own blocks; how many of these are full, and so registered in the prefix cache, is a
function of its computed tokens: decoding registers nothing until somebody looks. An operation costs O(extents touched),
whatever the number of tokens. ``block_pool.py`` does the same block by block; both must agree.

The rules are those of vLLM 0.33 (v1/core/block_pool.py, kv_cache_manager.py, single_type_kv_cache_manager.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from sim.engine.host_tier import HostTier
    from sim.engine.request import Request

Range = tuple[int, int]


class Space:
    """Key space of the prefix cache: the blocks of one shared prefix, or of one request's own tokens.

    ``runs`` are the cached stretches in order of registration; ``owner`` is the request whose decoding registers blocks
    here, None for a shared prefix.
    """

    __slots__ = ("owner", "runs")

    def __init__(self, owner: Request | None) -> None:
        self.owner = owner
        self.runs: list[Run] = []


class Piece(NamedTuple):
    """Blocks [lo, hi) of a request have their keys in *space*."""

    lo: int
    hi: int
    space: Space


class Run:
    """Blocks [lo, hi) of *tenure*, registered in *space* and still cached."""

    __slots__ = ("hi", "lo", "space", "tenure")

    def __init__(self, tenure: Tenure, space: Space, lo: int, hi: int) -> None:
        self.tenure = tenure
        self.space = space
        self.lo = lo
        self.hi = hi


class Tenure:
    """One admission of one request: owner of the blocks [lo, …) that it allocated itself.

    ``holders`` are the stretches referenced by later requests, ``freed`` the stretches waiting in the free queue.
    """

    __slots__ = ("alive", "freed", "hits", "holders", "lo", "registered", "runs")

    def __init__(self, lo: int, hits: list[Hit]) -> None:
        self.lo = self.registered = lo
        self.alive = True
        self.hits = hits
        self.holders: list[Range] = []
        self.freed: list[list[Range]] = []
        self.runs: list[Run] = []

    def unheld(self, lo: int, hi: int) -> list[Range]:
        """Parts of [lo, hi) without a reference, ascending."""
        if self.alive or lo >= hi:
            return []
        parts = [(lo, hi)]
        for held_lo, held_hi in self.holders:
            if held_lo <= lo and held_hi >= hi:
                return []
            rest: list[Range] = []
            for a, b in parts:
                if held_hi <= a or held_lo >= b:
                    rest.append((a, b))
                    continue
                if a < held_lo:
                    rest.append((a, held_lo))
                if held_hi < b:
                    rest.append((held_hi, b))
            parts = rest
            if not parts:
                return []
        return parts


class Hit(NamedTuple):
    """Cached blocks [lo, hi) of *tenure* that a request reuses."""

    tenure: Tenure
    lo: int
    hi: int


class PagedKv:
    """A replica's KV pool; ``free`` counts blocks without a reference, cached ones included.

    *committed* answers how many tokens of a running request are computed and known, that is, how far its full blocks are
    registered by now.
    """

    def __init__(
        self, usable_blocks: int, block_size: int, *, caching: bool, committed: Callable[[Request], int]
    ) -> None:
        self.total = self.free = usable_blocks
        self.block_size = block_size
        self.caching = caching
        self.host: HostTier | None = None
        self._committed = committed
        self._unhashed = usable_blocks
        self._queue: deque[tuple[Tenure, list[Range]]] = deque()
        self._shared: dict[Any, Space] = {}

    @property
    def cached(self) -> int:
        """Blocks without a reference that have a hash."""
        return self.free - self._unhashed

    # ------------------------------------------------------------------ keys

    def enter(self, request: Request) -> None:
        """Give *request* its keys; called once, when it joins this replica."""
        cut = request.prefix_len // self.block_size
        if not self.caching:
            if cut > 0:
                self._enter_uncached(request, cut)
            return
        request.space = Space(request)
        if cut <= 0:
            request._kin = False
            request.pieces = [Piece(0, _END, request.space)]
            return
        pieces: list[Piece] = []
        if cut > 0:
            parent = request.parent
            if parent is not None:
                if parent.pieces is not None and parent.owner is request.owner:
                    pieces = [Piece(p.lo, min(p.hi, cut), p.space) for p in parent.pieces if p.lo < cut]
                else:
                    cut = 0
            elif request.prefix_group is not None:
                space = self._shared.get(request.prefix_group)
                if space is None:
                    space = self._shared[request.prefix_group] = Space(None)
                pieces = [Piece(0, cut, space)]
            else:
                cut = 0
        request._kin = any(piece.space.owner is not None for piece in pieces)
        pieces.append(Piece(cut, _END, request.space))
        request.pieces = pieces
        request.shared_blocks = cut

    def _enter_uncached(self, request: Request, cut: int) -> None:
        """Nothing is ever found, but what is held several times over is counted."""
        parent = request.parent
        if parent is not None:
            if parent.owner is not request.owner:
                return
            if parent.pieces is None:
                parent.pieces = [Piece(0, _END, Space(None))]
            pieces = [Piece(p.lo, min(p.hi, cut), p.space) for p in parent.pieces if p.lo < cut]
        elif request.prefix_group is not None:
            pieces = [Piece(0, cut, self._shared.setdefault(request.prefix_group, Space(None)))]
        else:
            return
        request.pieces = [*pieces, Piece(cut, _END, Space(None))]
        request.shared_blocks = cut

    def lookup(self, request: Request) -> tuple[list[Hit], int]:
        """The longest cached prefix: what to reuse, and how many blocks. At least one token is left to compute."""
        hits: list[Hit] = []
        pieces = request.pieces
        assert pieces is not None
        if len(pieces) == 1 and not pieces[0].space.runs:
            return hits, 0  # nothing of a prompt of its own is cached
        until = request.known
        if request.point:
            until = min(until, request.point)  # where its cache will be compressed
            until = request.lasting(until)
        top = (until - 1) // self.block_size
        at = 0
        for _, hi, space in pieces:
            end = min(hi, top)
            if at >= end:
                break
            owner = space.owner
            if owner is not None and owner.running:
                self.register(owner, self._committed(owner) // self.block_size)
            while at < end:
                stop = end
                for run in space.runs:  # in order of registration: the first that covers the block is the oldest
                    if run.lo <= at < run.hi:
                        break
                    if at < run.lo < stop:
                        stop = run.lo  # an older copy starts here
                else:
                    return hits, at
                stop = min(stop, run.hi)
                if hits and hits[-1].tenure is run.tenure:
                    hits[-1] = Hit(run.tenure, hits[-1].lo, stop)
                else:
                    hits.append(Hit(run.tenure, at, stop))
                at = stop
        return hits, at

    @staticmethod
    def finds_unheld(request: Request) -> bool:
        """Whether nothing that `lookup` may find for *request*, which waits, has a reference: then it needs as many blocks as
        if it found nothing, since each one that it finds is taken from the free list.
        """
        space = request.space
        if request.shared_blocks or space is None:
            return False
        # A child may have computed blocks of this space itself.
        for run in space.runs:  # noqa: SIM110  (a loop, for performance reasons)
            if run.tenure.alive or run.tenure.holders:
                return False
        return True

    def revived(self, hits: list[Hit]) -> int:
        """How many of the blocks in *hits* have no reference now: reusing them takes them from the free list."""
        return sum(b - a for tenure, lo, hi in hits for a, b in tenure.unheld(lo, hi))

    # ------------------------------------------------------------------ blocks

    def admit(self, request: Request, hits: list[Hit], hit_blocks: int, new_blocks: int) -> None:
        """Begin a tenure: reference *hits*, then take *new_blocks*."""
        if self.caching:
            for tenure, lo, hi in hits:
                for a, b in tenure.unheld(lo, hi):
                    self._revive(tenure, a, b)
                tenure.holders.append((lo, hi))
            request.tenure = Tenure(hit_blocks, hits)
        elif new_blocks <= self._unhashed:  # NOTE: inlined from take() for performance reasons
            self._unhashed -= new_blocks
            self.free -= new_blocks
            return
        self.take(new_blocks)

    def _revive(self, tenure: Tenure, lo: int, hi: int) -> None:
        self.free -= hi - lo
        for extent in tenure.freed[:]:
            if extent[0][0] < hi and extent[-1][1] > lo:
                rest: list[Range] = []
                for a, b in extent:
                    if b <= lo or a >= hi:
                        rest.append((a, b))
                        continue
                    if a < lo:
                        rest.append((a, lo))
                    if hi < b:
                        rest.append((hi, b))
                extent[:] = rest  # the queue holds the same list; an empty one is skipped there
                if not rest:
                    tenure.freed.remove(extent)

    def take(self, blocks: int) -> None:
        """Take *blocks* from the front of the free list; cached ones are evicted."""
        self.free -= blocks
        if blocks <= self._unhashed:
            self._unhashed -= blocks
            return
        blocks -= self._unhashed
        self._unhashed = 0
        queue = self._queue
        while blocks:
            tenure, extent = queue[0]
            if not extent:
                queue.popleft()
                continue
            lo, hi = extent[-1]
            if hi - lo <= blocks:
                extent.pop()
                start = lo
            else:
                start = hi - blocks
                extent[-1] = (lo, start)
            blocks -= hi - start
            if self.host is not None:
                self._offload(tenure, start, hi, self.host)
            # NOTE: the two usual cases of _forget() inlined for performance reasons
            runs = tenure.runs
            run = runs[0]
            if len(runs) > 1 or run.hi != hi or run.lo > start:
                self._forget(tenure, start, hi)
            elif run.lo < start:
                run.hi = start
            else:
                del runs[0]
                run.space.runs.remove(run)
            if not extent:
                queue.popleft()
                tenure.freed.remove(extent)

    @staticmethod
    def _offload(tenure: Tenure, lo: int, hi: int, host: HostTier) -> None:
        """The blocks [lo, hi) of *tenure* go to the host, the last one first."""
        for run in sorted(tenure.runs, key=lambda run: -run.lo):
            for index in range(min(hi, run.hi) - 1, max(lo, run.lo) - 1, -1):
                host.store((run.space, index))

    def extend(self, request: Request, blocks: int) -> None:
        """Take *blocks* more for *request*; whose they are does not matter here."""
        if blocks:
            self.take(blocks)

    def _forget(self, tenure: Tenure, lo: int, hi: int) -> None:
        """Drop the hashes of [lo, hi): these blocks were handed out again."""
        for run in tenure.runs[:]:
            if run.hi <= lo or run.lo >= hi:
                continue
            left, right = run.lo < lo, run.hi > hi
            if left and right:
                top = Run(tenure, run.space, hi, run.hi)
                run.hi = lo
                tenure.runs.append(top)
                runs = run.space.runs
                runs.insert(runs.index(run) + 1, top)
            elif left:
                run.hi = lo
            elif right:
                run.lo = hi
            else:
                tenure.runs.remove(run)
                run.space.runs.remove(run)

    def register(self, request: Request, upto: int) -> None:
        """Register the request's full blocks below *upto* in the prefix cache."""
        if not self.caching:
            return
        tenure = request.tenure
        if tenure is None:
            return  # compressed: its blocks have no hash
        if request.looks is not None:
            upto = request.lasting(upto * self.block_size) // self.block_size
        at = tenure.registered
        if upto <= at:
            return
        pieces = request.pieces
        assert pieces is not None
        if len(pieces) == 1 and len(tenure.runs) == 1 and pieces[0].space.runs[-1] is tenure.runs[0]:
            run = tenure.runs[0]
            if run.hi == at:  # it only grows
                run.hi = tenure.registered = upto
                return
        for _, hi, space in pieces:
            if hi <= at:
                continue
            owner = space.owner
            if owner is not None and owner is not request and owner.running:
                self.register(owner, self._committed(owner) // self.block_size)
            end = min(hi, upto)
            last = space.runs[-1] if space.runs else None
            if last is not None and last.tenure is tenure and last.hi == at:
                last.hi = end
            else:
                run = Run(tenure, space, at, end)
                space.runs.append(run)
                tenure.runs.append(run)
            at = end
            if at >= upto:
                break
        tenure.registered = upto

    def release(self, request: Request, blocks: int, committed: int) -> None:
        """End the tenure of a request that holds *blocks* and has *committed* tokens computed and known; its full blocks
        stay cached.

        Freed tail first: blocks without a hash to the front of the free list, cached ones to its back.
        """
        tenure = request.tenure
        if tenure is None:  # no prefix cache, or compressed
            self._unhashed += blocks
            self.free += blocks
            return
        if request.looks is not None:
            committed = request.lasting(committed)
        full = committed // self.block_size
        if full > tenure.registered:
            self.register(request, full)
        else:
            full = tenure.registered
        tenure.alive = False
        request.tenure = None
        lo = tenure.lo
        plain = blocks - (full if full > lo else lo)
        if plain > 0:
            self._unhashed += plain
            self.free += plain
        if tenure.holders:
            self._give_back(tenure, tenure.unheld(lo, full))
        elif full > lo:
            parts = [(lo, full)]
            self._queue.append((tenure, parts))
            tenure.freed.append(parts)
            self.free += full - lo
        for owner, lo, hi in reversed(tenure.hits):
            owner.holders.remove((lo, hi))
            self._give_back(owner, owner.unheld(lo, hi))
        tenure.hits = []

    def releasable(self, request: Request, blocks: int) -> int:
        """How many of its *blocks* nobody else holds."""
        tenure = request.tenure
        if tenure is None:
            return blocks
        tenure.alive = False
        found = tenure.unheld(tenure.lo, blocks)
        tenure.alive = True
        for owner, lo, hi in tenure.hits:
            owner.holders.remove((lo, hi))
            found = [*found, *owner.unheld(lo, hi)]
            owner.holders.append((lo, hi))
        return sum(hi - lo for lo, hi in found)

    def compact(self, request: Request, blocks: int, kept_blocks: int, committed: int) -> None:
        """End the tenure of a request that goes on with *kept_blocks* of its own, which never get a hash."""
        self.release(request, blocks, committed)
        self.take(kept_blocks)

    def shrink(self, request: Request, blocks: int) -> None:
        """Give the last *blocks* of *request* back, which have no hash."""
        self._unhashed += blocks
        self.free += blocks

    def _give_back(self, tenure: Tenure, parts: list[Range]) -> None:
        if parts:
            self._queue.append((tenure, parts))
            tenure.freed.append(parts)
            self.free += sum(b - a for a, b in parts)

    # ------------------------------------------------------------------ laws

    def check(self, held: int) -> None:
        """Raise AssertionError unless free and held blocks make up the pool and the queue agrees with ``free``."""
        queued = sum(b - a for _, extent in self._queue for a, b in extent)
        assert self._unhashed + queued == self.free, (self._unhashed, queued, self.free)
        assert self.free + held == self.total, (self.free, held, self.total)


_END = 1 << 60
