"""OpenTelemetry GenAI spans as OTLP/JSON, whole or one export a line: ``gen_ai.usage.*`` of client and
server spans.

Attributes follow the semantic conventions for generative AI (``gen_ai.usage.input_tokens``,
``…output_tokens``, ``gen_ai.request.max_tokens``, ``gen_ai.request.model``, ``gen_ai.conversation.id``); the
older ``prompt_tokens`` and ``completion_tokens`` are read too. Spans without usage (tools, agents) are
passed over; spans are sorted by start.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads.formats import Report, trace_format
from workloads.formats.files import Head, fail, look
from workloads.formats.rows import Row, batches, objects, tidy

if TYPE_CHECKING:
    import pyarrow as pa


@trace_format("otel")
@dataclass(frozen=True)
class Otel:
    """OpenTelemetry GenAI spans."""

    title: str = "OpenTelemetry GenAI spans"

    def recognises(self, head: Head) -> bool:
        return head.kind in ("jsonl", "json") and bool(
            {"resourceSpans", "resource_spans"} & set(head.names)
            or any(str(key).startswith("gen_ai.") for key in _attributes(head.first))
        )

    def read(self, path: Path, report: Report) -> Iterator[pa.RecordBatch]:
        def rows() -> Iterator[tuple[int, Row | None]]:
            number = 0
            for line, item in objects(path, look(path).kind):
                for span in _spans(item):
                    number += 1
                    row = _row(span)
                    if row is None:
                        report.count("were spans without token usage and were left out", 1)
                    elif row.get("arrived_at") is None:
                        raise fail(path, "a span has no startTimeUnixNano", line=line)
                    yield number, row

        yield from batches(path, rows(), report, time_unit=1e-9, time_column="startTimeUnixNano", in_order=False)


def _spans(item: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(item, dict):
        return
    nested = item.get("resourceSpans") or item.get("resource_spans")
    if not isinstance(nested, list):
        yield item
        return
    for resource in nested:
        for scope in (resource or {}).get("scopeSpans") or (resource or {}).get("scope_spans") or []:
            yield from (span for span in (scope or {}).get("spans") or [] if isinstance(span, dict))


def _attributes(span: Any) -> dict[str, Any]:
    found = span.get("attributes") if isinstance(span, dict) else None
    if isinstance(found, dict):
        return found
    result: dict[str, Any] = {}
    for item in found if isinstance(found, list) else []:
        value = item.get("value") if isinstance(item, dict) else None
        if isinstance(value, dict) and value:
            kind, plain = next(iter(value.items()))
            result[str(item.get("key"))] = (
                int(plain) if kind == "intValue" and str(plain).lstrip("-").isdigit() else plain
            )
    return result


def _row(span: dict[str, Any]) -> Row | None:
    found = _attributes(span)

    def first(*names: str) -> Any:
        return next((found[name] for name in names if name in found), None)

    output = first("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens")
    if output is None:
        return None
    return tidy(
        arrived_at=span.get("startTimeUnixNano", span.get("start_time_unix_nano", span.get("start_time"))),
        num_prefill_tokens=first("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens"),
        num_decode_tokens=output,
        num_reasoning_tokens=first(
            "gen_ai.usage.reasoning.output_tokens",
            "gen_ai.usage.reasoning_tokens",
            "gen_ai.usage.details.reasoning_tokens",
        ),
        max_tokens=first("gen_ai.request.max_tokens"),
        model=first("gen_ai.response.model", "gen_ai.request.model"),
        session_id=first("gen_ai.conversation.id", "session.id"),
        client_id=first("user.id", "enduser.id"),
    )
