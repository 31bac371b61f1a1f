"""A trace in memory: 15 bytes a row (16 with more than 256 clients), and parts of it in turn.

Gaps to the arrival before, prompt and output tokens, share of reasoning, client; whether a query is alone, a first or a
later turn stands in the two highest bits of its prompt, which no prompt reaches. Whoever wants more of a row (its
arrival in float64, say) goes through the ``chunks``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sim.rng import Streams
from workloads.conversations import COLUMNS, FIRST, Structure

if TYPE_CHECKING:
    import pyarrow as pa

FloatArray = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

CHUNK = 1 << 18
"""Rows that are looked at together."""
_NO_SHARE = 65535
_SHARE_STEPS = 65534
_MOST_CLIENTS = 65_535
_FEW_CLIENTS = 256
_TURN_BITS = 30
"""Bits of a prompt's tokens (at most 10^9)."""
_PROMPT_MASK = np.uint32((1 << _TURN_BITS) - 1)
_GROWS = 1 << 20
_GRID_ROWS = 2_000_000
_COLUMNS = {"gap": np.float32, "asked": np.uint32, "output": np.int32, "share": np.uint16, "client": np.uint8}


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows: arrivals in s, tokens (*reasoning* None where not known), codes of clients."""

    arrived: FloatArray
    prompt: npt.NDArray[np.integer]
    output: npt.NDArray[np.integer]
    reasoning: npt.NDArray[np.integer] | None
    client: npt.NDArray[np.integer]
    turn: npt.NDArray[np.uint8] | None = None


@dataclass
class Held:
    """A trace in memory; ``share`` is 65535 where the split of the output is not known."""

    gap: npt.NDArray[np.float32]
    asked: npt.NDArray[np.uint32]
    """Tokens of the prompt, and above them which turn it is."""
    output: npt.NDArray[np.int32]
    share: npt.NDArray[np.uint16]
    client: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
    names: tuple[str, ...]
    grouped_by: str
    split_known: bool
    structure: Structure | None = None
    has_turns: bool = False
    """Whether any row goes on with another."""

    def __len__(self) -> int:
        return len(self.gap)

    def first(self, rows: int) -> Held:
        """The first so many *rows*."""
        return replace(self, **{name: getattr(self, name)[:rows] for name in _COLUMNS})

    @property
    def arrived(self) -> FloatArray:
        """All arrival times in s; the error of the gaps grows as a ten-millionth of them, at random."""
        return np.cumsum(self.gap, dtype=np.float64)

    @property
    def last_s(self) -> float:
        """The last arrival."""
        return float(self.gap.sum(dtype=np.float64))

    @property
    def first_s(self) -> float:
        """The first arrival."""
        return float(self.gap[0])

    def chunks(self) -> Iterator[Chunk]:
        """All rows in order, a part at a time."""
        begin = 0.0
        for first in range(0, len(self), CHUNK):
            part = slice(first, first + CHUNK)
            arrived = begin + np.cumsum(self.gap[part], dtype=np.float64)
            begin = float(arrived[-1])
            reasoning = self.reasoning_at(part) if self.split_known else None
            turn = self.turn_at(part) if self.has_turns else None
            yield Chunk(arrived, self.prompt_at(part), self.output[part], reasoning, self.client[part], turn)

    def prompt_at(self, rows: Any) -> npt.NDArray[np.int32]:
        """Prompt tokens of *rows*."""
        return np.asarray(self.asked[rows] & _PROMPT_MASK).astype(np.int32)

    def turn_at(self, rows: Any) -> npt.NDArray[np.uint8]:
        """``SINGLE``, ``FIRST`` or ``LATER`` (`workloads.conversations`), for each of *rows*."""
        return np.asarray(self.asked[rows] >> _TURN_BITS).astype(np.uint8)

    def reasoning_at(self, rows: Any) -> npt.NDArray[np.int32]:
        """Reasoning tokens of *rows*, to within a few tokens in a hundred thousand."""
        return np.asarray(np.rint(self.output[rows] * (self.share[rows] / _SHARE_STEPS)), np.int32)

    @staticmethod
    def of(batches: Iterable[pa.RecordBatch]) -> Held:
        """Hold *batches*; rows are grouped by client where they name one, by category otherwise."""
        columns: dict[str, npt.NDArray[Any]] = {name: np.empty(0, kind) for name, kind in _COLUMNS.items()}
        structure: Structure | None = None
        codes: dict[Any, int] = {}
        rows, room, last, grouped, split_known = 0, 0, 0.0, "", True
        for batch in batches:
            size = batch.num_rows
            if not size:
                continue
            names = batch.schema.names
            arrived = batch.column("arrived_at").to_numpy(zero_copy_only=False)
            output = batch.column("num_decode_tokens").to_numpy(zero_copy_only=False)
            if "num_reasoning_tokens" in names:
                thought = batch.column("num_reasoning_tokens").to_numpy(zero_copy_only=False)
                share = np.rint(thought / np.maximum(output, 1) * _SHARE_STEPS)
            else:
                share, split_known = np.full(size, float(_NO_SHARE)), False
            if structure is None and not rows and set(COLUMNS) & set(names):
                structure = Structure()
            grouped = grouped or next((name for name in ("client_id", "category") if name in names), "")
            if rows + size > room:
                room = rows + size + _GROWS
                for column in columns.values():
                    # The memory is grown where it is, not copied.
                    column.resize(room, refcheck=False)
            here = slice(rows, rows + size)
            columns["gap"][here] = np.diff(arrived, prepend=last)
            columns["asked"][here] = batch.column("num_prefill_tokens").to_numpy(zero_copy_only=False)
            columns["output"][here] = output
            columns["share"][here] = share
            client = _codes(batch, grouped, codes)
            if len(codes) > _FEW_CLIENTS and columns["client"].dtype == np.uint8:
                wider = np.empty(room, np.uint16)
                wider[:rows] = columns["client"][:rows]
                columns["client"] = wider
            columns["client"][here] = client
            if structure is not None:
                kinds, firsts = structure.watch(batch, client)
                columns["asked"][here] |= kinds.astype(np.uint32) << _TURN_BITS
                # They were taken for single ones.
                columns["asked"][firsts] |= np.uint32(FIRST << _TURN_BITS)
            last = float(arrived[-1])
            rows += size
        for column in columns.values():
            column.resize(rows, refcheck=False)
        names_of = tuple("none" if name is None else str(name) for name in codes) or ("all",)
        kept: dict[str, Any] = dict(columns)
        return Held(
            **kept,
            names=names_of,
            grouped_by=grouped or "nothing",
            split_known=rows > 0 and split_known,
            structure=structure,
            has_turns=structure is not None and structure.conversations > 0,
        )


def _codes(batch: pa.RecordBatch, name: str, codes: dict[Any, int]) -> npt.NDArray[np.uint16]:
    """Numbers of names by first appearance; beyond 65,535 all new ones share the last."""
    if not name or name not in batch.schema.names:
        if not codes:
            codes["all"] = 0
        return np.zeros(batch.num_rows, np.uint16)
    encoded = batch.column(name).dictionary_encode()
    values = [*encoded.dictionary.to_pylist(), None]
    place = []
    for value in values[: len(values) - (encoded.null_count == 0)]:
        if value not in codes and len(codes) <= _MOST_CLIENTS:
            codes["all others" if len(codes) == _MOST_CLIENTS else value] = len(codes)
        place.append(codes.get(value, _MOST_CLIENTS))
    index = encoded.indices.fill_null(len(values) - 1).to_numpy(zero_copy_only=False)
    return np.asarray(np.asarray(place, np.uint16)[index])


def off_grid(held: Held) -> tuple[Held, str | None]:
    """*held*, its arrivals now spread evenly inside the grid that its clock stands on, and a word about it.

    A coarse clock (3 s in a published trace of Mooncake, 1 s in others) makes bursts of what was none. A
    grid is seen where nearly every gap is a multiple of the most common one, and most gaps are zero, in the first two
    million rows. Others are left as they are. Gaps are written over: a second column would be 4 bytes a row.
    """
    gap = held.gap[1:_GRID_ROWS]
    positive = gap[gap > 0].astype(np.float64)
    if len(gap) < 99 or not len(positive) or len(positive) > 0.5 * len(gap):
        return held, None
    found, often = np.unique(np.round(positive, 3), return_counts=True)
    step = float(found[often.argmax()])
    cells = positive / max(step, 1e-9)
    on = np.abs(cells - np.rint(cells)) < 0.02
    if step < 1e-3 or on.mean() < 0.99 or len(positive) < 10:
        return held, None
    streams = Streams(0)
    origin_s, gaps = held.first_s, held.gap
    written, taken, before = 0, 0, 0.0
    rest = np.empty(0)
    for chunk in held.chunks():
        cell = np.rint((chunk.arrived - origin_s) / step)
        inside = streams.uniforms("off_grid", np.arange(taken, taken + len(cell)))
        taken += len(cell)
        times = np.concatenate([rest, (cell + inside) * step])
        # The last cell may go on in the next part.
        open_from = cell[-1] * step if taken < len(held) else np.inf
        rest, times = times[times >= open_from], np.sort(times[times < open_from])
        gaps[written : written + len(times)] = np.diff(times, prepend=before)
        written += len(times)
        before = float(times[-1]) if len(times) else before
    return held, f"time stamps stand on a grid of {step:g} s: spread evenly inside it"
