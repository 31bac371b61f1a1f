"""Synthetic runs for the reports: a small first-come-first-served batch server writes the real tables.

It is no engine (no blocks, no chunks, coarse steps); it makes rows that hang together: every step is in
a segment, every preemption leaves a stall, every query ends in one status.
"""

from __future__ import annotations

import itertools
import math
import sys
from array import array
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from calibration.step_cost import StepCost
from sim.metrics import finish
from sim.results.columns import Role, Status
from sim.results.info import PoolInfo, RunInfo, SloTarget
from sim.results.results import Results
from sim.results.sinks import QUERY_ROW, REQUEST_ROW, SEGMENT_ROW, RowSink, SegmentSink
from sim.results.tables import build

sys.path.insert(0, str(Path(__file__).parent))  # for plan_case

PS = 10**12
COST = StepCost(
    host_ps=2_000_000_000,
    linear_ps=tuple(int(9e9 + 1.5e7 * max(0, t - 200)) for t in range(2049)),
    linear_slope_ps=15_000_000,
    seq_ps=20_000_000,
    kv_ps=60_000,
    half_pair_ps=700,
    cached_ps=1_000,
    mixed_ps=10_000_000,
)
BLOCK = 16


@dataclass
class Shape:
    """What a synthetic run looks like."""

    rate: float = 0.8
    queries: int = 400
    replicas: int = 2
    blocks: int = 9_000
    seats: int = 64
    warm_up_s: float = 60.0
    drain_s: float = 600.0
    timeout_s: float | None = None
    longest_prompt: int = 100_000
    replications: int = 3
    categories: dict[str, tuple[float, float, float]] = field(
        default_factory=lambda: {
            "simple_fact": (0.4, 60, 60),
            "coding": (0.25, 1200, 400),
            "math_word": (0.25, 1500, 250),
            "proof": (0.1, 6000, 900),
        }
    )
    clients: tuple[str, ...] = tuple(f"team-{i:02d}" for i in range(14))
    slo: tuple[SloTarget, ...] = (
        SloTarget("tta", 99, 180.0),
        SloTarget("ttft", 95, 2.0),
        SloTarget("tpot", 95, 0.05),
    )
    name: str = "synthetic"
    pool: str = "reasoning"
    kind: str = "measured"
    seed: int = 5


def _queries(shape: Shape, replication: int) -> list[Any]:
    rng = np.random.default_rng([shape.seed, replication])
    names = list(shape.categories)
    weights = np.array([shape.categories[name][0] for name in names])
    at, queries = 0.0, []
    for number in range(shape.queries):
        at += rng.exponential(1 / shape.rate)
        category = int(rng.choice(len(names), p=weights / weights.sum()))
        _, think, say = shape.categories[names[category]]
        client = int(min(rng.zipf(1.6) - 1, len(shape.clients) - 1))
        queries.append(
            SimpleNamespace(
                id=number,
                query=number,
                sample=0,
                role=int(Role.GENERATE),
                pool=0,
                replica=-1,
                category=category,
                client=client,
                priority=0,
                arrived_ps=int(at * PS),
                first_scheduled_ps=-1,
                first_token_ps=-1,
                first_answer_ps=-1,
                finished_ps=-1,
                status=int(Status.UNFINISHED),
                prompt_tokens=int(np.clip(rng.lognormal(math.log(300), 0.8), 16, 4000)),
                max_tokens=-1,
                reasoning_tokens=int(np.clip(rng.lognormal(math.log(think), 0.9), 1, 40_000)),
                answer=int(np.clip(rng.lognormal(math.log(say), 0.6), 1, 4000)),
                generated=0,
                output_tokens=0,
                preemptions=0,
                cached_tokens_first=0,
                cached_tokens=0,
                host_tokens=0,
                probe_tokens=0,
                scheduled_tokens=0,
                steps=0,
                recomputed_tokens=0,
                dropped_tokens=0,
                transferred_tokens=0,
                kv_arrived_ps=-1,
                truncated=0,
                last_ps=-1,
            )
        )
    for request in queries:
        request.output_tokens = request.reasoning_tokens + request.answer
    return queries


def _serve(shape: Shape, mine: list[Any], replica: int, sink: SegmentSink, end_ps: int) -> None:
    """Serve *mine* in order of arrival until *end_ps*."""
    waiting: deque[Any] = deque()
    arrivals = deque(mine)
    running: list[Any] = []
    now = 0

    def blocks(r: Any) -> int:
        return -(-(r.prompt_tokens + r.generated + 1) // BLOCK)

    while now < end_ps and (arrivals or waiting or running):
        if not running and not waiting:
            now = max(now, arrivals[0].arrived_ps)
        while arrivals and arrivals[0].arrived_ps <= now:
            request = arrivals.popleft()
            if request.prompt_tokens > shape.longest_prompt:
                request.status, request.finished_ps = int(Status.REJECTED), now
            else:
                waiting.append(request)
        if shape.timeout_s is not None:
            for queue in (waiting, running):
                for request in [r for r in queue if now - r.arrived_ps > shape.timeout_s * PS]:
                    queue.remove(request)
                    request.status, request.finished_ps = int(Status.TIMED_OUT), now
        preempted = 0
        while sum(blocks(r) for r in running) > shape.blocks and len(running) > 1:
            victim = running.pop()
            victim.preemptions += 1
            victim.recomputed_tokens += victim.prompt_tokens + victim.generated - 1
            waiting.appendleft(victim)
            preempted += 1
        used = sum(blocks(r) for r in running)
        admitted = None
        if waiting and len(running) < shape.seats and used + blocks(waiting[0]) <= shape.blocks and not preempted:
            admitted = waiting.popleft()
        if not running and admitted is None:
            if not waiting and not arrivals:
                break
            if not waiting:
                continue
        context = sum(r.prompt_tokens + r.generated for r in running)
        decodes = len(running)
        if admitted is not None:
            chunk = admitted.prompt_tokens + admitted.generated
            duration = COST.step_ps(
                decodes=decodes, context=context, chunks=1, chunk_tokens=chunk, pairs=chunk * chunk, cached=0
            )
            steps, growth = 1, 0
            if admitted.first_scheduled_ps < 0:
                admitted.first_scheduled_ps, admitted.replica = now, replica
        else:
            duration, growth = COST.decode_ps(decodes, context), COST.decode_growth_ps(decodes)
            steps = min(r.reasoning_tokens + r.answer - r.generated for r in running)
            spare = shape.blocks - used
            steps = max(1, min(steps, 200, 1 + spare * BLOCK // decodes))
            if arrivals:
                steps = max(1, min(steps, 1 + (arrivals[0].arrived_ps - now) // duration))
        steps = min(steps, (end_ps - now) // (duration + growth * steps))
        if steps < 1:
            if admitted is not None and admitted.first_token_ps < 0:
                admitted.first_scheduled_ps = -1
            break
        length = steps * duration + growth * steps * (steps - 1) // 2
        live = context + decodes + (0 if admitted is None else chunk)
        if admitted is not None:
            running.append(admitted)
            used += blocks(admitted)
        row = {
            "start_ps": now,
            "steps": steps,
            "step_ps": duration,
            "step_growth_ps": growth,
            "decodes": decodes,
            "context": context,
            "reserved_blocks": used,
            "reserved_blocks_last": used + (steps - 1) * decodes // BLOCK,
            "live_tokens": live,
            "running": len(running),
            "waiting": len(waiting),
            "preempted": preempted,
        }
        if admitted is not None:
            row |= {"chunks": 1, "chunk_tokens": chunk, "pairs": chunk * chunk}
        grown = [i * decodes // BLOCK for i in range(steps)]
        takes = array("H", [b - a for a, b in itertools.pairwise(grown)][::-1])
        sink.add(tuple(row.get(name, 0) for name in SEGMENT_ROW), takes.tobytes(), max(0, len(takes) - 1))
        for request in running:
            request.steps += steps
            before = request.generated
            request.generated += steps
            request.scheduled_tokens += chunk if request is admitted else steps
            at = lambda token: now + int(length * (token - before) / steps)  # noqa: B023, E731
            if request is admitted and request.first_token_ps >= 0:
                sink.stall(request.id, now + length, now + length - request.last_ps)
            if request.first_token_ps < 0:
                request.first_token_ps = at(before + 1)
            if request.first_answer_ps < 0 and request.generated > request.reasoning_tokens:
                request.first_answer_ps = at(max(request.reasoning_tokens + 1, before + 1))
            request.last_ps = now + length
        now += length
        for request in [r for r in running if r.generated >= r.reasoning_tokens + r.answer]:
            running.remove(request)
            request.status, request.finished_ps = int(Status.COMPLETED), now


def make(shape: Shape) -> Results:
    """A Results with tables, run descriptions, and the summary that `sim.metrics` makes of them."""
    runs = []
    for replication in range(shape.replications):
        queries = _queries(shape, replication)
        window_end = queries[-1].arrived_ps + 1
        end_ps = window_end + int(shape.drain_s * PS)
        sinks = [SegmentSink(0, replica) for replica in range(shape.replicas)]
        for replica, sink in enumerate(sinks):
            _serve(shape, queries[replica :: shape.replicas], replica, sink, end_ps)
        query_sink, request_sink = RowSink(QUERY_ROW), RowSink(REQUEST_ROW)
        last = 0
        for r in queries:
            if r.finished_ps > end_ps:
                r.finished_ps, r.status = -1, int(Status.UNFINISHED)
            last = max(last, r.finished_ps)
            request_sink.add(tuple(getattr(r, name) for name in REQUEST_ROW))
            reasoning = min(r.generated, r.reasoning_tokens)
            row = {
                "query": r.id,
                "requests": 1,
                "reasoning_tokens": reasoning,
                "answer_tokens": r.generated - reasoning,
            }
            query_sink.add(tuple(row.get(name, getattr(r, name, 0)) for name in QUERY_ROW))
        open_ = any(r.status == Status.UNFINISHED for r in queries)
        end_ps = end_ps if open_ else max(last, window_end)
        window_s = (window_end - int(shape.warm_up_s * PS)) / PS
        kv_gpu = shape.blocks * BLOCK * 327_680 / 4
        pool = PoolInfo(
            name=shape.pool,
            model="r1-distill-llama-70b",
            hardware="h100-sxm",
            replicas=shape.replicas,
            gpus_per_replica=4,
            gpu_hours=window_s / 3600 * 4 * shape.replicas,
            gpu_hours_run=end_ps / PS / 3600 * 4 * shape.replicas,
            price_usd_per_gpu_hour=2.5,
            max_num_seqs=shape.seats,
            max_num_batched_tokens=8192,
            block_size=BLOCK,
            num_gpu_blocks=shape.blocks,
            kv_bytes_per_token=327_680,
            memory={
                "hbm_bytes": 80e9,
                "usable_bytes": 73.6e9,
                "weights_bytes": 35.3e9,
                "activations_bytes": 3.1e9,
                "kv_bytes": kv_gpu,
                "lines": [
                    "memory of each of 4 GPUs: 80.0 GB, of which 92% may be used: 73.6 GB",
                    "- weights: 35.3 GB",
                    f"= KV cache: {kv_gpu / 1e9:.1f} GB",
                ],
            },
            fidelity={
                "profile": "h100-sxm/r1-distill-llama-70b/tp4",
                "kind": shape.kind,
                "source": "synthetic",
                "error_median": 0.02,
                "error_p95": 0.07,
            },
            deployment=SimpleNamespace(step_cost=COST),
        )
        info = RunInfo(
            replication=replication,
            window_start_ps=int(shape.warm_up_s * PS),
            window_end_ps=window_end,
            end_ps=end_ps,
            pools=(pool,),
            categories=tuple(shape.categories),
            clients=shape.clients,
            drained=not open_,
            warm_up={"kind": "duration", "value": f"{shape.warm_up_s:g} s"},
            slo=shape.slo,
            not_modelled=("network between client and server", "tokenisation on the front end's CPU"),
        )
        runs.append((info, build(info, queries=query_sink, requests=request_sink, segments=sinks)))
    results = Results(
        scenario=yaml.safe_dump({"name": shape.name, "seed": shape.seed, "strategy": "single"}),
        runs=runs,
        provenance={
            "thinkcap": "0.1.0",
            "seed": shape.seed,
            "command": ["thinkcap", "run", "synthetic.yaml"],
            "wall_s": 0.8,
            "requests_per_wall_s": 20000.0,
            "versions": {"numpy": np.__version__},
            "profiles": {shape.pool: {"profile": "h100-sxm/r1-distill-llama-70b/tp4", "sha256": "ab" * 32}},
            "workload": {"source": "synthetic", "rate": shape.rate},
        },
    )
    return finish(results)


HOSTILE = '</script><img src=x onerror="window.pwned=1">{{7*7}}<b>%{x}\'\u2028\u202e'

SHAPES: dict[str, Shape] = {
    "normal": Shape(),
    "overloaded": Shape(rate=2.4, queries=700, blocks=5_000, drain_s=120.0, timeout_s=900.0),
    "single": Shape(categories={"chat": (1.0, 500, 200)}, clients=("only",), replicas=1, rate=0.8, queries=300),
    "empty": Shape(queries=3, drain_s=0.001, warm_up_s=0.0, replications=1, replicas=1),
    "nothing": Shape(longest_prompt=1, queries=40, replications=2, warm_up_s=0.0),
    "one": Shape(queries=1, warm_up_s=0.0, replications=1, replicas=1),
    "untidy": Shape(longest_prompt=1500, timeout_s=45.0, drain_s=5.0, queries=500, rate=1.8, kind="prior"),
    "hostile": Shape(
        name=HOSTILE,
        pool=HOSTILE + "p",
        categories={HOSTILE + "c": (0.6, 200, 80), "=cmd|' /C calc'!A0": (0.4, 500, 80)},
        clients=(HOSTILE + "k", "javascript:alert(1)", "<a href='https://x.example'>x</a>"),
        queries=200,
        replications=1,
    ),
}


@pytest.fixture(scope="session")
def synthetic() -> Any:
    """``synthetic(name, **changes)``: the named synthetic run, made once a session when unchanged."""
    made: dict[str, Results] = {}

    def get(name: str, **changes: Any) -> Results:
        if changes:
            return make(replace(SHAPES[name], **changes))
        if name not in made:
            made[name] = make(SHAPES[name])
        return made[name]

    return get
