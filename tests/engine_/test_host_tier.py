"""Blocks that the prefix cache gives up go to the host and come back: by hand, in both modes, and to the last bit."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from calibration.step_cost import StepCost
from sim import load
from sim.engine.host_tier import HostTier
from sim.engine.paged_kv import PagedKv
from sim.engine.request import Request
from sim.engine.settings import EngineSettings
from sim.errors import InputError
from sim.placement import place
from sim.policies.schedulers.vllm import Vllm
from sim.results.sinks import REQUEST_ROW
from sim.validation.modes import ARRIVE, Case, Cue, Trace, compare
from sim.validation.random_cases import random_case

STEP, LOAD = 1000, 7


def _case(requests: list[tuple[int, dict[str, Any]]], **settings: Any) -> Case:
    script, before = [], 0
    for index, (now, _) in enumerate(requests):
        script.append(Cue(now - before, ARRIVE, index))
        before = now
    chosen = {"num_gpu_blocks": 11, "block_size": 4, "async_scheduling": False, "host_block_ps": LOAD, **settings}
    options = tuple({"max_tokens": each["output_tokens"], **each} for _, each in requests)
    return Case(
        EngineSettings(**chosen), StepCost(host_ps=STEP, linear_ps=(0,), linear_slope_ps=0), options, tuple(script)
    )


def _of(trace: Trace, name: str) -> list[int]:
    return [row[REQUEST_ROW.index(name)] for row in trace.requests]


def _equal(case: Case) -> Trace:
    stepwise, _, found = compare(case, Vllm)
    assert not found, "\n".join(found)
    return stepwise


THREE = [
    (0, {"prompt_tokens": 32, "output_tokens": 1, "prefix_group": "a", "prefix_len": 32}),
    (10_000, {"prompt_tokens": 24, "output_tokens": 1}),
    (20_000, {"prompt_tokens": 36, "output_tokens": 1, "prefix_group": "a", "prefix_len": 32}),
]
"""Ten blocks: eight of a prefix; then six of another, for which four of the eight have to go, the tail first."""


@pytest.mark.parametrize(("host", "loaded"), [(0, 0), (100, 4), (4, 4), (2, 0)])
def test_what_was_evicted_is_loaded_and_its_time_paid(host: int, loaded: int) -> None:
    """The GPU keeps blocks 0 … 3 of the prefix, the host has 7, 6, 5, 4 in this order of age; with room for two it has
    5 and 4, which follow the GPU's: then those are loaded."""
    if host == 2:
        loaded = 2  # 5 and 4, the youngest, go on where the GPU's end
    trace = _equal(_case(THREE, host_blocks=host))
    assert _of(trace, "host_tokens") == [0, 0, 4 * loaded]
    assert _of(trace, "cached_tokens")[2] == 16 + 4 * loaded
    assert _of(trace, "scheduled_tokens")[2] == 36 - 16 - 4 * loaded
    assert _of(trace, "finished_ps")[2] == 20_000 + STEP + LOAD * loaded


def test_a_preempted_request_loads_what_it_had_computed() -> None:
    """Two requests that outgrow ten blocks: with a host, the victim's lost blocks are loaded instead of computed."""
    requests = [(0, {"prompt_tokens": 16, "output_tokens": 12}), (0, {"prompt_tokens": 16, "output_tokens": 12})]
    plain = _equal(_case(requests, host_blocks=0, num_gpu_blocks=12))
    case = _case(requests, host_blocks=50, num_gpu_blocks=12)
    helped = _equal(case)
    assert _of(plain, "preemptions") == _of(helped, "preemptions") == [0, 1]
    assert _of(helped, "host_tokens")[1] > 0
    assert _of(helped, "recomputed_tokens")[1] < _of(plain, "recomputed_tokens")[1]


def test_least_recently_used_goes_first() -> None:
    kv, host = PagedKv(100, 1, caching=True, committed=lambda request: request.computed), HostTier(3)
    request = Request(0, arrived_ps=0, prompt_tokens=9, output_tokens=1, prefix_group="g", prefix_len=8)
    kv.enter(request)
    assert request.pieces is not None
    space = request.pieces[0].space
    for index in (2, 1, 0):
        host.store((space, index))
    assert host.found(request, 0, 8) == 3
    host.touch(request, 0, 2)  # 1, then 0: the head is youngest
    host.store((space, 5))
    assert [host.found(request, index, 8) for index in (0, 2, 5)] == [2, 0, 1]
    host.store((space, 6))
    assert [host.found(request, index, 8) for index in (0, 1, 5)] == [1, 0, 2]
    assert len(host) == 3


def test_random_cases_are_equal_with_a_host_tier() -> None:
    host_tokens = preemptions = 0
    for seed in range(5_000, 5_080):
        case, rng = random_case(seed), Random(seed)
        own = replace(
            case.settings,
            enable_prefix_caching=True,
            host_blocks=rng.choice((1, 8, 40, 10_000)),
            host_block_ps=rng.choice((1, 25)),
        )
        stepwise, _, found = compare(replace(case, settings=own), Vllm, most_steps=10_000)
        assert not found, f"seed {seed}: {own}\n" + "\n".join(found)
        host_tokens += stepwise.seen["host tokens"]
        preemptions += stepwise.seen["preemptions"]
    assert host_tokens > 1000
    assert preemptions > 100


def _scenario(**engine: Any) -> dict[str, Any]:
    return {
        "name": "host",
        "workload": {"arrivals": "poisson", "rate": "1/s", "lengths": {"prompt": 100, "output": 10}},
        "pools": {
            "main": {
                "model": "llama-3.1-70b",
                "hardware": "h100-sxm",
                "tensor_parallel_size": 4,
                "engine": engine,
            }
        },
        "measure": {"queries": 5},
    }


def test_size_and_speed_by_hand() -> None:
    """Llama-70B: 320 KiB a token, 5 MiB a block of 16, a quarter of it on each of four GPUs; 64 GiB hold 13,107 blocks.
    A GPU's link moves its quarter at 80 % of its bandwidth."""
    scenario = load(_scenario(kv_offloading_size=64))
    placed = place("main", scenario.pools["main"], scenario)
    assert placed.settings.host_blocks == 64 * 2**30 // (16 * 320 * 1024) == 13_107
    quarter = 16 * 320 * 1024 / 4
    assert placed.settings.host_block_ps == round(quarter / (placed.placed.hardware.pcie_bytes_per_s * 0.8) * 1e12)
    assert load(_scenario(kv_offloading_size="64 GiB")).pools["main"].engine == scenario.pools["main"].engine
    assert place("main", load(_scenario()).pools["main"], scenario).settings.host_blocks == 0


def test_without_a_prefix_cache_it_is_refused() -> None:
    with pytest.raises(InputError, match="kv_offloading_size"):
        load(_scenario(kv_offloading_size=64, enable_prefix_caching=False))
