"""One replica in a cluster is the engine alone, random routing splits as theory says, and mixed and large pools run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from sim import load, simulate
from sim.engine.replica import make_replica
from sim.engine.request import FAR_FUTURE, Request
from sim.engine.settings import EngineSettings
from sim.placement import place
from sim.policies.schedulers import scheduler as schedulers
from sim.results.columns import Status
from sim.results.results import Results
from sim.scenario.model import Scenario
from workloads.source import build

SMALL: dict[str, Any] = {"model": "llama-3.1-8b", "hardware": "h100-sxm", "engine": {"max_model_len": 16384}}
LENGTHS: dict[str, Any] = {
    "prompt": {"law": "lognormal", "median": 300, "sigma": 0.8, "min": 16, "max": 3000},
    "reasoning": {"law": "lognormal", "median": 400, "sigma": 1.0, "min": 10, "max": 6000},
    "answer": {"law": "lognormal", "median": 80, "sigma": 0.6, "min": 5, "max": 800},
}


def scenario(pools: dict[str, Any], *, queries: int = 60, rate: str = "4/s", **sections: Any) -> Scenario:
    workload = {"arrivals": "poisson", "rate": rate, "lengths": LENGTHS}
    return load(
        {"name": "exact", "seed": 9, "workload": workload, "pools": pools, "measure": {"queries": queries}} | sections
    )


# ------------------------------------------------------------------ one replica, driven by hand


def by_hand(scenario: Scenario, count: int) -> list[Request]:
    """The first *count* requests of the scenario's traffic on one replica without a cluster."""
    ((name, pool),) = scenario.pools.items()
    placed = place(name, pool, scenario)
    settings: EngineSettings = placed.settings
    replica = make_replica(settings, placed.placed.step_cost, schedulers.make("vllm"))
    block = build(scenario.workload, seed=scenario.seed).block(0)
    assert block is not None
    requests: list[Request] = []
    while True:
        at = len(requests)
        arrival = int(block.arrived_ps[at]) if at < count else FAR_FUTURE
        end = replica.next_end_ps
        now = min(arrival, FAR_FUTURE if end is None else end)
        if now == FAR_FUTURE:
            return requests
        if end == now:
            replica.complete(now)
        if arrival == now:
            reasoning, answer = int(block.num_reasoning_tokens[at]), int(block.num_answer_tokens[at])
            request = Request(
                at,
                query=at,
                arrived_ps=now,
                prompt_tokens=int(block.num_prefill_tokens[at]),
                reasoning_tokens=reasoning,
                output_tokens=reasoning + answer,
            )
            requests.append(request)
            replica.submit(request, now)
        replica.plan(now, int(block.arrived_ps[len(requests)]) if len(requests) < count else FAR_FUTURE)


@pytest.mark.parametrize("blocks", [20_000, 700])
@pytest.mark.parametrize("caching", [False, True])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_pool_of_one_replica_is_the_engine_alone(blocks: int, caching: bool, asynchronous: bool) -> None:
    """Row for row, with room and under KV pressure."""
    engine = {
        "max_model_len": 8192,
        "num_gpu_blocks_override": blocks,
        "enable_prefix_caching": caching,
        "async_scheduling": asynchronous,
    }
    case = scenario({"main": SMALL | {"engine": engine}})
    results = simulate(case)
    table = results.tables["requests"]
    requests = by_hand(case, len(table))
    assert (sum(request.preemptions for request in requests) > 0) == (blocks == 700)
    # Both went the same way up to the end of the run, which the cluster stops when the last measured query is done.
    ended = np.array([request.finished_ps / 1e12 for request in requests]) <= results.runs[0].end_ps / 1e12
    over = table["status"] == Status.COMPLETED
    assert np.array_equal(ended, over)
    assert over.sum() >= 60
    for column, name in (
        ("first_scheduled_s", "first_scheduled_ps"),
        ("first_token_s", "first_token_ps"),
        ("first_answer_s", "first_answer_ps"),
        ("finished_s", "finished_ps"),
    ):
        mine = np.array([getattr(request, name) for request in requests], dtype=np.int64) / 1e12
        assert mine[over].tobytes() == table[column][over].tobytes(), column
    for name in (
        "preemptions",
        "cached_tokens_first",
        "cached_tokens",
        "scheduled_tokens",
        "steps",
        "recomputed_tokens",
        "dropped_tokens",
    ):
        assert [
            getattr(request, name)
            for request in requests
            if request.finished_ps / 1e12 <= results.runs[0].end_ps / 1e12
        ] == (table[name][over].tolist()), name


# ------------------------------------------------------------------ random routing


def test_random_routing_splits_as_the_binomial_says() -> None:
    """How many of 300 queries each of four replicas gets, over 40 replications: mean n/4, variance n·(1/4)·(3/4)."""
    replicas, replications, queries = 4, 40, 300
    short = {"prompt": 20, "answer": 3}
    case = load(
        {
            "name": "split",
            "seed": 11,
            "workload": {"arrivals": "poisson", "rate": "20/s", "lengths": short},
            "pools": {"main": SMALL | {"replicas": replicas}},
            "router": "random",
            "measure": {"queries": queries, "replications": replications},
        }
    )
    table = simulate(case).tables["requests"]
    counts = np.array(
        [
            np.bincount(table["replica"][(table["replication"] == number) & table["in_window"]], minlength=replicas)
            for number in range(replications)
        ]
    )
    assert (counts.sum(axis=1) == queries).all()
    # Pearson's statistic of each replication is χ² with 3 degrees of freedom; their sum has 120.
    expected = queries / replicas
    statistic = float(((counts - expected) ** 2 / expected).sum())
    low, high = stats.chi2.ppf([0.001, 0.999], (replicas - 1) * replications)
    assert low < statistic < high
    variance = float(((counts - expected) ** 2).mean())
    assert variance == pytest.approx(queries * 0.25 * 0.75, rel=0.3)
    # And by no chance does it go round: round robin's variance is 0, a single favourite's is far more.
    assert variance > 10


def test_random_routing_thins_poisson_arrivals_to_poisson_arrivals() -> None:
    """Gaps between arrivals at one replica are exponential at the rate over the number of replicas."""
    case = load(
        {
            "name": "thin",
            "seed": 12,
            "workload": {"arrivals": "poisson", "rate": "20/s", "lengths": {"prompt": 20, "answer": 3}},
            "pools": {"main": SMALL | {"replicas": 4}},
            "router": "random",
            "measure": {"queries": 6000},
        }
    )
    table = simulate(case).tables["requests"]
    for replica in range(4):
        gaps = np.diff(table["arrived_s"][table["replica"] == replica])
        assert len(gaps) > 1200
        assert stats.kstest(gaps, "expon", args=(0, 4 / 20)).pvalue > 0.001


# ------------------------------------------------------------------ mixed pools and large models


def check(results: Results, queries: int) -> None:
    measured = results.tables["queries"]["status"][results.tables["queries"]["in_window"]]
    assert len(measured) == queries
    assert (measured == Status.COMPLETED).all()
    table = results.tables["requests"]
    over = table["status"] == Status.COMPLETED
    assert (table["reasoning_tokens"] + table["answer_tokens"] == table["natural_tokens"])[over].all()


def test_h100_beside_a100_serve_one_model() -> None:
    case = scenario(
        {"new": SMALL | {"replicas": 2}, "old": SMALL | {"hardware": "a100", "replicas": 2}},
        queries=80,
        router="shortest_predicted_wait",
    )
    results = simulate(case)
    check(results, 80)
    table = results.tables["requests"]
    pools = {pool.name: table.equals("pool", pool.name) for pool in results.runs[0].pools}
    assert all(rows.sum() > 5 for rows in pools.values())
    pace = {name: np.nanmean(table["tpot_s"][rows]) for name, rows in pools.items()}
    assert pace["old"] > 1.2 * pace["new"]


@pytest.mark.parametrize(("model", "hardware"), [("gpt-oss-120b", "h100-sxm"), ("deepseek-r1", "h200-sxm")])
@pytest.mark.parametrize("expert_parallel", [False, True])
def test_mixtures_of_experts_on_eight_gpus(model: str, hardware: str, expert_parallel: bool) -> None:
    pool = {
        "model": model,
        "hardware": hardware,
        "tensor_parallel_size": 8,
        "enable_expert_parallel": expert_parallel,
        "engine": {"max_model_len": 16384},
    }
    case = scenario({"main": pool}, queries=20, rate="2/s")
    fast, slow = simulate(case), simulate(case, stepwise=True)
    check(fast, 20)
    for name in ("queries", "requests", "segments", "stalls"):
        for column, values in fast.tables[name].columns.items():
            assert values.tobytes() == slow.tables[name].columns[column].tobytes(), (name, column)
    (pool_info,) = fast.runs[0].pools
    assert pool_info.gpus_per_replica == 8
