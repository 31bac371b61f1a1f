"""Tables: the simulation's integer rows, put in order and turned into declared columns.

A ``Table`` is a struct of numpy arrays; category columns hold codes (-1: missing) beside their names. It
becomes a pandas DataFrame when somebody looks at it and an Arrow table when it is written, so the timed
part of a run builds neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sim.results.columns import KINDS, LOOKUPS, ROLES, STATUSES, TABLES, Column, Status
from sim.results.info import RunInfo
from sim.results.segments import AREAS, area_ps, canonical
from sim.results.sinks import STALL_ROW, IntArray, RowSink, SegmentSink

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

PS_PER_S = 1e12

FIXED_NAMES = {"status": STATUSES, "role": ROLES, "kind": KINDS, "trace_cache": LOOKUPS}
"""Category columns whose codes are those of Status, Role, Kind and Lookup in every table."""

Array = NDArray[Any]
FloatArray = NDArray[np.float64]


@dataclass
class Table:
    """One table: *columns* by name as declared for *name*; *names* decodes the codes of its category
    columns."""

    name: str
    columns: dict[str, Array]
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        declared = [column.name for column in TABLES[self.name]]
        if list(self.columns) != declared:
            raise ValueError(f"{self.name} has columns {list(self.columns)}, declared are {declared}")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, column: str) -> Array:
        """The column's array; of a category column, its codes."""
        return self.columns[column]

    def equals(self, column: str, name: str) -> NDArray[np.bool_]:
        """Which rows hold *name* in the category column *column*; all False when no row can."""
        names = self.names[column]
        if name not in names:
            return np.zeros(len(self), dtype=bool)
        mask: NDArray[np.bool_] = self.columns[column] == names.index(name)
        return mask

    def rows(self, mask: Array) -> Table:
        """The rows that *mask* (flags or positions) selects; all of them are not copied."""
        if mask.dtype == np.bool_ and mask.all():
            return Table(self.name, dict(self.columns), dict(self.names))
        return Table(self.name, {name: array[mask] for name, array in self.columns.items()}, dict(self.names))

    def frame(self) -> pd.DataFrame:
        """As a DataFrame; names are pandas categories."""
        import pandas as pd

        columns: dict[str, Any] = dict(self.columns)
        for name, names in self.names.items():
            codes = self.columns[name].astype(np.int32, copy=False)
            columns[name] = pd.Categorical.from_codes(codes, categories=pd.Index(names, dtype="str"))
        return pd.DataFrame(columns)

    def arrow(self) -> pa.Table:
        """As an Arrow table; unit and meaning travel with each field."""
        import pyarrow as pa

        arrays, fields = [], []
        for column in TABLES[self.name]:
            array = self.columns[column.name]
            if column.dtype == "category":
                codes = pa.array(array, mask=array < 0) if len(array) and array.min() < 0 else pa.array(array)
                arrow = pa.DictionaryArray.from_arrays(codes, pa.array(self.names[column.name], type=pa.string()))
            else:
                arrow = pa.array(array)
            arrays.append(arrow)
            fields.append(pa.field(column.name, arrow.type, metadata={"unit": column.unit, "meaning": column.meaning}))
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))

    @classmethod
    def from_arrow(cls, name: str, table: pa.Table) -> Table:
        """The inverse of ``arrow``; raise a ValueError that names every column that is missing, unknown or
        of another type."""
        import pyarrow as pa

        declared = {column.name: column for column in TABLES[name]}
        faults = [f"has no column {column!r}" for column in declared if column not in table.column_names]
        faults += [f"has an unknown column {column!r}" for column in table.column_names if column not in declared]
        columns: dict[str, Array] = {}
        names: dict[str, tuple[str, ...]] = {}
        for column in declared.values():
            if column.name not in table.column_names:
                continue
            array = table.column(column.name).combine_chunks()
            if column.dtype == "category":
                if not (pa.types.is_dictionary(array.type) and pa.types.is_string(array.type.value_type)):
                    faults.append(
                        f"column {column.name!r} holds {array.type}, expected names (a dictionary of strings)"
                    )
                    continue
                if isinstance(array, pa.ChunkedArray):
                    array = array.unify_dictionaries().combine_chunks()
                fixed = FIXED_NAMES.get(column.name)
                found = tuple(array.dictionary.to_pylist())
                if fixed is not None and found not in (fixed, ()):  # an empty file keeps no names
                    faults.append(f"column {column.name!r} knows {found}, expected {fixed}")
                    continue
                names[column.name] = fixed or found
                codes = array.indices.fill_null(-1).to_numpy(zero_copy_only=False)
                columns[column.name] = codes.astype(np.int32)
            else:
                values = array.to_numpy(zero_copy_only=False)
                if values.dtype != np.dtype(column.dtype):
                    faults.append(f"column {column.name!r} holds {array.type}, expected {column.dtype}")
                    continue
                columns[column.name] = values
        if faults:
            raise ValueError("; ".join(faults))
        return cls(name, columns, names)


def concatenate(tables: Sequence[Table]) -> Table:
    """*tables* of one name, one below the other; names of category columns are united in order of
    appearance."""
    if len(tables) == 1:
        return tables[0]
    name = tables[0].name
    columns: dict[str, Array] = {}
    names: dict[str, tuple[str, ...]] = {}
    for column in TABLES[name]:
        parts = [table.columns[column.name] for table in tables]
        if column.dtype == "category":
            united = tuple(dict.fromkeys(n for table in tables for n in table.names[column.name]))
            names[column.name] = united
            parts = [_recode(table.columns[column.name], table.names[column.name], united) for table in tables]
        columns[column.name] = np.concatenate(parts)
    return Table(name, columns, names)


def build(
    info: RunInfo,
    *,
    queries: RowSink,
    requests: RowSink,
    segments: Iterable[SegmentSink],
    consume: bool = False,
) -> dict[str, Table]:
    """All tables of one replication from its sinks (*queries* in QUERY_ROW, *requests* in REQUEST_ROW).

    Rows are put in order, what ``info.end_ps`` finds open must already be UNFINISHED, and ``slowdown``
    (NaN), ``slo_met`` (False), ``correct`` (NaN), ``prompt`` (-1), ``parent`` (-1) and
    ``trace_cache`` (none) are left for others to fill in. With *consume* each of *segments* is emptied once its
    rows stand in a table, which keeps the peak of memory of a long run low.
    """
    query_rows = _ordered(queries.columns(), "query")
    in_window = (query_rows["arrived_ps"] >= info.window_start_ps) & (query_rows["arrived_ps"] < info.window_end_ps)
    query_table = _query_table(info, query_rows, in_window)
    request_rows = _ordered(requests.columns(), "id")
    position = np.searchsorted(query_rows["query"], request_rows["query"])
    if len(request_rows["id"]) and not np.array_equal(
        query_rows["query"][np.minimum(position, len(query_rows["query"]) - 1)], request_rows["query"]
    ):
        raise ValueError("a request belongs to a query that has no row")
    request_table = _request_table(info, request_rows, in_window[position])
    del query_rows, request_rows, position  # a day has millions: only one form of them at a time
    sinks = sorted(segments, key=lambda sink: (sink.pool, sink.replica))
    return {
        "queries": query_table,
        "requests": request_table,
        "segments": _segment_table(info, sinks, consume),
        "stalls": _stall_table(info, sinks),
    }


def _query_table(info: RunInfo, rows: Mapping[str, IntArray], in_window: Array) -> Table:
    completed = rows["status"] == Status.COMPLETED
    front_end = _front_end(info, rows["pool"])
    arrived = rows["arrived_ps"]
    count = len(arrived)
    return _table(
        "queries",
        info,
        {
            "arrived_s": _seconds(arrived),
            "finished_s": _seconds(rows["finished_ps"], rows["finished_ps"] >= 0),
            "tta_s": _seconds(rows["finished_ps"] - arrived + front_end, completed),
            "ttfo_s": _seconds(rows["first_answer_ps"] - arrived + front_end, rows["first_answer_ps"] >= 0),
            "in_window": in_window,
            "alone_s": np.full(count, np.nan),
            "slowdown": np.full(count, np.nan),
            "slo_met": np.zeros(count, dtype=bool),
            "correct": np.full(count, np.nan),
            "prompt": np.full(count, -1, dtype=np.int64),
            "trace_cache": np.zeros(count, dtype=np.int64),
        },
        rows,
    )


def _request_table(info: RunInfo, rows: Mapping[str, IntArray], in_window: Array) -> Table:
    arrived, first, answer, finished = (
        rows[name] for name in ("arrived_ps", "first_token_ps", "first_answer_ps", "finished_ps")
    )
    completed = rows["status"] == Status.COMPLETED
    generated = rows["generated"]
    reasoning = np.minimum(generated, rows["reasoning_tokens"])
    answers = generated - reasoning
    latent = np.array([pool.latent for pool in info.pools] + [False])[rows["pool"]]
    shown = generated
    if latent.any():  # latent steps yield no token
        first, shown = np.where(latent, answer, first), np.where(latent, answers, generated)
    front_end = _front_end(info, rows["pool"])
    # an asynchronous engine has committed a batch that starts only after the end, or after its loss: that has not happened
    scheduled = rows["first_scheduled_ps"]
    never = (scheduled > info.end_ps) | ((finished >= 0) & (scheduled > finished))
    scheduled = np.where(never, -1, scheduled)
    return _table(
        "requests",
        info,
        {
            "request": rows["id"],
            "arrived_s": _seconds(arrived),
            "first_scheduled_s": _seconds(scheduled, scheduled >= 0),
            "first_token_s": _seconds(first, first >= 0),
            "first_answer_s": _seconds(answer, answer >= 0),
            "finished_s": _seconds(finished, finished >= 0),
            "reasoning_tokens": reasoning,
            "answer_tokens": answers,
            "natural_tokens": rows["output_tokens"],
            "ttft_s": _seconds(first - arrived + front_end, first >= 0),
            "ttfo_s": _seconds(answer - arrived + front_end, answer >= 0),
            "tpot_s": _per_token(finished - first, shown - 1, completed & (first >= 0)),
            "answer_tpot_s": _per_token(finished - answer, answers - 1, completed & (answer >= 0)),
            "e2e_s": _seconds(finished - arrived + front_end, completed),
            "queue_s": _seconds(scheduled - arrived, scheduled >= 0),
            "kv_arrived_s": _seconds(rows["kv_arrived_ps"], rows["kv_arrived_ps"] >= 0),
            "cached_tokens_first": np.maximum(rows["cached_tokens_first"], 0),
            "parent": np.full(len(arrived), -1, dtype=np.int64),
            "in_window": in_window,
        },
        rows,
    )


def _segment_table(info: RunInfo, sinks: Sequence[SegmentSink], consume: bool) -> Table:
    """Sink by sink, so that only one replica's rows exist in their wide form at a time."""
    tables = []
    for sink in sinks or [SegmentSink()]:
        tables.append(_segments_of(info, sink))
        if consume:
            sink.forget_segments()
    columns: dict[str, Array] = {}
    for name in list(tables[0].columns):  # each part is let go as soon as it is joined
        columns[name] = np.concatenate([table.columns.pop(name) for table in tables])
    return Table("segments", columns, tables[0].names)


def _segments_of(info: RunInfo, sink: SegmentSink) -> Table:
    rows = canonical(sink, (info.window_start_ps, info.window_end_ps))
    steps = rows["steps"]
    rows["pool"] = np.full(len(steps), sink.pool, dtype=np.int64)
    rows["replica"] = np.full(len(steps), sink.replica, dtype=np.int64)
    # int64 holds it: the duration of a run, far below 2**63 ps = 106 days
    duration = steps * rows["step_ps"] + rows["step_growth_ps"] * (steps * (steps - 1) // 2)
    rows["kind"] = (rows["chunks"] > 0).astype(np.int64)
    return _table(
        "segments",
        info,
        {
            "start_s": _seconds(rows["start_ps"]),
            "end_s": _seconds(rows["start_ps"] + duration),
            "step_s": _seconds(rows["step_ps"]),
            "step_growth_s": _seconds(rows["step_growth_ps"]),
            **{f"{part}_block_s": _seconds(area_ps(rows, part)) for part in AREAS},
        },
        rows,
    )


def _stall_table(info: RunInfo, sinks: Sequence[SegmentSink]) -> Table:
    parts = [sink.stalls() for sink in sinks]
    joined = np.concatenate(parts) if parts else np.zeros((0, len(STALL_ROW)), dtype=np.int64)
    rows = {name: joined[:, i] for i, name in enumerate(STALL_ROW)}
    seen = rows["at_ps"] <= info.end_ps  # fast-forward knows of tokens that the end cut off
    rows = {name: column[seen] for name, column in rows.items()}
    order = np.lexsort((rows["request"], rows["at_ps"]))
    rows = {name: column[order] for name, column in rows.items()}
    return _table("stalls", info, {"at_s": _seconds(rows["at_ps"]), "gap_s": _seconds(rows["gap_ps"])}, rows)


def _table(name: str, info: RunInfo, made: Mapping[str, Array], rows: Mapping[str, IntArray]) -> Table:
    """Declared columns from *made*, else from *rows*, cast to their type."""
    decode = {
        **FIXED_NAMES,
        "pool": tuple(pool.name for pool in info.pools),
        "category": info.categories,
        "client": info.clients,
    }
    count = len(next(iter(rows.values())))
    columns: dict[str, Array] = {}
    names: dict[str, tuple[str, ...]] = {}
    for column in TABLES[name]:
        if column.name == "replication":
            columns["replication"] = np.full(count, info.replication, dtype=np.int32)
            continue
        array = made[column.name] if column.name in made else rows[column.name]
        if column.dtype == "category":
            names[column.name] = decode[column.name]
        columns[column.name] = _cast(name, column, array, names)
    return Table(name, columns, names)


def _cast(table: str, column: Column, array: Array, names: Mapping[str, tuple[str, ...]]) -> Array:
    if column.dtype != "category":
        return array.astype(column.dtype, copy=False)
    codes = array.astype(np.int32)
    if len(codes) and (codes.min() < -1 or codes.max() >= len(names[column.name])):
        raise ValueError(f"{table}.{column.name} holds a code outside {names[column.name]}")
    return codes


def _ordered(rows: dict[str, IntArray], key: str) -> dict[str, IntArray]:
    keys = rows[key]
    if len(keys) < 2 or bool((keys[1:] > keys[:-1]).all()):
        return rows
    order = np.argsort(keys, kind="stable")
    if (np.diff(keys[order]) == 0).any():
        raise ValueError(f"two rows have the same {key}")
    return {name: column[order] for name, column in rows.items()}


def _front_end(info: RunInfo, pool: IntArray) -> IntArray:
    share = np.array([p.front_end_ps for p in info.pools] + [0], dtype=np.int64)  # the last one answers for -1
    return share[pool]


def _seconds(time_ps: Array, known: Array | None = None) -> FloatArray:
    seconds: FloatArray = time_ps / PS_PER_S
    if known is not None and not known.all():
        seconds[~known] = np.nan
    return seconds


def _per_token(time_ps: Array, tokens: Array, known: Array) -> FloatArray:
    known = known & (tokens > 0)
    return _seconds(time_ps / np.where(known, tokens, 1), known)


def _recode(codes: Array, names: tuple[str, ...], united: tuple[str, ...]) -> Array:
    place = np.array([united.index(name) for name in names] + [-1], dtype=np.int32)
    return place[codes]
