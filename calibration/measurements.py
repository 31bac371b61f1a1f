"""What a table of measured step times looks like, and how one is read and checked.

One row is one measured (or composed) time. Both kinds of steps share one table: a pure decode has ``chunks``
0, a prefill has ``decodes`` 0, a mixed step has both. Whoever writes a table (the profiler, an importer)
calls :func:`write`, whoever reads one (the fit, the figures) calls :func:`read`; both refuse a table that
breaks a rule, with every problem at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sim.errors import InputError, Problem, nearest

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
CONTRADICTION = 50.0
"""How many times longer than a larger step a step may not take."""

QUANTITIES = (
    "iteration_measured",  # a whole engine step, host included
    "iteration_composed",  # a step summed from kernel times: no host, no sampling, no elementwise kernels
    "decoder_measured",  # all (or scaled) layers and lm_head of a torch decoder, no engine around it
    "linear_per_layer",  # one layer's matrix multiplications (norms, activations) for T tokens
    "attention_op",  # one layer's attention kernel
    "lm_head_op",
    "allreduce_op",  # one all-reduce of message_bytes over tp GPUs
    "copy_h2d",  # host to device, message_bytes
    "copy_d2h",  # device to host, message_bytes
)

STEPS = QUANTITIES[:3]
"""Quantities that are whole steps, which the fit of a profile uses."""


@dataclass(frozen=True)
class Column:
    """One declared column: *kind*, unit, meaning, and what a value must satisfy."""

    name: str
    kind: Literal["text", "integer", "number"]
    unit: str
    meaning: str
    required: bool = True
    low: float | None = None
    """Smallest value allowed."""
    above_zero: bool = False
    default: Any = None


COLUMNS: tuple[Column, ...] = (
    Column("source", "text", "", "who measured: a data set, a tool and its version, or 'thinkcap'"),
    Column("gpu", "text", "", "hardware name as in `thinkcap list hardware`, or the device's own name"),
    Column("model", "text", "", "model name as in `thinkcap list models`, or a path to its config"),
    Column("dtype", "text", "", "number format of the weights: bf16, fp16, fp8, mxfp4, nvfp4, int4, int8, fp32"),
    Column("kv_dtype", "text", "", "number format of the KV cache", required=False, default=""),
    Column("tp", "integer", "GPUs", "tensor parallel size", low=1),
    Column("engine", "text", "", "engine or kernel library and its version", required=False, default=""),
    Column("quantity", "text", "", "what the time is of: " + ", ".join(QUANTITIES)),
    Column("decodes", "integer", "sequences", "sequences that compute one token", low=0),
    Column("context", "integer", "tokens", "context of each decode, computed before the step", low=0),
    Column("chunks", "integer", "sequences", "prefill chunks in the step", required=False, low=0, default=0),
    Column("chunk_tokens", "integer", "tokens", "new tokens of each chunk", required=False, low=0, default=0),
    Column("chunk_cached", "integer", "tokens", "tokens before each chunk", required=False, low=0, default=0),
    Column(
        "message_bytes",
        "number",
        "bytes",
        "size, for all-reduce and copies",
        required=False,
        low=0,
        default=0.0,
    ),
    Column("time_ms", "number", "ms", "the median time", above_zero=True),
    Column("spread_ms", "number", "ms", "interquartile range over repeats", required=False, low=0, default=0.0),
    Column("n", "integer", "repeats", "how many repeats the median is of", required=False, low=1, default=1),
    Column(
        "clock_mhz",
        "number",
        "MHz",
        "median SM clock while measuring, 0 unknown",
        required=False,
        low=0,
        default=0.0,
    ),
    Column("temperature_c", "number", "°C", "temperature while measuring, 0 unknown", required=False, default=0.0),
    Column("flag", "text", "", "why a row should not be fitted, e.g. 'throttled'", required=False, default=""),
)
"""Every column a table may hold; others are kept as they are."""

_BY_NAME = {column.name: column for column in COLUMNS}
_TRAPS = {
    "time_s": "time_ms",
    "time_us": "time_ms",
    "time": "time_ms",
    "latency_ms": "time_ms",
    "latency_us": "time_ms",
    "batch_size": "decodes",
    "context_tokens_per_seq": "context",
}
"""Names met in other tables, and what they correspond to here; times in other units are refused, not
guessed."""


def read(path: str | Path) -> pd.DataFrame:
    """The checked table in *path* (Parquet, CSV or CSV.GZ), with defaults for what may be left out.

    The metadata written by :func:`write` is in ``frame.attrs``. Raise an InputError with every problem.
    """
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise InputError(Problem("no such measurement file", source=str(path)))
    attrs: dict[str, Any] = {}
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            table = pq.read_table(path)
            attrs = _decode_metadata(table.schema.metadata)
            frame = table.to_pandas()
        else:
            _check_header(path)
            frame = pd.read_csv(path, low_memory=False)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            Problem(f"not readable as a table: {error}", source=str(path), expected="Parquet or CSV")
        ) from None
    frame = check(frame, source=str(path))
    frame.attrs.update(attrs)
    return frame


def _check_header(path: Path) -> None:
    """Raise an InputError for a CSV file whose columns cannot be told apart."""
    import gzip

    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        header = file.readline().decode("utf-8-sig").strip()
    if "," not in header:
        for separator, name in ((";", "semicolons"), ("\t", "tabs")):
            if separator in header:
                raise InputError(
                    Problem(f"its columns are separated by {name}", source=str(path), expected="commas between columns")
                )
    columns = [column.strip().strip('"') for column in header.split(",")]
    twice = sorted({column for column in columns if column and columns.count(column) > 1})
    if twice:
        raise InputError(
            [Problem("two columns of this name", source=str(path), key=name, expected="one") for name in twice]
        )


def contradiction(frame: pd.DataFrame) -> tuple[int, int] | None:
    """Two rows of whole steps (by position) that cannot both be in milliseconds, None where there are none.

    Of two steps the one with at least as many tokens computed, tokens read and pairs of them takes at least about as long,
    decodes or prefills; one that takes `CONTRADICTION` times shorter was written in another unit.
    """
    import numpy as np

    decodes, context, chunks, new, cached = (
        frame[name].to_numpy(float) for name in ("decodes", "context", "chunks", "chunk_tokens", "chunk_cached")
    )
    tokens, read = decodes + chunks * new, decodes * context + chunks * (new + cached)
    sizes = np.stack([tokens, read, decodes * context + chunks * new * (cached + new / 2)], axis=1)
    times = frame["time_ms"].to_numpy(float)
    suspects = np.flatnonzero(times > CONTRADICTION * times.min(initial=np.inf))
    for slow in suspects[np.argsort(-times[suspects])]:
        beside = np.flatnonzero((times * CONTRADICTION < times[slow]) & (sizes >= sizes[slow]).all(axis=1))
        if len(beside):
            return int(slow), int(beside[0])
    return None


def write(frame: pd.DataFrame, path: str | Path, metadata: dict[str, Any] | None = None) -> None:
    """Write a checked table as Parquet, *metadata* (device, driver, torch, command, date …) beside it in
    the file."""
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    table = pa.Table.from_pandas(check(frame, source=str(path)), preserve_index=False)
    payload = {"schema_version": SCHEMA_VERSION, **(metadata or {})}
    table = table.replace_schema_metadata(
        {**(table.schema.metadata or {}), b"thinkcap": json.dumps(payload, sort_keys=True).encode()}
    )
    part = path.with_name(path.name + ".part")
    pq.write_table(table, part)
    part.replace(path)


def _decode_metadata(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    import json

    return dict(json.loads((metadata or {}).get(b"thinkcap", b"{}")))


def check(frame: pd.DataFrame, *, source: str = "measurements") -> pd.DataFrame:
    """*frame* with declared types and defaults; raise an InputError naming column, row and what was
    expected."""
    problems: list[Problem] = []

    def problem(message: str, key: str | None = None, expected: str | None = None, near: str | None = None) -> None:
        problems.append(Problem(message, source=source, key=key, expected=expected, nearest=near))

    if not len(frame):
        problem("the table has no rows", expected="at least two batch sizes and two contexts")
    for column in COLUMNS:
        if column.name in frame.columns or not column.required:
            continue
        twins = [name for name, ours in _TRAPS.items() if ours == column.name and name in frame.columns]
        if twins:
            problem(
                f"column {twins[0]!r} is not {column.name!r}",
                key=column.name,
                expected=f"{column.meaning}" + (f", in {column.unit}" if column.unit else ""),
            )
        else:
            problem(
                f"column {column.name!r} is missing",
                key=column.name,
                expected=column.meaning + (f" [{column.unit}]" if column.unit else ""),
                near=nearest(column.name, [name for name in map(str, frame.columns) if name not in _BY_NAME]),
            )
    both = [name for name in ("time_s", "time_us", "latency_ms", "latency_us") if name in frame.columns]
    if "time_ms" in frame.columns and both:
        problem(f"times in two units: 'time_ms' and {both[0]!r}", key=both[0], expected="one time column, time_ms")
    if problems:
        raise InputError(problems)

    out = frame.copy()
    for column in COLUMNS:
        if column.name not in out.columns:
            out[column.name] = column.default
        out[column.name] = _column(out[column.name], column, problem)
    if problems:
        raise InputError(problems)
    _check_rows(out, problem)
    if problems:
        raise InputError(problems)
    return out


def _column(values: Any, column: Column, problem: Callable[..., None]) -> Any:
    import numpy as np
    import pandas as pd

    if column.kind == "text":
        if column.required and (missing := values.isna() | (values.astype(str) == "")).any():
            problem(f"row {_first(missing)}: empty ({int(missing.sum())} such rows)", key=column.name)
        return values.astype(object).where(values.notna(), "").astype(str)
    numbers = pd.to_numeric(values, errors="coerce")
    if not column.required:
        numbers = numbers.where(values.notna(), column.default)
    bad = ~np.isfinite(numbers.astype("float64"))
    if bad.any():
        row = _first(bad)
        problem(
            f"row {row}: {values.iloc[row]} is not a finite number ({int(bad.sum())} such rows)",
            key=column.name,
            expected=column.meaning,
        )
        return numbers
    low = (numbers <= 0) if column.above_zero else (numbers < column.low) if column.low is not None else None
    if low is not None and low.any():
        row = _first(low)
        what = "more than 0" if column.above_zero else f"at least {column.low:g}"
        problem(
            f"row {row}: {numbers.iloc[row]:g} ({int(low.sum())} such rows)",
            key=column.name,
            expected=f"{what} {column.unit}".strip(),
        )
    if column.kind == "integer":
        if (odd := numbers != np.floor(numbers)).any():
            row = _first(odd)
            problem(f"row {row}: {numbers.iloc[row]:g} is not a whole number", key=column.name)
            return numbers
        return numbers.astype("int64")
    return numbers.astype("float64")


def _check_rows(frame: pd.DataFrame, problem: Callable[..., None]) -> None:
    """Rules that need more than one column."""
    unknown = sorted(set(frame["quantity"]) - set(QUANTITIES))
    for name in unknown:
        problem(
            f"unknown quantity {name!r}",
            key="quantity",
            expected="one of " + ", ".join(QUANTITIES),
            near=nearest(name, QUANTITIES),
        )
    steps = frame["quantity"].isin(STEPS)
    empty = steps & (frame["decodes"] == 0) & (frame["chunks"] == 0)
    if empty.any():
        problem(f"row {_first(empty)}: a step without decodes and without chunks", key="decodes")
    hollow = (frame["chunks"] > 0) & (frame["chunk_tokens"] == 0)
    if hollow.any():
        problem(f"row {_first(hollow)}: chunks of no tokens", key="chunk_tokens", expected="at least 1 token")
    silly = steps & (frame["time_ms"] > 3.6e6)
    if silly.any():
        problem(
            f"row {_first(silly)}: a step of {frame['time_ms'][silly].iloc[0]:g} ms is longer than an hour",
            key="time_ms",
            expected="milliseconds (nanoseconds, perhaps?)",
        )


def _first(mask: Any) -> int:
    import numpy as np

    return int(np.argmax(np.asarray(mask, dtype=bool)))
