"""Where the simulation writes its rows: plain tuples of integers in, numpy columns out.

A row costs well under a microsecond (one ``struct`` pack), and 8 bytes a value are held, so a day of
traffic fits in memory. Names are codes here and become names in ``sim.results.tables``; times are
picoseconds, -1 where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.results.growth import WIDTH, RunGrowth, ended_before

IntArray = NDArray[np.int64]

SEGMENT_ROW = (
    "start_ps",
    "steps",
    "step_ps",
    "step_growth_ps",
    "decodes",
    "fresh",
    "dropped",
    "context",
    "chunks",
    "chunk_tokens",
    "pairs",
    "cached",
    "reserved_blocks",
    "reserved_blocks_last",
    "live_tokens",
    "running",
    "waiting",
    "preempted",
    "cached_blocks",
    "unused_blocks",
    "window_blocks",
    "duplicate_blocks",
)
"""What ``SegmentSink.add`` takes, in this order; see ``columns.SEGMENTS``. End and kind follow from it."""

_SEGMENT_BYTES = 8 * len(SEGMENT_ROW)

STALL_ROW = ("request", "at_ps", "gap_ps")

REQUEST_ROW = (
    "id",
    "query",
    "sample",
    "role",
    "pool",
    "replica",
    "category",
    "client",
    "priority",
    "arrived_ps",
    "first_scheduled_ps",
    "first_token_ps",
    "first_answer_ps",
    "finished_ps",
    "status",
    "prompt_tokens",
    "max_tokens",
    "reasoning_tokens",
    "generated",
    "output_tokens",
    "preemptions",
    "cached_tokens_first",
    "cached_tokens",
    "scheduled_tokens",
    "steps",
    "recomputed_tokens",
    "dropped_tokens",
    "truncated",
    "transferred_tokens",
    "kv_arrived_ps",
    "host_tokens",
    "probe_tokens",
)
"""Attributes of a request that become its row. ``role`` and ``status`` are Role and Status (or their
codes), ``pool``, ``category`` and ``client`` positions in ``RunInfo.pools``, ``categories`` and ``clients``
(-1: none); ``reasoning_tokens`` is the natural length: of ``generated`` tokens the first
``reasoning_tokens`` are reasoning, the rest is answer."""

QUERY_ROW = (
    "query",
    "category",
    "client",
    "arrived_ps",
    "finished_ps",
    "first_answer_ps",
    "status",
    "requests",
    "retries",
    "pool",
    "prompt_tokens",
    "reasoning_tokens",
    "answer_tokens",
    "verification_tokens",
    "truncated",
)
"""What ``RowSink(QUERY_ROW).add`` takes, in this order. ``first_answer_ps`` is -1 where there is none."""


class RowSink:
    """Rows of 64-bit integers, one for each name in *names*."""

    __slots__ = ("_buffer", "_pack", "names")

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._pack = Struct(f"={len(names)}q").pack
        self._buffer = bytearray()

    def add(self, row: tuple[int, ...]) -> None:
        """Append *row*; raise a struct.error when it has another length or holds something that is no
        64-bit integer."""
        self._buffer += self._pack(*row)

    def __len__(self) -> int:
        return len(self._buffer) // (8 * len(self.names))

    def packed(self) -> bytearray:
        """All rows so far, as another sink of these names takes them."""
        return self._buffer

    def add_packed(self, rows: bytearray) -> None:
        """Append the rows of another sink."""
        self._buffer += rows

    def columns(self) -> dict[str, IntArray]:
        """All rows so far, a column a name."""
        rows = np.frombuffer(self._buffer, dtype=np.int64).reshape(-1, len(self.names))
        return {name: np.ascontiguousarray(rows[:, i]) for i, name in enumerate(self.names)}


class SegmentSink:
    """Segments and stalls of one replica (*pool* and *replica* by number), in order of time.

    >>> sink = SegmentSink(pool=0, replica=0)
    >>> sink.add((0, 3, 10, 1, 4, 0, 0, 400, 0, 0, 0, 0, 28, 28, 404, 4, 0, 0, 0, 0, 0, 0))
    >>> sink.stall(7, 33, 20)
    """

    __slots__ = (
        "_grows",
        "_pack",
        "_segments",
        "_stall_pack",
        "_stalls",
        "_unpack",
        "blocks",
        "pool",
        "replica",
    )

    def __init__(self, pool: int = 0, replica: int = 0, blocks: int = 0) -> None:
        """*blocks* is the size of the replica's KV pool: it says when free blocks without content run out."""
        self.pool = pool
        self.replica = replica
        self.blocks = blocks
        self._grows = RunGrowth()
        packed = Struct(f"={len(SEGMENT_ROW)}q")
        self._pack, self._unpack = packed.pack, packed.unpack
        self._stall_pack = Struct(f"={len(STALL_ROW)}q").pack
        self._segments = bytearray()
        self._stalls = bytearray()

    def add(self, row: tuple[int, ...], takes: bytes = b"", at: int = 0) -> None:
        """Append a run of like steps: a tuple in the order of SEGMENT_ROW, and how its blocks grow (see ``RunGrowth``)."""
        segments = self._segments
        if takes:
            # NOTE: inlined from RunGrowth.add() for performance reasons
            grows = self._grows
            grows.rows.append(len(segments) // _SEGMENT_BYTES)
            grows.length.append(len(takes) // WIDTH)
            grows.at.append(at)
            grows.takes += takes
        segments += self._pack(*row)

    def add_reserved(self, row: tuple[int, ...], takes: bytes, at: int, unused: bytes, window: bytes) -> None:
        """The same for a run with reserved blocks or a window: how these two parts change."""
        self.add(row, takes, at)
        self._grows.add_parts(unused, window)

    def growth(self) -> RunGrowth:
        """How the blocks of the rows of several steps grow."""
        return self._grows

    def stall(self, request: int, at_ps: int, gap_ps: int) -> None:
        """Token of *request* at *at_ps* came *gap_ps* after the one before: the request had skipped steps."""
        self._stalls += self._stall_pack(request, at_ps, gap_ps)

    def lose(self, now_ps: int) -> None:
        """The replica was lost at *now_ps*: tokens of steps that had not ended then never came.

        Such steps become rows of their own, whose decodes are dropped; stalls that such tokens would have ended are none.
        """
        stalls = self.stalls()
        seen = stalls[:, STALL_ROW.index("at_ps")] <= now_ps  # fast-forward writes them ahead of their time
        if not seen.all():
            self._stalls = bytearray(stalls[seen].tobytes())
        size = _SEGMENT_BYTES
        kept: list[tuple[tuple[int, ...], list[Any]]] = []
        while self._segments:
            row = self._unpack(self._segments[-size:])
            start, steps, first, growth = row[:4]
            if start + steps * first + growth * (steps * (steps - 1) // 2) <= now_ps:
                break
            del self._segments[-size:]
            run = self._grows.pop(len(self))
            done = ended_before(row, now_ps)
            for index in range(steps - 1, done - 1, -1):
                late = dict(zip(SEGMENT_ROW, run.part(row, index, index + 1, self.blocks), strict=True))
                late["dropped"] = late["decodes"] - late["fresh"]
                kept.append((tuple(late.values()), []))
            if done:
                kept.append((run.part(row, 0, done, self.blocks), run.rest(0)))
        for values, growth_of in reversed(kept):
            self.add(values, *growth_of[:2])
            if len(growth_of) > 2:
                self._grows.add_parts(*growth_of[2:])

    def packed(self) -> tuple[bytearray, bytearray, RunGrowth]:
        """All that was added, as the sink of the same replica in another process takes it."""
        return self._segments, self._stalls, self._grows

    def restore(self, packed: tuple[bytearray, bytearray, RunGrowth]) -> None:
        """Hold what was *packed* elsewhere, and nothing else."""
        self._segments, self._stalls, self._grows = packed

    def forget_segments(self) -> None:
        """Let go of all segments: they stand in a table now."""
        self._segments, self._grows = bytearray(), RunGrowth()

    def __len__(self) -> int:
        return len(self._segments) // _SEGMENT_BYTES

    def segments(self) -> IntArray:
        """All segments so far: one row each, columns as in SEGMENT_ROW. They are read where they lie: nothing can be added
        while somebody holds them."""
        return np.frombuffer(self._segments, dtype=np.int64).reshape(-1, len(SEGMENT_ROW))

    def fullest(self) -> tuple[int, int]:
        """The most decodes, and the most decodes and chunk tokens, of one step so far."""
        rows = self.segments()
        decodes = rows[:, SEGMENT_ROW.index("decodes")]
        tokens = decodes + rows[:, SEGMENT_ROW.index("chunk_tokens")]
        return int(decodes.max(initial=0)), int(tokens.max(initial=0))

    def stalls(self) -> IntArray:
        """All stalls so far: one row each, columns as in STALL_ROW."""
        return np.frombuffer(bytes(self._stalls), dtype=np.int64).reshape(-1, len(STALL_ROW))


class RequestSink(RowSink):
    """Rows taken from request objects by their attributes (REQUEST_ROW), when each has ended or the run
    has."""

    __slots__ = ("_read",)

    def __init__(self) -> None:
        super().__init__(REQUEST_ROW)
        # NOTE: a written-out call takes a third of what operator.attrgetter does
        fields = [f"request.{name}" for name in REQUEST_ROW]
        self._read: Callable[[Any], bytes] = eval(  # our own names, above
            f"lambda request: pack({', '.join(fields)})", {"pack": self._pack}
        )

    def take(self, request: Any) -> None:
        """Append the row of *request*."""
        self._buffer += self._read(request)

    def take_all(self, requests: Iterable[Any]) -> None:
        """Append the rows of all *requests*."""
        for request in requests:
            self.take(request)
