"""Mooncake traces: JSON lines of ``timestamp`` (ms), ``input_length``, ``output_length``, ``hash_ids`` of
512 tokens.

Source: github.com/kvcache-ai/Mooncake, FAST 2025, Apache-2.0; also the form in which AIPerf takes traces.
Requests that share leading hashes share a prefix; it is kept as the parent and its number of tokens. AIPerf also lets
``text_input`` or ``messages`` stand for the length, and a ``delay`` (ms) after the turn before for the time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads.formats import Report, trace_format
from workloads.formats.files import Head, look
from workloads.formats.prefixes import PrefixFinder
from workloads.formats.rows import CHARACTERS_A_TOKEN, Row, from_rows, tidy, tokens_of

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK_TOKENS = 512
_TEXTS = ("text_input", "messages")


@trace_format("mooncake")
@dataclass(frozen=True)
class Mooncake:
    """Mooncake."""

    title: str = "Mooncake"

    def recognises(self, head: Head) -> bool:
        lengths = head.has("output_length") and bool({"input_length", *_TEXTS} & set(head.names))
        return head.kind in ("jsonl", "json") and lengths and "chat_id" not in head.names

    def read(self, path: Path, report: Report) -> Iterator[pa.RecordBatch]:
        head = look(path)
        prefixes = PrefixFinder(BLOCK_TOKENS)
        timed, delayed = head.has("timestamp"), '"delay"' in head.text
        if not timed:
            report.note("no time stamps: all requests arrive at once" + (", but for later turns" if delayed else ""))
        elif not head.has("hash_ids"):
            report.note("time stamps are taken as milliseconds, as Mooncake and AIPerf write them")
        if delayed:
            report.note("a turn with a delay is taken to arrive so long after the turn before it arrived")
        turns: dict[Any, Any] = {}

        def make(row: Row) -> Row:
            prompt, output = row.get("input_length"), row.get("output_length")
            if prompt is None and (text := next((row[name] for name in _TEXTS if row.get(name)), None)) is not None:
                report.note(f"tokens of prompts are estimated at {CHARACTERS_A_TOKEN} characters each")
                prompt = tokens_of(text if isinstance(text, str) else json.dumps(text))
            at = row.get("timestamp") if timed else 0
            session, delay = row.get("session_id"), row.get("delay")
            if isinstance(delay, int | float) and session in turns and row.get("timestamp") is None:
                at = turns[session] + delay
            if isinstance(at, int | float) and session is not None:
                turns[session] = at
            # Rows that are to be sorted have no number yet that a later one might name as its parent.
            parent, shared = (None, None) if delayed else prefixes.parent(row.get("hash_ids"), prompt)
            return tidy(
                arrived_at=at,
                num_prefill_tokens=prompt,
                num_decode_tokens=1 if output == 0 and not isinstance(output, bool) else output,
                session_id=session,
                priority=row.get("priority"),
                parent_id=parent,
                prefix_len=shared,
            )

        yield from from_rows(
            path,
            head.kind,
            report,
            make,
            time_column="timestamp",
            time_unit=1e-3,
            shift=False,
            in_order=not delayed,
        )
