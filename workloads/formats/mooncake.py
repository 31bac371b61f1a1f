"""Mooncake traces: JSON lines of ``timestamp`` (ms), ``input_length``, ``output_length``, ``hash_ids`` of
512 tokens.

Source: github.com/kvcache-ai/Mooncake, FAST 2025, Apache-2.0; also the form in which AIPerf takes traces.
Requests that share leading hashes share a prefix; it is kept as the parent and its number of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workloads.formats import Report, trace_format
from workloads.formats.files import Head, look
from workloads.formats.prefixes import PrefixFinder
from workloads.formats.rows import Row, from_rows, tidy

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK_TOKENS = 512


@trace_format("mooncake")
@dataclass(frozen=True)
class Mooncake:
    """Mooncake."""

    title: str = "Mooncake"

    def recognises(self, head: Head) -> bool:
        return (
            head.kind in ("jsonl", "json") and head.has("input_length", "output_length") and "chat_id" not in head.names
        )

    def read(self, path: Path, report: Report) -> Iterator[pa.RecordBatch]:
        head = look(path)
        prefixes = PrefixFinder(BLOCK_TOKENS)
        timed = head.has("timestamp")
        if not timed:
            report.note("no time stamps: all requests arrive at once")
        elif not head.has("hash_ids"):
            report.note("time stamps are taken as milliseconds, as Mooncake and AIPerf write them")

        def make(row: Row) -> Row:
            parent, shared = prefixes.parent(row.get("hash_ids"), row.get("input_length"))
            return tidy(
                arrived_at=row.get("timestamp") if timed else 0,
                num_prefill_tokens=row.get("input_length"),
                num_decode_tokens=max(row["output_length"], 1)
                if isinstance(row.get("output_length"), int) and row["output_length"] == 0
                else row.get("output_length"),
                session_id=row.get("session_id"),
                priority=row.get("priority"),
                parent_id=parent,
                prefix_len=shared,
            )

        yield from from_rows(path, head.kind, report, make, time_column="timestamp", time_unit=1e-3, shift=False)
