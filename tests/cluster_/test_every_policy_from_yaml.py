"""Every router, autoscaler and admission policy, named in a scenario, serves real engines; `simulate` checks balances."""

from __future__ import annotations

from typing import Any

import pytest

from sim import load, simulate
from sim.policies import registry

pytestmark = pytest.mark.slow

POOL: dict[str, Any] = {
    "model": "llama-3.1-8b",
    "hardware": "h100-sxm",
    "replicas": 2,
    "engine": {"max_model_len": 8192, "num_gpu_blocks_override": 1500, "max_num_seqs": 16},
}
LENGTHS: dict[str, Any] = {
    "prompt": {"law": "lognormal", "median": 200, "sigma": 0.8, "min": 16, "max": 2000},
    "reasoning": {"law": "lognormal", "median": 200, "sigma": 1.0, "min": 10, "max": 3000},
    "answer": {"law": "lognormal", "median": 50, "sigma": 0.6, "min": 5, "max": 500},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "by_category": {"pools": {"math": "old"}, "default": "new"},
    "by_difficulty": {"easy_pool": "new", "hard_pool": "old", "hard_share": 0.4},
    "by_length_class": {"pools": ["new", "old"], "bounds": [250], "by": "prompt"},
    "priority_tiers": {"per_replica": {0: 20, 1: 4}},
    "predicted": {"rates_per_s": [1.0, 8.0], "lead_s": 5.0, "period_s": 20.0},
    "scheduled": {"replicas": {0: 2, 10: 3}},
}


def run(pools: dict[str, Any], **sections: Any) -> Any:
    categories = {
        "chat": {"weight": 1, "lengths": LENGTHS},
        "math": {"weight": 1, "priority": 1, "lengths": LENGTHS},
    }
    workload = {
        "arrivals": "poisson",
        "rate": "10/s",
        "categories": categories,
        "sessions": {"turns": 2, "think_time": "5 s"},
    }
    data = {"name": "one", "seed": 2, "workload": workload, "pools": pools, "slo": {"tta": {"p95": "20 s"}}}
    results = simulate(load(data | {"measure": {"queries": 80}} | sections))
    totals = results.summary["totals"]
    assert totals["completed"] + totals["rejected"] >= 80
    return results


@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize("name", registry("router").names())
def test_every_router_serves_mixed_pools(name: str, stale: bool) -> None:
    pools = {"new": POOL, "old": POOL | {"hardware": "a100"}}
    gateway: dict[str, Any] = {"gateway": {"refresh_interval": "2 s"}} if stale else {}
    if registry("router").make(name).judges:
        gateway["quality"] = {"benchmark": "b", "models": {"any": {"b": {"accuracy": 0.6, "concentration": 2.0}}}}
    results = run(pools, router={"name": name} | OPTIONS.get(name, {}), predictor="lognormal_error", **gateway)
    assert len(results.requests.groupby(["pool", "replica"], observed=True)) > 1


@pytest.mark.parametrize("name", registry("autoscaler").names())
def test_every_autoscaler_moves_a_pool_between_its_limits(name: str) -> None:
    scaling = {
        "policy": {"name": name} | OPTIONS.get(name, {}),
        "max_replicas": 4,
        "interval": "1 s",
        "cooldown": "5 s",
    }
    results = run({"main": POOL | {"autoscaling": scaling | {"engine_start": "1 s"}}})
    (pool,) = results.runs[0].pools
    assert min(pool.on_replicas) >= 1
    assert max(pool.on_replicas) <= 4


@pytest.mark.parametrize("name", registry("admission").names())
def test_every_admission_policy_judges_a_run(name: str) -> None:
    run({"main": POOL}, admission={"name": name} | OPTIONS.get(name, {}), gateway={"timeout": "30 s"})
