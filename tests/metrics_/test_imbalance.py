"""Replicas that come and go are judged over the time that they are on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sim import load, simulate
from sim.metrics.imbalance import excess_over_parts
from sim.results.results import Results

POOL: dict[str, Any] = {
    "model": "llama-3.1-8b",
    "hardware": "h100-sxm",
    "replicas": 3,
    "engine": {"num_gpu_blocks_override": 4000, "max_num_seqs": 64, "max_model_len": 16384},
}


def run(pool: dict[str, Any], failures: dict[str, Any] | None = None) -> Results:
    data: dict[str, Any] = {
        "name": "imbalance",
        "seed": 5,
        "workload": {
            "arrivals": "poisson",
            "rate": "6/s",
            "lengths": {"prompt": 200, "reasoning": {"law": "lognormal", "median": 500, "sigma": 0.8}, "answer": 60},
        },
        "pools": {"main": POOL | pool},
        "router": "least_outstanding_requests",
        "measure": {"queries": 400, "warmup": "5 s"},
    }
    return simulate(load(data | ({"failures": failures} if failures else {})))


def test_a_replica_that_is_on_for_the_busy_hours_alone_is_not_overloaded():
    """One works 1 and 6 (of 10 each) alone and beside another that also works 6: no imbalance. By hand."""
    work = np.array([[1.0, 6.0], [0.0, 6.0]])
    on = np.array([[True, True], [False, True]])
    assert excess_over_parts(work, on) == pytest.approx(0.0)
    # The second one does 8 where 6 is its part: 8/6 - 1.
    assert excess_over_parts(np.array([[1.0, 4.0], [0.0, 8.0]]), on) == pytest.approx(8 / 6 - 1)
    # Everybody always there: the busiest over the mean.
    assert excess_over_parts(np.array([[1.0, 4.0], [0.0, 8.0]]), np.ones((2, 2), bool)) == pytest.approx(8 / 6.5 - 1)


def test_a_moment_on_says_nothing():
    work = np.array([[100.0, 1.0, 100.0], [0.0, 5.0, 0.0]])
    on = np.array([[True, True, True], [False, True, False]])
    assert excess_over_parts(work, on) < 0.0
    assert excess_over_parts(np.zeros((2, 3)), on) == 0.0


def test_a_replica_that_is_down_most_of_the_time_is_no_imbalance():
    """Two of three are on from 5 s to the end; before, loads were compared over the whole window: 3/2 - 1 = 50 %."""
    failures = {"outages": [{"pool": "main", "replica": 1, "at": "6 s", "lasts": "1 h", "notice": "1 s"}]}
    results = run({}, failures)
    served = results.runs[0].pools[0].served_ps
    assert served[:3] == (1, 0, served[2])
    assert 5 * 10**12 <= served[2] <= 6 * 10**12
    assert sorted(served[3::3]) == [0, 2]
    assert set(served[5::3]) == {-1}
    assert abs(results.summary["load_imbalance"]["value"]) < 0.1
    names = {finding["name"] for finding in results.summary["anomalies"]}
    assert "load_imbalance" not in names


def test_an_uneven_fleet_that_changes_is_still_seen():
    """One that is six times slower computes fewer tokens than its part."""
    failures = {"outages": [{"pool": "main", "replica": 2, "at": "6 s", "lasts": "1 h"}]}
    slow = failures | {"slowdowns": [{"pool": "main", "replica": 1, "factor": 6, "at": "0 s", "lasts": "1 h"}]}
    even, uneven = run({}, failures), run({"replicas": 3}, slow)
    assert uneven.summary["load_imbalance"]["pools"]["main"]["tokens"] > 0.25
    assert even.summary["load_imbalance"]["pools"]["main"]["tokens"] < 0.15


def test_a_fleet_that_never_changes_is_compared_with_its_mean():
    """A fleet with an outage long after the run takes the other road and comes to the same figure."""
    plain = run({}).summary["load_imbalance"]["pools"]["main"]
    watched = run({}, {"outages": [{"pool": "main", "replica": 0, "at": "900 h"}]}).summary["load_imbalance"]
    assert watched["pools"]["main"] == pytest.approx(plain, rel=1e-9)
