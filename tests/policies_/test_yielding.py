"""Who yields, and whether a place may be taken: what schedulers tell the engine, so that they are not asked for whole plans."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from policy_cases import OPTIONS, pressed_case

from calibration.step_cost import StepCost
from sim.engine.replica import make_replica
from sim.engine.request import Request
from sim.engine.settings import EngineSettings
from sim.engine.step import Step
from sim.policies.schedulers import scheduler
from sim.policies.schedulers.edf import Edf
from sim.policies.schedulers.srpt import Srpt
from sim.validation.modes import compare


@dataclass(frozen=True)
class NobodyMoves(Srpt):
    """Says that it takes nobody's place, and does."""

    def displaces(self, step: Step, head: Request) -> bool:
        return False


@dataclass(frozen=True)
class WrongOne(Edf):
    """Says that the earliest deadline yields, and takes the latest."""

    def who_yields(self, step: Step) -> Request:
        return max(step.running, key=lambda request: (-request.deadline_ps, request.order))

    def schedule(self, step: Step) -> None:
        Edf(self.preempt).schedule(step)


POLICIES = [(name, options) for name in scheduler.names() for options in OPTIONS.get(name, [{}])]


def _sweep(name: str, options: dict[str, Any], seeds: range) -> int:
    preemptions = 0
    for seed in seeds:
        stepwise, _, found = compare(pressed_case(seed), lambda: scheduler.make(name, options), most_steps=6_000)
        assert not found, f"seed {seed}\n" + "\n".join(found)
        preemptions += stepwise.seen["preemptions"]
    return preemptions


@pytest.mark.parametrize(("name", "options"), POLICIES)
def test_under_pressure_both_modes_agree(name: str, options: dict[str, Any]) -> None:
    assert _sweep(name, options, range(13, 15)) > 0 or name in ("orca", "static", "sglang")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), POLICIES)
def test_under_pressure_both_modes_agree_often(name: str, options: dict[str, Any]) -> None:
    assert _sweep(name, options, range(1_000, 1_060)) > 200 or name in ("orca", "static", "sglang")


@pytest.mark.parametrize("liar", [NobodyMoves, WrongOne])
def test_a_lie_about_who_makes_room_is_found_out(liar: Any) -> None:
    assert any(compare(pressed_case(seed), liar, most_steps=6_000)[2] for seed in range(9, 13))


@pytest.mark.parametrize("name", ["chunked_reasoning", "edf", "pascal", "sjf", "srpt", "vllm"])
def test_under_pressure_hardly_any_plan_is_asked_for(name: str) -> None:
    """What follows from who yields, who is next and whether a place is taken is not asked for, however often memory is short."""
    asked: Counter[str] = Counter()
    policy: Any = scheduler.make(name)

    class Counted(type(policy)):  # type: ignore[misc]
        def schedule(self, step: Step) -> None:
            asked["plans"] += 1
            super().schedule(step)

    settings = EngineSettings(num_gpu_blocks=60, block_size=16, max_num_seqs=64, async_scheduling=True)
    cost = StepCost(host_ps=10_000, linear_ps=(0,), linear_slope_ps=10, kv_ps=1)
    replica = make_replica(settings, cost, Counted())
    requests = []
    for number in range(120):
        output = 50 + number * 37 % 400
        request = Request(
            number, number * 400_000, prompt_tokens=20 + number * 13 % 90, output_tokens=output,
            reasoning_tokens=output * 4 // 5, max_tokens=output,
        )  # fmt: skip
        request.deadline_ps = request.arrived_ps + (1 + number % 3) * 10_000_000
        requests.append(request)
    coming = requests[::-1]
    end: int | None = None
    while coming or end is not None:
        now = coming[-1].arrived_ps if coming and (end is None or coming[-1].arrived_ps < end) else end
        assert now is not None
        if now == end:
            replica.complete(now)
        while coming and coming[-1].arrived_ps == now:
            replica.submit(coming.pop(), now)
        end = replica.plan(now, coming[-1].arrived_ps if coming else now + 10**12)
    assert all(request.finished_ps > 0 for request in requests)
    assert sum(request.preemptions for request in requests) > 100
    assert asked["plans"] < 0.3 * len(requests)
