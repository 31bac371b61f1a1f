"""Training steps: the slowest sample ends a synchronous one, partial rollouts cut the bubble, nothing is lost."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from sim import load, simulate
from sim.errors import InputError
from sim.metrics.rollout import measured
from sim.results.tables import PS_PER_S


def scenario(strategy: Any = None, *, queries: int = 40, measure: Any = None, **arrivals: Any) -> Any:
    return load(
        {
            "name": "rollouts",
            "seed": 6,
            "workload": {
                "arrivals": {"process": "rollout", "prompts": 5, "training": "20 s", "weight_sync": "4 s", **arrivals},
                "lengths": {
                    "prompt": {"law": "lognormal", "median": 100, "sigma": 0.4},
                    "reasoning": {"law": "lognormal", "median": 500, "sigma": 0.9, "min": 20, "max": 5000},
                    "answer": {"law": "lognormal", "median": 60, "sigma": 0.4, "min": 5},
                },
                "queries": queries,
            },
            "pools": {
                "main": {
                    "model": "llama-3.1-8b",
                    "hardware": "h100-sxm",
                    "replicas": 2,
                    "engine": {"num_gpu_blocks_override": 3000, "max_num_seqs": 32},
                }
            },
            "strategy": {"name": "group", "samples": 4, **(strategy or {})},
            "measure": measure or {"queries": queries},
        }
    )


PARTIAL = {"segment_tokens": 600}
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "synchronous": (None, {}),
    "asynchronous": (None, {"max_lag": 1}),
    "partial": (PARTIAL, {}),
    "ahead and partial": (PARTIAL, {"max_lag": 2}),
}


@pytest.fixture(scope="module")
def runs() -> dict[str, Any]:
    return {name: simulate(scenario(how, **arrivals)) for name, (how, arrivals) in KINDS.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_both_engine_modes_agree(runs, kind):
    how, arrivals = KINDS[kind]
    slow = simulate(scenario(how, **arrivals), stepwise=True)
    for name in ("queries", "requests"):
        for column, array in runs[kind].tables[name].columns.items():
            assert array.tobytes() == slow.tables[name].columns[column].tobytes(), (name, column)
    assert runs[kind].runs[0].rollout == slow.runs[0].rollout


def test_a_synchronous_step_takes_as_long_as_its_slowest_sample(runs):
    results = runs["synchronous"]
    steps = results.runs[0].rollout["steps"]
    assert [step["started"] for step in steps] == [5] * 8 == [step["trained"] for step in steps]
    requests = results.requests
    for number, step in enumerate(steps):
        mine = requests[requests["query"] // 5 == number]
        assert (mine["arrived_s"] == step["start_ps"] / PS_PER_S).all()
        assert mine["finished_s"].max() == pytest.approx(step["generated_ps"] / PS_PER_S, abs=1e-9)
        assert step["updated_ps"] - step["generated_ps"] == 24 * PS_PER_S
    assert all(one["updated_ps"] == two["start_ps"] for one, two in pairwise(steps))
    figures = results.summary["rollout"]
    assert figures["lag_max"] == 0
    assert figures["waiting_share"] == pytest.approx(24 / figures["step_s"])
    assert figures["gpu_hours_per_step"] == pytest.approx(2 * figures["step_s"] / 3600)


def test_bubbles_are_the_seats_that_the_tail_leaves_empty(runs):
    """From requests alone: each runs from its first step to its end."""
    results = runs["synchronous"]
    requests = results.requests
    seats = taken = 0.0
    for replica in range(2):
        mine = requests[requests["replica"] == replica]
        ends = np.concatenate([mine["first_scheduled_s"], mine["finished_s"]])
        signs = np.repeat([1, -1], len(mine))
        order = np.lexsort((signs, ends))
        most = np.cumsum(signs[order]).max()
        for step in results.runs[0].rollout["steps"]:
            seats += most * (step["generated_ps"] - step["start_ps"]) / PS_PER_S
        taken += float((mine["finished_s"] - mine["first_scheduled_s"]).sum())
    assert results.summary["rollout"]["bubble_share"] == pytest.approx(1 - taken / seats, abs=0.03)


def test_partial_rollouts_cut_the_bubble_and_conserve_tokens(runs):
    whole, partial = runs["synchronous"], runs["partial"]
    for name in ("reasoning_tokens", "answer_tokens"):
        assert (whole.queries[name] == partial.queries[name]).all()
    assert (partial.requests["answer_tokens"] + partial.requests["reasoning_tokens"] <= 600).all()
    assert not partial.queries["truncated"].any()
    one, two = whole.summary["rollout"], partial.summary["rollout"]
    assert two["resumed_groups"] > 0
    assert two["bubble_share"] < one["bubble_share"] - 0.05
    assert two["generation_s"] < 0.7 * one["generation_s"]
    resumed = partial.requests[partial.requests["prompt_tokens"] > 600]
    assert len(resumed)  # what was made before is read again under the new weights
    assert (resumed["cached_tokens_first"] < 600).all()


def test_every_group_is_trained_on_once(runs):
    for results in runs.values():
        steps = results.runs[0].rollout["steps"]
        assert sum(step["trained"] for step in steps) == 40 == sum(step["started"] for step in steps)


def test_asynchronous_rollouts_do_not_wait_and_stay_within_their_lag(runs):
    figures = runs["asynchronous"].summary["rollout"]
    assert figures["step_s"] < 0.9 * runs["synchronous"].summary["rollout"]["step_s"]
    assert figures["idle_share"] < runs["synchronous"].summary["rollout"]["idle_share"]
    assert figures["waiting_share"] == 0
    assert 0 < figures["lag_mean"] <= figures["lag_max"]
    started = trained = 0
    for version, step in enumerate(runs["asynchronous"].runs[0].rollout["steps"]):
        started += step["started"]
        assert started <= (version + 2) * 5
        assert step["trained"] <= 5
        trained += step["trained"]


def test_a_trainer_that_takes_no_time_leaves_generation_alone():
    results = simulate(scenario(training="0 s", weight_sync="0 s", queries=10))
    assert results.summary["rollout"]["waiting_share"] == 0
    steps = results.runs[0].rollout["steps"]
    assert all(step["updated_ps"] == step["generated_ps"] for step in steps)


def test_a_trainer_of_its_own_is_paid_for_and_warm_up_is_left_out():
    results = simulate(scenario(training_gpus=8, measure={"warmup_queries": 10, "queries": 20}))
    figures = results.summary["rollout"]
    assert figures["steps"] == 4 == len(measured(results.runs[0]))
    assert figures["gpu_hours_per_step"] == pytest.approx(10 * figures["step_s"] / 3600)


def test_replications_give_an_interval_and_the_report_a_line(tmp_path):
    from sim.report.page import write_report
    from sim.report.text import summary

    results = simulate(scenario(queries=20, measure={"queries": 15, "replications": 2}))
    low, high = results.summary["rollout"]["gpu_hours_per_step_ci"]
    assert low < results.summary["rollout"]["gpu_hours_per_step"] < high
    assert "GPU-hours a training step" in summary(results, color=False)
    page = write_report(results, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "until the next weights" in page


def test_a_group_outside_of_training_is_a_query_of_several_samples():
    made = scenario(PARTIAL, queries=10)
    data = made.resolved()
    data["workload"]["arrivals"] = {"process": "closed", "in_flight": 3}
    del data["workload"]["queries"]
    data["measure"] = {"queries": 10}
    results = simulate(load(data))
    assert results.summary["rollout"] is None
    assert (results.queries["status"] == "completed").any()


@pytest.mark.parametrize(
    ("how", "arrivals", "words"),
    [
        ({"samples": 0}, {}, "at least 1"),
        ({"segment_tokens": 0}, {}, "at least 1"),
        (None, {"prompts": 0}, "prompts"),
        (None, {"max_lag": -1}, "max_lag"),
        (None, {"training": 3}, "training"),
    ],
)
def test_bad_input_is_said(how, arrivals, words):
    with pytest.raises(InputError, match=words):
        scenario(how, **arrivals)
