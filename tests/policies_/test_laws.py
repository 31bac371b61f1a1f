"""What every scheduler keeps to, whatever comes: memory, limits, progress, and no look into the future."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from policy_cases import OPTIONS, STARVATION_FREE, dressed_case

from sim.engine.block_pool import BlockPool
from sim.engine.replica import NoProgress, Replica, make_replica
from sim.engine.request import Request
from sim.policies.schedulers import scheduler
from sim.policies.schedulers.vllm import Vllm
from sim.results.columns import Status
from sim.results.sinks import REQUEST_ROW
from sim.validation.modes import Trace, run
from sim.validation.random_cases import random_case

MEMORIES = ("plain", "swap", "reserve", "window", "host", "all", "compress")
POLICIES = [(name, options) for name in scheduler.names() for options in OPTIONS.get(name, [{}])]


def _laws(replica: Replica, trace: Trace) -> None:
    """No block leaks or has two owners, and whoever is there is served: nothing stands still."""
    kv, own = replica.kv, replica.settings
    assert 0 <= kv.free <= kv.total
    assert len(replica.running) - replica.paused <= own.max_num_seqs
    if isinstance(kv, BlockPool):
        owners: Counter[int] = Counter()
        for request in replica.running:
            assert request.table is not None
            owners.update(request.table)
        kv.check(len(owners))
        if not own.enable_prefix_caching:
            assert all(count == 1 for count in owners.values())
    else:
        kv.check(kv.total - kv.free)
    if not replica.running:
        assert kv.free == kv.total
    assert 0 <= replica.free_swap_blocks <= own.swap_blocks
    if not (replica.running or replica.waiting):
        assert replica.free_swap_blocks == own.swap_blocks
    if kv.host is not None:
        assert len(kv.host) <= own.host_blocks
    if replica.running or replica.waiting:
        assert replica.next_end_ps is not None  # work conservation: the engine is never idle with work at hand
    trace.seen["looked"] += 1


@settings(max_examples=80, deadline=None)
@given(
    policy=st.sampled_from(POLICIES),
    seed=st.integers(100_000, 10_000_000),
    memory=st.sampled_from(MEMORIES),
    looks=st.booleans(),
    stepwise=st.booleans(),
)
def test_laws(policy: tuple[str, dict[str, Any]], seed: int, memory: str, looks: bool, stepwise: bool) -> None:
    name, options = policy
    compress = memory == "compress"
    assume(not compress or getattr(scheduler.make(name, options), "reservation", "none") == "none")
    case = dressed_case(seed, memory=memory, looks=looks and not compress)
    trace = run(case, lambda: scheduler.make(name, options), stepwise=stepwise, most_steps=6_000, watch=_laws)
    own = case.settings
    for step in trace.steps:
        tokens, scheduled = step[3], step[-1]
        assert tokens == sum(new for _, new in scheduled) <= own.max_num_batched_tokens
        assert 0 < len({request for request, _ in scheduled}) == len(scheduled) <= own.max_num_seqs
    if trace.endless:
        return
    assert trace.seen["unfinished"] == trace.refused  # nobody is lost, and only who can never fit is not served
    column = {each: index for index, each in enumerate(REQUEST_ROW)}
    assert sum(row[column["scheduled_tokens"]] for row in trace.requests) == sum(step[3] for step in trace.steps)
    for row in trace.requests:
        if row[column["status"]] != Status.COMPLETED or (row[column["preemptions"]] and row[column["cached_tokens"]]):
            continue
        computed = row[column["prompt_tokens"]] + row[column["generated"]] - 1 + row[column["dropped_tokens"]]
        done = row[column["scheduled_tokens"]] + row[column["cached_tokens"]] - row[column["recomputed_tokens"]]
        if memory in ("swap", "all") and row[column["preemptions"]]:
            assert done <= computed  # what came back from the host was not computed again
        else:
            assert done == computed


@settings(max_examples=60, deadline=None)
@given(
    prompt=st.integers(1, 40),
    most=st.integers(-1, 40).filter(bool),
    size=st.sampled_from((1, 3, 16)),
    limit=st.integers(2, 90),
    spare=st.integers(-2, 1),
    window=st.sampled_from((0, 0, 2)),
    stepwise=st.booleans(),
)
def test_who_can_never_fit_is_refused_and_nobody_else(
    prompt: int, most: int, size: int, limit: int, spare: int, window: int, stepwise: bool
) -> None:
    """By what the client shows: all its tokens but the last need blocks, and whoever has them is served alone to the end."""
    tokens = min(prompt + most, limit) if most > 0 else limit
    blocks = -(-(tokens - 1) // size)
    case = random_case(0)
    own = replace(
        case.settings, block_size=size, max_model_len=limit, sliding_window=window * size, enable_prefix_caching=False
    )
    if window:
        blocks += min(blocks, own.window_cap)
    own = replace(own, num_gpu_blocks=1 + max(1, blocks + spare))
    replica = make_replica(own, case.cost, Vllm(), stepwise=stepwise)
    request = Request(0, arrived_ps=0, prompt_tokens=prompt, output_tokens=max(1, tokens - prompt), max_tokens=most)
    why = replica.never_fits(request)
    assert (why is not None) == (prompt >= limit or blocks > own.usable_blocks)
    if why is None:
        replica.submit(request, 0)
        _run_on(replica)
        assert (request.status, request.preemptions) == (Status.COMPLETED, 0)
    else:
        assert f"{limit if prompt >= limit else blocks}" in why


@pytest.mark.parametrize("name", STARVATION_FREE)
def test_nobody_is_left_behind(name: str) -> None:
    """Of the policies that promise it: everybody who was let in comes to an end; that nobody has to wait for the end of all
    others is in ``test_decisions.py``."""
    for seed in range(12):
        case = dressed_case(seed)
        if case.settings.policy == "priority":
            case = replace(case, settings=replace(case.settings, policy="fcfs"))
        trace = run(case, lambda: scheduler.make(name), stepwise=False, most_steps=20_000)
        assert not trace.endless
        assert trace.seen["unfinished"] == trace.refused


def _first_plan(requests: list[Request], case: Any, name: str, options: dict[str, Any]) -> list[Any]:
    own = replace(case.settings, async_scheduling=False)  # one plan, and nothing in flight when it is made
    replica = make_replica(own, case.cost, scheduler.make(name, options), stepwise=True)
    for request in requests:
        request.arrived_ps = request.id
        if replica.never_fits(request) is None:
            replica.submit(request, request.id)
    replica.plan(len(requests))
    work = replica._step.work
    return [(request.id, tokens) for request, tokens in work.items()]


@pytest.mark.parametrize(("name", "options"), POLICIES)
def test_no_scheduler_sees_the_future(name: str, options: dict[str, Any]) -> None:
    """Other true lengths behind the same limits and predictions: the same first plan."""
    plans = 0
    for seed in range(30):
        case = dressed_case(seed)
        before, after = case.make_requests(), case.make_requests()
        for request in after:
            request.output_tokens = 1 + (request.output_tokens * 7 + seed) % 50
            request.reasoning_tokens = request.output_tokens // 3
        plan = _first_plan(before, case, name, options)
        assert plan == _first_plan(after, case, name, options)
        plans += bool(plan)
    assert plans > 20


def test_the_real_engine_s_livelock_is_ended_with_words() -> None:
    """vLLM's priority policy without full-prompt reservation may preempt for ever; here it is said."""
    for seed in (564, 2242):
        case = random_case(seed)
        assert case.settings.policy == "priority"
        assert not case.settings.scheduler_reserve_full_isl
        trace = run(case, Vllm, stepwise=False, most_steps=50_000)
        assert trace.endless
        whole = replace(case, settings=replace(case.settings, scheduler_reserve_full_isl=True))
        assert not run(whole, Vllm, stepwise=False, most_steps=50_000).endless


class Circles:
    """Throws away in each step what the one before computed."""

    def schedule(self, step: Any) -> None:
        for request in list(step.running):
            step.preempt(request)
        for request in list(step.candidates()):
            step.admit(request)


@pytest.mark.parametrize("stepwise", [True, False])
def test_a_scheduler_that_runs_in_circles_is_named(stepwise: bool) -> None:
    case = random_case(0)
    own = replace(case.settings, async_scheduling=False, enable_prefix_caching=False, max_num_batched_tokens=2)
    replica = make_replica(own, case.cost, Circles(), stepwise=stepwise)
    replica.submit(Request(0, arrived_ps=0, prompt_tokens=4, output_tokens=9, max_tokens=9), 0)
    with pytest.raises(NoProgress, match=r"Circles: 2,000 steps in a row"):
        _run_on(replica)


def _run_on(replica: Replica) -> None:
    now: int | None = 0
    while (now := replica.plan(now or 0)) is not None:
        replica.complete(now)


def test_a_scheduler_that_plans_nothing_is_named() -> None:
    class Idle:
        def schedule(self, step: Any) -> None: ...

    case = random_case(0)
    for stepwise in (True, False):
        replica = make_replica(case.settings, case.cost, Idle(), stepwise=stepwise)
        replica.submit(Request(0, arrived_ps=0, prompt_tokens=4, output_tokens=2, max_tokens=2), 0)
        with pytest.raises(NoProgress, match="Idle plans nothing"):
            replica.plan(0)


@pytest.mark.parametrize("stepwise", [True, False])
@pytest.mark.parametrize(("name", "options"), [("edf", {"preempt": True}), ("srpt", {})])
def test_a_seat_is_cleared_for_who_is_more_urgent_though_there_are_blocks(
    name: str, options: dict[str, Any], stepwise: bool
) -> None:
    case = random_case(0)
    own = replace(
        case.settings, num_gpu_blocks=1000, max_num_seqs=1, async_scheduling=False, policy="fcfs", watermark=0.0
    )
    replica = make_replica(own, case.cost, scheduler.make(name, options), stepwise=stepwise)
    long = Request(0, arrived_ps=0, prompt_tokens=4, output_tokens=400, max_tokens=400)
    short = Request(1, arrived_ps=1000, prompt_tokens=4, output_tokens=3, max_tokens=3)
    long.deadline_ps, short.deadline_ps = 10**15, 10**12
    replica.submit(long, 0)
    end, come = replica.plan(0), short.arrived_ps
    while end is not None:
        now = min(end, come)
        if now == end:
            replica.complete(now)
        if now == come:
            replica.submit(short, now)
            come = 10**18
        end = replica.plan(now)
    assert long.preemptions == 1
    assert 0 < short.finished_ps < long.finished_ps
