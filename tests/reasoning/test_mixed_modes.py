"""Whole runs of random mixtures in both modes: strategies, verifiers, pools, sessions, recurring problems, trace caches,
failures, impatient clients, and engines that compress, chunk, draft or run layers apart."""

from __future__ import annotations

import json
from collections import Counter
from random import Random
from typing import Any

import pytest

from sim import load, simulate
from sim.errors import InputError


def random_strategy(rng: Random) -> dict[str, Any]:
    budget = rng.choice((None, None, 100, 400, {"a": 80, "default": 300}))
    flat = rng.choice((None, None, 150, 500))
    n = rng.choice((1, 2, 3, 5))
    kinds = {
        "single": {"thinking_token_budget": budget, "forced_answer": rng.random() < 0.7},
        "effort": {
            "level": rng.choice(("low", "high", 0.7, {"a": "low", "default": "medium"})),
            "thinking_token_budget": 400 if rng.random() < 0.5 else None,
            "pool": rng.choice((None, "main")),
        },
        "effort ": {
            "level": rng.choice(("low", 1.3)),
            "thinking_token_budget": 500,
            "budget_at_full_load": rng.choice((0, 50, 200)),
            "pool": rng.choice((None, "main")),
        },
        "early_exit": {
            "method": rng.choice(("deer", "dynasor")),
            "thinking_token_budget": flat,
            "pool": rng.choice((None, "main")),
        },
        "early_exit ": {
            "method": "own",
            "every_tokens": rng.choice((20, 100)),
            "probe_tokens": rng.choice((0, 5)),
            "hit": rng.choice((0.0, 0.5, 1.0)),
            "false_exit": rng.choice((0.0, 0.05)),
            "thinking_token_budget": flat,
        },
        "early_exit  ": {
            "method": "own",
            "every_tokens": rng.choice((40, 150)),
            "hit": 0.7,
            "false_exit": 0.02,
            "verifier_pool": "verifier",
            "thinking_token_budget": flat,
        },
        "majority_vote": {"samples": n, "stop_early": rng.random() < 0.6, "thinking_token_budget": budget},
        "best_of_n": {
            "samples": n,
            "verifier_pool": "verifier",
            "reads": rng.choice(("orm", "prm")),
            "thinking_token_budget": budget,
        },
        "weighted_majority": {"samples": n, "verifier_pool": "verifier", "reads": rng.choice(("orm", "prm"))},
        "tree_search": {
            "verifier_pool": "verifier",
            "width": rng.choice((1, 2, 3)),
            "beam": rng.choice((1, 2)),
            "depth": rng.choice((1, 2, 4)),
            "step_tokens": rng.choice((30, 120)),
        },
        "tree_search ": {
            "method": "mcts",
            "verifier_pool": "verifier",
            "width": rng.choice((1, 2)),
            "rounds": rng.choice((1, 4)),
            "depth": rng.choice((1, 3)),
            "step_tokens": rng.choice((30, 120)),
        },
        "parallel_merge": {
            "samples": n,
            "effort": rng.choice((0.5, 1.0)),
            "merge_effort": rng.choice((0, 0.1)),
            "thinking_token_budget": budget,
        },
        "cascade": {
            "first_pool": "main",
            "then_pool": rng.choice(("main", "other")),
            "threshold": rng.choice((-9, 0.5, 2)),
            "thinking_token_budget": budget,
        },
        "cascade ": {"first_pool": "main", "then_pool": "other", "threshold": 0.8, "discrimination": 2.0},
        "difficulty_routing": {
            "easy_pool": "main",
            "hard_pool": rng.choice(("main", "other")),
            "hard_share": rng.choice((0, 0.3, 1)),
            "delay_s": rng.choice((0, 0.2)),
            "early_exit": rng.choice(("none", "deer")),
            "easy_budget": flat,
        },
        "difficulty_routing ": {
            "easy_pool": "main",
            "hard_pool": "other",
            "hard_share": 0.4,
            "read_tokens": rng.choice((1, 40, 300)),
            "hard_budget": flat,
        },
        "group": {"samples": n, "segment_tokens": rng.choice((None, 60))},
    }
    name = rng.choice(sorted(kinds))
    options = {k: v for k, v in kinds[name].items() if v is not None}
    return {"name": name.strip(), **options}


def random_scenario(seed: int) -> dict[str, Any]:
    rng = Random(f"mix {seed}")
    how = random_strategy(rng)
    named = [v for k, v in how.items() if k == "pool" or k.endswith("_pool")]
    several = "other" in named or (rng.random() < 0.15 and how["name"] not in ("tree_search",))

    def lengths() -> dict[str, Any]:
        return {
            "prompt": {"law": "lognormal", "median": rng.choice((60, 300)), "sigma": 0.9, "min": 1, "max": 2000},
            "reasoning": {"law": "lognormal", "median": rng.choice((60, 250)), "sigma": 1.0, "min": 0, "max": 1500},
            "answer": {"law": "lognormal", "median": 30, "sigma": 0.8, "min": 1, "max": 300},
        }

    engine: dict[str, Any] = {
        "num_gpu_blocks_override": rng.choice((400, 900, 3000)),
        "max_num_seqs": rng.choice((3, 12, 64)),
        "max_num_batched_tokens": rng.choice((128, 2048)),
        "enable_prefix_caching": rng.random() < 0.7,
        "async_scheduling": rng.random() < 0.6,
        "scheduler": rng.choice(
            (
                "vllm",
                "vllm",
                "vllm",
                "srpt",
                "mlfq",
                "sglang",
                {
                    "name": "chunked_reasoning",
                    "quantum_tokens": rng.choice((30, 200)),
                    "between_chunks": rng.choice(("keep", "recompute")),
                },
            )
        ),
    }
    feature = rng.choice(("none",) * 8 + ("r-kv", "snapkv", "h2o", "drafts", "depth", "swap", "static", "host"))
    if feature in ("r-kv", "snapkv", "h2o"):
        engine["kv"] = {
            "name": feature,
            "kept_tokens": rng.choice((64, 200)),
            "interval_tokens": rng.choice((16, 64)),
            "recent_tokens": 8,
        }
        if rng.random() < 0.3:
            engine["kv"]["lengthens"] = 1.2
    elif feature == "drafts":
        engine["speculative_config"] = {
            "num_speculative_tokens": rng.choice((1, 4)),
            "acceptance": rng.choice((0.0, 0.7, 1.0)),
        }
        engine["async_scheduling"] = False
    elif feature == "depth":
        engine["adaptive_depth"] = [{"depth": 0.5, "share": 0.4}, {"depth": 2, "share": 0.1}]
    elif feature in ("swap", "static"):
        engine["kv"] = feature
    elif feature == "host" and engine["enable_prefix_caching"]:
        engine["kv_offloading_size"] = "1 GB"
    main: dict[str, Any] = {
        "model": "r1-distill-llama-8b",
        "hardware": "h100-sxm",
        "replicas": rng.choice((1, 2)),
        "engine": engine,
    }
    pools: dict[str, Any] = {"main": main}
    if several:
        pools["other"] = {
            "model": "r1-distill-llama-70b",
            "hardware": "h100-sxm",
            "tensor_parallel_size": 4,
            "replicas": rng.choice((1, 2)),
            "engine": {"num_gpu_blocks_override": rng.choice((400, 2000))},
        }
    if "verifier" in named:
        pools["verifier"] = {
            "model": "llama-3.1-8b",
            "hardware": "h100-sxm",
            "role": "verify",
            "engine": {"num_gpu_blocks_override": rng.choice((400, 2000))},
        }
    quality: dict[str, Any] = {
        "benchmark": "b",
        "models": {
            "any": {
                "b": {"accuracy": rng.choice((0.3, 0.7)), "concentration": rng.choice((None, 2.0)), "wrong_answers": 4}
            }
        },
    }
    law = quality["models"]["any"]["b"]
    if law["concentration"] is None:
        del law["concentration"]
    if rng.random() < 0.3:
        law["floor"] = 0.1
    if rng.random() < 0.3:
        quality["length_correlation"] = 0.5
    if rng.random() < 0.2:
        quality["value_of_correct"] = 0.1
    if several and rng.random() < 0.5:
        quality["pools"] = {"other": {"reasoning_scale": rng.choice((0, 0.5)), "answer_scale": 1.5}}
    elif rng.random() < 0.15 and len(pools) == 1:
        quality["pools"] = {"main": {"latent": {"tokens_per_step": 4, "keeps_kv": rng.random() < 0.5}}}
    workload: dict[str, Any] = {
        "arrivals": rng.choice(
            ("poisson", {"process": "gamma", "cv": 3}, {"process": "burst", "size": 6, "every": "1 s"})
        ),
        "rate": f"{rng.choice((2, 5, 12))}/s",
    }
    if rng.random() < 0.5:
        workload["categories"] = {"a": {"weight": 1, "lengths": lengths()}, "b": {"weight": 2, "lengths": lengths()}}
    else:
        workload["lengths"] = lengths()
    if isinstance(workload["arrivals"], dict) and workload["arrivals"]["process"] == "burst":
        workload.pop("rate")
    roll = rng.random()
    if how["name"] == "group" and roll < 0.4:
        workload = {
            "arrivals": {
                "process": "rollout",
                "prompts": 4,
                "max_lag": rng.choice((0, 1)),
                "training": "2 s",
                "weight_sync": "500 ms",
            },
            "lengths": lengths(),
        }
    elif roll < 0.2:
        workload["sessions"] = {"turns": 3, "think_time": "500 ms", "new_tokens": 40}
    elif roll < 0.3:
        workload["shared_prefix"] = {"groups": 2, "tokens": 200, "share": 0.7}
    elif roll < 0.5:
        workload["recurrence"] = {"problems": 8, "share": 0.8, "wording": rng.choice(("other", "same"))}
    elif roll < 0.6 and "lengths" in workload:
        workload["arrivals"] = {
            "process": "closed",
            "in_flight": rng.choice((1, 5)),
            "think_time": rng.choice(("0 s", "300 ms")),
        }
        workload.pop("rate", None)
    if rng.random() < 0.2:
        workload["max_tokens"] = rng.choice((100, 600))
    data: dict[str, Any] = {
        "name": "mix",
        "seed": seed,
        "workload": workload,
        "pools": pools,
        "strategy": how,
        "quality": quality,
        "router": rng.choice(
            ("round_robin", "least_outstanding_requests", "least_outstanding_tokens", "prefix_affinity")
        ),
        "slo": {"tta": {"p90": "20 s"}},
        "measure": rng.choice(
            (
                {"queries": 25, "max_drain": "60 s"},
                {"duration": "3 s", "warmup": "500 ms", "max_drain": "60 s"},
                {"duration": "4 s", "max_drain": "1 s"},
            )
        ),
    }
    if "recurrence" in workload and rng.random() < 0.7:
        data["trace_cache"] = {
            "capacity": rng.choice((2, 50)),
            "use": rng.choice(("answer", "shorten")),
            "lookup": rng.choice(("0 s", "20 ms")),
            "false_hit": 0.1,
            "expires": rng.choice(("1 s", "1 h")),
        }
    if rng.random() < 0.25:
        data["gateway"] = {"timeout": rng.choice(("1 s", "5 s"))}
    if rng.random() < 0.1:
        data.setdefault("gateway", {})["refresh_interval"] = "300 ms"
    if rng.random() < 0.25:
        data["failures"] = {"mtbf": rng.choice(("2 s", "8 s")), "mttr": "1 s"}
    if rng.random() < 0.15:
        data["admission"] = "max_outstanding"
    return data


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 80, 40))
def test_tables_and_summaries_are_the_same_in_both_modes(start: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(start, start + 40):
        data = random_scenario(seed)
        try:
            scenario = load(data)
        except InputError:  # some mixtures are refused
            seen["refused"] += 1
            continue
        fast, slow = simulate(scenario), simulate(scenario, stepwise=True)
        for name, table in fast.tables.items():
            for column, array in table.columns.items():
                assert array.tobytes() == slow.tables[name].columns[column].tobytes(), (seed, name, column)
        assert json.dumps(fast.summary) == json.dumps(slow.summary), seed
        seen["preemptions"] += fast.summary["totals"]["preemptions"]
        seen["retries"] += int(fast.tables["queries"]["retries"].sum())
        seen[data["strategy"]["name"]] += 1
    assert seen["refused"] <= 5
    assert min(seen["preemptions"], seen["retries"]) > 0
    assert len(seen) >= 8  # many a strategy
