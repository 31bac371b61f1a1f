"""Every scheduler, every action and every kind of memory: stepwise and fast-forward give the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from chaos import Chaos, Rounds
from policy_cases import OPTIONS, dressed_case

from sim.policies.schedulers import scheduler
from sim.results.sinks import REQUEST_ROW
from sim.validation.modes import compare

MEMORIES = ("plain", "swap", "reserve", "window", "host", "all", "compress")
POLICIES = [(name, options) for name in scheduler.names() for options in OPTIONS.get(name, [{}])]


def _sweep(make: Callable[[], Any], seeds: range, memory: str) -> Counter[str]:
    seen: Counter[str] = Counter()
    for seed in seeds:
        case = dressed_case(seed, memory=memory)
        if memory == "compress" and getattr(make(), "reservation", "none") != "none":
            pytest.skip("a scheduler that reserves memory compresses none")
        stepwise, fast, found = compare(case, make, most_steps=6_000)
        assert not found, f"seed {seed}, memory {memory}: {case.settings}\n" + "\n".join(found)
        seen += stepwise.seen
        seen["endless"] += stepwise.endless
        seen["steps"] += len(stepwise.steps)
        seen["rows"] += fast.rows
        seen["steps in runs"] += fast.seen["steps in runs"]
        allowed = case.settings
        for row in stepwise.steps:
            assert row[3] <= allowed.max_num_batched_tokens
            assert len(row[-1]) <= allowed.max_num_seqs
        if not stepwise.endless:
            scheduled = sum(row[REQUEST_ROW.index("scheduled_tokens")] for row in stepwise.requests)
            assert scheduled == sum(row[3] for row in stepwise.steps)
    return seen


@pytest.mark.parametrize("memory", ["plain", "all", "compress"])
@pytest.mark.parametrize(("name", "options"), POLICIES)
def test_every_scheduler(name: str, options: dict[str, Any], memory: str) -> None:
    seen = _sweep(partial(scheduler.make, name, options), range(4, 16), memory)
    assert seen["steps in runs"] > 0
    assert seen["rows"] < seen["steps"]
    assert seen["completed"] > 75
    if name not in ("orca", "static", "sglang"):
        assert seen["preemptions"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize(("name", "options"), POLICIES)
def test_every_scheduler_often(name: str, options: dict[str, Any], memory: str) -> None:
    seen = _sweep(partial(scheduler.make, name, options), range(1_000, 1_024), memory)
    if name == "sglang" and options and memory not in ("reserve", "compress"):  # there hardly anybody is taken out
        assert seen["preemptions"] > 0


def test_a_pause_on_the_border_of_a_window() -> None:
    """Who pauses there and goes on stands beyond the border already: it is not crossed once more."""
    _sweep(partial(scheduler.make, "chunked_reasoning", OPTIONS["chunked_reasoning"][1]), range(1_005, 1_006), "window")


@pytest.mark.parametrize("memory", ["window", "all"])
def test_windows_that_settle_may_change_the_next_plan(memory: str) -> None:
    """A scheduler that looks at the free blocks before it serves has not seen what windows give back in the same step."""
    for seed in (200_121, *range(8)):
        case = dressed_case(seed, memory=memory)
        size = case.settings.block_size
        even = replace(
            case.settings, async_scheduling=True, sliding_window=max(size, case.settings.sliding_window // size * size)
        )
        _, _, found = compare(
            replace(case, settings=even), partial(scheduler.make, "edf", {"preempt": True}), most_steps=2_000
        )
        assert not found, f"seed {seed}: {even}\n" + "\n".join(found)


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize(
    "make",
    [
        Chaos,
        partial(Chaos, pause=0),
        partial(Chaos, preempt=0),
        partial(Chaos, pause=0.1, preempt=0.02, leave_out=0.4),
        Rounds,
    ],
)
def test_any_order_of_actions(make: Callable[[], Any], memory: str) -> None:
    seen = _sweep(make, range(8, 20), memory)
    assert seen["stalls"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("number", range(4))
def test_any_order_of_actions_often(number: int, memory: str) -> None:
    make = partial(Chaos, pause=0.1 * number, preempt=0.02 * number, leave_out=0.1 * number, seed=number)
    _sweep(make, range(2_000, 2_080), memory)
