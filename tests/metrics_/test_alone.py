"""Slowdown's denominator equals a step-by-step run of one request."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.step_cost import StepCost
from sim.engine.replica import make_replica
from sim.engine.request import Request
from sim.engine.settings import EngineSettings
from sim.metrics import finish
from sim.metrics.alone import alone_ps
from sim.policies.schedulers import scheduler

COSTS = st.builds(
    StepCost,
    host_ps=st.integers(0, 10**10),
    linear_ps=st.lists(st.integers(0, 10**9), min_size=1, max_size=30).map(
        lambda steps: tuple(np.cumsum(steps).tolist())
    ),
    linear_slope_ps=st.integers(0, 10**8),
    seq_ps=st.integers(0, 10**8),
    kv_ps=st.integers(0, 10**6),
    half_pair_ps=st.integers(0, 10**5),
    cached_ps=st.integers(0, 10**5),
    mixed_ps=st.integers(0, 10**8),
)


def step_by_step(cost: StepCost, prompt: int, output: int, chunk: int) -> int:
    known, computed, time, made = prompt, 0, 0, 0
    while made < output:
        new = min(known - computed, chunk)
        if new == 1:
            time += cost.step_ps(decodes=1, context=computed, chunks=0, chunk_tokens=0, pairs=0, cached=0)
        else:
            pairs = new * new + 2 * new * computed
            time += cost.step_ps(decodes=0, context=0, chunks=1, chunk_tokens=new, pairs=pairs, cached=computed)
        computed += new
        if computed == known:
            known, made = known + 1, made + 1
    return time


@given(
    COSTS,
    st.lists(st.tuples(st.integers(1, 200), st.integers(1, 60)), min_size=1, max_size=5),
    st.integers(1, 70),
)
@settings(max_examples=200)
def test_closed_form_equals_step_by_step(cost, shapes, chunk):
    prompts, outputs = (np.array(column) for column in zip(*shapes, strict=True))
    expected = [step_by_step(cost, prompt, output, chunk) for prompt, output in shapes]
    assert alone_ps(cost, prompts, outputs, chunk).tolist() == expected


def test_a_lone_query_has_slowdown_one(toy):
    gap = 100 * toy.PS
    work = [(i * gap, prompt, 5 * i, 7) for i, prompt in enumerate((1, 2, 24, 25, 100, 500))]
    run = toy.simulate(work, budget=24)
    finish(run.results)
    assert run.results.queries.slowdown.to_numpy() == pytest.approx(np.ones(6), rel=1e-12)


LONE = StepCost(
    host_ps=3_000_000_001,
    linear_ps=(0, *range(9_000_000_000, 9_300_000_000, 1_000_003)),
    linear_slope_ps=70_000_003,
    seq_ps=11_000_007,
    kv_ps=170_003,
    half_pair_ps=211,
    cached_ps=1_009,
    mixed_ps=5_000_011,
)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("stepwise", [False, True])
@pytest.mark.parametrize(("prompt", "output"), [(1, 1), (257, 40), (300, 40), (513, 1000), (1024, 7)])
def test_an_engine_run_of_one_request_equals_the_closed_form(asynchronous, stepwise, prompt, output):
    settings_ = EngineSettings(
        num_gpu_blocks=2000,
        max_num_batched_tokens=256,
        enable_prefix_caching=False,
        async_scheduling=asynchronous,
    )
    engine = make_replica(settings_, LONE, scheduler.make("vllm"), stepwise=stepwise)
    request = Request(0, arrived_ps=12_345, prompt_tokens=prompt, output_tokens=output, max_tokens=output)
    engine.submit(request, 12_345)
    end = engine.plan(12_345)
    while end is not None:
        engine.complete(end)
        end = engine.plan(end)
    alone = alone_ps(LONE, np.array([prompt]), np.array([output]), 256)[0]
    assert request.finished_ps - 12_345 == alone


def test_a_pool_that_verifies_needs_no_prefill_elsewhere() -> None:
    from sim import load, simulate

    results = simulate(
        load(
            {
                "name": "verified",
                "workload": {
                    "arrivals": "poisson",
                    "rate": "1/s",
                    "lengths": {"prompt": 50, "reasoning": 60, "answer": 20},
                },
                "pools": {
                    "main": {"model": "r1-distill-qwen-7b", "hardware": "h100-sxm"},
                    "verifier": {"model": "r1-distill-qwen-7b", "hardware": "h100-sxm", "role": "verify"},
                },
                "strategy": {"name": "best_of_n", "samples": 2, "verifier_pool": "verifier"},
                "quality": {"benchmark": "math-500"},
                "measure": {"queries": 5},
            }
        )
    )
    assert len(results.queries) >= 5
    assert results.queries["alone_s"].isna().all()
