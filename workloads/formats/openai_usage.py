"""Logs of OpenAI-style responses, one a line: ``created``, ``model`` and ``usage`` with its reasoning tokens.

Both chat completions (``prompt_tokens``, ``completion_tokens``,
``completion_tokens_details.reasoning_tokens``) and responses (``input_tokens``, ``output_tokens``,
``output_tokens_details.reasoning_tokens``) are read, in a list or one a line, also where a logger has
wrapped the response. Rows are sorted by time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workloads.formats import Report, trace_format
from workloads.formats.files import Head, look
from workloads.formats.rows import Row, from_rows, pick, tidy

if TYPE_CHECKING:
    import pyarrow as pa

_USAGE = ("usage", "response.usage", "response.body.usage", "body.usage")


@trace_format("openai_usage")
@dataclass(frozen=True)
class OpenAiUsage:
    """OpenAI-style usage logs."""

    title: str = "OpenAI-style usage log"

    def recognises(self, head: Head) -> bool:
        return head.kind in ("jsonl", "json") and isinstance(pick(head.first, *_USAGE), dict)

    def read(self, path: Path, report: Report) -> Iterator[pa.RecordBatch]:
        def make(row: Row) -> Row | None:
            usage = pick(row, *_USAGE)
            if not isinstance(usage, dict):
                report.count("had no usage (failed requests) and were left out", 1)
                return None
            return tidy(
                arrived_at=pick(row, "created", "created_at", "response.created", "response.created_at", "timestamp"),
                num_prefill_tokens=pick(usage, "prompt_tokens", "input_tokens"),
                num_decode_tokens=pick(usage, "completion_tokens", "output_tokens"),
                num_reasoning_tokens=pick(
                    usage,
                    "completion_tokens_details.reasoning_tokens",
                    "output_tokens_details.reasoning_tokens",
                    "reasoning_tokens",
                )
                or 0,
                max_tokens=pick(
                    row,
                    "max_completion_tokens",
                    "max_tokens",
                    "max_output_tokens",
                    "request.max_completion_tokens",
                    "request.max_tokens",
                ),
                client_id=pick(row, "user", "request.user", "safety_identifier", "api_key_id"),
                session_id=pick(row, "conversation.id", "session_id"),
                model=pick(row, "model", "response.model", "request.model"),
                cached_tokens=pick(usage, "prompt_tokens_details.cached_tokens", "input_tokens_details.cached_tokens"),
            )

        yield from from_rows(path, look(path).kind, report, make, time_column="created", in_order=False)
