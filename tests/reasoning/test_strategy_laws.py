"""Laws of strategies driven through their generators and through the simulator: what holds of each query, not on average."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import load, simulate
from sim.policies.reasoning import Generate, Outcome, Parallel, QueryView, Verify
from sim.policies.strategies.best_of_n import BestOfN
from sim.policies.strategies.majority_vote import MajorityVote
from sim.results.columns import Role
from sim.rng import Streams
from workloads.quality.exact import majority
from workloads.quality.judge import RIGHT, Judge
from workloads.quality.spec import AnswerLaw, QualitySpec

QUERIES = 3000


def judge(law: AnswerLaw) -> Judge:
    return Judge(
        QualitySpec(benchmark="b", models={"any": {"b": law}}), Streams(5), pools=[("p", "m")], categories=["c"]
    )


def answered(strategy: Any, made: Judge, query: int) -> bool:
    """Drive *strategy* with the judge's own draws, as the simulator would without time; is its answer right?"""
    labels: dict[int, int] = {}

    def outcome(call: Generate | Verify) -> Outcome:
        if isinstance(call, Verify):
            said = made.score(query, call.outcome.sample, labels[call.outcome.sample], call.discrimination)
            return Outcome(0, call.outcome.sample, "completed", 0, 1, False, 0.0, None, said)
        where = {"query": query, "sample": call.sample, "prompt": -1, "pool": 0, "category": 0}
        labels[call.sample] = made.answer(**where, reasoning=9, natural=9, answered=True)
        return Outcome(call.sample, call.sample, "completed", 9, 1, False, 0.0, labels[call.sample])

    run = strategy.run(QueryView(query, "c", "u", 10, -1, 0, coin=made.uniform("coin", query)))
    call = next(run)
    try:
        while True:
            call = run.send([outcome(one) for one in call.calls] if isinstance(call, Parallel) else outcome(call))
    except StopIteration as stop:
        return labels[stop.value.outcome.sample] == RIGHT


def share(strategy: Any, made: Judge) -> float:
    return sum(answered(strategy, made, query) for query in range(QUERIES)) / QUERIES


def test_majority_of_two_answers_comes_to_the_binomial_and_never_falls_with_n():
    made = judge(AnswerLaw(accuracy=0.6, wrong_answers=1))
    shares = []
    for samples in (1, 2, 3, 4, 7, 16):
        exact = majority(samples, 0.6)
        error = math.sqrt(exact * (1 - exact) / QUERIES)
        shares.append(share(MajorityVote(samples=samples), made))
        assert shares[-1] == pytest.approx(exact, abs=4 * error), samples
    exact = [majority(n, 0.6) for n in range(1, 40)]
    assert all(later >= earlier - 1e-12 for earlier, later in itertools.pairwise(exact))
    assert exact[1] == pytest.approx(exact[0])  # a second vote wins nothing when ties are drawn
    assert shares[-1] > shares[2] > shares[0]


@pytest.mark.parametrize("concentration", [None, 2.0])
def test_an_ideal_verifier_is_right_exactly_when_one_sample_is(concentration):
    made = judge(AnswerLaw(accuracy=0.35, concentration=concentration, wrong_answers=3))
    right = np.array(
        [
            [made.answer(query=q, sample=s, prompt=-1, pool=0, category=0, reasoning=9, natural=9, answered=True) == RIGHT
             for s in range(5)]
            for q in range(QUERIES)
        ]
    )  # fmt: skip
    for samples in (1, 3, 5):
        ideal = BestOfN("v", samples, discrimination=math.inf)
        assert [answered(ideal, made, q) for q in range(QUERIES)] == right[:, :samples].any(1).tolist()
    if concentration is None:
        error = math.sqrt(0.35 * 0.65 / QUERIES)
        assert right.any(1).mean() == pytest.approx(1 - 0.65**5, abs=4 * error)
    useless = BestOfN("v", 5, discrimination=0.0)
    assert share(useless, made) == pytest.approx(0.35, abs=4 * math.sqrt(0.35 * 0.65 / QUERIES))


@given(st.integers(1, 9), st.integers(0, 400))
@settings(deadline=None, max_examples=60)
def test_one_sample_more_never_hurts_an_ideal_verifier(samples, query):
    made = judge(AnswerLaw(accuracy=0.4, concentration=1.5))
    few, more = (BestOfN("v", n, discrimination=math.inf) for n in (samples, samples + 1))
    assert answered(few, made, query) <= answered(more, made, query)


# ------------------------------------------------------------------ through the simulator

POOLS = {
    "main": {"model": "llama-3.1-8b", "hardware": "h100-sxm", "engine": {"num_gpu_blocks_override": 4000}},
    "verifier": {"model": "llama-3.1-8b", "hardware": "h100-sxm", "role": "verify"},
}
STRATEGIES = [
    {"name": "majority_vote", "samples": 5, "stop_early": True},
    {"name": "best_of_n", "samples": 4, "verifier_pool": "verifier"},
    {"name": "tree_search", "verifier_pool": "verifier", "width": 2, "beam": 2, "depth": 3, "step_tokens": 100},
    {"name": "parallel_merge"},
    {"name": "cascade", "first_pool": "main", "then_pool": "main"},
    {"name": "early_exit"},
    {"name": "difficulty_routing", "easy_pool": "main", "hard_pool": "main", "early_exit": "deer", "read_tokens": 20},
]


def run(strategy: Any, **changes: Any) -> Any:
    data: dict[str, Any] = {
        "name": "laws",
        "seed": 6,
        "workload": {
            "arrivals": "poisson",
            "rate": "2/s",
            "lengths": {"prompt": 400, "reasoning": {"law": "lognormal", "median": 500, "sigma": 0.7}, "answer": 50},
        },
        "pools": POOLS,
        "strategy": strategy,
        "quality": {"benchmark": "b", "models": {"any": {"b": {"accuracy": 0.6, "concentration": 2.0}}}},
        "measure": {"queries": 25},
    }
    data.update(changes)
    return simulate(load(data))


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: s["name"])
def test_tokens_of_a_query_are_those_of_its_requests(strategy):
    results = run(strategy)
    queries, requests = results.queries.set_index("query"), results.requests
    made = requests[requests["role"] == "generate"].groupby("query")[["reasoning_tokens", "answer_tokens"]].sum()
    for column in ("reasoning_tokens", "answer_tokens"):
        assert (queries[column] == made[column].reindex(queries.index)).all()
    read = requests[requests["role"] == "verify"]
    spent = (read["prompt_tokens"] + read["reasoning_tokens"] + read["answer_tokens"]).groupby(read["query"]).sum()
    assert (queries["verification_tokens"] == spent.reindex(queries.index, fill_value=0)).all()
    assert int(Role.VERIFY) != int(Role.GENERATE)


def test_kv_shared_by_samples_is_counted_once():
    prompt, block, samples = 1600, 16, 6
    lengths = {"prompt": prompt, "reasoning": 300, "answer": 20}
    results = run(
        {"name": "majority_vote", "samples": samples},
        workload={"arrivals": {"process": "closed", "in_flight": 1}, "lengths": lengths},
        measure={"queries": 8},
    )
    segments = results.segments
    own = math.ceil((320 + block) / block) + 1
    assert segments["running"].max() == samples
    assert segments["reserved_blocks_last"].max() <= prompt // block + samples * own
    assert (segments["live_tokens"] <= segments["reserved_blocks"] * block).all()
    apart = samples * prompt
    full = segments[segments["running"] == samples]
    assert (full["live_tokens"] < apart).any()
    assert 0.9 < results.summary["kv"]["memory_efficiency"] <= 1.0


def test_early_exit_in_a_routed_pool_is_neutral_by_default():
    routed = {"name": "difficulty_routing", "easy_pool": "main", "hard_pool": "main"}
    plain, off, on = (
        run(strategy) for strategy in (routed, {**routed, "early_exit": "none"}, {**routed, "early_exit": "deer"})
    )
    for name in ("queries", "requests", "segments"):
        for column, array in plain.tables[name].columns.items():
            assert array.tobytes() == off.tables[name].columns[column].tobytes()
    assert on.summary["totals"]["reasoning_tokens"] < off.summary["totals"]["reasoning_tokens"]
