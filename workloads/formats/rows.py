"""Formats whose rows are objects: each turned into our columns by a function, checked and put in order of
time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads.formats import Report
from workloads.formats.cells import Faults, numbers, texts
from workloads.formats.columns import LONGEST_S, Order, standard
from workloads.formats.files import columns_of, decode, fail, json_lines, open_bytes, whole_json
from workloads.formats.timestamps import StampReader, is_date, nanoseconds

if TYPE_CHECKING:
    import pyarrow as pa

Row = Mapping[str, Any]
_BATCH = 20_000
CHARACTERS_A_TOKEN = 4
FILLER = "hi"
"""A word of one token, of which prompts are made that shall have a given length."""


def objects(path: Path, kind: str) -> Iterator[tuple[int, Row]]:
    """(line or row number, object) of a JSON-lines file, or of a JSON file that is a list of objects."""
    if kind == "jsonl":
        for raw in json_lines(path):
            names = list(raw.columns)
            for i, values in enumerate(zip(*raw.columns.values(), strict=True)):
                yield raw.first + i, dict(zip(names, values, strict=True))
        return
    value = whole_json(path)
    if not isinstance(value, list):
        value = [value]
    for i, item in enumerate(value):
        if not isinstance(item, dict):
            raise fail(path, f"{json.dumps(item)[:40]} is not an object", line=i + 1)
        yield i + 1, item


def batches(
    path: Path,
    rows: Iterable[tuple[int, Row | None]],
    report: Report,
    *,
    time_unit: float = 1.0,
    time_column: str,
    in_order: bool,
    shift: bool = True,
) -> Iterator[pa.RecordBatch]:
    """Checked batches of *rows*, which are in our columns but for ``arrived_at``, a stamp in units of
    *time_unit*, counted from the first row on, or from their own zero where *shift* is off and that is not years ago.

    Rows that are None are skipped. Where the format does not keep its rows *in_order* of arrival they are
    sorted, which keeps all of them in memory.
    """
    faults, order = Faults(str(path)), Order()
    stamps = StampReader(report, unit=time_unit, shift_from=-math.inf if shift else LONGEST_S)
    chunk: list[tuple[int, Row]] = []

    def flush() -> pa.RecordBatch:
        columns: dict[str, Any] = columns_of([row for _, row in chunk])
        faults.lines = [line for line, _ in chunk]
        columns["arrived_at"] = stamps.seconds(columns["arrived_at"], 0, time_column, faults)
        faults.stop()
        batch = standard(columns, first=0, faults=faults, report=report, order=order, time_column=time_column)
        faults.stop()
        return batch

    kept: Iterable[tuple[int, Row]] = ((line, row) for line, row in rows if row is not None)
    if not in_order:
        kept = _sorted(list(kept), time_column, faults, report)
    empty = True
    for line, row in kept:
        empty = False
        chunk.append((line, row))
        if len(chunk) >= _BATCH:
            yield flush()
            chunk = []
    if chunk:
        yield flush()
    if empty:
        raise fail(path, "holds no requests")


def _sorted(rows: list[tuple[int, Row]], column: str, faults: Faults, report: Report) -> list[tuple[int, Row]]:
    """*rows* by time; each keeps the line it stood at."""
    if not rows:
        return rows
    values = [row.get("arrived_at") for _, row in rows]
    faults.lines = [line for line, _ in rows]
    first = next((value for value in values if value is not None), None)
    if isinstance(first, str) and is_date(first):
        stamps = nanoseconds(texts(values), 0, column, faults).tolist()
    else:
        stamps = numbers(values, first=0, column=column, faults=faults).tolist()
    faults.stop()
    order = sorted(range(len(rows)), key=stamps.__getitem__)
    if order != list(range(len(rows))):
        report.note("rows were sorted by time")
    return [rows[place] for place in order]


def pick(row: Row, *paths: str) -> Any:
    """The first of the dotted *paths* that *row* has a value at, or None."""
    for path in paths:
        here: Any = row
        for part in path.split("."):
            here = here.get(part) if isinstance(here, Mapping) else None
            if here is None:
                break
        if here is not None:
            return here
    return None


def tidy(**columns: Any) -> Row:
    """A row without the columns that are None, but for the needed ones."""
    needed = ("arrived_at", "num_prefill_tokens", "num_decode_tokens")
    return {name: value for name, value in columns.items() if value is not None or name in needed}


def tokens_of(text: str) -> int:
    """Tokens of *text*: its words where all of them are fillers, estimated by its characters otherwise."""
    words = text.split()
    if words and set(words) == {FILLER}:
        return len(words)
    return max(1, -(-len(text) // CHARACTERS_A_TOKEN))


def from_rows(
    path: Path,
    kind: str,
    report: Report,
    make: Callable[[Row], Row | None],
    *,
    time_column: str,
    time_unit: float = 1.0,
    in_order: bool = True,
    shift: bool = True,
) -> Iterator[pa.RecordBatch]:
    """Batches of *path*, each object turned into our columns by *make* (None = not a request)."""
    rows = ((line, make(row)) for line, row in objects(path, kind))
    yield from batches(path, rows, report, time_unit=time_unit, time_column=time_column, in_order=in_order, shift=shift)


def text_of(path: Path) -> str:
    """All text of *path*."""
    with open_bytes(path) as stream:
        return decode(stream.read(), path)
