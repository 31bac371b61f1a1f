"""Whole fleets in both modes: replicas that come and go, crash, slow down; prefill and decode apart; old pictures, admission,
clients that come again. Every table and the summary are the same, byte for byte, over random scenarios; `simulate` checks that
nothing vanishes."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest

from sim import load, simulate

ROUTERS = (
    "random",
    "round_robin",
    "power_of_two",
    "least_outstanding_requests",
    "least_outstanding_tokens",
    "least_kv",
    "shortest_predicted_wait",
    "slo_aware",
    "cost_aware",
    "session_affinity",
    "prefix_affinity",
    "consistent_hash",
    "join_idle_queue",
)
AUTOSCALERS: tuple[dict[str, Any], ...] = (
    {"name": "queue_depth", "up": 1, "down": 6},
    {"name": "outstanding_tokens", "target": 3000},
    {"name": "target_kv_use", "target": 0.4},
    {"name": "predicted", "rates_per_s": [1, 4, 15, 0], "per_replica_per_s": 3, "lead_s": 10, "period_s": 60},
    {"name": "scheduled", "replicas": {"0 s": 1, "20 s": 3, "40 s": 2}, "period_s": 60},
    {"name": "scheduled", "replicas": {"0 s": 2, "15 s": 0, "30 s": 3}, "period_s": 60},
)
ADMISSION: tuple[Any, ...] = (
    {"name": "max_outstanding", "per_replica": 10},
    {"name": "priority_tiers", "per_replica": {0: 20, 3: 5}},
    {"name": "token_limit", "kv_share": 0.8},
    {"name": "max_wait", "max_wait_s": 3},
    {"name": "token_bucket", "rate_per_s": 2, "burst": 5},
    "deadline_shedding",
)


def random_fleet(seed: int) -> dict[str, Any]:
    """A small fleet to which much happens within a minute."""
    rng = Random(seed)
    lengths = {
        "prompt": {"law": "lognormal", "median": rng.choice((100, 400, 1500)), "sigma": 0.9, "min": 4, "max": 6000},
        "reasoning": {"law": "lognormal", "median": rng.choice((60, 300, 900)), "sigma": 1.0, "min": 1, "max": 4000},
        "answer": {"law": "lognormal", "median": 80, "sigma": 0.6, "min": 1, "max": 800},
    }
    workload: dict[str, Any] = {
        "arrivals": rng.choice(("poisson", {"process": "gamma", "cv": 3})),
        "rate": f"{rng.choice((1, 4, 10))}/s",
    }
    if rng.random() < 0.4:
        workload["categories"] = {
            "chat": {"weight": 1, "priority": 0, "lengths": lengths},
            "batch": {"weight": 2, "priority": rng.choice((0, 3)), "lengths": lengths},
        }
    else:
        workload["lengths"] = lengths
        if rng.random() < 0.4:
            turns = {"law": "uniform", "low": 1, "high": 4}
            kept = rng.choice(("dropped", "kept"))
            workload["sessions"] = {"turns": turns, "think_time": "3 s", "reasoning": kept}
    apart = rng.random() < 0.35
    engine: dict[str, Any] = {
        "num_gpu_blocks_override": rng.choice((600, 1200, 4000)),
        "max_model_len": 8192,
        "max_num_seqs": rng.choice((2, 8, 64)),
        "async_scheduling": rng.random() < 0.7,
    }
    if not apart and rng.random() < 0.3:
        engine["policy"] = "priority"
    pool = {"model": "llama-3.1-8b", "hardware": "h100-sxm", "engine": engine}
    pools: dict[str, dict[str, Any]]
    if apart:
        pools = {
            "prefill": pool | {"role": "prefill", "replicas": rng.randint(1, 2)},
            "decode": pool | {"role": "decode", "replicas": rng.randint(1, 3)},
        }
    else:
        pools = {"main": pool | {"replicas": rng.randint(1, 3)}}
        if rng.random() < 0.4:
            pools["older"] = pool | {"hardware": "a100", "replicas": rng.randint(1, 2)}
    for own in pools.values():
        if rng.random() < 0.5:
            own["autoscaling"] = {
                "policy": rng.choice(AUTOSCALERS),
                "min_replicas": rng.choice((0, 1, 1)),
                "max_replicas": rng.randint(own["replicas"], 5),
                "interval": rng.choice(("1 s", "5 s")),
                "cooldown": rng.choice(("0 s", "8 s")),
                "load_bandwidth": "8 GB/s",
                "engine_start": rng.choice(("1 s", "10 s")),
            }
    data: dict[str, Any] = {
        "name": "fleet",
        "seed": seed,
        "workload": workload,
        "pools": pools,
        "router": rng.choice(ROUTERS),
        "slo": {"tta": {"p90": "20 s"}},
        "gateway": {},
        "failures": random_failures(rng, pools),
        "measure": {
            "warmup": "2 s",
            "duration": f"{rng.choice((15, 40))} s",
            "max_drain": rng.choice(("0 s", "5 s", "10 min")),
        },
    }
    if apart:
        data["kv_transfer"] = {
            "bandwidth": rng.choice(("0.2 GB/s", "50 GB/s")),
            "latency": rng.choice(("0 s", "10 ms")),
        }
    if rng.random() < 0.4:
        data["gateway"]["refresh_interval"] = rng.choice(("500 ms", "5 s"))
    if rng.random() < 0.4:
        data["gateway"]["timeout"] = rng.choice(("4 s", "20 s"))
    if rng.random() < 0.35:
        data["admission"] = rng.choice(ADMISSION)
        if rng.random() < 0.5:
            data["gateway"]["backoff"] = {"attempts": rng.randint(0, 3), "first": "1 s"}
    return data


def random_failures(rng: Random, pools: dict[str, Any]) -> dict[str, Any]:
    """Crashes by chance, outages that may overlap, a rolling restart, a straggler; any of them or none."""
    failures: dict[str, Any] = {}
    if rng.random() < 0.5:
        failures |= {"mtbf": rng.choice(("10 s", "40 s")), "mttr": rng.choice(("1 s", "15 s"))}
    if rng.random() < 0.6:
        failures["outages"] = []
        for _ in range(rng.randint(1, 4)):
            name = rng.choice(list(pools))
            size = max(pools[name].get("autoscaling", {}).get("max_replicas", 0), pools[name]["replicas"])
            outage = {"pool": name, "replica": rng.randrange(size), "at": f"{rng.randint(0, 40)} s"}
            outage["notice"] = rng.choice(("0 s", "2 s", "10 s"))
            if rng.random() < 0.8:
                outage["lasts"] = rng.choice(("1 s", "5 s", "30 s"))
            failures["outages"].append(outage)
    if rng.random() < 0.3:
        failures["restart"] = {"at": f"{rng.randint(1, 20)} s", "down": rng.choice(("1 s", "5 s"))}
    if rng.random() < 0.3:
        slow = {"pool": rng.choice(list(pools)), "factor": rng.choice((0.5, 1.7)), "at": "5 s", "lasts": "10 s"}
        failures["slowdowns"] = [slow]
    if rng.random() < 0.2:
        failures["max_retries"] = 0
    return failures


def compare(seed: int) -> Counter[str]:
    """Assert that both modes are equal; return what happened."""
    scenario = load(random_fleet(seed))
    fast, slow = simulate(scenario), simulate(scenario, stepwise=True)
    for name, table in fast.tables.items():
        for column, values in table.columns.items():
            assert values.tobytes() == slow.tables[name].columns[column].tobytes(), (seed, name, column)
    assert fast.summary == slow.summary, seed
    summary = fast.summary
    pools = summary["fleet"]["pools"].values()
    copies = summary["kv_transfer"] or {"pools": {}}
    return Counter(
        crashes=sum(pool["crashes"] for pool in pools),
        cold_starts=sum(pool["cold_starts"] for pool in pools),
        copies=sum(pool["copies"] for pool in copies["pools"].values()),
        retried=summary["totals"]["retried"],
        rejected=summary["totals"]["rejected"],
        timed_out=summary["totals"]["timed_out"],
        failed=summary["totals"]["failed"],
    )


def test_a_fleet_is_the_same_in_both_modes() -> None:
    happened = compare(6)
    assert happened["crashes"] > 0
    assert happened["cold_starts"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 40, 20))
def test_random_fleets_are_the_same_in_both_modes(start: int) -> None:
    happened: Counter[str] = Counter()
    for seed in range(start, start + 20):
        happened += compare(seed)
    for what in ("crashes", "cold_starts", "copies", "retried", "rejected", "timed_out", "failed"):
        assert happened[what] > 0, what
