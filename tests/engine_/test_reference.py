"""The bare loop of the benchmarks is exact: what is measured against it is measured against the truth."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import pytest

from calibration.step_cost import StepCost
from sim.engine.replica import make_replica
from sim.engine.request import Request
from sim.engine.settings import EngineSettings
from sim.policies.schedulers.vllm import Vllm

ROOT = Path(__file__).parents[2]
FIGURES = (
    "first_scheduled_ps",
    "first_token_ps",
    "finished_ps",
    "preemptions",
    "cached_tokens",
    "scheduled_tokens",
    "steps",
)


def _case(seed: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Compare one random case; return its preemptions."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.reference import Load, reference

    rng = Random(seed)
    gap, longest = rng.choice((0, 50, 2000)), rng.choice((2, 50, 150))
    arrived, now = [], 0
    for _ in range(rng.choice((3, 20, 60))):
        now += rng.randint(0, gap)
        arrived.append(now)
    prompts = [rng.randint(1, 50) for _ in arrived]
    outputs = [rng.randint(1, longest) for _ in arrived]
    groups, lengths, parents = [], [], []
    for i, prompt in enumerate(prompts):  # a third goes on from an earlier one, a third shares a prefix
        kind = rng.randint(0, 2)
        parent = rng.randrange(i) if kind == 0 and i else -1
        groups.append(rng.randint(0, 2) if kind == 1 else -1)
        parents.append(parent)
        whole = prompts[parent] + outputs[parent] if parent >= 0 else prompt
        lengths.append(rng.randint(1, min(prompt, whole)) if parent >= 0 or kind == 1 else 0)
    size, seats, caching = rng.choice((1, 2, 4, 16)), rng.choice((2, 5, 16)), rng.random() < 0.6
    need = max(-(-(p + o) // size) for p, o in zip(prompts, outputs, strict=True))
    blocks = 1 + need + rng.choice((0, 1, need // 2, need * 3, need * 50))
    budget = seats + rng.choice((0, 3, 20, 2000))
    cost = StepCost(
        host_ps=rng.randint(1, 50),
        linear_ps=(0, 1, 5, 5, 9),
        linear_slope_ps=2,
        seq_ps=1,
        kv_ps=rng.choice((0, 1, 3)),
        half_pair_ps=rng.randint(0, 1),
        cached_ps=rng.randint(0, 2),
        mixed_ps=rng.randint(0, 2),
    )
    floor = reference(
        Load(arrived, prompts, outputs, groups, lengths, parents),
        cost,
        num_gpu_blocks=blocks,
        block_size=size,
        max_num_seqs=seats,
        budget=budget,
        caching=caching,
    )
    settings = EngineSettings(
        num_gpu_blocks=blocks,
        block_size=size,
        max_num_seqs=seats,
        max_num_batched_tokens=budget,
        enable_prefix_caching=caching,
        async_scheduling=False,
    )
    replica = make_replica(settings, cost, Vllm(), stepwise=True)
    requests = [
        Request(i, arrived_ps=a, prompt_tokens=p, output_tokens=o, max_tokens=o)
        for i, (a, p, o) in enumerate(zip(arrived, prompts, outputs, strict=True))
    ]
    for request, group, length, parent in zip(requests, groups, lengths, parents, strict=True):
        request.prefix_group, request.prefix_len = (group if group >= 0 else None), length
        request.parent = requests[parent] if parent >= 0 else None
    at = 0
    while at < len(requests) or replica.next_end_ps is not None:
        moments = [replica.next_end_ps, arrived[at] if at < len(requests) else None]
        now = min(moment for moment in moments if moment is not None)
        if replica.next_end_ps == now:
            replica.complete(now)
        while at < len(requests) and arrived[at] == now:
            replica.submit(requests[at], now)
            at += 1
        replica.plan(now)
    for job, request in zip(floor.jobs, requests, strict=True):
        for name in FIGURES:
            assert getattr(job, name) == getattr(request, name), f"seed {seed}, request {request.id}: {name}"
    assert floor.preemptions == sum(request.preemptions for request in requests)
    assert floor.steps == replica.batches
    return floor.preemptions


def test_the_bare_loop_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sum(_case(seed, monkeypatch) for seed in range(150)) > 200
    assert "benchmarks.reference" in sys.modules
