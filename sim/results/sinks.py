"""Where the simulation writes its rows: plain tuples of integers in, numpy columns out.

A row costs well under a microsecond (one ``struct`` pack), and 8 bytes a value are held, so a day of
traffic fits in memory. Names are codes here and become names in ``sim.results.tables``; times are
picoseconds, -1 where there is none.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.results.growth import WIDTH, Run, RunGrowth, ended_before
from sim.results.splits import Place, split

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

_PACKED = Struct(f"={len(SEGMENT_ROW) + 2}q")

pack_segment = _PACKED.pack
"""A row as ``SegmentSink.write`` takes it: SEGMENT_ROW, and of the pattern by which it grows (see ``RunGrowth``) the place
where it begins and its length, 0 and 0 where there is none."""

unpack_segment = _PACKED.unpack
"""The reverse of ``pack_segment``."""

_PLACE = Place(*((*SEGMENT_ROW, "at", "length").index(name) for name in Place._fields))

_MANY = 1024
"""Notes of who joined behind a run that are worked in at once."""

_TURNED = 2048
"""Rows that are turned into columns at once: as many as the processor's cache holds."""

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


def columns_of(parts: Sequence[IntArray]) -> list[IntArray]:
    """The columns of *parts*, rows of one width after each other, each an array of its own: who keeps one keeps no other."""
    count = sum(len(part) for part in parts)
    columns = [np.empty(count, dtype=np.int64) for _ in range(parts[0].shape[1])]
    done = 0
    for part in parts:
        for first in range(0, len(part), _TURNED):
            turned = np.array(part[first : first + _TURNED].T, order="C")
            end = done + turned.shape[1]
            for column, values in zip(columns, turned, strict=True):
                column[done:end] = values
            done = end
    return columns


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
        return dict(zip(self.names, columns_of([rows]), strict=True))


class SegmentSink:
    """Segments and stalls of one replica (*pool* and *replica* by number), in order of time.

    >>> sink = SegmentSink(pool=0, replica=0)
    >>> sink.add((0, 3, 10, 1, 4, 0, 0, 400, 0, 0, 0, 0, 28, 28, 404, 4, 0, 0, 0, 0, 0, 0))
    >>> sink.stall(7, 33, 20)
    """

    __slots__ = (
        "_parts",
        "_segments",
        "_splits",
        "_splits_from",
        "_stall_pack",
        "_stalls",
        "_takes",
        "blocks",
        "pool",
        "replica",
        "write",
        "write_pattern",
    )

    def __init__(self, pool: int = 0, replica: int = 0, blocks: int = 0) -> None:
        """*blocks* is the size of the replica's KV pool: it says when free blocks without content run out."""
        self.pool = pool
        self.replica = replica
        self.blocks = blocks
        self._stall_pack = Struct(f"={len(STALL_ROW)}q").pack
        self._stalls = bytearray()
        self._hold(bytearray(), bytearray(), {})

    def _hold(self, segments: bytearray, takes: bytearray, parts: dict[int, tuple[bytes, bytes]]) -> None:
        self._segments = segments
        self._takes = takes
        self._parts = parts
        self._splits: list[tuple[int, int, int]] = []
        self._splits_from = (0, 0)
        """Where the first row with such notes lies: its number, and the place of its pattern."""
        self.write: Callable[[bytes], object] = segments.extend
        """Append a row that `pack_segment` has packed; what it grows by has been written before."""
        self.write_pattern: Callable[[Any], object] = takes.extend
        """Append the pattern (its buffer, two bytes an entry) by which the row that is written next grows."""

    def add(self, row: tuple[int, ...], takes: bytes = b"", at: int = 0) -> None:
        """Append a run of like steps: a tuple in the order of SEGMENT_ROW, and how its blocks grow (see ``RunGrowth``)."""
        self._takes += takes
        self._segments += pack_segment(*row, at, len(takes) // WIDTH)

    def add_reserved(self, row: tuple[int, ...], takes: bytes, at: int, unused: bytes, window: bytes) -> None:
        """The same for a run with reserved blocks or a window: how these two parts change."""
        self._parts[len(self)] = (unused, window)
        self.add(row, takes, at)

    def join(self, joined: Sequence[tuple[int, int]]) -> None:
        """Behind the run that is written next others join the queue: pairs of a step and how many wait from that step on."""
        splits = self._splits
        if len(splits) > _MANY:
            self._split()
        number = len(self._segments) // _PACKED.size
        if not splits:
            self._splits_from = (number, len(self._takes))
        number -= self._splits_from[0]
        splits += [(number, step, waiting) for step, waiting in joined]

    def _split(self) -> None:
        """Make of each run that others joined behind a row for each length of the queue."""
        number, begin = self._splits_from
        at, splits, self._splits[:] = number * _PACKED.size, self._splits.copy(), []
        rows = np.frombuffer(self._segments[at:], dtype=np.int64).reshape(-1, len(SEGMENT_ROW) + 2)
        takes = np.frombuffer(self._takes[begin:], dtype=np.uint16)
        parts = {row - number: self._parts.pop(row) for row in range(number, len(self)) if row in self._parts}
        rows, takes, parts = split(rows, takes, parts, splits, _PLACE, self.blocks)
        self._segments[at:] = rows.data.cast("B")
        self._takes[begin:] = takes.data.cast("B")
        self._parts |= {row + number: part for row, part in parts.items()}

    def growth(self) -> RunGrowth:
        """How the blocks of the rows of several steps grow."""
        at, length = self._packed()[:, len(SEGMENT_ROW) :].T
        rows = np.flatnonzero(length)
        return RunGrowth(
            array("q", rows.astype(np.int64).tobytes()),
            array("H", length[rows].astype(np.uint16).tobytes()),
            array("H", at[rows].astype(np.uint16).tobytes()),
            self._takes,
            self._parts,
        )

    def _packed(self) -> IntArray:
        if self._splits:
            self._split()
        return np.frombuffer(self._segments, dtype=np.int64).reshape(-1, len(SEGMENT_ROW) + 2)

    def stall(self, request: int, at_ps: int, gap_ps: int) -> None:
        """Token of *request* at *at_ps* came *gap_ps* after the one before: the request had skipped steps."""
        self._stalls += self._stall_pack(request, at_ps, gap_ps)

    def lose(self, now_ps: int) -> None:
        """The replica was lost at *now_ps*: tokens of steps that had not ended then never came.

        Such steps become rows of their own, whose decodes are dropped; stalls that such tokens would have ended are none.
        """
        if self._splits:
            self._split()
        stalls = self.stalls()
        seen = stalls[:, STALL_ROW.index("at_ps")] <= now_ps  # fast-forward writes them ahead of their time
        if not seen.all():
            self._stalls = bytearray(stalls[seen].tobytes())
        size = _PACKED.size
        kept: list[tuple[tuple[int, ...], list[Any]]] = []
        while self._segments:
            *values, at, length = unpack_segment(self._segments[-size:])
            row = tuple(values)
            start, steps, first, growth = row[:4]
            if start + steps * first + growth * (steps * (steps - 1) // 2) <= now_ps:
                break
            del self._segments[-size:]
            begin = len(self._takes) - length * WIDTH
            run = Run(bytes(self._takes[begin:]), at, *self._parts.pop(len(self), (b"", b"")))
            del self._takes[begin:]
            done = ended_before(row, now_ps)
            for index in range(steps - 1, done - 1, -1):
                late = dict(zip(SEGMENT_ROW, run.part(row, index, index + 1, self.blocks), strict=True))
                late["dropped"] = late["decodes"] - late["fresh"]
                kept.append((tuple(late.values()), []))
            if done:
                kept.append((run.part(row, 0, done, self.blocks), run.rest(0)))
        for part, growth_of in reversed(kept):
            if len(growth_of) > 2:
                self.add_reserved(part, *growth_of)
            else:
                self.add(part, *growth_of)

    def packed(self) -> tuple[Any, ...]:
        """All that was added, as the sink of the same replica in another process takes it."""
        if self._splits:
            self._split()
        return self._stalls, self._segments, self._takes, self._parts

    def restore(self, packed: tuple[Any, ...]) -> None:
        """Hold what was *packed* elsewhere, and nothing else."""
        self._stalls = packed[0]
        self._hold(*packed[1:])

    def forget_segments(self) -> None:
        """Let go of all segments: they stand in a table now. (Emptied, since an engine that still is there writes to them.)"""
        self._splits.clear()
        self._segments.clear()
        self._takes.clear()
        self._parts.clear()

    def __len__(self) -> int:
        return len(self._segments) // _PACKED.size

    def segments(self) -> IntArray:
        """All segments so far: one row each, columns as in SEGMENT_ROW. They are read where they lie: nothing can be added
        while somebody holds them."""
        return self._packed()[:, : len(SEGMENT_ROW)]

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

    __slots__ = ("take",)

    def __init__(self) -> None:
        super().__init__(REQUEST_ROW)
        # NOTE: a written-out call takes a third of what operator.attrgetter does
        fields = [f"request.{name}" for name in REQUEST_ROW]
        self.take: Callable[[Any], object] = eval(  # our own names, above
            f"lambda request: write(pack({', '.join(fields)}))", {"pack": self._pack, "write": self._buffer.extend}
        )
        """Append the row of a request."""

    def take_all(self, requests: Iterable[Any]) -> None:
        """Append the rows of all *requests*."""
        for request in requests:
            self.take(request)
