"""Speculative decoding: equal in both modes, and what it brings follows from the cost of a step."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from calibration.deployment import deploy
from calibration.step_cost import StepCost
from sim import load, simulate
from sim.engine.replica import make_replica
from sim.engine.request import Request
from sim.engine.settings import EngineSettings
from sim.engine.speculation import Speculation
from sim.policies.schedulers import scheduler
from sim.policies.schedulers.vllm import Vllm
from sim.results.columns import Status
from sim.results.sinks import REQUEST_ROW
from sim.validation.modes import compare
from sim.validation.random_cases import random_case, speculative_case


def _sweep(seeds: range) -> None:
    seen: Counter[str] = Counter()
    names = ["vllm", *scheduler.names()]
    column = {name: place for place, name in enumerate(REQUEST_ROW)}
    for seed in seeds:
        case = speculative_case(random_case(seed), seed)
        name = names[seed % len(names)] if seed % 2 else "vllm"
        stepwise, _, found = compare(case, lambda name=name: scheduler.make(name), most_steps=20_000)
        assert not found, f"seed {seed}, {name}: {case.settings}\n" + "\n".join(found)
        seen += stepwise.seen
        assert all(row[3] <= case.settings.max_num_batched_tokens for row in stepwise.steps)
        if stepwise.endless:
            continue
        scheduled = sum(row[column["scheduled_tokens"]] for row in stepwise.requests)
        assert scheduled == sum(row[3] for row in stepwise.steps)
        for row in stepwise.requests:  # what was computed was needed, found, computed again, or dropped
            if row[column["status"]] == Status.COMPLETED and not row[column["preemptions"]]:
                needed = row[column["prompt_tokens"]] + row[column["generated"]] - 1 + row[column["dropped_tokens"]]
                assert row[column["scheduled_tokens"]] + row[column["cached_tokens"]] == needed
    for what in ("preemptions", "cached tokens", "dropped tokens", "cancelled", "answers begun", "truncated"):
        assert seen[what] > 0, what


def test_random_cases_are_equal() -> None:
    _sweep(range(50))


@pytest.mark.slow
@pytest.mark.parametrize("start", range(50_000, 50_400, 200))
def test_hundreds_of_random_cases_are_equal(start: int) -> None:
    _sweep(range(start, start + 200))


def _served(batch: int, settings: EngineSettings, cost: StepCost, output: int = 400) -> tuple[float, list[Request]]:
    """Tokens a second of *batch* like requests at once, and the requests."""
    replica = make_replica(settings, cost, Vllm())
    requests = [
        Request(i, arrived_ps=0, prompt_tokens=64, output_tokens=output, max_tokens=output) for i in range(batch)
    ]
    for request in requests:
        replica.submit(request, 0)
    end = replica.plan(0)
    while end is not None:
        replica.complete(end)
        end = replica.plan(end)
    last = max(request.finished_ps for request in requests)
    first = max(request.first_token_ps for request in requests)
    return batch * output / ((last - first) * 1e-12), requests


PLAIN = EngineSettings(num_gpu_blocks=40_000, max_num_seqs=1024, max_num_batched_tokens=8192, async_scheduling=False)


@pytest.mark.parametrize("acceptance", [0.0, 0.5, 0.8, 1.0])
def test_tokens_a_step_are_those_of_the_geometric_law(acceptance: float) -> None:
    drafts = Speculation(draft_tokens=4, acceptance=acceptance)
    cost = StepCost(host_ps=1000, linear_ps=(0,), linear_slope_ps=0)
    _, requests = _served(60, replace(PLAIN, speculation=drafts), cost)
    decodes = sum(request.steps - 1 for request in requests)
    expected = sum(acceptance**count for count in range(5))
    assert sum(request.generated - 1 for request in requests) / decodes == pytest.approx(expected, rel=0.03)
    assert all(request.generated == 400 for request in requests)


def test_it_gains_alone_and_loses_in_a_large_batch() -> None:
    """From the cost of a step alone: verification computes five tokens a sequence, free while weights are read, and
    not once matrices are bound by computing."""
    cost = deploy(model="r1-distill-llama-8b", hardware="h100-sxm", profile="prior").step_cost
    drafts = Speculation(draft_tokens=4, acceptance=0.7, draft_ppm=50_000)
    gain = {}
    for batch in (1, 64, 512):
        plain, _ = _served(batch, PLAIN, cost, output=150)
        drafted, _ = _served(batch, replace(PLAIN, speculation=drafts), cost, output=150)
        gain[batch] = drafted / plain
    assert gain[1] > 1.8
    assert gain[1] > gain[64] > gain[512]
    assert gain[512] < 1.0


def test_a_scenario_with_drafts() -> None:
    data = {
        "name": "drafts",
        "seed": 5,
        "workload": {"preset": "deepseek-r1-production", "rate": "0.5/s", "queries": 40},
        "pools": {"a": {"model": "r1-distill-llama-8b", "hardware": "h100-sxm", "engine": {}}},
        "measure": {},
    }
    plain = simulate(load(data))
    data["pools"]["a"]["engine"]["speculative_config"] = {"num_speculative_tokens": 3, "acceptance": 0.7}
    results = simulate(load(data))
    again = simulate(load(data), stepwise=True)
    for name, table in results.tables.items():
        for column in table.columns:
            assert (table[column] == again.tables[name][column]).all() or table[column].dtype.kind == "f", (
                name,
                column,
            )
    assert (results.tables["requests"]["finished_s"] == again.tables["requests"]["finished_s"]).all()
    faster = results.summary["metrics"]["tpot"]["mean"] / plain.summary["metrics"]["tpot"]["mean"]
    assert 0.3 < faster < 0.75
