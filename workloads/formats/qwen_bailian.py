"""Qwen-Bailian usage traces: JSON lines with ``chat_id``, ``parent_chat_id``, ``timestamp`` (s), lengths and
hashes of 16 tokens.

Source: github.com/alibaba-edu/qwen-bailian-usagetraces-anon, Apache-2.0. Turns of one chat become a session;
leading hashes shared with an earlier request become the parent and its prefix.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads.formats import Report, trace_format
from workloads.formats.files import Head, look
from workloads.formats.prefixes import PrefixFinder
from workloads.formats.rows import Row, from_rows, tidy

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK_TOKENS = 16


@trace_format("qwen_bailian")
@dataclass(frozen=True)
class QwenBailian:
    """Qwen-Bailian."""

    title: str = "Qwen-Bailian"

    def recognises(self, head: Head) -> bool:
        return head.kind in ("jsonl", "json") and head.has("chat_id", "input_length", "output_length")

    def read(self, path: Path, report: Report) -> Iterator[pa.RecordBatch]:
        head = look(path)
        prefixes = PrefixFinder(BLOCK_TOKENS)
        roots: dict[Any, Any] = {}

        def make(row: Row) -> Row:
            chat, before = row.get("chat_id"), row.get("parent_chat_id")
            root = chat if before in (None, -1, "-1") else roots.get(before, before)
            roots[chat] = root
            parent, shared = prefixes.parent(row.get("hash_ids"), row.get("input_length"))
            output = row.get("output_length")
            return tidy(
                arrived_at=row.get("timestamp"),
                num_prefill_tokens=row.get("input_length"),
                num_decode_tokens=1 if output == 0 and not isinstance(output, bool) else output,
                session_id=root,
                category=row.get("type"),
                parent_id=parent,
                prefix_len=shared,
                turn=row.get("turn"),
            )

        yield from from_rows(path, head.kind, report, make, time_column="timestamp", shift=False)
