"""Where GPU time, KV memory and money went within the measured windows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.step_cost import StepCost
from sim.metrics.alone import linear_ps
from sim.metrics.gaps import window_gaps
from sim.metrics.intervals import interval
from sim.metrics.left_behind import left_behind
from sim.metrics.samples import overlap_s, window_s
from sim.results.columns import Role, Status
from sim.results.info import PoolInfo, RunInfo
from sim.results.results import Results
from sim.results.segments import AREAS
from sim.results.tables import PS_PER_S, Table

FloatArray = NDArray[np.float64]

PARTS = ("prefill", "weights", "kv_read", "host")
"""Where the time of a step goes: computing prompts (their matrix work, attention and cached context); the
decodes' matrix work, which for small batches is reading the weights; reading the decodes' KV cache;
everything else (scheduling, sampling, launches, work a sequence)."""


def gpu_time(results: Results) -> dict[str, Any]:
    """By pool: GPU-hours that were on, share of them within steps, and what the steps' time went to (shares
    of on time).

    ``parts`` is missing where the step cost is not at hand (results loaded from disk keep the summary's
    figures).
    """
    segments = results.tables["segments"]
    entry: dict[str, Any] = {}
    on_all = busy_all = 0.0
    for pool in results.runs[0].pools:
        on, busy, known = 0.0, 0.0, True
        parts = dict.fromkeys(PARTS, 0.0)
        for run, mine in _runs_of(results, pool.name):
            rows = segments.equals("pool", pool.name)
            time = np.where(rows, overlap_s(segments, run, run.window_start_ps, run.window_end_ps), 0.0)
            on += mine.gpu_hours * 3600
            busy += float(time.sum()) * mine.gpus_per_replica
            cost = getattr(mine.deployment, "step_cost", None)
            if cost is None:
                known = False
                continue
            for name, value in _split(segments, time, cost).items():
                parts[name] += value * mine.gpus_per_replica
        on_all, busy_all = on_all + on, busy_all + busy
        entry[pool.name] = {"gpu_hours": on / 3600, "utilisation": busy / on if on else float("nan")}
        if known and on:
            shares = {name: value / on for name, value in parts.items()}
            entry[pool.name]["parts"] = {**shares, "idle": max(0.0, 1 - busy / on)}
    return {
        "value": busy_all / on_all if on_all else float("nan"),
        "unit": "",
        "gpu_hours": on_all / 3600,
        "pools": entry,
    }


def kv(results: Results) -> dict[str, Any]:
    """By pool: the capacity sum, KV use over time, and memory efficiency; efficiency over all pools,
    weighted by bytes."""
    segments = results.tables["segments"]
    pools: dict[str, Any] = {}
    live_all = reserved_all = 0.0
    for pool in results.runs[0].pools:
        live = capacity = running = length_all = 0.0
        areas = dict.fromkeys(AREAS, 0.0)
        peak = 0
        for run, mine in _runs_of(results, pool.name):
            rows = segments.equals("pool", pool.name) & (segments["replication"] == run.replication)
            part = segments.rows(rows)
            inside = overlap_s(part, run, run.window_start_ps, run.window_end_ps)
            length = part["end_s"] - part["start_s"]
            share = np.divide(inside, length, out=np.zeros_like(inside), where=length > 0)
            live += float((_live_area(part) * share).sum())
            for name in AREAS:
                areas[name] += float((part[f"{name}_block_s"] * share).sum()) * mine.block_size
            running += float((part["running"] * inside).sum())
            length_all += window_s(run)
            capacity += mine.num_gpu_blocks * mine.block_size * mine.gpu_hours * 3600 / mine.gpus_per_replica
            seen = inside > 0
            peak = max(peak, int(part["reserved_blocks_last"][seen].max(initial=0)))
        reserved = areas["reserved"]
        live += areas["window"]
        live_all += live * pool.kv_bytes_per_token
        reserved_all += reserved * pool.kv_bytes_per_token
        pools[pool.name] = {
            "capacity_tokens": pool.num_gpu_blocks * pool.block_size,
            "num_gpu_blocks": pool.num_gpu_blocks,
            "block_size": pool.block_size,
            "kv_bytes_per_token": pool.kv_bytes_per_token,
            "use_mean": reserved / capacity if capacity else float("nan"),
            "use_max": peak / pool.num_gpu_blocks if pool.num_gpu_blocks else float("nan"),
            "running_mean": running / length_all if length_all else float("nan"),
            "memory_efficiency": live / reserved if reserved else float("nan"),
            "waste": _waste(areas, live, capacity),
            "prefix_cache": _prefix_cache(results, pool),
            "memory": dict(pool.memory),
        }
    return {"memory_efficiency": live_all / reserved_all if reserved_all else float("nan"), "pools": pools}


def _waste(areas: dict[str, float], live: float, capacity: float) -> dict[str, float]:
    """Where KV memory is that holds nothing, or nothing new: shares of all KV memory, means over time.

    *live* and *areas* are token-seconds; windows count as full.
    """
    fragments = areas["reserved"] - live - areas["unused"]
    parts = {
        "internal_fragmentation": max(fragments, 0.0),
        "reserved_unused": areas["unused"],
        "duplicate_prefixes": areas["duplicate"],
        "cached_unreferenced": areas["cached"],
    }
    return {name: value / capacity if capacity else float("nan") for name, value in parts.items()}


def _prefix_cache(results: Results, pool: PoolInfo) -> dict[str, float]:
    """What admissions of the windows' requests found, in the GPU's memory and in the host's: tokens, and shares of all
    that they would have computed."""
    requests = results.tables["requests"]
    rows = requests.equals("pool", pool.name) & requests["in_window"]
    cached, host = int(requests["cached_tokens"][rows].sum()), int(requests["host_tokens"][rows].sum())
    asked = cached + int(requests["scheduled_tokens"][rows].sum())
    return {
        "hit_tokens": cached,
        "hit_share": _ratio(cached, asked),
        "host_hit_tokens": host,
        "host_hit_share": _ratio(host, asked),
        "host_blocks": pool.host_blocks,
        **left_behind(results, pool),
    }


def cost(results: Results) -> dict[str, Any]:
    """What the GPUs cost and what they brought: US dollars a query and a million output tokens.

    GPU-hours of the window, idle ones included, over the queries completed and the tokens generated
    *within* it. Where no query is completed within the window (a short burst), both are taken over whole
    runs: ``basis`` says which.
    """
    pools = results.runs[0].pools
    each = [_cost_figures(results, run, "window") for run in results.runs]
    basis = "window"
    if not sum(figures[1] for figures in each):
        basis = "run"
        each = [_cost_figures(results, run, "run") for run in results.runs]
    usd, completed, tokens, hours = (sum(column) for column in zip(*each, strict=True))
    unpriced = [pool.name for pool in pools if pool.price_usd_per_gpu_hour is None]
    per_query = _ratio(usd, completed)
    entry: dict[str, Any] = {
        "currency": "USD",
        "basis": basis,
        "gpu_hours": hours,
        "total": float("nan") if unpriced else usd,
        "queries_completed": int(completed),
        "output_tokens": int(tokens),
        "cost_per_query": float("nan") if unpriced else per_query,
        "usd_per_million_output_tokens": float("nan") if unpriced else 1e6 * _ratio(usd, tokens),
        "gpu_hours_per_query": _ratio(hours, completed),
        "unpriced_pools": unpriced,
    }
    if not unpriced:
        bounds = interval(per_query, [_ratio(figures[0], figures[1]) for figures in each])
        if bounds is not None:
            entry["cost_per_query_ci"] = [max(bounds[0], 0.0), bounds[1]]
    return entry


def output_tokens(results: Results, run: RunInfo) -> int:
    """Tokens of generation requests that appeared within the window of *run*."""
    requests = results.tables["requests"]
    first = requests["first_token_s"]
    low, high = run.window_start_ps / PS_PER_S, run.window_end_ps / PS_PER_S
    mine = (requests["replication"] == run.replication) & (requests["role"] == Role.GENERATE)
    firsts = int((mine & (first >= low) & (first < high)).sum())
    return firsts + window_gaps(results, run).n


def completions(results: Results, run: RunInfo) -> int:
    """Queries completed within the window of *run*, whenever they arrived."""
    queries = results.tables["queries"]
    finished = queries["finished_s"]
    low, high = run.window_start_ps / PS_PER_S, run.window_end_ps / PS_PER_S
    mine = (queries["replication"] == run.replication) & (queries["status"] == Status.COMPLETED)
    return int((mine & (finished >= low) & (finished < high)).sum())


def throughput(results: Results) -> dict[str, Any]:
    """Queries completed and tokens generated a second of the windows."""
    length = sum(window_s(run) for run in results.runs)
    queries = [completions(results, run) for run in results.runs]
    tokens = [output_tokens(results, run) for run in results.runs]
    arrived = int(results.tables["queries"]["in_window"].sum())
    return {
        "queries_per_s": _ratio(sum(queries), length),
        "output_tokens_per_s": _ratio(sum(tokens), length),
        "arrivals_per_s": _ratio(arrived, length),
        "queries_completed": sum(queries),
        "output_tokens": sum(tokens),
        "window_s": length,
    }


def _split(segments: Table, time_s: FloatArray, step_cost: StepCost) -> dict[str, float]:
    """Seconds of *time_s* (of each segment) by PARTS. A slow replica's steps are split in the same
    proportions."""
    rows = time_s > 0
    steps, decodes, chunk_tokens = (
        segments[name][rows].astype(np.int64) for name in ("steps", "decodes", "chunk_tokens")
    )
    chunks = segments["chunks"][rows].astype(np.int64)
    mixed = chunks > 0
    weights = np.where(decodes > 0, linear_ps(step_cost, decodes), 0)
    grown = decodes * (steps * (steps - 1) // 2)
    values = {
        "prefill": steps * (linear_ps(step_cost, decodes + chunk_tokens) - weights) * mixed
        + step_cost.half_pair_ps * segments["pairs"][rows]
        + step_cost.cached_ps * segments["cached"][rows],
        "weights": steps * weights,
        "kv_read": step_cost.kv_ps * (steps * segments["context"][rows] + grown),
        "host": steps * (step_cost.host_ps + step_cost.seq_ps * (decodes + chunks))
        + step_cost.mixed_ps * decodes * mixed,
    }
    whole = np.maximum(sum(values.values()), 1)
    return {name: float((value / whole * time_s[rows]).sum()) for name, value in values.items()}


def _live_area(part: Table) -> FloatArray:
    """Integral of live tokens over each segment, token-seconds: Σ (live + i·B)(step + i·growth)."""
    steps = part["steps"].astype(np.float64)
    ones = steps * (steps - 1) / 2
    squares = (steps - 1) * steps * (2 * steps - 1) / 6
    step, growth, live, grows = part["step_s"], part["step_growth_s"], part["live_tokens"], part["decodes"]
    area: FloatArray = live * (steps * step + growth * ones) + grows * (step * ones + growth * squares)
    return area


def _cost_figures(results: Results, run: RunInfo, basis: str) -> tuple[float, int, int, float]:
    """(USD, queries completed, output tokens, GPU-hours) of *run*; pools without a price count 0 USD."""
    if basis == "window":
        hours = [pool.gpu_hours for pool in run.pools]
        completed, tokens = completions(results, run), output_tokens(results, run)
    else:
        hours = [pool.gpu_hours_run for pool in run.pools]
        queries, requests = results.tables["queries"], results.tables["requests"]
        completed = int(((queries["replication"] == run.replication) & (queries["status"] == Status.COMPLETED)).sum())
        mine = (requests["replication"] == run.replication) & (requests["role"] == Role.GENERATE)
        tokens = int((requests["reasoning_tokens"] + requests["answer_tokens"])[mine].sum())
    usd = sum(hour * (pool.price_usd_per_gpu_hour or 0.0) for hour, pool in zip(hours, run.pools, strict=True))
    return usd, completed, tokens, sum(hours)


def _runs_of(results: Results, pool: str) -> list[tuple[RunInfo, PoolInfo]]:
    return [(run, mine) for run in results.runs for mine in run.pools if mine.name == pool]


def _ratio(over: float, under: float) -> float:
    return over / under if under else float("nan")
