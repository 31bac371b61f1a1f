"""Our own trace columns, in CSV, JSON lines or Parquet; and the checks that rows of every format pass.

=====================  ======  ==============================================================================
arrived_at             float   seconds from the start, never falling; or dates, which start at the first row
num_prefill_tokens     int     tokens of the prompt
num_decode_tokens      int     tokens generated: reasoning and answer
num_reasoning_tokens   int     tokens of hidden reasoning
num_answer_tokens      int     tokens of the visible answer
max_tokens             int     the client's limit on output tokens; -1 = none
priority               int     smaller is served first where the scheduler looks at it
prefix_group           int     prompts of a group share their first ``prefix_len`` tokens; -1 = none
prefix_len             int     tokens shared with the group, or with the parent's prompt and output
parent_id              int     row number (from 0) or ``request_id`` of the row it continues; -1 = none
client_id, session_id,
prompt_id, category,
model                  text    names; rows of one ``prompt_id`` ask the same prompt
=====================  ======  ==============================================================================

The first three are needed; of the output's three figures two are enough. Other columns are kept as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from sim.errors import InputError, Problem, nearest
from workloads.formats import Report, trace_format
from workloads.formats.cells import MOST_PROBLEMS, MOST_TOKENS, Faults, integers, names_of, numbers, texts
from workloads.formats.files import Head, Raw, csv_rows, fail, json_lines, parquet_rows

if TYPE_CHECKING:
    import pyarrow as pa

INTEGERS = (
    "num_prefill_tokens",
    "num_decode_tokens",
    "num_reasoning_tokens",
    "num_answer_tokens",
    "max_tokens",
    "priority",
    "prefix_group",
    "prefix_len",
    "parent_id",
)
TEXTS = ("client_id", "session_id", "prompt_id", "category", "model")
NEEDED = ("arrived_at", "num_prefill_tokens", "num_decode_tokens")
MISSING = {"max_tokens": -1, "priority": 0, "prefix_group": -1, "prefix_len": 0, "parent_id": -1}
"""What an empty cell means in the columns that may have them."""

ALIASES = {"parent": "parent_id", "arrived_at_ns": "arrived_at"}
LONGEST_S = 3653 * 86_400.0
"""Ten years: what is later is a date taken for seconds."""
SORT = "sorted rows; `thinkcap trace convert --sort` sorts them"
_OUTPUT = ("num_decode_tokens", "num_reasoning_tokens", "num_answer_tokens")


@dataclass
class Order:
    """Carries the last arrival from batch to batch, to see that time never falls."""

    last: float = -math.inf

    def check(self, arrived: npt.NDArray[np.float64], first: int, column: str, faults: Faults) -> None:
        if not len(arrived):
            return
        falls = np.flatnonzero(np.diff(arrived, prepend=self.last) < 0)
        if len(falls):
            at = int(falls[0])
            before = arrived[at - 1] if at else self.last
            message = f"{arrived[at]:.17g} comes after {before:.17g}: rows are not in order of arrival"
            faults.add(first + at, column, message, SORT)
        self.last = float(arrived[-1])


def standard(
    columns: Mapping[str, Any],
    *,
    first: int,
    faults: Faults,
    report: Report,
    order: Order | None,
    time_column: str = "arrived_at",
) -> pa.RecordBatch:
    """Rows in our columns, checked; *columns* have our names, extra ones are kept.

    Rows without output (failed requests) are left out and counted. Raises InputError with every fault of the
    batch.
    """
    import pyarrow as pa

    done: dict[str, Any] = {}
    arrived = numbers(columns["arrived_at"], first=first, column=time_column, faults=faults)
    earliest = -LONGEST_S if report.any_order else 0.0
    for i in np.flatnonzero((arrived < earliest) | (arrived > LONGEST_S))[:MOST_PROBLEMS].tolist():
        message = f"{arrived[i]:.17g} is {'negative' if arrived[i] < 0 else 'more than ten years'}"
        faults.add(first + i, time_column, message, "seconds from the start of the trace")
    faults.stop()
    if order is not None and not report.any_order:
        order.check(arrived, first, time_column, faults)
    done["arrived_at"] = arrived
    for name in INTEGERS:
        if name not in columns:
            continue
        low = 1 if name == "num_prefill_tokens" else -1 if MISSING.get(name) == -1 else 0
        low = -MOST_TOKENS if name == "priority" else low
        done[name] = integers(columns[name], first=first, column=name, faults=faults, low=low, empty=MISSING.get(name))
    faults.stop()
    _complete_output(done, first, faults)
    if "prefix_len" in done:
        for i in np.flatnonzero(done["prefix_len"] > done["num_prefill_tokens"])[:MOST_PROBLEMS].tolist():
            message = f"{done['prefix_len'][i]} shared tokens are more than the prompt has"
            faults.add(first + i, "prefix_len", message)
    faults.stop()
    for name, values in columns.items():
        if name not in done:
            done[name] = names_of(values, first, name, faults) if name in TEXTS else _extra(values)
    faults.stop()
    batch = pa.RecordBatch.from_pydict({name: done[name] for name in _in_order(done)})
    empty = done["num_decode_tokens"] == 0
    if empty.any() and "parent_id" in done:
        at = int(np.flatnonzero(empty)[0])
        faults.add(first + at, "num_decode_tokens", "0 tokens of output", "at least 1 where rows have parents")
        faults.stop()
    if empty.any():
        report.count("generated nothing and were left out", int(empty.sum()))
        batch = batch.filter(pa.array(~empty))
    return batch


def _in_order(names: Mapping[str, Any]) -> list[str]:
    known = ["arrived_at", *INTEGERS, *TEXTS]
    return [name for name in known if name in names] + [name for name in names if name not in known]


def _extra(values: Any) -> Any:
    import pyarrow as pa

    if isinstance(values, pa.Array):
        return values
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return texts(values)


def _complete_output(done: dict[str, Any], first: int, faults: Faults) -> None:
    """Fill in the third of output, reasoning and answer from the other two, and see that they agree."""
    output, reasoning, answer = (done.get(name) for name in _OUTPUT)
    if output is None:
        if answer is None:
            raise fail(faults.source, "has no column num_decode_tokens", line=1)
        done["num_decode_tokens"] = answer + (reasoning if reasoning is not None else 0)
        return
    if reasoning is None and answer is None:
        return
    if reasoning is None or answer is None:
        known: Any
        known, name = (answer, "num_answer_tokens") if reasoning is None else (reasoning, "num_reasoning_tokens")
        other = "num_reasoning_tokens" if reasoning is None else "num_answer_tokens"
        for i in np.flatnonzero(known > output)[:MOST_PROBLEMS].tolist():
            faults.add(first + i, name, f"{known[i]} is more than the {output[i]} tokens of the output")
        done[other] = output - known
        return
    for i in np.flatnonzero(reasoning + answer != output)[:MOST_PROBLEMS].tolist():
        message = f"{output[i]} is not reasoning {reasoning[i]} + answer {answer[i]}"
        faults.add(first + i, "num_decode_tokens", message)


def require(head: Head, needed: Sequence[str], known: Sequence[str]) -> None:
    """Raise InputError for each needed column that *head* lacks, naming the one that may have been meant."""
    problems = [
        Problem(
            f"has no column {name!r}",
            source=str(head.path),
            line=1 if head.kind == "csv" else None,
            expected="columns " + ", ".join(known),
            nearest=nearest(name, [other for other in head.names if other not in known]),
        )
        for name in needed
        if name not in head.names
    ]
    if problems:
        raise InputError(problems)


def _dates(values: Any) -> bool:
    """Whether a column of times begins with a date, or is of dates."""
    import pyarrow as pa

    from workloads.formats.timestamps import is_date

    if isinstance(values, pa.Array) and pa.types.is_timestamp(values.type):
        return True
    first = values[0].as_py() if isinstance(values, pa.Array) else values[0]
    return isinstance(first, str) and is_date(first)


def raw_rows(path: Path, kind: str) -> Iterator[Raw]:
    """Rows of a CSV, JSON-lines or Parquet file, by *kind*."""
    if kind == "csv":
        yield from csv_rows(path)
    elif kind == "jsonl":
        yield from json_lines(path)
    else:
        for row, batch in parquet_rows(path):
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            yield Raw(str(path), row, batch.num_rows, columns)


@trace_format("columns")
@dataclass(frozen=True)
class OwnColumns:
    """Traces in our own columns."""

    title: str = "ThinkCap columns"

    def recognises(self, head: Head) -> bool:
        """By the names of our columns; one of them is enough, so that what is missing can be named."""
        names = {ALIASES.get(name, name) for name in head.names}
        return head.kind in ("csv", "jsonl", "parquet") and bool(
            names & {"arrived_at", "num_prefill_tokens", "num_decode_tokens"}
        )

    def read(self, path: Path, report: Report) -> Iterator[pa.RecordBatch]:
        from workloads.formats.files import look
        from workloads.formats.timestamps import StampReader

        head = look(path)
        names = [ALIASES.get(name, name) for name in head.names]
        for alias, name in ALIASES.items():
            if alias in head.names and name in head.names:
                raise fail(path, f"has both {alias!r} and {name!r}", line=1)
        needed = list(NEEDED)
        if "num_answer_tokens" in names:
            needed.remove("num_decode_tokens")
        # Vidur's data sets of lengths have no times.
        untimed = "arrived_at" not in names and "pd_ratio" in names
        if untimed:
            needed.remove("arrived_at")
            report.note("no time stamps: all requests arrive at once")
        require(Head(path, head.kind, names=tuple(names)), needed, NEEDED)
        unknown = [name for name in names if name not in ("arrived_at", "request_id", *INTEGERS, *TEXTS)]
        if unknown:
            report.note("columns kept but not used: " + ", ".join(name or "one without a name" for name in unknown))
        faults, order = Faults(str(path)), Order()
        dated: StampReader | Literal[False] | None = None
        for raw in raw_rows(path, head.kind):
            columns = {ALIASES.get(name, name): values for name, values in raw.columns.items()}
            if "arrived_at_ns" in raw.columns:
                ns = raw.columns["arrived_at_ns"]
                columns["arrived_at"] = list(numbers(ns, first=raw.first, column="arrived_at_ns", faults=faults) / 1e9)
                faults.stop()
            if untimed:
                columns["arrived_at"] = [0.0] * raw.count
            elif "arrived_at" in columns:
                # As the file begins, so all of it is: dates among numbers are faults.
                if dated is None:
                    dated = StampReader(report) if _dates(columns["arrived_at"]) else False
                if dated:
                    columns["arrived_at"] = dated.seconds(columns["arrived_at"], raw.first, "arrived_at", faults)
                faults.stop()
            missing = [name for name in needed if name not in columns]
            if missing:
                raise fail(path, f"has no {missing[0]!r}", line=raw.first)
            yield standard(columns, first=raw.first, faults=faults, report=report, order=order)
            faults.stop()
