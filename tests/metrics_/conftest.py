"""A small engine, written for these tests alone: first come first served, chunked prefill, paged KV,
recomputation.

It steps one token at a time, writes what the sinks ask for, and keeps every token's time, so that each
metric can be compared with the figure that a plain loop over tokens gives.
"""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

from calibration.step_cost import StepCost
from sim.results import (
    QUERY_ROW,
    PoolInfo,
    RequestSink,
    Results,
    Role,
    RowSink,
    RunInfo,
    SegmentSink,
    SloTarget,
    Status,
    build,
)

PS = 10**12

COST = StepCost(
    host_ps=3_000_000_001,
    linear_ps=(0, *(9_000_000_000 + max(0, t - 40) * 70_000_003 for t in range(1, 400))),
    linear_slope_ps=70_000_003,
    seq_ps=11_000_007,
    kv_ps=170_003,
    half_pair_ps=211,
    cached_ps=1_009,
    mixed_ps=5_000_011,
)


@dataclass
class Toy:
    """What the small engine did: results, and every gap as (time of the token, gap), by request."""

    results: Results
    tokens: dict[int, list[int]] = field(default_factory=dict)
    gaps: list[tuple[int, int]] = field(default_factory=list)
    preemptions: int = 0
    merged: bool = False


def _request(i: int, arrived: int, prompt: int, reasoning: int, answer: int) -> SimpleNamespace:
    return SimpleNamespace(
        id=i, query=i, sample=0, role=Role.GENERATE, pool=0, replica=0, category=i % 2, client=i % 3, priority=0,
        arrived_ps=arrived, first_scheduled_ps=-1, first_token_ps=-1, first_answer_ps=-1, finished_ps=-1,
        status=Status.UNFINISHED, prompt_tokens=prompt, max_tokens=-1, reasoning_tokens=reasoning, generated=0,
        output_tokens=reasoning + answer, preemptions=0, cached_tokens_first=-1, cached_tokens=0, scheduled_tokens=0,
        steps=0, recomputed_tokens=0, dropped_tokens=0, transferred_tokens=0, kv_arrived_ps=-1, host_tokens=0, probe_tokens=0,
        truncated=False, computed=0, peak=0, last=-1,
    )  # fmt: skip


def simulate(
    work: list[tuple[int, int, int, int]],
    *,
    seats: int = 8,
    budget: int = 64,
    blocks: int = 100_000,
    block: int = 16,
    window: tuple[int, int] | None = None,
    stop_ps: int | None = None,
    slo: tuple[SloTarget, ...] = (),
    replication: int = 0,
    cost: StepCost = COST,
) -> Toy:
    """Run *work*, rows of (arrival in ps, prompt, reasoning, answer) in order of arrival, to its end or to
    *stop_ps*."""
    requests = [_request(i, *row) for i, row in enumerate(work)]
    sink, toy = SegmentSink(0, 0), Toy(results=None)  # type: ignore[arg-type]
    arrivals, waiting, running = deque(requests), deque(), []
    now, pending = 0, None

    def held(request: SimpleNamespace) -> int:
        return -(-request.computed // block)

    while arrivals or waiting or running:
        while arrivals and arrivals[0].arrived_ps <= now:
            waiting.append(arrivals.popleft())
        if not waiting and not running:
            now = arrivals[0].arrived_ps
            continue
        if stop_ps is not None and now >= stop_ps:
            break
        left, work_now, preempted, order = budget, [], 0, list(running)
        free = blocks - sum(held(r) for r in running)
        for request in order:
            if request not in running or not left:
                continue
            new = min(request.prompt_tokens + request.generated - request.computed, left)
            need = -(-(request.computed + new) // block) - held(request)
            while need > free and request in running:
                victim = running.pop()
                free += held(victim)
                victim.computed, victim.preemptions, preempted = 0, victim.preemptions + 1, preempted + 1
                waiting.appendleft(victim)
            if request in running:
                free -= need
                left -= new
                work_now.append((request, new))
        while not preempted and waiting and left and len(running) < seats:
            request = waiting[0]
            known = request.prompt_tokens + request.generated
            if -(-known // block) > free:
                break
            new = min(known, left)
            free -= -(-new // block)
            left -= new
            waiting.popleft()
            running.append(request)
            work_now.append((request, new))
            request.cached_tokens_first = 0
        toy.preemptions += preempted
        decodes = [(r, n) for r, n in work_now if n == 1]
        chunks = [(r, n) for r, n in work_now if n > 1]
        context = sum(r.computed for r, _ in decodes)
        chunk_tokens = sum(n for _, n in chunks)
        pairs = sum(n * n + 2 * n * r.computed for r, n in chunks)
        cached = sum(r.computed for r, _ in chunks)
        length = cost.step_ps(
            decodes=len(decodes), context=context, chunks=len(chunks), chunk_tokens=chunk_tokens, pairs=pairs,
            cached=cached,
        )  # fmt: skip
        end, fresh = now + length, 0
        for request, new in work_now:
            if request.first_scheduled_ps < 0:
                request.first_scheduled_ps = now
            request.recomputed_tokens += min(new, max(0, request.peak - request.computed))
            request.computed += new
            request.peak = max(request.peak, request.computed)
            request.scheduled_tokens += new
            request.steps += 1
            yields = request.computed == request.prompt_tokens + request.generated
            if new == 1 and (not yields or request.last != now):
                fresh += 1
            if not yields:
                continue
            if request.last >= 0:
                toy.gaps.append((end, end - request.last))
                if new > 1 or request.last != now:
                    sink.stall(request.id, end, end - request.last)
            toy.tokens.setdefault(request.id, []).append(end)
            request.last = end
            request.generated += 1
            if request.generated == 1:
                request.first_token_ps = end
            if request.generated == request.reasoning_tokens + 1:
                request.first_answer_ps = end
        live = sum(r.computed for r in running)
        row = [
            now, 1, length, cost.kv_ps * len(decodes), len(decodes), fresh, 0, context, len(chunks), chunk_tokens, pairs,
            cached, blocks - free, blocks - free, live, len(running), len(waiting), preempted, 0, 0, 0, 0,
        ]  # fmt: skip
        names = [id(r) for r, _ in work_now]
        if pending and not chunks and not fresh and not preempted and pending[1] == names and pending[0][8] == 0 \
                and pending[0][0] + pending[2] == now and pending[0][16] == len(waiting):  # fmt: skip
            pending[0][1] += 1
            pending[3].insert(0, blocks - free - pending[0][13])
            pending[0][13] = blocks - free
            pending[2] += length
            toy.merged = True
        else:
            if pending:
                sink.add(tuple(pending[0]), pending[3].tobytes(), len(pending[3]) - 1)
            pending = [row, names, length, array("H")]
        for request in [r for r in running if r.generated == r.output_tokens]:
            running.remove(request)
            request.finished_ps, request.status = end, Status.COMPLETED
        now = end
    if pending:
        sink.add(tuple(pending[0]), pending[3].tobytes(), len(pending[3]) - 1)
    end_ps = max(now, stop_ps or 0)
    pool = PoolInfo(
        name="reasoning", model="toy", hardware="toy", replicas=1, gpus_per_replica=2, gpu_hours=0.0,
        gpu_hours_run=2 * end_ps / PS / 3600, price_usd_per_gpu_hour=2.5, max_num_seqs=seats,
        max_num_batched_tokens=budget, block_size=block, num_gpu_blocks=blocks, kv_bytes_per_token=1024,
        front_end_ps=7_000_000_000, memory={"lines": ["80 GB"]}, fidelity={"profile": "toy", "kind": "measured"},
        deployment=SimpleNamespace(step_cost=cost, max_model_len=10**6),
    )  # fmt: skip
    low, high = window or (0, end_ps + 1)
    pool = PoolInfo(**{**vars(pool), "gpu_hours": 2 * (min(high, end_ps) - low) / PS / 3600})
    info = RunInfo(
        replication=replication, window_start_ps=low, window_end_ps=high, end_ps=end_ps, pools=(pool,),
        categories=("coding", "proof"), clients=("a", "b", "c"), slo=slo, drained=not (arrivals or waiting or running),
        warm_up={"kind": "duration", "value": f"{low / PS} s"}, not_modelled=("the network",),
    )  # fmt: skip
    request_sink, queries = RequestSink(), RowSink(QUERY_ROW)
    for r in requests:
        if r.arrived_ps > end_ps:
            continue
        request_sink.take(r)
        reasoning = min(r.generated, r.reasoning_tokens)
        queries.add(
            (r.id, r.category, r.client, r.arrived_ps, r.finished_ps, r.first_answer_ps, r.status, 1, 0, 0,
             r.prompt_tokens, reasoning, r.generated - reasoning, 0, False)
        )  # fmt: skip
    tables = build(info, queries=queries, requests=request_sink, segments=[sink])
    toy.results = Results(scenario="name: toy\n", runs=[(info, tables)])
    return toy


def random_work(seed: int, count: int = 40, *, gap_s: float = 0.4, output: int = 40) -> list[tuple[int, int, int, int]]:
    """Poisson arrivals with geometric lengths."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(gap_s, count))
    return [
        (
            int(t * PS),
            int(rng.geometric(1 / 60)),
            int(rng.geometric(1 / output)) - 1,
            int(rng.geometric(1 / 10)),
        )
        for t in times
    ]


@pytest.fixture(scope="session")
def toy():
    """The small engine: ``toy.simulate(work, …)``, ``toy.random_work(seed)``, ``toy.COST``."""
    return SimpleNamespace(simulate=simulate, random_work=random_work, COST=COST, PS=PS)
