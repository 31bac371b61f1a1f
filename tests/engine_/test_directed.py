"""Cases that recordings do not show: each small, with its outcome worked out by hand, equal in both modes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from calibration.step_cost import StepCost
from sim.engine.paged_kv import Hit, PagedKv, Run, Space, Tenure
from sim.engine.request import Request
from sim.engine.settings import EngineSettings
from sim.engine.step import FOREVER, Step
from sim.policies.schedulers.vllm import Vllm
from sim.results.columns import Status
from sim.results.sinks import REQUEST_ROW, SEGMENT_ROW
from sim.validation.modes import ARRIVE, CANCEL, Case, Cue, Trace, compare

STEP = 1000
"""Every step takes so long, whatever is in it."""


@dataclass(frozen=True)
class Deaf(Vllm):
    """``vllm``, but no arrival matters to it."""

    def schedule(self, step: Step) -> None:
        super().schedule(step)
        step.wake_on_arrival = False


@dataclass(frozen=True)
class Stubborn(Vllm):
    """``vllm``, but once somebody was refused it never asks again."""

    def schedule(self, step: Step) -> None:
        super().schedule(step)
        step.hold = FOREVER


def _case(requests: list[tuple[int, dict[str, Any]]], **settings: Any) -> Case:
    """*requests* as (instant, options), in order."""
    script, before = [], 0
    for index, (now, _) in enumerate(requests):
        script.append(Cue(now - before, ARRIVE, index))
        before = now
    chosen = EngineSettings(**{"num_gpu_blocks": 1000, "block_size": 4, "async_scheduling": False, **settings})
    return Case(
        chosen,
        StepCost(host_ps=STEP, linear_ps=(0,), linear_slope_ps=0),
        tuple(_options(options) for _, options in requests),
        tuple(script),
    )


def _options(options: dict[str, Any]) -> dict[str, Any]:
    return {"max_tokens": options["output_tokens"], **options}


def _equal(case: Case) -> Trace:
    stepwise, _, found = compare(case, Vllm)
    assert not found, "\n".join(found)
    return stepwise


def _of(trace: Trace, name: str) -> list[int]:
    return [row[REQUEST_ROW.index(name)] for row in trace.requests]


def test_a_more_urgent_arrival_overtakes_a_blocked_head() -> None:
    """The head (priority 1, 25 blocks) does not fit beside the first; an urgent small one does, at once."""
    case = _case(
        [
            (0, {"prompt_tokens": 80, "output_tokens": 60}),
            (1500, {"prompt_tokens": 100, "output_tokens": 5, "priority": 1}),
            (20_500, {"prompt_tokens": 4, "output_tokens": 5}),
        ],
        num_gpu_blocks=41,
        policy="priority",
    )
    trace = _equal(case)
    assert _of(trace, "first_scheduled_ps") == [0, 60 * STEP, 21 * STEP]
    assert compare(case, Deaf)[2]


def test_an_arrival_lowers_the_adaptive_threshold_and_lets_the_head_in() -> None:
    """Two present: chunks of 32, 8 blocks, 6 are free. A third: chunks of 21, 6 blocks, and the head fits."""
    case = _case(
        [
            (0, {"prompt_tokens": 40, "output_tokens": 20}),
            (1500, {"prompt_tokens": 60, "output_tokens": 2}),
            (3500, {"prompt_tokens": 60, "output_tokens": 2}),
        ],
        num_gpu_blocks=18,
        max_num_batched_tokens=64,
        long_prefill_token_threshold=4,
        long_prefill_token_threshold_adaptive=True,
        scheduler_reserve_full_isl=False,
        enable_prefix_caching=False,
    )
    trace = _equal(case)
    assert _of(trace, "first_scheduled_ps")[1] == 4 * STEP
    fixed = replace(case, settings=replace(case.settings, long_prefill_token_threshold_adaptive=False))
    assert _of(_equal(fixed), "first_scheduled_ps")[1] == 2 * STEP
    assert compare(case, Deaf)[2]


@pytest.mark.parametrize(("output", "status"), [(13, Status.CANCELLED), (2, Status.COMPLETED)])
def test_who_is_preempted_with_a_token_in_flight_and_cancelled_gets_it(output: int, status: Status) -> None:
    """Both hold two full blocks of 4 when the third step is planned at 1000, with one block left: the second is preempted
    while its second token is in flight until 2000. Cancelled at 1500 it ends then, with that token; were it the last, it is
    complete."""
    ask = {"prompt_tokens": 7, "max_tokens": 13}
    case = _case(
        [(0, {**ask, "output_tokens": 13}), (0, {**ask, "output_tokens": output})],
        num_gpu_blocks=6,
        async_scheduling=True,
        enable_prefix_caching=False,
    )
    case = replace(case, script=(*case.script, Cue(1500, CANCEL, 1)))
    trace = _equal(case)
    assert _of(trace, "preemptions") == [0, 1]
    assert _of(trace, "status")[1] == status
    assert _of(trace, "finished_ps")[1] == 2 * STEP
    assert _of(trace, "generated")[1] == 2
    rows = [dict(zip(SEGMENT_ROW, row, strict=True)) for row in trace.segments]
    gaps = sum(row["decodes"] - row["fresh"] - row["dropped"] for row in rows) + len(trace.stalls)
    assert gaps == sum(generated - 1 for generated in _of(trace, "generated"))


@pytest.mark.parametrize("at", [16, 20, 24])
def test_what_the_decodes_evict_may_be_what_the_head_would_hit(at: int) -> None:
    """The head's prefix of four blocks is the oldest in the cache, and a decode takes one of them before the head is looked at:
    its next chunk of 8 tokens needs as many blocks as before, and there is one more for it."""
    prefix = {"prefix_group": 1, "prefix_len": 16}
    case = _case(
        [
            (0, {"prompt_tokens": 40, "output_tokens": 36}),
            (0, {"prompt_tokens": 17, "output_tokens": 1, **prefix}),
            (0, {"prompt_tokens": 9, "output_tokens": 1}),
            (at * STEP + 500, {"prompt_tokens": 60, "output_tokens": 2, **prefix}),
        ],
        num_gpu_blocks=20,
        max_num_batched_tokens=9,
        max_num_seqs=4,
        scheduler_reserve_full_isl=False,
    )
    assert _of(_equal(case), "cached_tokens")[-1] in (12, 8, 4)


def test_a_parent_writes_what_its_refused_child_waits_for() -> None:
    """Chunked prefill off, 31 tokens of budget left: the child enters once its parent has written 28 of its
    60 tokens …32: n - hit = 60 - 32 = 28. One block less, 32, is too much."""
    case = _case(
        [
            (0, {"prompt_tokens": 20, "output_tokens": 40}),
            (1500, {"prompt_tokens": 60, "output_tokens": 2, "parent": 0, "prefix_len": 56}),
        ],
        max_num_batched_tokens=32,
        enable_chunked_prefill=False,
    )
    trace = _equal(case)
    # 20 + k tokens are computed after the k-th decode, which ends at (1 + k) steps; the look-up of the step
    # that computes the 32nd already finds its block, as blocks are registered when they are planned
    assert _of(trace, "first_scheduled_ps")[1] == 12 * STEP
    assert _of(trace, "cached_tokens_first")[1] == 32
    assert compare(case, Stubborn)[2]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_an_arrival_when_a_step_ends(asynchronous: bool, offset: int) -> None:
    """At the end of a step or before, it is in the next plan; one picosecond later it waits for another
    step."""
    case = _case(
        [
            (0, {"prompt_tokens": 10, "output_tokens": 50}),
            (10 * STEP + offset, {"prompt_tokens": 10, "output_tokens": 5}),
        ],
        async_scheduling=asynchronous,
    )
    trace = _equal(case)
    planned = 10 + (offset > 0) + asynchronous  # two batches in flight: one is planned already
    assert _of(trace, "first_scheduled_ps")[1] == planned * STEP


@pytest.mark.parametrize("asynchronous", [False, True])
def test_who_comes_during_the_last_step_of_all_waits_for_its_end(asynchronous: bool) -> None:
    """With all last tokens in flight there was nothing more to schedule: the engine waits for that batch, though another
    could be in flight, and then sees all who came meanwhile at once."""
    case = _case(
        [
            (0, {"prompt_tokens": 4, "output_tokens": 1}),
            (300, {"prompt_tokens": 4, "output_tokens": 3}),
            (600, {"prompt_tokens": 4, "output_tokens": 3}),
        ],
        async_scheduling=asynchronous,
    )
    trace = _equal(case)
    assert _of(trace, "first_scheduled_ps") == [0, STEP, STEP]
    assert [row[0] for row in trace.steps] == [0, STEP, *([STEP, 2 * STEP] if asynchronous else [2 * STEP, 3 * STEP])]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_several_arrivals_and_ends_in_one_instant(asynchronous: bool) -> None:
    """Two requests end, three arrive, at the same picosecond; seats for three."""
    case = _case(
        [
            (0, {"prompt_tokens": 4, "output_tokens": 10}),
            (0, {"prompt_tokens": 8, "output_tokens": 10}),
            (0, {"prompt_tokens": 8, "output_tokens": 30}),
            (10 * STEP, {"prompt_tokens": 4, "output_tokens": 3}),
            (10 * STEP, {"prompt_tokens": 4, "output_tokens": 3}),
            (10 * STEP, {"prompt_tokens": 4, "output_tokens": 3}),
        ],
        async_scheduling=asynchronous,
        max_num_seqs=3,
    )
    trace = _equal(case)
    started = _of(trace, "first_scheduled_ps")
    first = (10 + asynchronous) * STEP
    assert started[3:5] == [first, first]
    assert started[5] > first


def test_a_child_in_prefill_registers_before_its_decoding_parent() -> None:
    """The child is more urgent, so it stands first in the running order; both complete each block in the same step, one
    token a step. So the child's copies are the older ones. When it is gone, a third request finds those: four blocks
    are taken from the free list, none is shared with the parent."""
    case = _case(
        [
            (0, {"prompt_tokens": 1, "output_tokens": 60, "priority": 1}),
            (0, {"prompt_tokens": 17, "output_tokens": 1, "parent": 0, "prefix_len": 17}),
            (30_500, {"prompt_tokens": 17, "output_tokens": 4, "parent": 0, "prefix_len": 17}),
        ],
        policy="priority",
        long_prefill_token_threshold=1,
    )
    trace = _equal(case)
    assert _of(trace, "cached_tokens") == [0, 0, 16]
    before, after = trace.steps[30], trace.steps[31]
    assert after[9] == [(2, 16)]
    assert before[7] - after[7] == 4 + 1  # four revived, one for its last token; the parent's 32nd needs none


def test_a_parent_s_blocks_are_older_than_those_its_child_completes_after_it() -> None:
    """The parent decodes, so nothing of it is registered until somebody looks; its child, a token behind, completes the
    same blocks one step later. A third request finds the parent's, who still runs: nothing is taken for them."""
    case = _case(
        [
            (0, {"prompt_tokens": 1, "output_tokens": 60}),
            (4_500, {"prompt_tokens": 17, "output_tokens": 1, "parent": 0, "prefix_len": 17}),
            (30_500, {"prompt_tokens": 17, "output_tokens": 4, "parent": 0, "prefix_len": 17}),
        ],
        long_prefill_token_threshold=1,
    )
    trace = _equal(case)
    assert _of(trace, "cached_tokens")[2] == 16
    before, after = trace.steps[30], trace.steps[31]
    assert after[9] == [(2, 16)]
    assert before[7] - after[7] == 1


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_run_whose_first_step_evicts_says_what_is_left_in_the_cache(asynchronous: bool) -> None:
    """Four cached blocks are all that is free when the second request, of eight full blocks, begins to decode: its first
    decode evicts one. The row of that run says three, as the step does; beside nine held ones of twelve no fourth is there.
    """
    prompts = [(0, {"prompt_tokens": 16, "output_tokens": 1}), (4_500, {"prompt_tokens": 32, "output_tokens": 10})]
    ended = _case(prompts, num_gpu_blocks=13, async_scheduling=asynchronous)
    assert _cached(_equal(ended))[:6] == [0, 4, 3, 3, 3, 3]
    # the same run, cut short by somebody who comes while all decode
    joined = _case(
        [*prompts, (10_700, {"prompt_tokens": 1, "output_tokens": 1})], num_gpu_blocks=13, async_scheduling=asynchronous
    )
    assert _cached(_equal(joined))[:6] == [0, 4, 3, 3, 3, 3]


def _cached(trace: Trace) -> list[int]:
    """Cached blocks after each step's plan."""
    return [row[SEGMENT_ROW.index("cached_blocks")] for row in trace.segments]


def _space(*stretches: tuple[int, int]) -> tuple[PagedKv, Request, list[Tenure]]:
    """A pool in which the shared prefix of a new request has copies of these stretches, the oldest first."""
    kv = PagedKv(100, 1, caching=True, committed=lambda request: request.computed)
    request = Request(0, arrived_ps=0, prompt_tokens=50, output_tokens=1, prefix_group="shared", prefix_len=40)
    kv.enter(request)
    assert request.pieces is not None
    space = request.pieces[0].space
    assert isinstance(space, Space)
    tenures = []
    for lo, hi in stretches:
        tenure = Tenure(lo, [])
        run = Run(tenure, space, lo, hi)
        tenure.runs.append(run)
        space.runs.append(run)
        tenures.append(tenure)
    return kv, request, tenures


def test_an_older_copy_that_starts_inside_a_newer_one_wins() -> None:
    kv, request, (older, newer) = _space((3, 5), (0, 8))
    assert kv.lookup(request) == ([Hit(newer, 0, 3), Hit(older, 3, 5), Hit(newer, 5, 8)], 8)


def test_the_oldest_of_several_wins_block_by_block() -> None:
    kv, request, (a, b, c) = _space((4, 6), (2, 5), (0, 9))
    assert kv.lookup(request) == ([Hit(c, 0, 2), Hit(b, 2, 4), Hit(a, 4, 6), Hit(c, 6, 9)], 9)


def test_what_is_left_above_a_hole_keeps_its_age() -> None:
    """The middle of the older copy is evicted: its top is still older than the other copy's."""
    kv, request, (older, newer) = _space((0, 6), (0, 6))
    kv._forget(older, 2, 4)
    assert kv.lookup(request) == ([Hit(older, 0, 2), Hit(newer, 2, 4), Hit(older, 4, 6)], 6)
    kv._forget(newer, 2, 4)
    assert kv.lookup(request) == ([Hit(older, 0, 2)], 2)


def test_who_exceeds_the_budget_of_a_step_enters_in_the_next() -> None:
    """Three prompts come at once that fit one a step: each following step admits one, although all merely decode by then."""
    case = _case(
        [(0, {"prompt_tokens": 4, "output_tokens": 60})]
        + [(1500, {"prompt_tokens": 60, "output_tokens": 30})] * 3
        + [(70_000, {"prompt_tokens": 4, "output_tokens": 5})],
        enable_chunked_prefill=False,
        max_num_batched_tokens=64,
        max_model_len=100,
    )
    assert _of(_equal(case), "first_scheduled_ps") == [0, 2000, 3000, 4000, 70_000]
    assert _of(_equal(replace(case, settings=replace(case.settings, enable_prefix_caching=True))), "first_scheduled_ps") == [
        0, 2000, 3000, 4000, 70_000,
    ]  # fmt: skip
