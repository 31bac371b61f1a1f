"""Whole runs in both modes: every table and the whole summary are the same, byte for byte, over random scenarios."""

from __future__ import annotations

import json
from collections import Counter
from random import Random
from typing import Any

import numpy as np
import pytest

from sim import load, simulate
from sim.policies import registry
from sim.results.results import Results


def random_scenario(seed: int) -> dict[str, Any]:
    """A small scenario under pressure, with what may make steps unlike one another."""
    rng = Random(seed)
    engine: dict[str, Any] = {
        "num_gpu_blocks_override": rng.choice((600, 1200, 4000)),
        "max_num_seqs": rng.choice((4, 16, 64)),
        "max_num_batched_tokens": rng.choice((256, 2048)),
        "enable_prefix_caching": rng.random() < 0.6,
        "async_scheduling": rng.random() < 0.5,
        "block_size": rng.choice((8, 16, 16, 128)) if rng.random() < 0.5 else 16,
        "scheduler": rng.choice(("vllm", "vllm", "vllm", "srpt", "mlfq", "sglang", "sarathi", "vtc")),
    }
    if engine["block_size"] == 128:
        engine["num_gpu_blocks_override"] //= 8
    if rng.random() < 0.4:
        engine["kv"] = rng.choice(("static", "predicted", "swap"))
    if engine["enable_prefix_caching"] and rng.random() < 0.4:
        engine["kv_offloading_size"] = rng.choice(("1 GB", "200 GB"))
    lengths = {
        "prompt": {"law": "lognormal", "median": rng.choice((60, 400)), "sigma": 1.0, "min": 1, "max": 3000},
        "reasoning": {"law": "lognormal", "median": 200, "sigma": 1.0, "min": 0, "max": 3000},
        "answer": {"law": "lognormal", "median": 60, "sigma": 0.8, "min": 1, "max": 800},
    }
    data: dict[str, Any] = {
        "name": "both",
        "seed": seed,
        "workload": {"arrivals": "poisson", "rate": f"{rng.choice((3, 8, 20))}/s", "lengths": lengths, "queries": 60},
        "pools": {
            "main": {
                "model": rng.choice(("r1-distill-llama-8b", "r1-distill-llama-8b", "gpt-oss-20b")),
                "hardware": "h100-sxm",
                "replicas": rng.choice((1, 2)),
                "engine": engine,
            }
        },
        "router": rng.choice(("round_robin", "least_outstanding_tokens", "prefix_affinity")),
        "slo": {"tta": {"p90": "20 s"}, "ttft": {"p95": "1 s"}, "itl": {"p99": "50 ms"}},
        "measure": {
            "warmup": rng.choice(("0 s", "0.7 s", "2 s")),
            "duration": f"{rng.choice((2, 5))} s",
            "max_drain": rng.choice(("1 s", "60 s")),
        },
    }
    if data["pools"]["main"]["model"] == "gpt-oss-20b":
        engine["max_model_len"] = 4096  # beside the windows, the whole pool is no request's
    if data["pools"]["main"]["model"] == "gpt-oss-20b" or engine.get("kv") in ("static", "predicted"):
        engine.pop("kv_offloading_size", None)  # refused: the host is not modelled for these
    if rng.random() < 0.4 and data["pools"]["main"]["model"] != "gpt-oss-20b":
        data["strategy"] = {"name": "majority_vote", "samples": 3}
        data["quality"] = {"benchmark": "math-500"}
    if rng.random() < 0.3:
        data["gateway"] = {"timeout": "5 s"}
    if rng.random() < 0.25:
        data["failures"] = {"mtbf": "6 s", "mttr": "1 s"}
    return data


def same(seed: int) -> Results:
    """Both modes of scenario number *seed*; return the fast one's results."""
    return same_of(random_scenario(seed))


def same_of(data: dict[str, Any]) -> Results:
    scenario, seed = load(data), data["seed"]
    fast, slow = simulate(scenario), simulate(scenario, stepwise=True)
    for name, table in fast.tables.items():
        for column, array in table.columns.items():
            other = slow.tables[name].columns[column]
            assert array.tobytes() == other.tobytes(), f"seed {seed}: {name}.{column}"
    assert json.dumps(fast.summary) == json.dumps(slow.summary), f"seed {seed}"
    return fast


def sweep(seeds: range) -> Counter[str]:
    seen: Counter[str] = Counter()
    for seed in seeds:
        results = same(seed)
        segments = results.tables["segments"]
        seen["runs"] += int((segments["steps"] > 1).sum())
        seen["steps in runs"] += int(segments["steps"][segments["steps"] > 1].sum())
        seen["steps"] += int(segments["steps"].sum())
        seen["preemptions"] += results.summary["totals"]["preemptions"]
        for part in ("cached", "unused", "window", "duplicate"):
            seen[part] += bool(segments[f"{part}_block_s"].any())
        seen["lost"] += sum(pool["crashes"] for pool in results.summary["fleet"]["pools"].values())
    return seen


def test_tables_and_summary_are_the_same_in_both_modes() -> None:
    seen = sweep(range(14))
    assert seen["steps in runs"] > seen["steps"] / 2
    for name in ("preemptions", "cached", "unused", "window", "duplicate", "lost"):
        assert seen[name] > 0, name


@pytest.mark.slow
@pytest.mark.parametrize("start", range(100, 140, 20))
def test_tables_and_summary_are_the_same_often(start: int) -> None:
    sweep(range(start, start + 20))


OPTIONS: dict[str, list[dict[str, Any]]] = {
    "chunked_reasoning": [
        {"quantum_tokens": 30, "newcomers_first": False},
        {"quantum_tokens": 60, "between_chunks": "host"},
    ],
    "edf": [{"preempt": True}],
    "mlfq": [{"quantum_tokens": 16, "starvation_s": "2 s"}],
    "pascal": [{"first": "reasoning"}],
    "sarathi": [{"chunk_size": 64}],
    "srpt": [{"factor": 1.0}],
}
"""Options beside the defaults, by scheduler."""


def any_policy(seed: int) -> dict[str, Any]:
    """Scenario number *seed* under any scheduler, predictor and admission control, with settings that recordings have."""
    rng, data = Random(seed * 13 + 5), random_scenario(seed)
    engine = data["pools"]["main"]["engine"]
    name = rng.choice(sorted(registry("scheduler").names()))
    engine["scheduler"] = {"name": name, **rng.choice([{}, *OPTIONS.get(name, [])])}
    data["predictor"] = rng.choice(
        (
            "oracle",
            {"name": "lognormal_error", "sigma": 1.0},
            "by_category",
            {"name": "first_k_tokens", "tokens": 20},
            "always_wrong",
        )
    )
    if rng.random() < 0.4:
        limits = {"name": "max_outstanding", "per_replica": 10}, {"name": "max_wait", "max_wait_s": "2 s"}
        data["admission"] = rng.choice((*limits, "deadline_shedding", "token_limit"))
    engine["watermark"] = rng.choice((0.0, 0.05))
    engine["long_prefill_token_threshold"] = rng.choice((0, 64))
    engine["scheduler_reserve_full_isl"] = rng.random() < 0.7
    engine["kv_cache_dtype"] = rng.choice(("auto", "fp8"))
    if name == "chunked_reasoning" and (engine["scheduler"].get("between_chunks") == "host") != (
        engine.get("kv") == "swap"
    ):
        engine["scheduler"], engine["kv"] = (
            {"name": name, "quantum_tokens": 30},
            "paged",
        )  # the host: for both, or for none
    if name in ("orca", "static"):
        engine.pop("kv_offloading_size", None)  # refused: they reserve memory
    return data


@pytest.mark.slow
@pytest.mark.parametrize("start", range(500, 540, 20))
def test_whole_runs_under_any_policy_are_the_same(start: int) -> None:
    for seed in range(start, start + 20):
        same_of(any_policy(seed))


def test_a_run_that_ends_behind_a_walked_step():
    """The batch planned last was walked, and a request has two tokens in flight: its first one is not counted."""
    results = same(204)
    assert np.isnan(results.tables["queries"]["finished_s"]).any()  # it ends with open queries


LENGTHS = {
    "prompt": {"law": "lognormal", "median": 300, "sigma": 1.0},
    "answer": {"law": "lognormal", "median": 50, "sigma": 0.8},
}


def test_a_first_leg_that_is_preempted_with_its_token_in_flight() -> None:
    """Nothing is kept of it, so nothing is transferred: the decode replica computes the prompt itself."""
    pool = {"model": "r1-distill-llama-8b", "hardware": "h100-sxm"}
    engine = {"num_gpu_blocks_override": 300, "long_prefill_token_threshold": 200}
    results = same_of(
        {
            "name": "first-legs",
            "seed": 0,
            "workload": {
                "arrivals": {"process": "gamma", "cv": 3},
                "rate": "15/s",
                "lengths": LENGTHS | {"reasoning": {"law": "lognormal", "median": 250, "sigma": 1.0}},
            },
            "pools": {"main": pool | {"engine": engine, "role": "prefill"}, "dec": pool | {"role": "decode"}},
            "measure": {"duration": "2 s"},
            "kv_transfer": {"bandwidth": "1 GB/s"},
        }
    )
    requests = results.requests
    legs, others = (requests[(requests["role"] == "prefill") == first] for first in (True, False))
    assert (legs["preemptions"] > 0).any()
    done = others[others["status"] == "completed"]
    assert (done["transferred_tokens"] == 0).any()
    assert (done["transferred_tokens"] > 0).any()


def test_what_waited_on_a_replica_under_notice_is_forgotten_there() -> None:
    """``mlfq`` keeps books of who waits; who is sent to another replica must not stay in them."""
    same_of(
        {
            "name": "books",
            "seed": 1236,
            "workload": {"arrivals": "poisson", "rate": "40/s", "lengths": LENGTHS},
            "pools": {
                "main": {
                    "model": "r1-distill-llama-8b",
                    "hardware": "h100-sxm",
                    "engine": {"max_num_seqs": 3, "scheduler": "mlfq"},
                }
            },
            "measure": {"duration": "1 s"},
            "failures": {"outages": [{"pool": "main", "at": "1.5 s", "lasts": "1 s", "notice": "0.5 s"}]},
        }
    )


def test_mlfq_goes_on_with_one_who_pauses_where_nobody_finds_room() -> None:
    """Memory is reserved for one who pauses for better ones, and they find none: it goes on, instead of all standing still."""
    results = same_of(
        {
            "name": "no-room",
            "seed": 0,
            "workload": {
                "arrivals": {"process": "burst", "size": 5},
                "lengths": LENGTHS | {"prompt": {"law": "lognormal", "median": 50, "sigma": 1.0}},
            },
            "pools": {
                "main": {
                    "model": "r1-distill-llama-8b",
                    "hardware": "h100-sxm",
                    "engine": {
                        "num_gpu_blocks_override": 450,
                        "max_num_seqs": 3,
                        "scheduler": "mlfq",
                        "watermark": 0.01,
                        "kv": "static",
                    },
                }
            },
            "strategy": {"name": "majority_vote"},
            "quality": {"benchmark": "math-500"},
        }
    )
    assert results.summary["totals"]["completed"] == 5
