"""How traces leave: our columns as CSV, JSON lines or Parquet, and the inputs of load generators.

============  ================================================================================================
csv           our columns; ``.csv.gz`` is zipped
jsonl         our columns, an object a line
parquet       our columns
mooncake      ``timestamp`` (ms), ``input_length``, ``output_length``, ``hash_ids``: AIPerf's format, and that of
              ``vllm bench serve --dataset-name timed_trace --self-timed --timed-trace-sec-multiplier 0.001
              --timed-trace-chunk-hash-size 512``; prefixes become shared hashes of 512 tokens
burstgpt      ``vllm bench serve --dataset-name burstgpt``
vllm-custom   ``vllm bench serve --dataset-name custom --custom-output-len -1``: prompts of short words
guidellm      ``timestamp`` (s), ``input_length``, ``output_length``: guidellm's trace replay; the same lengths again as
              ``prompt_tokens_count``, ``output_tokens_count``, the names of its data sets
azure         ``TIMESTAMP,ContextTokens,GeneratedTokens``: inference-perf's trace replay (AzurePublicDataset), which
              keeps hundredths of a second
============  ================================================================================================
"""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from sim.errors import InputError, Problem, nearest
from workloads.formats.rows import FILLER

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = ("csv", "jsonl", "parquet", "mooncake", "burstgpt", "vllm-custom", "guidellm", "azure")
_BY_SUFFIX = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet"}
_MOONCAKE_BLOCK = 512


def format_of(path: Path, name: str | None) -> str:
    """The format *name*, or the one that the suffix of *path* means; raise InputError for others."""
    if name is not None:
        name = {"aiperf": "mooncake", "inference-perf": "azure"}.get(name, name)
        if name not in FORMATS:
            near = nearest(name, FORMATS)
            raise InputError(Problem(f"unknown format {name!r}", key="--to", expected=", ".join(FORMATS), nearest=near))
        return name
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in _BY_SUFFIX:
        raise InputError(
            Problem(
                f"the format cannot be told from {path.name!r}",
                key="--out",
                expected="a name that ends in .csv, .csv.gz, .jsonl or .parquet, or --to FORMAT",
            )
        )
    return _BY_SUFFIX[suffix]


class TraceWriter:
    """Writes batches to *path*, which appears when all of them are written, and not at all after an error."""

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.format = format_of(path, name)
        self.rows = 0
        self._path = path
        self._draft = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._stream: IO[bytes] | None = None
        self._sink: Any = None
        self._names: list[str] | None = None
        self._blocks = _Hashes()

    def __enter__(self) -> TraceWriter:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        raw = self._draft.open("wb")
        zipped = self._path.name.endswith(".gz")
        # No time stamp in the header: the same trace gives the same bytes.
        self._stream = gzip.GzipFile("", "wb", 6, raw, mtime=0) if zipped else raw  # type: ignore[assignment]
        self._raw = raw
        return self

    def write(self, batch: pa.RecordBatch) -> None:
        """Write the rows of *batch*, which has our columns."""
        if not batch.num_rows:
            return
        if self.format in ("csv", "parquet"):
            self._write_table(_flat(batch) if self.format == "csv" else batch)
        else:
            make = _LINES.get(self.format, _own_lines)
            assert self._stream is not None
            text = io.StringIO()
            for line in make(batch, self):
                text.write(line)
                text.write("\n")
            self._stream.write(text.getvalue().encode())
        self.rows += batch.num_rows

    def _write_table(self, batch: pa.RecordBatch) -> None:
        import pyarrow as pa
        from pyarrow import csv, parquet

        if self._names is None:
            self._names = batch.schema.names
            if self.format == "csv":
                options = csv.WriteOptions(quoting_style="needed")
                self._sink = csv.CSVWriter(self._stream, batch.schema, write_options=options)
            else:
                self._sink = parquet.ParquetWriter(self._stream, batch.schema, compression="zstd")
            self._schema = batch.schema
        late = [name for name in batch.schema.names if name not in self._names]
        if late:
            raise InputError(
                Problem(
                    f"column {late[0]!r} first appears in row {self.rows + 1} or after it",
                    expected="--to jsonl for rows that differ in their columns",
                )
            )
        columns = [
            batch.column(name).cast(kind) if name in batch.schema.names else pa.nulls(batch.num_rows, kind)
            for name, kind in zip(self._names, self._schema.types, strict=True)
        ]
        self._sink.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._stream is not None
        try:
            if self._sink is not None:
                self._sink.close()
            self._stream.close()
            self._raw.close()
            if kind is None:
                if not self.rows:
                    raise InputError(Problem("there is nothing to write: no rows"))
                self._draft.replace(self._path)
        finally:
            self._draft.unlink(missing_ok=True)


def write(path: Path, batches: Iterable[pa.RecordBatch], *, name: str | None = None) -> int:
    """Write *batches* to *path* in the format *name* (default: by its suffix); returns the number of rows."""
    with TraceWriter(path, name) as writer:
        for batch in batches:
            writer.write(batch)
    return writer.rows


# -- lines of other formats ---------------------------------------------------------------------------------


def _column(batch: pa.RecordBatch, name: str, otherwise: Any) -> list[Any]:
    if name not in batch.schema.names:
        return [otherwise] * batch.num_rows
    values: list[Any] = batch.column(name).to_pylist()
    return values


def _flat(batch: pa.RecordBatch) -> pa.RecordBatch:
    """*batch* with what a CSV has no cell for (lists, structs, bytes) as text."""
    import pyarrow as pa

    columns = []
    for column in batch.columns:
        kind = column.type
        simple = pa.types.is_primitive(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
        if not simple or pa.types.is_duration(kind):
            texts = [None if value is None else _cell(value) for value in column.to_pylist()]
            column = pa.array(texts, pa.string())
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _cell(value: Any) -> str:
    return json.dumps(value, default=str) if isinstance(value, list | dict) else str(value)


def _own_lines(batch: pa.RecordBatch, _: TraceWriter) -> Iterable[str]:
    names = batch.schema.names
    for values in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
        row = {name: value for name, value in zip(names, values, strict=True) if value is not None}
        yield json.dumps(row, default=str)


class _Hashes:
    """Block hashes of each prompt, so that the prefixes of groups and parents come out shared."""

    def __init__(self) -> None:
        self._next = 0
        self._groups: dict[int, list[int]] = {}
        self._rows: list[list[int]] = []

    def of(self, prompt: int, group: int, prefix_len: int, parent: int, *, keep: bool) -> list[int]:
        blocks = -(-prompt // _MOONCAKE_BLOCK)
        shared = min(prefix_len // _MOONCAKE_BLOCK, blocks)
        start: list[int] = []
        if parent >= 0:
            start = self._rows[parent][:shared]
        elif group >= 0:
            known = self._groups.setdefault(group, [])
            while len(known) < shared:
                known.append(self._next)
                self._next += 1
            start = known[:shared]
        own = list(range(self._next, self._next + blocks - len(start)))
        self._next += len(own)
        if keep:
            self._rows.append(start + own)
        return start + own


def _mooncake_lines(batch: pa.RecordBatch, writer: TraceWriter) -> Iterable[str]:
    keep = "parent_id" in batch.schema.names
    rows = zip(
        np.rint(batch.column("arrived_at").to_numpy(zero_copy_only=False) * 1000).astype(np.int64).tolist(),
        _column(batch, "num_prefill_tokens", 1),
        _column(batch, "num_decode_tokens", 1),
        _column(batch, "prefix_group", -1),
        _column(batch, "prefix_len", 0),
        _column(batch, "parent_id", -1),
        strict=True,
    )
    for at, prompt, output, group, prefix_len, parent in rows:
        hashes = writer._blocks.of(prompt, group, prefix_len, parent, keep=keep)
        yield json.dumps({"timestamp": at, "input_length": prompt, "output_length": output, "hash_ids": hashes})


def _burstgpt_lines(batch: pa.RecordBatch, writer: TraceWriter) -> Iterable[str]:
    if not writer.rows:
        yield "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
    for at, prompt, output in _three(batch):
        # The reader in vLLM keeps the rows of this model alone.
        yield f"{at!r},GPT-4,{prompt},{output},{prompt + output},Conversation log"


def _custom_lines(batch: pa.RecordBatch, _: TraceWriter) -> Iterable[str]:
    for _at, prompt, output in _three(batch):
        yield json.dumps({"prompt": FILLER + f" {FILLER}" * (prompt - 1), "output_tokens": output})


def _guidellm_lines(batch: pa.RecordBatch, _: TraceWriter) -> Iterable[str]:
    for at, prompt, output in _three(batch):
        lengths = {"input_length": prompt, "output_length": output}
        counts = {"prompt_tokens_count": prompt, "output_tokens_count": output}
        yield json.dumps({"timestamp": at, **lengths, **counts})


def _azure_lines(batch: pa.RecordBatch, writer: TraceWriter) -> Iterable[str]:
    if not writer.rows:
        yield "TIMESTAMP,ContextTokens,GeneratedTokens"
    origin = np.datetime64("2024-01-01T00:00:00", "ns")
    for at, prompt, output in _three(batch):
        stamp = str(origin + np.timedelta64(round(at * 1e7) * 100, "ns")).replace("T", " ")[:27]
        yield f"{stamp},{prompt},{output}"


def _three(batch: pa.RecordBatch) -> Iterable[tuple[float, int, int]]:
    columns = ("arrived_at", "num_prefill_tokens", "num_decode_tokens")
    return zip(*(batch.column(name).to_pylist() for name in columns), strict=True)


_LINES: dict[str, Callable[[Any, TraceWriter], Iterable[str]]] = {
    "mooncake": _mooncake_lines,
    "burstgpt": _burstgpt_lines,
    "vllm-custom": _custom_lines,
    "guidellm": _guidellm_lines,
    "azure": _azure_lines,
}
