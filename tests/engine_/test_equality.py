"""Stepwise and fast-forward are equal: every decision, time, token and total, over random cases."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sim.engine.fast_forward import FastForward
from sim.engine.replica import Replica
from sim.engine.step import FOREVER, Step
from sim.policies.schedulers.vllm import Vllm
from sim.results.columns import Status
from sim.results.sinks import REQUEST_ROW
from sim.validation.modes import PROBE, Trace, compare, run
from sim.validation.random_cases import random_case

Watch = Callable[[Replica, Trace], None]

MUST_OCCUR = (
    "preemptions",
    "several victims in a step",
    "prompts in several chunks",
    "mixed steps",
    "arrive at a step end",
    "cancel at a step end",
    "cancelled",
    "truncated",
    "dropped tokens",
    "cached tokens",
    "evicted blocks",
    "recomputed tokens",
    "answers begun",
    "stalls",
    "laws checked, stepwise",
    "laws checked, fast",
)


def _sweep(seeds: range, laws: Watch | None, *, plain: bool = False) -> tuple[Counter[str], Counter[str]]:
    """Compare all *seeds*; the laws are checked in every third case. Returns what occurred, in each mode."""
    slow: Counter[str] = Counter()
    fast: Counter[str] = Counter()
    for seed in seeds:
        case = random_case(seed, plain=plain)
        stepwise, other, found = compare(case, Vllm, most_steps=20_000, watch=laws if seed % 3 == 0 else None)
        assert not found, f"seed {seed}: {case.settings}\n" + "\n".join(found)
        assert stepwise.endless or _conserved(stepwise)
        slow += stepwise.seen
        fast += other.seen
        slow["priority preemptions"] += (case.settings.policy == "priority") * stepwise.seen["preemptions"]
        slow["async preemptions"] += case.settings.async_scheduling * stepwise.seen["preemptions"]
        slow["endless"] += stepwise.endless
        slow["steps"] += len(stepwise.steps)
        fast["rows"] += other.rows
        for row in stepwise.steps:
            assert row[3] <= case.settings.max_num_batched_tokens
            assert len(row[-1]) <= case.settings.max_num_seqs
    return slow, fast


def _conserved(trace: Trace) -> bool:
    """Scheduled tokens over all steps are those of the requests."""
    names = {name: index for index, name in enumerate(REQUEST_ROW)}
    scheduled = sum(row[names["scheduled_tokens"]] for row in trace.requests)
    assert scheduled == sum(row[3] for row in trace.steps)
    for row in trace.requests:
        assert row[names["recomputed_tokens"]] >= 0
        assert row[names["preemptions"]] or not row[names["recomputed_tokens"]]
        if row[names["status"]] != Status.COMPLETED:
            continue
        computed = row[names["prompt_tokens"]] + row[names["generated"]] - 1 + row[names["dropped_tokens"]]
        if not row[names["preemptions"]]:
            assert row[names["scheduled_tokens"]] + row[names["cached_tokens"]] == computed
        elif not row[names["cached_tokens"]]:
            assert row[names["scheduled_tokens"]] - row[names["recomputed_tokens"]] == computed
    return True


def _assert_not_vacuous(slow: Counter[str], fast: Counter[str]) -> None:
    for name in MUST_OCCUR:
        assert slow[name] + fast[name] > 0, f"{name} never occurred: the comparison says less than it seems to"
    assert slow["priority preemptions"] > 0
    assert slow["async preemptions"] > 0
    assert fast["steps in runs"] > fast["runs"] > 0
    assert fast["rows"] < slow["steps"] / 2


def test_random_cases_are_equal(laws: Watch) -> None:
    slow, fast = _sweep(range(85), laws)
    _assert_not_vacuous(slow, fast)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(10_000, 11_000, 250))
def test_a_thousand_random_cases_are_equal(start: int, laws: Watch) -> None:
    slow, fast = _sweep(range(start, start + 250), laws)
    _assert_not_vacuous(slow, fast)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(20_000, 20_500, 250))
def test_hundreds_of_plain_cases_are_equal(start: int, laws: Watch) -> None:
    _sweep(range(start, start + 250), laws, plain=True)


def test_looking_changes_nothing() -> None:
    """Probes leave no trace: the same case without them ends in the same tables."""
    for seed in range(40):
        case = random_case(seed)
        first = run(case, Vllm, stepwise=False)
        timeline = [each for each in first.timeline if each[1] != PROBE]
        second = run(case, Vllm, stepwise=False, timeline=timeline)
        assert (first.steps, first.requests, first.segments) == (
            second.steps,
            second.requests,
            second.segments,
        )


@dataclass(frozen=True)
class Boastful(Vllm):
    """Like ``vllm``, but says that every plan holds for ever."""

    serves_all_when_nobody_waits: ClassVar[bool] = False

    def schedule(self, step: Step) -> None:
        super().schedule(step)
        step.hold = FOREVER
        step.wake_on_arrival = False


@dataclass(frozen=True)
class Modest(Vllm):
    """Like ``vllm``, but says nothing of how long a plan holds."""

    serves_all_when_nobody_waits: ClassVar[bool] = False

    def schedule(self, step: Step) -> None:
        super().schedule(step)
        step.hold = 1
        step.wake_on_arrival = True


def test_a_hold_too_long_is_found_out() -> None:
    caught = sum(bool(compare(random_case(seed), Boastful, most_steps=20_000)[2]) for seed in range(60))
    assert caught >= 15


def test_a_policy_that_promises_nothing_is_right() -> None:
    for seed in range(60):
        case = random_case(seed)
        _, fast, found = compare(case, Modest, most_steps=20_000)
        assert not found, f"seed {seed}\n" + "\n".join(found)
        assert fast.steps == run(case, Vllm, stepwise=False, timeline=fast.timeline).steps


PROTOTYPE = Path(__file__).parents[3] / "shared" / "prototype"


def _prototype() -> Any:
    if not (PROTOTYPE / "fast_forward.py").is_file():
        pytest.skip("the independent second implementation is not at hand (../shared/prototype)")
    import importlib.util

    spec = importlib.util.spec_from_file_location("prototype_fast_forward", PROTOTYPE / "fast_forward.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = writes
    return module


def _second_opinion(seeds: range) -> None:
    prototype = _prototype()
    preemptions = 0
    for seed in seeds:
        case = random_case(seed, plain=True)
        if case.settings.policy == "priority" and not case.settings.scheduler_reserve_full_isl:
            continue  # may preempt for ever there
        trace = run(case, Vllm, stepwise=True, most_steps=20_000)
        cost, settings = case.cost, case.settings
        arrived = {request: now for now, _, request in trace.timeline}
        rows = [
            {
                "arrived_at_ns": arrived[index],
                "num_prefill_tokens": request["prompt_tokens"],
                "num_decode_tokens": request["output_tokens"],
                "priority": request["priority"],
                "prefix_group": request.get("prefix_group", ""),
                "prefix_len": request.get("prefix_len", 0),
                "parent": request.get("parent", ""),
            }
            for index, request in enumerate(case.requests)
        ]
        if trace.refused or trace.seen["unfinished"]:
            continue
        clock = {
            "c0_ns": cost.host_ps,
            "c1_ns": cost.linear_slope_ps - cost.kv_ps,
            "c2_ns": cost.kv_ps,
        }
        log: list[list[int]] = []
        prototype.simulate(rows, {**vars(settings), **clock}, log)
        # start, end, tokens, context, running, free: what both logs hold
        theirs = [(row[1], row[2], row[4], row[5], row[6], row[7]) for row in log]
        ours = [(row[1], row[2], row[3], row[4], row[5], row[7]) for row in trace.steps]
        assert ours == theirs, f"seed {seed}: {settings}"
        preemptions += trace.seen["preemptions"]
    assert preemptions > 0


def test_an_independent_implementation_agrees() -> None:
    _second_opinion(range(60))


@pytest.mark.slow
def test_an_independent_implementation_agrees_often() -> None:
    _second_opinion(range(30_000, 30_300))


def test_same_case_twice_is_the_same() -> None:
    case = random_case(3)
    a, b = (run(case, Vllm, stepwise=False) for _ in range(2))
    assert (a.requests, a.steps, a.segments, a.stalls) == (b.requests, b.steps, b.segments, b.stalls)


def test_arrivals_into_a_batch_that_decodes_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commonest event has a path of its own: it is taken often here, and ends as stepping does."""
    joined: Counter[tuple[bool, bool, bool]] = Counter()
    original = FastForward._join

    def counted(self: FastForward, now_ps: int, quiet_until_ps: int) -> bool:
        done = original(self, now_ps, quiet_until_ps)
        joined[done, self.settings.async_scheduling, self.settings.enable_prefix_caching] += 1
        return done

    monkeypatch.setattr(FastForward, "_join", counted)
    for seed in range(60):
        case = random_case(seed)
        tight = seed % 3 == 0
        settings = replace(
            case.settings,
            num_gpu_blocks=case.settings.num_gpu_blocks if tight else 20_000,
            max_num_batched_tokens=2_048,
            max_num_seqs=4 if seed % 5 == 0 else 64,
            long_prefill_token_threshold=0,
        )
        cues = tuple(
            replace(cue, after_ps=cue.after_ps * (1 if tight else 3), at_step_end=False) for cue in case.script
        )
        case = replace(case, settings=settings, script=cues)
        _, _, found = compare(case, Vllm, most_steps=20_000)
        assert not found, f"seed {seed}: {case.settings}\n" + "\n".join(found)
    for asynchronous in (False, True):
        for caching in (False, True):
            assert joined[True, asynchronous, caching] > 0
            assert joined[False, asynchronous, caching] > 0
    assert sum(count for (done, _, _), count in joined.items() if done) > 20
