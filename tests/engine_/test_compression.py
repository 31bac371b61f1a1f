"""A compressed KV cache: equal in both modes over random cases, and by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.step_cost import StepCost
from sim.engine.compression import Compression
from sim.engine.replica import Replica, make_replica
from sim.engine.request import Request
from sim.engine.settings import EngineSettings
from sim.policies.schedulers.vllm import Vllm
from sim.results.sinks import REQUEST_ROW
from sim.validation.modes import Trace, compare, run
from sim.validation.random_cases import compressed_case, random_case

Watch = Callable[[Replica, Trace], None]


def _sweep(seeds: range, laws: Watch) -> None:
    seen: Counter[str] = Counter()
    for seed in seeds:
        case = compressed_case(random_case(seed), seed)
        stepwise, fast, found = compare(case, Vllm, most_steps=20_000, watch=laws if seed % 3 == 0 else None)
        assert not found, f"seed {seed}: {case.settings}\n" + "\n".join(found)
        seen += stepwise.seen
        seen["steps in runs"] += fast.seen["steps in runs"]
        seen["beyond the pool"] += _longer_than_the_pool(stepwise, case.settings)
    for name in ("compressed requests", "preemptions", "cached tokens", "evicted blocks", "beyond the pool"):
        assert seen[name] > 0, name
    assert seen["steps in runs"] > 1000
    assert seen["recomputed tokens"] > 1000


def _longer_than_the_pool(trace: Trace, settings: EngineSettings) -> int:
    prompt, generated = REQUEST_ROW.index("prompt_tokens"), REQUEST_ROW.index("generated")
    return sum(row[prompt] + row[generated] > settings.usable_blocks * settings.block_size for row in trace.requests)


def test_random_cases_are_equal(laws: Watch) -> None:
    _sweep(range(45), laws)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(40_000, 40_400, 200))
def test_hundreds_of_random_cases_are_equal(start: int, laws: Watch) -> None:
    _sweep(range(start, start + 200), laws)


def test_a_cache_that_is_never_full_changes_nothing() -> None:
    never = Compression(kept_tokens=1 << 20, interval_tokens=64, recent_tokens=8, passes=3)
    for seed in range(25):
        case = random_case(seed)
        other = replace(case, settings=replace(case.settings, compression=never))
        for stepwise in (True, False):
            a = run(case, Vllm, stepwise=stepwise, most_steps=20_000)
            if a.endless:
                break
            b = run(other, Vllm, stepwise=stepwise, timeline=a.timeline)
            assert (a.requests, a.steps, a.segments, a.stalls, a.probes) == (
                b.requests,
                b.steps,
                b.segments,
                b.stalls,
                b.probes,
            )


@given(
    st.integers(1, 30),
    st.integers(1, 9),
    st.sampled_from([0, 300_000, 1_000_000]),
    st.integers(1, 50),
    st.integers(1, 200),
)
def test_the_peak_is_the_most_that_is_ever_held(kept: int, interval: int, ratio: int, prompt: int, tokens: int) -> None:
    compression = Compression(kept_tokens=kept, interval_tokens=interval, ratio_ppm=ratio)
    held, most, point = 0, 0, compression.first_point(prompt)
    for position in range(1, tokens + 1):
        held += 1
        most = max(most, held)
        if position == point:
            held, point = compression.kept(position), position + interval
    assert compression.peak(prompt, tokens) == most


@pytest.mark.parametrize("stepwise", [True, False])
def test_by_hand(stepwise: bool) -> None:
    """Prompt 4, kept 4, interval 4, blocks of 2: compressed at 8 and at 12 computed tokens; a pool of 4 blocks holds it all."""
    compression = Compression(kept_tokens=4, interval_tokens=4, passes=2)
    settings = EngineSettings(num_gpu_blocks=5, block_size=2, async_scheduling=False, compression=compression)
    cost = StepCost(host_ps=100, linear_ps=(0,), linear_slope_ps=0, kv_ps=1)
    replica = make_replica(settings, cost, Vllm(), stepwise=stepwise)
    request = Request(0, arrived_ps=0, prompt_tokens=4, output_tokens=10, max_tokens=10)
    assert replica.never_fits(request) is None
    replica.submit(request, 0)
    ends, held = [replica.plan(0)], []
    while (now := ends[-1]) is not None:
        replica.complete(now)
        held.append(replica.snapshot(now).computed_tokens)
        ends.append(replica.plan(now))
    if stepwise:
        assert held == [4, 5, 6, 7, 4, 5, 6, 7, 4, 0]
    # prefill 100; decodes read 4, 5, 6, 7 tokens, the last of them compresses 8 by two passes; then the same again, then one
    assert ends[-2] == 100 + 2 * (104 + 105 + 106 + 107 + 2 * 8) + 104
    assert request.generated == 10
    assert replica.kv.free == 4


def test_who_gives_shared_blocks_up_waits_until_there_is_room_for_the_copy() -> None:
    """Two of one prompt in a pool that holds the prompt once and little more: the first keeps its cache whole until the
    other is gone, and both come to their end, the same in both modes."""
    compression = Compression(kept_tokens=14, interval_tokens=2)
    seen = 0
    for blocks in range(10, 16):
        case = random_case(0)
        options = {"prompt_tokens": 16, "output_tokens": 12, "max_tokens": 12, "prefix_group": "same", "prefix_len": 16}
        settings = EngineSettings(
            num_gpu_blocks=blocks + 1, block_size=2, async_scheduling=False, compression=compression
        )
        case = replace(case, settings=settings, requests=(options, options), script=case.script[:0])
        timeline = [(0, "arrive", 0), (50_000_000, "arrive", 1)]
        a = run(case, Vllm, stepwise=True, timeline=timeline)
        b = run(case, Vllm, stepwise=False, timeline=timeline)
        assert (a.steps, a.requests) == (b.steps, b.requests)
        seen += a.seen["completed"]
    assert seen == 12
