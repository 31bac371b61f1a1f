"""Traces turned into other traces, batch by batch: scaled, cut, put one after another or on top of each
other.

Everything here takes and gives iterators of record batches in our columns and keeps a bounded number of
rows; only rows that refer to parents need 8 bytes each more.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from workloads.formats.columns import MISSING, TEXTS

if TYPE_CHECKING:
    import pyarrow as pa

    Batches = Iterable[pa.RecordBatch]
    Open = Callable[[], Iterator[pa.RecordBatch]]


@dataclass(frozen=True)
class Extent:
    """How many rows a trace has, and when the first and the last of them arrive, in s."""

    rows: int
    first_s: float
    last_s: float

    @property
    def rate(self) -> float:
        """Arrivals per second between the first and the last; infinite for a burst."""
        seconds = self.last_s - self.first_s
        return (self.rows - 1) / seconds if seconds > 0 else float("inf")


def extent(batches: Batches) -> Extent:
    """The extent of a trace, in one pass."""
    rows, first, last = 0, 0.0, 0.0
    for batch in batches:
        if not batch.num_rows:
            continue
        arrived = batch.column("arrived_at")
        if not rows:
            first = arrived[0].as_py()
        last = arrived[-1].as_py()
        rows += batch.num_rows
    return Extent(rows, first, last)


def _with(batch: pa.RecordBatch, **columns: Any) -> pa.RecordBatch:
    import pyarrow as pa

    for name, values in columns.items():
        values = values if isinstance(values, pa.Array) else pa.array(values)
        index = batch.schema.get_field_index(name)
        batch = batch.set_column(index, name, values) if index >= 0 else batch.append_column(name, values)
    return batch


def _numbers(batch: pa.RecordBatch, name: str) -> Any:
    return batch.column(name).to_numpy(zero_copy_only=False)


def scale(
    batches: Batches,
    *,
    stretch: float = 1.0,
    prompt: float = 1.0,
    reasoning: float = 1.0,
    answer: float = 1.0,
) -> Iterator[pa.RecordBatch]:
    """Time times *stretch* (which keeps burstiness at every scale), lengths times a factor each, rounded, at
    least 1.

    Without a split of the output, *answer* applies to all of it. A longer prompt keeps its shared prefix.
    """
    for batch in batches:
        changed: dict[str, Any] = {}
        if stretch != 1.0:
            changed["arrived_at"] = _numbers(batch, "arrived_at") * stretch
        if prompt != 1.0:
            changed["num_prefill_tokens"] = _times(_numbers(batch, "num_prefill_tokens"), prompt, 1)
            if "prefix_len" in batch.schema.names:
                changed["prefix_len"] = np.minimum(_numbers(batch, "prefix_len"), changed["num_prefill_tokens"])
        if "num_reasoning_tokens" in batch.schema.names and (reasoning != 1.0 or answer != 1.0):
            thought = _times(_numbers(batch, "num_reasoning_tokens"), reasoning, 0)
            said = _times(_numbers(batch, "num_answer_tokens"), answer, 0)
            said = np.maximum(said, thought == 0)
            changed |= {
                "num_reasoning_tokens": thought,
                "num_answer_tokens": said,
                "num_decode_tokens": thought + said,
            }
        elif answer != 1.0:
            changed["num_decode_tokens"] = _times(_numbers(batch, "num_decode_tokens"), answer, 1)
        yield _with(batch, **changed)


def _times(values: npt.NDArray[np.int64], factor: float, least: int) -> npt.NDArray[np.int64]:
    return np.asarray(np.maximum(np.rint(values * factor).astype(np.int64), least))


class _Rows:
    """Where the rows of one input have gone: numbers for those kept, -1 for the others."""

    def __init__(self) -> None:
        self._parts: list[npt.NDArray[np.int64]] = []
        self._joined = np.empty(0, np.int64)
        self.count = 0

    def put(self, numbers: npt.NDArray[np.int64]) -> None:
        self._parts.append(numbers)
        self.count += len(numbers)

    def find(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if self._parts:
            self._joined = np.concatenate([self._joined, *self._parts])
            self._parts = []
        known = (rows >= 0) & (rows < len(self._joined))
        if not len(self._joined):
            return np.full(len(rows), -1, np.int64)
        return np.where(known, self._joined[np.where(known, rows, 0)], -1)


def cut(batches: Batches, *, begin_s: float = 0.0, end_s: float = float("inf")) -> Iterator[pa.RecordBatch]:
    """Rows that arrive from *begin_s* to before *end_s*; time starts anew. Prefixes of rows cut away are
    given up."""
    import pyarrow as pa

    rows, written = _Rows(), 0
    for batch in batches:
        arrived = _numbers(batch, "arrived_at")
        keep = (arrived >= begin_s) & (arrived < end_s)
        if "parent_id" in batch.schema.names:
            place = np.where(keep, written + np.cumsum(keep) - 1, -1)
            rows.put(place)
            parent = rows.find(_numbers(batch, "parent_id"))
            lost = (parent < 0) & (_numbers(batch, "parent_id") >= 0)
            shared = np.where(lost, 0, _numbers(batch, "prefix_len"))
            batch = _with(batch, parent_id=parent, prefix_len=shared)
        written += int(keep.sum())
        if keep.any():
            kept = batch.filter(pa.array(keep))
            yield _with(kept, arrived_at=_numbers(kept, "arrived_at") - begin_s)
        if len(arrived) and arrived[-1] >= end_s:
            return


def _apart(batch: pa.RecordBatch, index: int, count: int) -> pa.RecordBatch:
    """*batch* of input *index* with names that cannot meet those of the other inputs."""
    import pyarrow as pa
    import pyarrow.compute as pc

    changed: dict[str, Any] = {}
    for name in ("session_id", "prompt_id"):
        if name in batch.schema.names and count > 1:
            changed[name] = pc.binary_join_element_wise(str(index), batch.column(name).cast(pa.string()), ".")
    if "prefix_group" in batch.schema.names:
        group = _numbers(batch, "prefix_group")
        changed["prefix_group"] = np.where(group >= 0, group * count + index, -1)
    return _with(batch, **changed)


def append(inputs: Sequence[Open], *, gap_s: float = 0.0) -> Iterator[pa.RecordBatch]:
    """One trace after another, each starting *gap_s* after the last arrival of the one before."""
    offset, rows = 0.0, 0
    shapes = [shape for opened in inputs for shape in _shape(opened)]
    for index, opened in enumerate(inputs):
        last, first_row = offset, rows
        for batch in opened():
            batch = _filled(_apart(batch, index, len(inputs)), shapes)
            arrived = _numbers(batch, "arrived_at") + offset
            changed: dict[str, Any] = {"arrived_at": arrived}
            if "parent_id" in batch.schema.names:
                parent = _numbers(batch, "parent_id")
                changed["parent_id"] = np.where(parent >= 0, parent + first_row, -1)
            rows += batch.num_rows
            last = float(arrived[-1]) if len(arrived) else last
            yield _with(batch, **changed)
        offset = last + gap_s


def merge(inputs: Sequence[Open], *, apart: bool = True) -> Iterator[pa.RecordBatch]:
    """All traces on one clock, in order of arrival; kept *apart*, what they call the same is not the same.

    Parts of one trace are not kept apart; none of them may name parents.
    """
    import pyarrow as pa

    sources = [opened() for opened in inputs]
    places = [_Rows() for _ in inputs]
    waiting: list[list[pa.RecordBatch]] = [[] for _ in inputs]
    ended = [False] * len(inputs)
    shapes = [shape for opened in inputs for shape in _shape(opened)] if len(inputs) > 1 else []
    written = 0
    while True:
        for index, source in enumerate(sources):
            while not waiting[index] and not ended[index]:
                batch = next(source, None)
                if batch is None:
                    ended[index] = True
                elif batch.num_rows:
                    waiting[index].append(_apart(batch, index, len(inputs)) if apart else batch)
        if not any(waiting):
            return
        # Rows up to the earliest end of what is at hand are final: nothing earlier can still come.
        horizon = min(
            (_numbers(queue[-1], "arrived_at")[-1] for i, queue in enumerate(waiting) if queue and not ended[i]),
            default=np.inf,
        )
        parts: list[pa.RecordBatch] = []
        owner: list[int] = []
        for index, queue in enumerate(waiting):
            rest: list[pa.RecordBatch] = []
            for batch in queue:
                # What stands at the horizon itself may go as well: ties keep the order of the inputs.
                size = int(np.searchsorted(_numbers(batch, "arrived_at"), horizon, side="right"))
                if size:
                    parts.append(batch.slice(0, size))
                    owner.append(index)
                if size < batch.num_rows:
                    rest.append(batch.slice(size))
            waiting[index] = rest
        parts = [_filled(part, [*shapes, *parts]) for part in parts]
        table = pa.Table.from_batches(parts).combine_chunks()
        arrived = table.column("arrived_at").to_numpy()
        whose = np.repeat(owner, [part.num_rows for part in parts])
        order = np.lexsort((whose, arrived))
        place = np.empty(len(order), np.int64)
        place[order] = written + np.arange(len(order))
        batch = table.to_batches()[0].take(pa.array(order))
        if "parent_id" in batch.schema.names:
            start = 0
            for index, part in zip(owner, parts, strict=True):
                places[index].put(place[start : start + part.num_rows])
                start += part.num_rows
            parents = _numbers(batch, "parent_id")
            sorted_whose = whose[order]
            for index in set(owner):
                mine = sorted_whose == index
                parents = np.where(mine, places[index].find(np.where(mine, parents, -1)), parents)
            batch = _with(batch, parent_id=parents)
        written += len(order)
        yield batch


def _shape(opened: Open) -> list[pa.RecordBatch]:
    """The columns of an input, as its first batch without its rows."""
    return [batch.slice(0, 0) for batch in itertools.islice(opened(), 1)]


def _filled(batch: pa.RecordBatch, others: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """*batch* with the columns of all *others*, in one order; what it lacks is empty."""
    import pyarrow as pa

    names = dict.fromkeys(name for other in others for name in other.schema.names)
    columns = {}
    for name in names:
        if name in batch.schema.names:
            column = batch.column(name)
            columns[name] = column.cast(pa.string()) if name in TEXTS else column
        elif name in MISSING:
            columns[name] = pa.array(np.full(batch.num_rows, MISSING[name], np.int64))
        else:
            kind = next(other.schema.field(name).type for other in others if name in other.schema.names)
            columns[name] = pa.nulls(batch.num_rows, kind)
    return pa.RecordBatch.from_pydict(columns)


def in_order(batches: Batches) -> pa.Table:
    """All rows, sorted by arrival (ties as they were), parents renumbered."""
    import pyarrow as pa

    parts = list(batches)
    table = pa.Table.from_batches([_filled(part, parts) for part in parts]).combine_chunks()
    order = np.argsort(table.column("arrived_at").to_numpy(), kind="stable")
    table = table.take(pa.array(order))
    if "parent_id" in table.schema.names:
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        parent = table.column("parent_id").to_numpy()
        known = (parent >= 0) & (parent < len(place))
        moved = np.where(known, place[np.where(known, parent, 0)], -1)
        index = table.schema.get_field_index("parent_id")
        table = table.set_column(index, "parent_id", pa.array(moved))
    return table


def starting_at_zero(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Sorted rows, moved so that none is before time zero."""
    shift: float | None = None
    for batch in batches:
        arrived = _numbers(batch, "arrived_at")
        if shift is None and len(arrived):
            shift = max(0.0, -float(arrived[0]))
        yield _with(batch, arrived_at=arrived + shift) if shift else batch
