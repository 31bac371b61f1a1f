"""A plan as `thinkcap plan` writes it, made up: what report and terminal are tested with."""

from __future__ import annotations

from typing import Any

TARGET = {"metric": "tta", "percentile": 99, "target": 600.0, "category": None, "asked": 0.99, "n": 3600}
NAMES = ("h100-sxm, TP 4", "h200, TP 8", "a100, TP 4")


def target(share: float) -> dict[str, Any]:
    bounds = {"low": max(0.0, share - 0.004), "high": min(1.0, share + 0.003)}
    return {**TARGET, "share": share, **bounds, "effect": {"value": 4.0, "freedom": 47}}


def bill(replicas: int, gpus: int = 4, price: float = 2.99) -> dict[str, Any]:
    paid = -(-replicas * gpus // 8) * 8
    return {
        "gpus": replicas * gpus,
        "paid_gpus": paid,
        "nodes": {"h100-sxm": paid // 8},
        "usd_per_hour": paid * price,
        "usd_per_month": paid * price * 730,
    }


def figures(p99: float, share: float) -> dict[str, Any]:
    return {
        "n": 3600,
        "replications": 6,
        "p50_tta_s": p99 / 6,
        "p99_tta_s": p99,
        "p99_tta_low_s": 0.9 * p99,
        "p99_tta_high_s": 1.1 * p99,
        "p50_ttfo_s": p99 / 7,
        "p99_ttfo_s": 0.9 * p99,
        "p95_ttft_s": 0.8,
        "p95_tpot_s": 0.031,
        "attainment": share,
        "goodput_per_s": 3 * share,
        "output_tokens_per_s": 5900.0,
        "kv_use_max": 0.71,
    }


def point(name: str, replicas: int, p99: float, share: float, key: str) -> dict[str, Any]:
    return {
        "name": name,
        "replicas": replicas,
        **bill(replicas),
        "meets": share >= 0.99,
        "state": "meets" if share >= 0.99 else "misses",
        "certain": True,
        "overloaded": False,
        "accuracy": None,
        "key": key,
        **figures(p99, share),
    }


def assumption(kind: str, words: str, replicas: int, *, meets: bool, flips: str | None = None) -> dict[str, Any]:
    return {
        "assumption": kind,
        "words": words,
        "recommendation_still_meets": meets,
        "replicas_needed": {"reasoning": replicas},
        "usd_per_month": bill(replicas)["usd_per_month"],
        "changes_size": replicas != 4,
        "flips_to": flips,
        **target(0.995 if meets else 0.97),
    }


def plan() -> dict[str, Any]:
    """A feasible plan: four replicas of NAMES[0], sure of itself."""
    points = [
        point(NAMES[0], 3, 900.0, 0.91, "a"),
        point(NAMES[0], 4, 540.0, 0.996, "b"),
        point(NAMES[0], 6, 500.0, 0.999, "c"),
        point(NAMES[1], 3, 410.0, 0.999, "d"),
        point(NAMES[2], 8, 590.0, 0.992, "e"),
    ]
    fidelity = {
        "kind": "composed",
        "profile": "r1-distill-llama-70b_h100-sxm_tp4_bf16",
        "words": "profile r1-distill-llama-70b_h100-sxm_tp4_bf16 (composed), error 2.1% median",
        "error_median": 0.021,
        "error_p95": 0.075,
        "out_of_range": [],
    }
    curve = [
        {"rate_per_s": rate, "p50_tta_s": p99 / 6, "p99_tta_s": p99, "p99_tta_low_s": low, "p99_tta_high_s": high,
         "p99_tta_at_least_s": None, "attainment": share, "meets": share >= 0.99, "overloaded": share < 0.5}
        for rate, p99, low, high, share in (
            (3.0, 540.0, 500.0, 580.0, 0.996), (3.6, 570.0, 510.0, 620.0, 0.993), (4.1, 700.0, 560.0, 850.0, 0.97),
            (4.5, 1200.0, 900.0, 1500.0, 0.88), (6.0, 3100.0, 2500.0, 3600.0, 0.31),
        )
    ]  # fmt: skip
    best = {
        "name": NAMES[0],
        "settings": {"pools.reasoning.hardware": '"h100-sxm"'},
        "replicas": {"reasoning": 4},
        "replicas_needed": {"reasoning": 4},
        "certain": True,
        "replications": 6,
        "backlog_drift_at_most": 0.021,
        "confidence": 0.9,
        "smaller": {"pool": "reasoning", "replicas": 3, "state": "misses", "overloaded": False, **target(0.91)},
        **bill(4),
        "figures": figures(540.0, 0.996),
        "accuracy": None,
        "overloaded": False,
        "targets": [target(0.996), {**target(0.998), "metric": "ttfo", "target": 540.0}],
        "warm_up": {"stated": "10 min", "seconds": 600.0, "suggested_s": 210.0, "adequate": True},
        "fidelity": {"reasoning": fidelity},
        "not_modelled": ["the network between clients and servers"],
        "banners": [],
        "pools": {},
    }
    return {
        "schema_version": 1,
        "scenario": "which-gpu",
        "description": "A question",
        "rate_per_s": 3.0,
        "confidence": 0.9,
        "whole_nodes": True,
        "survive": "nothing",
        "feasible": True,
        "targets": [{"metric": "tta", "percentile": 99, "target": 600.0}],
        "recommendation": best,
        "headroom": [
            {"factor": 1.2, "rate_per_s": 3.6, "meets": True, "overloaded": False, **target(0.993),
             "needs_replicas": {"reasoning": 4}, "needs_usd_per_month": bill(4)["usd_per_month"]},
            {"factor": 2.0, "rate_per_s": 6.0, "meets": False, "overloaded": True, **target(0.31),
             "needs_replicas": {"reasoning": 8}, "needs_usd_per_month": bill(8)["usd_per_month"]},
        ],
        "loss": [
            {"loss": "replica", "pool": "reasoning", "replicas_lost": 1, "replicas_left": 3, "survives": False,
             "why": "", **target(0.91)},
            {"loss": "node", "pool": "reasoning", "replicas_lost": 2, "replicas_left": 2, "survives": False,
             "why": "overloaded", **target(0.2)},
        ],
        "capacity": {"slo_rate_per_s": 3.6, "slo_missed_at_per_s": 3.75, "sustained_rate_per_s": 4.5,
                     "overloaded_at_per_s": 5.1, "precision": 0.05, "sustained_precision": 0.15, "curve": curve},
        "means": {
            "mean_prompt_tokens": 1090.0, "mean_reasoning_tokens": 1600.0, "mean_answer_tokens": 355.0,
            "median_output_tokens": 1230.0, "p99_output_tokens": 12218.0, "tokens_of_longest_tenth": 0.41,
            "ways": [
                {"way": "arithmetic", "replicas": {"reasoning": 1}, "too_optimistic": 4.0,
                 "meets_with_real_lengths": False, "overloaded_with_real_lengths": True, **target(0.0)},
                {"way": "simulated", "replicas": {"reasoning": 2}, "too_optimistic": 2.0,
                 "meets_with_real_lengths": False, "overloaded_with_real_lengths": False, **target(0.62)},
            ],
        },
        "economics": {
            "usd_per_query": 0.0044, "usd_per_million_output_tokens": 2.25, "queries_per_month": 7884000.0,
            "api": {"usd_per_million_output_tokens": 0.99, "usd_per_month": 15350.0,
                    "break_even_share_of_traffic": 2.27, "break_even_rate_per_s": 6.8, "cheaper": "api"},
        },
        "recommended": {"name": "which-gpu-recommended"},
        "limit": {
            "now": {"what": "compute", "words": "compute: nothing waits", "kv_use_max": 0.7},
            "first_to_break": {"what": "KV", "words": "KV memory: it keeps requests waiting 3.1% of the time",
                               "kv_use_max": 1.0},
        },
        "sensitivity": [
            assumption("rate", "10 % more queries", 5, meets=False),
            assumption("rate", "10 % fewer queries", 4, meets=True),
            assumption("tail", "longer tail of lengths (exponent 1.1)", 6, meets=False, flips=NAMES[1]),
            assumption("calibration", "steps 7.5% slower (95th percentile of the error)", 5, meets=False),
        ],
        "alternatives": [
            {"name": NAMES[0], "settings": {}, "accuracy": None, "stage": "final", "replicas": {"reasoning": 4},
             **bill(4), "p99_tta_s": 540.0, "attainment": 0.996, "reason": "recommended"},
            {"name": NAMES[1], "settings": {}, "accuracy": None, "stage": "halved", "replicas": {"reasoning": 3},
             **bill(6), "p99_tta_s": 410.0, "attainment": 0.999, "reason": "+50% in cost"},
            {"name": NAMES[2], "settings": {}, "accuracy": None, "stage": "screened", "replicas": None,
             "reason": "overloaded with 8 replicas, the most that the plan allows"},
        ],
        "points": points,
        "frontier": [points[1], points[3]],
        "points_computed": 120,
        "points_reused": 40,
        "deployment": {
            "serve": {"reasoning": "vllm serve deepseek-ai/DeepSeek-R1-Distill-Llama-70B \\\n  --tensor-parallel-size 4\n"},
            "kubernetes": "apiVersion: apps/v1\nkind: Deployment\n",
            "load_test": "vllm bench serve --dataset-path workload.jsonl\n",
            "differences": ["the router is least_outstanding_requests in the plan"],
        },
    }  # fmt: skip


def infeasible() -> dict[str, Any]:
    """A plan without an answer."""
    data = plan()
    kept = {
        "schema_version",
        "scenario",
        "description",
        "rate_per_s",
        "confidence",
        "whole_nodes",
        "survive",
        "targets",
    }
    return {key: data[key] for key in kept} | {
        "feasible": False,
        "alternatives": [
            {"name": "only", "settings": {}, "accuracy": None, "stage": "screened", "replicas": None,
             "reason": "overloaded with 2 replicas, the most that the plan allows"}
        ],
        "points": [point("only", 2, 900.0, 0.4, "x")],
        "frontier": [],
        "points_computed": 2,
        "points_reused": 0,
        "deployment": None,
    }  # fmt: skip
