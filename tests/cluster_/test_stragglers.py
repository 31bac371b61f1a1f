"""Replicas that are slower for a while: by hand, in both modes, and as a scenario says it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from small_source import Q
from test_fleet_scenarios import GOOD, scenario
from test_gateway import query_rows, rows
from test_handover import COST, Rig, case, legs

from sim import simulate
from sim.cluster.failures import Failures, Outage, Slowdown
from sim.errors import InputError
from sim.results.columns import Role


@pytest.mark.parametrize("stepwise", [False, True])
def test_steps_within_the_window_take_longer_and_no_step_is_cut(stepwise: bool) -> None:
    """A decode of eight steps; the decode replica takes three times as long for steps that begin within the window."""
    query = [Q(0, prompt=1, answer=8)]
    usual, _, _ = Rig(query, stepwise=stepwise).run()
    start = legs(usual, Role.GENERATE)[0]["kv_arrived_ps"]
    steps = [COST.decode_ps(1, context) for context in range(8)]
    begins = [start + sum(steps[:n]) for n in range(8)]
    window = Slowdown(
        1, 3, begins[2] - 1, steps[2] + 2
    )  # from just before the third step into the third step's own time
    outcome, _, _ = Rig(query, stepwise=stepwise, failures=Failures(slowdowns=(window,))).run()
    slow = legs(outcome, Role.GENERATE)[0]
    assert slow["finished_ps"] == start + sum(steps) + 2 * steps[2]


def test_both_modes_agree_with_stragglers_that_crash() -> None:
    slower = 0
    for seed in range(41_000, 41_020):
        rig, rng = case(seed), random.Random(seed)
        count = rig.prefill + rig.decode
        slowdowns = tuple(
            Slowdown(rng.randrange(count), rng.choice([2, 5]), rng.randrange(5_000), rng.choice([None, 1, 900]))
            for _ in range(3)
        )
        outages = (Outage(rng.randrange(count), 2_500, 400),) if rng.random() < 0.5 else ()
        usual, _, _ = rig.run()
        rig.failures = Failures(slowdowns=slowdowns, outages=outages, max_retries=9)
        found = []
        for stepwise in (True, False):
            rig.stepwise = stepwise
            outcome, _, _ = rig.run()
            found.append((rows(outcome), query_rows(outcome), outcome.end_ps))
        assert found[0] == found[1], f"seed {seed}"
        slower += found[0][2] > usual.end_ps
    assert slower > 4


def test_a_straggler_as_a_scenario_says_it_is_avoided_by_routers_that_look() -> None:
    slow = {"slowdowns": [{"pool": "main", "replica": 1, "factor": 4}]}
    work = GOOD["workload"] | {"queries": 60}
    served: dict[str, Any] = {}
    for router in ("round_robin", "least_outstanding_requests"):
        one, two = (
            simulate(scenario(failures=slow, router=router, workload=work, measure={}), stepwise=stepwise)
            for stepwise in (True, False)
        )
        for column, values in one.tables["requests"].columns.items():
            assert values.tobytes() == two.tables["requests"].columns[column].tobytes(), column
        served[router] = (two.requests["replica"] == 1).mean()
        busy = two.requests.groupby("replica")["tpot_s"].median()
        assert busy[1] > 3 * busy[0]
    assert served["round_robin"] == pytest.approx(0.5, abs=0.02)
    assert served["least_outstanding_requests"] < 0.4


def test_a_straggler_that_does_not_exist_is_refused() -> None:
    assert len(GOOD["pools"]) == 1
    with pytest.raises(InputError, match="no replica 7"):
        scenario(failures={"slowdowns": [{"pool": "main", "replica": 7, "factor": 2}]})
