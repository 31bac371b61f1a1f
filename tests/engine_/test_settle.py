"""A simulation may end at any instant: what is known of open requests then is the same in both modes."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from calibration.step_cost import StepCost
from sim.engine.replica import NoProgress, make_replica
from sim.engine.settings import EngineSettings
from sim.engine.step import Scheduler
from sim.policies import registry
from sim.results.columns import Status
from sim.results.sinks import REQUEST_ROW
from sim.validation.modes import ARRIVE, CANCEL, PROBE, Case, Timeline, run
from sim.validation.random_cases import random_case

NAMES = ("vllm", "sglang", "mlfq", "srpt", "sarathi", "pascal")


def _settled(case: Case, scheduler: Scheduler, timeline: Timeline, stop_ps: int, *, stepwise: bool) -> list[Any]:
    """Every request's row when the simulation ends at *stop_ps*."""
    replica = make_replica(case.settings, case.cost, scheduler, stepwise=stepwise)
    requests, things = case.make_requests(), [thing for thing in timeline if thing[0] <= stop_ps and thing[1] != PROBE]
    while True:
        coming = [things[0][0]] if things else []
        if replica.next_end_ps is not None and replica.next_end_ps <= stop_ps:
            coming.append(replica.next_end_ps)
        if not coming:
            break
        now = min(coming)
        while replica.next_end_ps == now:
            replica.complete(now)
        while things and things[0][0] == now:
            _, kind, index = things.pop(0)
            request = requests[index]
            if kind == CANCEL:
                if request.status == Status.UNFINISHED and request.owner is not None:
                    replica.cancel(request, now, Status.CANCELLED)
            elif replica.never_fits(request) is None:
                request.arrived_ps = now
                replica.submit(request, now)
        replica.plan(now)
    replica.settle(stop_ps)
    return [{name: getattr(request, name) for name in REQUEST_ROW} for request in requests]


@pytest.mark.parametrize("name", NAMES)
def test_open_requests_are_settled_alike(name: str) -> None:
    rng, opened = Random(name), 0
    for seed in range(12):
        case = random_case(seed + 700)
        make = registry("scheduler").get(name)
        whole = run(case, make, stepwise=True, most_steps=4000)
        if whole.endless or not whole.steps:
            continue
        last = max(step[2] for step in whole.steps)
        for _ in range(3):
            stop = rng.randrange(last)
            try:
                slow = _settled(case, make(), whole.timeline, stop, stepwise=True)
            except NoProgress:
                continue
            fast = _settled(case, make(), whole.timeline, stop, stepwise=False)
            assert fast == slow, f"seed {seed}, stopped at {stop}"
            opened += sum(row["status"] == Status.UNFINISHED and row["generated"] > 0 for row in slow)
    assert opened > 20


def test_tokens_in_flight_just_after_a_step_that_left_the_decodes_out() -> None:
    """``sglang`` computes each new prompt by itself: for a moment two batches are in flight, and one of them serves no decode."""
    arrivals = [0, 0, *(2_500 + 3_000 * k for k in range(4))]
    case = Case(
        EngineSettings(num_gpu_blocks=200, block_size=4, max_num_batched_tokens=64, async_scheduling=True),
        StepCost(host_ps=1000, linear_ps=(0,), linear_slope_ps=0),
        tuple({"prompt_tokens": 12, "output_tokens": 30, "max_tokens": 30} for _ in arrivals),
        (),
    )
    timeline = [(at, ARRIVE, number) for number, at in enumerate(arrivals)]
    make = registry("scheduler").get("sglang")
    for stop in range(250, 20_000, 250):
        cancelled = sorted([*timeline, (stop, CANCEL, 1)], key=lambda thing: thing[0])
        for things, end in ((timeline, stop), (cancelled, stop + 500), (cancelled, 60_000)):
            slow, fast = (_settled(case, make(), things, end, stepwise=stepwise) for stepwise in (True, False))
            assert fast == slow, f"stopped at {stop}, {end}"
