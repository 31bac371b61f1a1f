"""A plan whose answer is known from a queue computed by hand: one request at a time a replica, service always as long.

With ``max_num_seqs: 1`` and fixed lengths a replica is a server of constant service time, and round robin deals
Poisson arrivals out to c of them: Lindley's recursion over the time at which each server is free gives the truth,
with nothing of the simulator's in it but the time of one step.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.planning.planner import make_plan
from sim.planning.runs import Runner, Store
from sim.scenario.check import deployment
from sim.scenario.load import load

PROMPT, ANSWER = 100, 400
LIMIT = 2.2
"""Service times within which a query must be answered."""


def scenario(rate: float, asked: int, *, limit_s: float, seed: int = 3, queries: int = 500) -> dict[str, Any]:
    return {
        "name": "servers",
        "seed": seed,
        "workload": {
            "arrivals": "poisson",
            "rate": f"{rate}/s",
            "lengths": {"prompt": PROMPT, "answer": ANSWER},
        },
        "pools": {
            "only": {
                "model": "qwen3-8b",
                "hardware": "h100-sxm",
                "price": "1 USD/h",
                "engine": {"max_num_seqs": 1, "async_scheduling": False, "enable_prefix_caching": False},
            }
        },
        "router": "round_robin",
        "slo": {"tta": {f"p{asked}": f"{limit_s} s"}},
        "measure": {"warmup": "1 min", "queries": queries, "max_drain": "1 h"},
        "plan": {
            "whole_nodes": False,
            "confidence": 0.9,
            "replications": 12,
            "sensitivity": False,
            "headroom": [],
            "max_replicas": 60,
        },
    }


@cache
def service_s() -> tuple[float, float]:
    """Seconds of one query alone on a replica, and what the front end adds outside the queue."""
    placed = deployment(load(scenario(1, 90, limit_s=60)).pools["only"])
    cost = placed.step_cost
    prefill = cost.step_ps(decodes=0, context=0, chunks=1, chunk_tokens=PROMPT, pairs=PROMPT**2, cached=0)
    decodes = sum(cost.decode_ps(1, PROMPT + token) for token in range(ANSWER - 1))
    return (prefill + decodes) / 1e12, placed.front_end_ps / 1e12


def share_in_time(servers: int, rate: float, limit_s: float, seed: int = 1, queries: int = 200_000) -> float:
    """Of Poisson arrivals dealt out in turn to servers of constant service time."""
    service, front = service_s()
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, queries))
    free = [0.0] * servers
    late = 0
    for number, arrived in enumerate(arrivals.tolist()):
        ends = max(free[number % servers], arrived) + service
        free[number % servers] = ends
        late += ends - arrived + front > limit_s
    return 1 - late / queries


def plan(folder: Path, rate: float, asked: int, limit_s: float, **options: Any) -> dict[str, Any]:
    return make_plan(scenario(rate, asked, limit_s=limit_s, **options), (), Runner(Store(folder)))


def test_the_true_minimum_is_found(tmp_path: Path) -> None:
    """The margins are wide: one server less misses by more than any noise, as many as needed meet by as much; and the
    same at a higher price loses for that reason."""
    rate, asked = 2.0, 90
    limit_s = round(LIMIT * service_s()[0], 2)
    shares = {servers: share_in_time(servers, rate, limit_s) for servers in (5, 6)}
    assert shares[5] < 0.5
    assert shares[6] > 0.93
    data = scenario(rate, asked, limit_s=limit_s, queries=300)
    data["plan"] |= {"candidates": {"cheap": {}, "dear": {"pools.only.price": "2 USD/h"}}}
    said: list[str] = []
    found = make_plan(data, (), Runner(Store(tmp_path)), say=said.append)
    assert "2 candidates, roughly" in said[0]
    assert "of memory with 1 worker" in said[0]
    best = found["recommendation"]
    assert (best["name"], best["replicas"]) == ("cheap", {"only": 6})
    assert best["certain"]
    assert not any(point["meets"] for point in found["points"] if point["replicas"] < 6)
    assert abs(best["targets"][0]["share"] - shares[6]) < 0.05
    assert best["usd_per_hour"] == pytest.approx(6.0)
    assert found["economics"]["usd_per_query"] == pytest.approx(6.0 / (rate * 3600))
    lost = next(row for row in found["alternatives"] if row["name"] == "dear")
    assert lost["reason"].startswith("+")
    assert lost["reason"].endswith("in cost")


@pytest.mark.slow
def test_ten_seeds_agree_or_are_neighbours(tmp_path: Path) -> None:
    """Near the turn, with few queries: no answer is further than one replica from the truth."""
    rate, asked = 3.0, 97
    limit_s = round(LIMIT * service_s()[0], 2)
    truth = next(c for c in range(8, 20) if share_in_time(c, rate, limit_s) >= asked / 100)
    answers = []
    for seed in range(10):
        found = plan(tmp_path / str(seed), rate, asked, limit_s, seed=seed, queries=300)
        answers.append(found["recommendation"]["replicas"]["only"])
    assert all(abs(each - truth) <= 1 for each in answers), (truth, answers)
