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
from sim.validation.recording import find, load

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
    priority = rng.random() < 0.4
    priorities = [rng.randint(0, 2) if priority else 0 for _ in arrived]
    longest = rng.choice((1000, 1000, 60))
    need = max(-(-min(p + o, longest) // size) for p, o in zip(prompts, outputs, strict=True))
    blocks = 1 + need + rng.choice((0, 1, need // 2, need * 3, need * 50))
    threshold = rng.choice((0, 0, 3, 12))
    settings = EngineSettings(
        num_gpu_blocks=blocks,
        block_size=size,
        max_num_seqs=seats,
        max_num_batched_tokens=(rng.choice((2, seats, seats + 3, seats + 20, 2000)) if longest > 60 else 2000),
        max_model_len=longest,
        enable_prefix_caching=caching,
        enable_chunked_prefill=True,
        long_prefill_token_threshold=threshold,
        long_prefill_token_threshold_adaptive=bool(threshold) and rng.random() < 0.5,
        policy="priority" if priority else "fcfs",
        watermark=rng.choice((0.0, 0.0, 0.05)) if blocks > need * 2 else 0.0,
        scheduler_reserve_full_isl=priority or rng.random() < 0.7,
        async_scheduling=False,
    )
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
    floor = reference(Load(arrived, prompts, outputs, groups, lengths, parents, priorities), cost, settings)
    replica = make_replica(settings, cost, Vllm(), stepwise=True)
    requests = [
        Request(i, arrived_ps=a, prompt_tokens=p, output_tokens=o, max_tokens=o, priority=rank)
        for i, (a, p, o, rank) in enumerate(zip(arrived, prompts, outputs, priorities, strict=True))
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


@pytest.mark.parametrize("seeds", [range(100), pytest.param(range(100, 400), marks=pytest.mark.slow)])
def test_the_bare_loop_is_exact(seeds: range, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sum(_case(seed, monkeypatch) for seed in seeds) > 100
    assert "benchmarks.reference" in sys.modules


RECORDED = {
    "first_scheduled_ps": "first_scheduled_ns",
    "first_token_ps": "first_token_ns",
    "finished_ps": "finish_ns",
    "preemptions": "num_preemptions",
    "cached_tokens": "cached_tokens_total",
    "scheduled_tokens": "scheduled_tokens",
    "steps": "n_steps_scheduled",
}
PLAIN = [
    folder
    for folder in find([ROOT / "tests" / "golden"])
    if not (own := load(folder).settings).async_scheduling and not own.sliding_window
]
"""The bare loop is synchronous, and knows no sliding windows."""


@pytest.mark.parametrize("folder", [pytest.param(folder, id=folder.name) for folder in PLAIN])
def test_the_bare_loop_decides_as_vllm_did(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.reference import Load, reference

    recorded = load(folder)
    arrivals = recorded.arrivals
    groups = {group: number for number, group in enumerate({each.prefix_group for each in arrivals} - {None})}
    floor = reference(
        Load(
            arrived_ps=[each.arrived_ps for each in arrivals],
            prompt_tokens=[each.prompt_tokens for each in arrivals],
            output_tokens=[each.decode_tokens for each in arrivals],
            prefix_group=[groups.get(each.prefix_group, -1) for each in arrivals],
            prefix_len=[each.prefix_len for each in arrivals],
            parent=[-1 if each.parent is None else each.parent for each in arrivals],
            priority=[each.priority for each in arrivals],
        ),
        recorded.cost,
        recorded.settings,
    )
    assert floor.steps == len(recorded.steps)
    for job, row in zip(floor.jobs, recorded.requests, strict=True):
        found = {ours: getattr(job, ours) // (1000 if ours.endswith("_ps") else 1) for ours in RECORDED}
        assert found == {ours: int(row[theirs]) for ours, theirs in RECORDED.items()}, f"request {job.number}"
