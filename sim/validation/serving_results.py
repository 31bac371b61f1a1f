"""What load generators write, read into one form: `vllm bench serve`, guidellm, aiperf, inference-perf.

A result is the load as it was sent, request by request where the file has it, and what the client measured. Files with
aggregates alone (``vllm bench serve`` without ``--save-detailed``) give a load of the stated rate or concurrency with
mean lengths. Read are the forms of vLLM 0.28, guidellm's `request_stats.py`, aiperf 0.12 (schema 1.4) and
inference-perf with and without `response_metrics`, as their sources have them, and earlier ones. Whatever is not
understood is an InputError that says what was expected.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sim.errors import InputError, Problem
from sim.validation.accuracy_cases import FloatArray, IntArray
from sim.validation.accuracy_client import PS_PER_S, Load
from sim.validation.accuracy_statistics import PERCENTILES

SEED = 0
UNIT = 30.0
"""Two statements of one mean that are further apart are in different units."""


@dataclass(frozen=True)
class ServingResult:
    """One benchmark run."""

    name: str
    tool: str
    load: Load
    metrics: dict[str, float]
    """Named as the columns of an accuracy table: ``ttft_ms_mean``, ``tpot_ms_p99``, ``output_tps`` …"""
    exact: bool
    """Arrival times and lengths are those of the run."""
    model: str = ""


def read_results(path: Path) -> list[ServingResult]:
    """All runs in the file *path*; raise an InputError for what is no result of a known tool."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(Problem(f"cannot be read: {error}", source=str(path))) from None
    try:
        rows = [json.loads(text)]
    except ValueError:
        try:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError:
            raise InputError(
                Problem("is no JSON", source=str(path), expected="a result file of a load generator")
            ) from None
    return _recognise(path.stem, rows, str(path))


def _recognise(name: str, rows: Sequence[Any], source: str) -> list[ServingResult]:
    first = rows[0] if rows else None
    try:
        if isinstance(first, dict) and "benchmarks" in first:
            runs = [run for run in first["benchmarks"] if isinstance(run, dict)]
            return [_guidellm(f"{name}-{number}" if len(runs) > 1 else name, run) for number, run in enumerate(runs)]
        if isinstance(first, dict) and isinstance(first.get("metrics"), dict) and "metadata" in first:
            return [_aiperf(name, rows)]
        if isinstance(first, dict) and ("total_input_tokens" in first or "ttfts" in first):
            return [_vllm(f"{name}-{number}" if len(rows) > 1 else name, row) for number, row in enumerate(rows)]
        if isinstance(first, list) and first and isinstance(first[0], dict) and "start_time" in first[0]:
            return [_inference_perf(name, first)]
    except KeyError as error:
        raise InputError(Problem("missing in a result or request", source=source, key=str(error.args[0]))) from None
    except ValueError as error:
        raise InputError(Problem(str(error), source=source)) from None
    except (TypeError, IndexError, AttributeError) as error:
        raise InputError(
            Problem(f"not in the form its tool writes ({error})", source=source, expected="an untouched result file")
        ) from None
    if isinstance(first, dict) and "request_latency" in first and "time_to_first_token" in first:
        raise InputError(
            Problem("aggregates of aiperf hold no requests", source=source, expected="profile_export.jsonl of that run")
        )
    raise InputError(
        Problem(
            "is the result of no known tool",
            source=source,
            expected="JSON of vllm bench serve or guidellm, profile_export.jsonl of aiperf, or "
            "per_request_lifecycle_metrics.json of inference-perf",
        )
    )


# ---------------------------------------------------------------------- the tools


def _vllm(name: str, row: Mapping[str, Any]) -> ServingResult:
    count = int(row.get("completed") or row["num_prompts"])
    cap = row.get("max_concurrency")
    cap = int(cap) if cap else None
    rate = _rate(row.get("request_rate"))
    if count < 1:
        raise ValueError("no completed request")
    detailed = all(row.get(key) for key in ("input_lens", "output_lens", "ttfts"))
    model = str(row.get("model_id") or "")
    if detailed:
        _same_length(row, ("output_lens", "input_lens", "ttfts", "itls", "start_times"))
        outputs = np.asarray(row["output_lens"], dtype=np.int64)
        ok = outputs > 0
        if not ok.any():
            raise ValueError("every request failed: none has output tokens")
        prompts = np.asarray(row["input_lens"], dtype=np.int64)[ok]
        ttft = np.asarray(row["ttfts"], dtype=float)[ok]
        _plausible(ttft, row.get("mean_ttft_ms"))
        gaps = [float(np.sum(one)) for one, good in zip(row.get("itls") or [], ok.tolist(), strict=False) if good]
        starts = row.get("start_times")
        e2e = ttft + np.asarray(gaps) if len(gaps) == len(ttft) else None
        if starts:
            sends = np.asarray(starts, dtype=float)[ok]
            load = _load(sends, prompts, outputs[ok], cap)
        else:
            load = _drawn(int(ok.sum()), rate, row.get("burstiness"), cap, prompts, outputs[ok])
        metrics = measured(ttft, e2e, outputs[ok]) if e2e is not None else {}
        return ServingResult(name, "vllm bench serve", load, _vllm_metrics(row) | metrics, bool(starts), model)
    prompts = np.full(count, max(1, round(float(row["total_input_tokens"]) / count)), dtype=np.int64)
    outputs = np.full(count, max(1, round(float(row["total_output_tokens"]) / count)), dtype=np.int64)
    load = _drawn(count, rate, row.get("burstiness"), cap, prompts, outputs)
    return ServingResult(name, "vllm bench serve", load, _vllm_metrics(row), False, model)


def _same_length(row: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raise a ValueError where lists of one entry a request differ in length."""
    lengths = {name: len(row[name]) for name in names if row.get(name)}
    if len(set(lengths.values())) > 1:
        raise ValueError("lists of different length: " + ", ".join(f"{n} of {name}" for name, n in lengths.items()))


def _plausible(ttft_s: FloatArray, stated_ms: Any) -> None:
    """Raise a ValueError for times to the first token that are no numbers, negative, or not in the unit of the stated mean."""
    if not np.isfinite(ttft_s).all():
        raise ValueError(
            f"a time to the first token is no number: entry {int(np.argmin(np.isfinite(ttft_s)))} of ttfts"
        )
    if (ttft_s < 0).any():
        raise ValueError(f"a negative time to the first token ({float(np.min(ttft_s)):g} s)")
    mean_ms = 1e3 * float(np.mean(ttft_s))
    if isinstance(stated_ms, int | float) and stated_ms > 0 and not stated_ms / UNIT < mean_ms < stated_ms * UNIT:
        raise ValueError(
            f"contradictory units: ttfts are {mean_ms:,.4g} ms in the mean if they are seconds, "
            f"mean_ttft_ms says {stated_ms:,.4g}"
        )


def _vllm_metrics(row: Mapping[str, Any]) -> dict[str, float]:
    names = {"mean": "mean", "median": "p50", "p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99"}
    found = {}
    for metric, ours in (("ttft", "ttft"), ("tpot", "tpot"), ("itl", "itl"), ("e2el", "e2e")):
        for theirs, stat in names.items():
            value = row.get(f"{theirs}_{metric}_ms")
            if isinstance(value, int | float) and math.isfinite(value) and value > 0:
                found[f"{ours}_ms_{stat}"] = float(value)
    for key, ours in (("request_throughput", "req_throughput"), ("output_throughput", "output_tps")):
        value = row.get(key)
        if isinstance(value, int | float) and math.isfinite(value) and value > 0:
            found[ours] = float(value)
    return found


def _guidellm(name: str, run: Mapping[str, Any]) -> ServingResult:
    requests = run["requests"]
    good = requests["successful"] if isinstance(requests, dict) else requests
    rows = []
    for one in good:
        info = one.get("info") or one.get("scheduler_info") or {}
        timings = info.get("timings") or info.get("request_timings") or {}
        start = _first(one, timings, ("request_start_time", "start_time", "request_start", "resolve_start"))
        end = _first(one, timings, ("request_end_time", "end_time", "request_end", "resolve_end"))
        ttft_ms = one.get("time_to_first_token_ms")
        first = timings.get("first_token_iteration") or timings.get("first_iteration")
        if ttft_ms is None:
            ttft_ms = math.nan if first is None else 1e3 * (float(first) - start)
        prompt, output = (
            one.get(f"{ours}_tokens") or usage.get("total_tokens") or usage.get("text_tokens") or 0
            for ours, usage in (
                ("prompt", one.get("input_metrics") or {}),
                ("output", one.get("output_metrics") or {}),
            )
        )
        rows.append((start, end - start, float(ttft_ms) / 1e3, int(prompt), int(output)))
    strategy = ((run.get("config") or run.get("args") or {}).get("strategy")) or {}
    streams = strategy.get("streams") if isinstance(strategy, dict) else None
    return _from_rows(name, "guidellm", rows, int(streams) if streams else None)


def _aiperf(name: str, lines: Sequence[Mapping[str, Any]]) -> ServingResult:
    rows = []
    for line in lines:
        about = line["metadata"]
        if line.get("error") or about.get("was_cancelled"):
            continue
        if (about.get("benchmark_phase") or "profiling") != "profiling":
            continue
        metrics = line["metrics"]
        start = float(line["metadata"]["request_start_ns"]) / 1e9
        rows.append(
            (
                start,
                _seconds(metrics["request_latency"]),
                _seconds(metrics["time_to_first_token"]),
                int(_value(metrics["input_sequence_length"])),
                int(_value(metrics.get("output_sequence_length") or metrics["output_token_count"])),
            )
        )
    return _from_rows(name, "aiperf", rows, None)


def _inference_perf(name: str, lines: Sequence[Mapping[str, Any]]) -> ServingResult:
    rows = []
    for line in lines:
        if line.get("error"):
            continue
        info = line["info"]
        start, end = float(line["start_time"]), float(line["end_time"])
        # what later versions nest, earlier ones have in info itself
        sent, seen = info.get("request_metrics") or {}, info.get("response_metrics") or info
        prompt = (sent.get("text") or {}).get("input_tokens") or info["input_tokens"]
        times = seen.get("output_token_times") or seen.get("chunk_times") or []
        output = int(seen.get("output_tokens") or len(times))
        first = float(times[0]) if times else math.nan
        rows.append((start, end - start, first - start, int(prompt), output))
    return _from_rows(name, "inference-perf", rows, None)


# ---------------------------------------------------------------------- common


def measured(ttft_s: FloatArray, e2e_s: FloatArray, outputs: IntArray) -> dict[str, float]:
    """Mean and percentiles of TTFT, TPOT and E2E of requests."""
    many = outputs > 1
    tpot = (e2e_s - ttft_s)[many] / (outputs[many] - 1)
    found = {}
    for name, values in (("ttft", ttft_s), ("tpot", tpot), ("e2e", e2e_s)):
        finite = values[np.isfinite(values)]
        if len(finite):
            found[f"{name}_ms_mean"] = float(finite.mean()) * 1e3
            found |= {f"{name}_ms_{label}": float(np.percentile(finite, q)) * 1e3 for label, q in PERCENTILES.items()}
    return found


def _from_rows(
    name: str, tool: str, rows: Sequence[tuple[float, float, float, int, int]], cap: int | None
) -> ServingResult:
    if any(row[1] < 0 or row[2] < 0 for row in rows):
        raise ValueError("a request ended, or had its first token, before it began")
    kept = sorted(row for row in rows if row[3] > 0 and row[4] > 0 and math.isfinite(row[0]) and row[1] > 0)
    if not kept:
        raise ValueError("no successful request with token counts")
    start = np.array([row[0] for row in kept])
    e2e, ttft = np.array([row[1] for row in kept]), np.array([row[2] for row in kept])
    prompts = np.array([row[3] for row in kept], dtype=np.int64)
    outputs = np.array([row[4] for row in kept], dtype=np.int64)
    metrics = measured(ttft, e2e, outputs)
    span = float((start + e2e).max() - start.min())
    metrics |= {"req_throughput": len(kept) / span, "output_tps": float(outputs.sum()) / span}
    return ServingResult(name, tool, _load(start, prompts, outputs, cap), metrics, True)


def _load(start: FloatArray, prompts: IntArray, outputs: IntArray, cap: int | None) -> Load:
    """Requests as sent; under a cap alone (a closed loop) they are due at once and the cap holds them back."""
    order = np.argsort(start, kind="stable")
    sends = np.round((start[order] - start[order][0]) * PS_PER_S).astype(np.int64)
    return Load(np.zeros_like(sends) if cap else sends, prompts[order], outputs[order], in_flight_cap=cap)


def _drawn(
    count: int, rate: float | None, burstiness: Any, cap: int | None, prompts: IntArray, outputs: IntArray
) -> Load:
    """Arrivals of *rate* (gamma of shape *burstiness*), or all at once; *cap* as the client held it."""
    if rate is None:
        sends = np.zeros(count)
    else:
        shape = float(burstiness or 1.0)
        gaps = np.random.default_rng(SEED).gamma(shape, 1 / (shape * rate), count)
        sends = np.cumsum(gaps) - gaps[0]
    return Load(np.round(sends * PS_PER_S).astype(np.int64), prompts, outputs, in_flight_cap=cap)


def _rate(value: Any) -> float | None:
    try:
        rate = float(value)
    except (TypeError, ValueError):
        return None
    if rate <= 0:
        raise ValueError(f"request_rate {rate:g}, where a rate above zero or inf is expected")
    return rate if math.isfinite(rate) else None


def _first(one: Mapping[str, Any], timings: Mapping[str, Any], names: Sequence[str]) -> float:
    for name in names:
        for where in (one, timings):
            if where.get(name) is not None:
                return float(where[name])
    raise KeyError(names[0])


def _value(metric: Any) -> float:
    """A metric of aiperf: a number, or one with its unit."""
    return float(metric["value"] if isinstance(metric, Mapping) else metric)


def _seconds(metric: Any) -> float:
    unit = str(metric.get("unit", "ms")) if isinstance(metric, Mapping) else "ms"
    return _value(metric) * {"ms": 1e-3, "s": 1.0, "us": 1e-6, "ns": 1e-9}[unit]
