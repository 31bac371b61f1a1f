"""Which trace files can be read: one format a file, recognised by content.

A format is a frozen dataclass under the ``trace_format`` decorator with ``title``, ``recognises(head)`` and
``read(path, report)``; ``read`` yields record batches in the columns of `workloads.formats.columns`, in order
of the file and of bounded size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sim.errors import InputError, Problem
from sim.registry import Registry
from workloads.formats.files import Head, look

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass
class Report:
    """What was noticed while reading, for people: rows left out, clocks shifted, fields that were guessed."""

    source: str
    notes: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    any_order: bool = False
    """Let rows stand in any order: whoever asked will sort them."""

    def count(self, what: str, rows: int) -> None:
        """*rows* more rows of which *what* is true."""
        if rows:
            self.counts[what] = self.counts.get(what, 0) + rows

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def lines(self) -> list[str]:
        """All of it, a sentence each."""
        return self.notes + [f"{rows:,} rows {what}" for what, rows in self.counts.items()]


class TraceFormat(Protocol):
    """A way in which traces are written."""

    @property
    def title(self) -> str:
        """What people call it."""

    def recognises(self, head: Head) -> bool:
        """Whether a file that begins like *head* is one of these."""

    def read(self, path: Path, report: Report) -> Iterator[pa.RecordBatch]:
        """Its rows; raise InputError naming file, row and column for what is wrong."""


trace_format: Registry[TraceFormat] = Registry("trace format", "workloads.formats")


def detect(path: Path) -> tuple[str, TraceFormat]:
    """Name and reader of the format of *path*; raise InputError when it cannot be read or recognised.

    Our own columns are tried last, since some other formats carry columns of the same names.
    """
    head = look(path)
    names = [name for name in trace_format.names() if name != "columns"]
    for name in [*names, "columns"]:
        reader = trace_format.make(name)
        if reader.recognises(head):
            return name, reader
    shown = ", ".join(map(repr, head.names[:8])) if head.names else repr(head.text[:60])
    raise InputError(
        Problem(
            f"not recognised as a trace; it has {'columns or keys' if head.names else 'text'} {shown}",
            source=str(path),
            expected="columns arrived_at, num_prefill_tokens, num_decode_tokens, or one of the formats "
            + ", ".join(names),
        )
    )


def read(path: Path, report: Report | None = None, *, name: str | None = None) -> Iterator[pa.RecordBatch]:
    """Rows of the trace at *path*, batch by batch, in any format (or in the one called *name*)."""
    report = report if report is not None else Report(str(path))
    if name is None:
        _, reader = detect(path)
    else:
        look(path)
        reader = trace_format.make(name)
    yield from reader.read(path, report)
