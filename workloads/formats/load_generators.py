"""What load generators wrote or read: vLLM bench results, custom data sets and ShareGPT, guidellm, AIPerf,
inference-perf.

Results carry start times and token counts. Data sets carry none of the former (all requests arrive at once)
and often not even the latter: tokens are then estimated at four characters each, and the report says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads.formats import Report, trace_format
from workloads.formats.files import Head, fail, look, whole_json
from workloads.formats.rows import CHARACTERS_A_TOKEN, FILLER, Row, batches, from_rows, objects, pick, tidy, tokens_of

if TYPE_CHECKING:
    import pyarrow as pa

_AT_ONCE = "no time stamps: all requests arrive at once"


@trace_format("vllm_bench")
@dataclass(frozen=True)
class VllmBench:
    """Results that ``vllm bench serve --save-result --save-detailed`` wrote."""

    title: str = "vllm bench result"

    def recognises(self, head: Head) -> bool:
        return head.kind == "json" and head.has("input_lens", "output_lens")

    def read(self, path: Path, report: Report) -> Iterator[pa.RecordBatch]:
        value = whole_json(path)
        prompts, outputs, starts = (value.get(name) for name in ("input_lens", "output_lens", "start_times"))
        if not isinstance(prompts, list) or not isinstance(outputs, list) or len(prompts) != len(outputs):
            raise fail(path, "input_lens and output_lens are not lists of the same length")
        if not isinstance(starts, list) or len(starts) != len(prompts):
            report.note(_AT_ONCE)
            starts = [0.0] * len(prompts)
        rows = (
            (i + 1, tidy(arrived_at=start, num_prefill_tokens=prompt, num_decode_tokens=output))
            for i, (start, prompt, output) in enumerate(zip(starts, prompts, outputs, strict=True))
        )
        yield from batches(path, rows, report, time_column="start_times", in_order=False)


@trace_format("vllm_custom")
@dataclass(frozen=True)
class VllmCustom:
    """Data sets of ``vllm bench serve --dataset-name custom``: a ``prompt`` and its ``output_tokens`` a line."""

    title: str = "vllm bench custom data set"

    def recognises(self, head: Head) -> bool:
        ours = {"arrived_at", "num_prefill_tokens", "num_decode_tokens"}
        return head.kind in ("json", "jsonl") and head.has("prompt") and not ours & set(head.names)

    def read(self, path: Path, report: Report) -> Iterator[pa.RecordBatch]:
        head = look(path)
        if "output_tokens" not in head.names:
            raise fail(path, "has no 'output_tokens'", line=1, expected="how many tokens each prompt is answered with")
        report.note(_AT_ONCE)

        def make(row: Row) -> Row:
            prompt = row.get("prompt")
            if isinstance(prompt, str) and prompt[: len(FILLER) + 1] not in (FILLER, f"{FILLER} "):
                report.note(f"tokens of prompts are estimated at {CHARACTERS_A_TOKEN} characters each")
            tokens = tokens_of(prompt) if isinstance(prompt, str) and prompt else None
            return tidy(arrived_at=0, num_prefill_tokens=tokens, num_decode_tokens=row.get("output_tokens"))

        yield from from_rows(path, head.kind, report, make, time_column="prompt", shift=False)


@trace_format("sharegpt")
@dataclass(frozen=True)
class ShareGpt:
    """ShareGPT: a list of ``conversations``; the first question and its answer are kept, as vLLM bench
    does."""

    title: str = "ShareGPT"

    def recognises(self, head: Head) -> bool:
        return head.kind in ("json", "jsonl") and head.has("conversations")

    def read(self, path: Path, report: Report) -> Iterator[pa.RecordBatch]:
        report.note(_AT_ONCE)
        report.note(f"tokens are estimated at {CHARACTERS_A_TOKEN} characters each")

        def make(row: Row) -> Row | None:
            turns = row.get("conversations")
            if not isinstance(turns, list) or len(turns) < 2:
                report.count("were conversations without an answer and were left out", 1)
                return None
            said = [str(pick(turn, "value", "content") or "") for turn in turns[:2] if isinstance(turn, dict)]
            if len(said) < 2:
                return None
            prompt, answer = (tokens_of(text) for text in said)
            return tidy(arrived_at=0, num_prefill_tokens=prompt, num_decode_tokens=answer, session_id=row.get("id"))

        yield from from_rows(path, look(path).kind, report, make, time_column="id", shift=False)


@trace_format("guidellm")
@dataclass(frozen=True)
class Guidellm:
    """guidellm: its benchmark reports (successful requests), and data sets of token counts, one a line, with times or
    without."""

    title: str = "guidellm"

    def recognises(self, head: Head) -> bool:
        return (head.kind == "json" and head.has("benchmarks")) or (
            head.kind in ("jsonl", "json", "csv") and head.has("prompt_tokens_count", "output_tokens_count")
        )

    def read(self, path: Path, report: Report) -> Iterator[pa.RecordBatch]:
        head = look(path)
        if head.has("prompt_tokens_count"):
            timed = head.has("timestamp")
            if not timed:
                report.note(_AT_ONCE)
            rows: Iterator[tuple[int, Row]]
            if head.kind == "csv":
                from workloads.formats.files import csv_rows

                rows = (
                    (raw.first + i, {name: values[i].as_py() for name, values in raw.columns.items()})
                    for raw in csv_rows(path)
                    for i in range(raw.count)
                )
            else:
                rows = objects(path, head.kind)
            made = (
                (
                    line,
                    tidy(
                        arrived_at=row.get("timestamp") if timed else 0,
                        num_prefill_tokens=row.get("prompt_tokens_count"),
                        num_decode_tokens=row.get("output_tokens_count"),
                    ),
                )
                for line, row in rows
            )
            yield from batches(path, made, report, time_column="timestamp", in_order=True, shift=False)
            return
        found = [
            request for benchmark in whole_json(path).get("benchmarks") or [] for request in _successful(benchmark)
        ]
        listed = (
            (
                i + 1,
                tidy(
                    arrived_at=pick(
                        row,
                        "request_start_time",
                        "start_time",
                        "info.timings.request_start",
                        "scheduled_time",
                    ),
                    num_prefill_tokens=pick(row, "prompt_tokens", "input_metrics.text_tokens"),
                    num_decode_tokens=pick(row, "output_tokens", "output_metrics.text_tokens"),
                ),
            )
            for i, row in enumerate(found)
        )
        yield from batches(path, listed, report, time_column="start_time", in_order=False)


def _successful(benchmark: Any) -> list[dict[str, Any]]:
    requests = pick(benchmark, "requests.successful", "requests") if isinstance(benchmark, dict) else None
    return [row for row in requests if isinstance(row, dict)] if isinstance(requests, list) else []


@trace_format("aiperf")
@dataclass(frozen=True)
class Aiperf:
    """AIPerf's record of each request (``profile_export.jsonl``); its trace input is Mooncake's format."""

    title: str = "AIPerf records"

    def recognises(self, head: Head) -> bool:
        return head.kind in ("jsonl", "json") and head.has("metadata", "metrics")

    def read(self, path: Path, report: Report) -> Iterator[pa.RecordBatch]:
        def make(row: Row) -> Row | None:
            metrics = row.get("metrics") or {}
            if row.get("error") or not isinstance(metrics, dict) or not metrics:
                report.count("failed and were left out", 1)
                return None
            output = pick(metrics, "output_sequence_length.value", "output_token_count.value")
            return tidy(
                arrived_at=pick(row, "metadata.request_start_ns", "metadata.credit_issued_ns"),
                num_prefill_tokens=pick(metrics, "input_sequence_length.value"),
                num_decode_tokens=output,
                num_reasoning_tokens=pick(metrics, "reasoning_token_count.value"),
                session_id=pick(row, "metadata.x_correlation_id", "metadata.conversation_id"),
            )

        yield from from_rows(
            path,
            look(path).kind,
            report,
            make,
            time_column="metadata.request_start_ns",
            time_unit=1e-9,
            in_order=False,
        )


@trace_format("inference_perf")
@dataclass(frozen=True)
class InferencePerf:
    """inference-perf's ``per_request_lifecycle_metrics.json``."""

    title: str = "inference-perf records"

    def recognises(self, head: Head) -> bool:
        return head.kind in ("json", "jsonl") and head.has("start_time", "info")

    def read(self, path: Path, report: Report) -> Iterator[pa.RecordBatch]:
        def make(row: Row) -> Row | None:
            if row.get("error"):
                report.count("failed and were left out", 1)
                return None
            return tidy(
                arrived_at=row.get("start_time"),
                num_prefill_tokens=pick(row, "info.input_tokens"),
                num_decode_tokens=pick(row, "info.output_tokens"),
            )

        yield from from_rows(path, look(path).kind, report, make, time_column="start_time", in_order=False)
