"""How raw rows come out of files: CSV, Parquet, JSON lines and JSON, plain or gzipped, in batches of bounded
size.

Rows keep the line (CSV, JSON lines) or the row number they stand at, so that whoever finds a fault can say
where.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sim.errors import InputError, Problem

if TYPE_CHECKING:
    import pyarrow as pa

_HEAD_BYTES = 65_536
_CSV_BLOCK = 1 << 20
"""Bytes of a block: the reader runs up to 32 of them ahead of whoever takes the rows."""
_JSON_ROWS = 20_000
_MAX_WHOLE_JSON = 1 << 30
_DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class Head:
    """How a file begins: its *kind*, its *text*, and the *names* of its columns or of the keys of its first
    object."""

    path: Path
    kind: str
    """``csv``, ``jsonl``, ``json``, ``parquet`` or ``folder``."""
    text: str = ""
    names: tuple[str, ...] = ()
    first: Mapping[str, Any] = field(default_factory=dict)
    """First object of a JSON or JSON-lines file, first row of a CSV file."""
    delimiter: str = ","

    def has(self, *names: str) -> bool:
        """Whether all these columns or keys are there."""
        return all(name in self.names for name in names)


@dataclass(frozen=True)
class Raw:
    """Consecutive rows as read: columns of text (CSV) or of Python values (JSON); row i stands at line
    ``first + i``."""

    source: str
    first: int
    count: int
    columns: Mapping[str, pa.Array | Sequence[Any]]


def fail(path: Path | str, message: str, *, line: int | None = None, expected: str | None = None) -> InputError:
    """An InputError with one problem in *path*."""
    return InputError(Problem(message, source=str(path), line=line, expected=expected))


def open_bytes(path: Path) -> IO[bytes]:
    """*path* for reading, unzipped where it is gzipped, whatever its name."""
    try:
        with path.open("rb") as raw:
            magic = raw.read(2)
        return gzip.open(path, "rb") if magic == b"\x1f\x8b" else path.open("rb")  # type: ignore[return-value]
    except FileNotFoundError:
        raise fail(path, "no such file") from None
    except (IsADirectoryError, PermissionError) as error:
        raise fail(path, f"cannot be read: {error.strerror}") from None


UNREADABLE = (EOFError, gzip.BadGzipFile, zlib.error, OSError)
"""What reading a damaged gzip file raises."""


def damaged(path: Path | str, error: BaseException) -> InputError:
    """The InputError for a file that breaks off or is damaged."""
    broken = isinstance(error, EOFError | gzip.BadGzipFile | zlib.error) or "gzip" in str(error).lower()
    return fail(path, "gzip data are cut off or damaged" if broken else f"cannot be read: {error}")


def look(path: Path) -> Head:
    """How *path* begins; raise InputError when it is missing, empty, damaged or not text."""
    if path.is_dir():
        return Head(path, "folder", names=tuple(sorted(child.name for child in path.iterdir())))
    try:
        with open_bytes(path) as stream:
            head = stream.read(_HEAD_BYTES)
    except UNREADABLE as error:
        raise damaged(path, error) from None
    if head[:4] == b"PAR1":
        return Head(path, "parquet", names=_parquet_names(path))
    if not head.strip(b"\xef\xbb\xbf \t\r\n\x00"):
        raise fail(path, "is empty", expected="a header and at least one row")
    text = decode(head, path)
    stripped = text.lstrip()
    if stripped.startswith(("{", "[")):
        return _look_json(path, stripped, whole=len(head) < _HEAD_BYTES)
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip())
    delimiter = max(_DELIMITERS, key=lambda mark: (lines[start].count(mark), -_DELIMITERS.index(mark)))
    names = _cells(lines[start], delimiter)
    second = next((line for line in lines[start + 1 :] if line.strip()), "")
    first = dict(zip(names, _cells(second, delimiter), strict=False))
    return Head(path, "csv", text, tuple(names), first, delimiter)


def decode(data: bytes, path: Path | str) -> str:
    """Text of *data*: UTF-8, with or without byte-order mark, or UTF-16 with one."""
    try:
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return data[: len(data) // 2 * 2].decode("utf-16")
        # The last character may be cut in half.
        return data.decode("utf-8-sig", errors="strict" if len(data) < _HEAD_BYTES else "ignore")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise fail(path, "is not UTF-8 text", line=line, expected="CSV, JSON lines, JSON or Parquet") from None


def _cells(line: str, delimiter: str) -> list[str]:
    import csv

    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]


def _look_json(path: Path, text: str, *, whole: bool) -> Head:
    decoder = json.JSONDecoder()
    try:
        value, end = decoder.raw_decode(text)
    except json.JSONDecodeError as error:
        if whole and "\n" not in text.strip():
            raise fail(path, f"is not valid JSON: {error.msg}", line=error.lineno) from None
        # A single value longer than the head, or a broken line: its first object, as far as it can be read.
        return _look_cut(path, text, error, whole=whole)
    if isinstance(value, dict) and text[end:].lstrip()[:1] == "{":
        return Head(path, "jsonl", text, tuple(value), value)
    if isinstance(value, dict) and not text[end:].strip() and whole and not _is_document(value):
        return Head(path, "jsonl", text, tuple(value), value)
    if isinstance(value, list):
        first = next((item for item in value if isinstance(item, dict)), {})
        if not value:
            raise fail(path, "holds no rows", expected="a list of objects")
        return Head(path, "json", text, tuple(first), first)
    if isinstance(value, dict):
        return Head(path, "json" if _is_document(value) else "jsonl", text, tuple(value), value)
    raise fail(path, "holds no objects", expected="a list of objects, or one object a line")


def _is_document(value: Mapping[str, Any]) -> bool:
    """Whether an object holds rows (lists of objects or of numbers) instead of being one."""
    return any(isinstance(item, list | dict) and len(item) > 0 for item in value.values())


def _look_cut(path: Path, text: str, error: json.JSONDecodeError, *, whole: bool) -> Head:
    import re

    if text.startswith("{") and "\n" in text:
        line = text.splitlines()[0]
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            value = None
        if isinstance(value, dict):
            return Head(path, "jsonl", text, tuple(value), value)
    if whole:
        raise fail(path, f"is not valid JSON: {error.msg}", line=error.lineno)
    if text.startswith("["):
        inner = text[1:].lstrip()
        try:
            value, _ = json.JSONDecoder().raw_decode(inner)
        except json.JSONDecodeError:
            value = None
        if isinstance(value, dict):
            return Head(path, "json", text, tuple(value), value)
    names = tuple(dict.fromkeys(re.findall(r'"([A-Za-z_][\w.]*)"\s*:', text)))
    return Head(path, "json", text, names)


def _parquet_names(path: Path) -> tuple[str, ...]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return tuple(pq.read_schema(path).names)
    except (pa.ArrowInvalid, OSError) as error:
        raise fail(path, f"is not a whole Parquet file: {error}") from None


# -- rows ---------------------------------------------------------------------------------------------------


def csv_rows(path: Path, *, header: Sequence[str] | None = None) -> Iterator[Raw]:
    """Rows of a CSV file as text columns; *header* names the columns of a file that has no header line."""
    import pyarrow as pa
    from pyarrow import csv

    head = look(path)
    names = list(header) if header is not None else list(head.names)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise fail(path, f"column {repeated[0]!r} occurs more than once", line=1)
    wrong: list[Problem] = []

    def notice(row: csv.InvalidRow) -> str:
        if len(wrong) < 20:
            text = f"{row.actual_columns} cells where the header has {row.expected_columns}"
            wrong.append(Problem(text, source=str(path), line=None if row.number is None else row.number))
        return "skip"

    skipped = 0
    if header is None:
        lines = head.text.splitlines()
        skipped = next(i for i, line in enumerate(lines) if line.strip()) + 1
    try:
        with _utf8(path) as stream:
            reader = csv.open_csv(
                pa.PythonFile(stream, mode="r"),
                read_options=csv.ReadOptions(
                    use_threads=False, block_size=_CSV_BLOCK, column_names=names, skip_rows=skipped
                ),
                parse_options=csv.ParseOptions(
                    delimiter=head.delimiter, newlines_in_values=False, invalid_row_handler=notice
                ),
                convert_options=csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
                ),
            )
            line = skipped + 1
            for batch in reader:
                if wrong:
                    raise InputError(wrong)
                if batch.num_rows:
                    yield Raw(str(path), line, batch.num_rows, dict(zip(names, batch.columns, strict=True)))
                line += batch.num_rows
            if wrong:
                raise InputError(wrong)
            if line == skipped + 1:
                raise fail(path, "holds no rows", expected="at least one row under the header")
    except pa.ArrowInvalid as error:
        if "empty" in str(error).lower() or "could not skip" in str(error).lower():
            raise fail(path, "holds no rows", expected="at least one row under the header") from None
        raise fail(path, f"is not readable as CSV: {str(error).splitlines()[0]}") from None
    except UNREADABLE as error:
        raise damaged(path, error) from None


def _utf8(path: Path) -> IO[bytes]:
    """The bytes of *path* as UTF-8, whatever it is written in."""
    stream = open_bytes(path)
    head = stream.read(2)
    stream.seek(0)
    if head in (b"\xff\xfe", b"\xfe\xff"):
        with stream:
            return io.BytesIO(decode(stream.read(), path).encode())
    return stream


def json_lines(path: Path) -> Iterator[Raw]:
    """Objects of a JSON-lines file, 20,000 at a time; missing keys are None."""
    try:
        with open_bytes(path) as stream:
            text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="strict", newline=None)
            number = 0
            while lines := list(itertools.islice(text, _JSON_ROWS)):
                rows, where = [], []
                for line in lines:
                    number += 1
                    if line.strip():
                        rows.append(_object(path, line, number))
                        where.append(number)
                if rows:
                    yield from _raw(str(path), rows, where)
            if number == 0:
                raise fail(path, "is empty")
    except UnicodeDecodeError:
        raise fail(path, "is not UTF-8 text") from None
    except UNREADABLE as error:
        raise damaged(path, error) from None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that JSON knows")


def _object(path: Path, line: str, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise fail(path, f"is not valid JSON: {error.msg}", line=number, expected="one object a line") from None
    except (ValueError, RecursionError) as error:
        raise fail(path, f"is not valid JSON: {error}", line=number) from None
    if not isinstance(value, dict):
        raise fail(path, f"{line.strip()[:40]!r} is not an object", line=number, expected="one object a line")
    return value


def _raw(source: str, rows: list[dict[str, Any]], where: list[int]) -> Iterator[Raw]:
    """*rows* in runs of consecutive lines, which blank lines interrupt."""
    start = 0
    for i in range(1, len(rows) + 1):
        if i == len(rows) or where[i] != where[i - 1] + 1:
            part = rows[start:i]
            yield Raw(source, where[start], len(part), columns_of(part))
            start = i


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Columns of a list of objects, in order of first appearance; missing keys are None."""
    names = dict.fromkeys(itertools.chain.from_iterable(rows))
    return {name: [row.get(name) for row in rows] for name in names}


def whole_json(path: Path) -> Any:
    """The value of a JSON file of at most 1 GiB."""
    try:
        with open_bytes(path) as stream:
            data = stream.read(_MAX_WHOLE_JSON + 1)
    except UNREADABLE as error:
        raise damaged(path, error) from None
    if len(data) > _MAX_WHOLE_JSON:
        raise fail(path, "is a single JSON value of more than 1 GiB", expected="JSON lines")
    try:
        return json.loads(decode(data, path) if len(data) < _HEAD_BYTES else data.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise fail(path, f"is not valid JSON: {error.msg}", line=error.lineno) from None
    except (UnicodeDecodeError, RecursionError):
        raise fail(path, "is not valid JSON") from None


def parquet_rows(path: Path) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(number of its first row from 1, batch) for each batch of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 1
    try:
        # Buffering ahead would keep the whole file by the end, and each thread memory of its own.
        with pq.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=1 << 17, use_threads=False):
                if batch.num_rows:
                    yield row, batch
                row += batch.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise fail(path, f"is not a whole Parquet file: {error}") from None
    if row == 1:
        raise fail(path, "holds no rows")
