"""How fast strategies and what else reasons are simulated, beside one generation a query without a quality model.

A *stop* is where the engine has to turn to one request: its end, and each point within it where it is cut, compressed, paused
or rolled back. With drafts every step of a request is one, since what is wrong of them is rolled back.
All are compared by stops a second of CPU time, with requests a second and runs of like steps beside; they are meant to
keep half of the plain engine's stops a second.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from benchmarks.loads import scenario
from benchmarks.run import Row, measure
from sim.results.results import Results
from sim.scenario.load import load
from sim.scenario.model import Scenario
from sim.simulate import simulate

GOAL = 0.5
"""Stops a second over the plain engine's."""
VERIFIER = {"model": "llama-3.1-8b", "hardware": "h100-sxm", "role": "verify"}
STRATEGIES: dict[str, tuple[dict[str, Any], int]] = {
    "single, with a quality model": ({"name": "single"}, 1),
    "effort": ({"name": "effort", "level": "low"}, 1),
    "early_exit": ({"name": "early_exit"}, 1),
    "majority_vote, 8": ({"name": "majority_vote", "samples": 8, "stop_early": True}, 8),
    "best_of_n, 8": ({"name": "best_of_n", "samples": 8, "verifier_pool": "verifier"}, 8),
    "weighted_majority, 8": ({"name": "weighted_majority", "samples": 8, "verifier_pool": "verifier"}, 8),
    "tree_search, beam": ({"name": "tree_search", "verifier_pool": "verifier"}, 16),
    "tree_search, mcts": ({"name": "tree_search", "method": "mcts", "verifier_pool": "verifier"}, 16),
    "parallel_merge, 4": ({"name": "parallel_merge"}, 4),
    "cascade": ({"name": "cascade", "first_pool": "pool", "then_pool": "pool"}, 2),
    "difficulty_routing": ({"name": "difficulty_routing", "easy_pool": "pool", "hard_pool": "pool"}, 1),
    "difficulty_routing, first tokens read": (
        {"name": "difficulty_routing", "easy_pool": "pool", "hard_pool": "pool", "read_tokens": 256},
        2,
    ),
    "budget": ({"name": "single", "thinking_token_budget": 1000}, 1),
    "budget that follows load": (
        {"name": "effort", "thinking_token_budget": 4000, "budget_at_full_load": 500},
        1,
    ),
}
"""Each with about how many generations a query it makes: rates are divided by that, so that the batches are alike."""
SINGLE = {"name": "single"}
INTERVAL, KEPT, QUANTUM = 128, 1024, 512
ENGINES: dict[str, dict[str, Any]] = {
    "KV compression": {"kv": {"name": "r-kv", "kept_tokens": KEPT, "interval_tokens": INTERVAL}},
    "chunked reasoning": {"scheduler": {"name": "chunked_reasoning", "quantum_tokens": QUANTUM}, "max_num_seqs": 28},
    "speculative decoding": {
        "speculative_config": {"num_speculative_tokens": 4, "acceptance": 0.7, "draft_cost": 0.05},
    },
    "adaptive depth": {"adaptive_depth": [{"depth": 0.5, "share": 0.4}]},
}
"""What an engine is told, for one generation a query with a quality model."""
LATENT = {"latent": {"tokens_per_step": 8, "keeps_kv": False}}
TRACE_CACHE = {"capacity": 200, "use": "shorten"}


def case(strategy: dict[str, Any] | None, generations: int, queries: int, feature: str = "") -> Scenario:
    """The benchmark's traffic under *strategy*; None: one generation, nothing said about quality."""
    data = scenario(max(1, queries // generations), caching=True).resolved()
    lengths = data["workload"]["lengths"]
    output = lengths.pop("output")
    lengths.pop("reasoning_share", None)
    lengths["reasoning"], lengths["answer"] = output, 100
    rate = float(data["workload"]["rate"].split("/")[0]) / generations
    data["workload"]["rate"] = f"{rate:.6g}/s"
    if strategy is not None:
        data["strategy"] = strategy
        data["quality"] = {"benchmark": "b", "models": {"any": {"b": {"accuracy": 0.6, "concentration": 2.0}}}}
        if "verifier_pool" in strategy:
            data["pools"]["verifier"] = VERIFIER
    if feature in ENGINES:
        data["pools"]["pool"]["engine"].update(ENGINES[feature])
    elif feature == "latent reasoning":
        data["quality"]["pools"] = {"pool": LATENT}
    elif feature == "trace cache":
        data["workload"]["recurrence"] = {"problems": 500}
        data["trace_cache"] = TRACE_CACHE
    return load(data)


def points_within(scenario: Scenario, results: Results) -> int:
    """Points within requests at which the engine turns to them."""
    requests = results.tables["requests"]
    engine = scenario.pools["pool"].engine
    looks = results.runs[0].pools[0].looks
    points = int(requests["probe_tokens"].sum()) // looks[2] if looks else 0
    computed = requests["prompt_tokens"] + requests["reasoning_tokens"] + requests["answer_tokens"] - 1
    if engine.kv is not None and engine.kv.name == "r-kv":
        beyond = computed - np.maximum(requests["prompt_tokens"], KEPT + INTERVAL)
        points += int((np.maximum(beyond + INTERVAL, 0) // INTERVAL).sum())
    if engine.scheduler.name == "chunked_reasoning":
        points += int((requests["reasoning_tokens"] // QUANTUM).sum())
    if engine.speculative_config is not None:
        points += int(requests["steps"].sum())
    return points


def whole(scenario: Scenario) -> tuple[int, int, int]:
    """``simulate``: (requests, runs of like steps, stops)."""
    results = simulate(scenario)
    requests = results.summary["totals"]["requests"]
    return requests, len(results.tables["segments"]), requests + points_within(scenario, results)


def strategies_table(queries: int, repeats: int) -> list[Row]:
    """Every strategy, and the plain engine before them, which is their ``floor``."""
    plain = Row("one generation, no quality model", partial(whole, case(None, 1, queries)))
    rows = [plain]
    for name, (strategy, generations) in STRATEGIES.items():
        rows.append(Row(name, partial(whole, case(strategy, generations, queries)), plain))
        whole(case(strategy, 1, 20))  # imports, and tables that are made once
    for name in (*ENGINES, "latent reasoning", "trace cache"):
        count = queries // 10 if name == "speculative decoding" else queries
        rows.append(Row(name, partial(whole, case(SINGLE, 1, count, name)), plain))
        whole(case(SINGLE, 1, 20, name))
    measure(rows, repeats)
    print(f"\nStrategies, simulate(): stops a second, at least {GOAL:.0%} of the plain engine's")
    print(f"  {'':<44} {'CPU s':>8} {'requests/s':>11} {'runs':>10} {'stops':>10} {'stops/s':>10} {'of plain':>9}")
    for row in rows:
        requests, runs, stops = row.result
        print(
            f"  {row.name:<44} {row.seconds:>8.3f} {requests / row.seconds:>11,.0f} {runs:>10,} {stops:>10,} "
            f"{stops / row.seconds:>10,.0f} {share(row):>9.0%}"
        )
    return rows


def share(row: Row) -> float:
    """Stops a second over the plain engine's."""
    floor = row.floor or row
    return (row.result[2] / row.seconds) / (floor.result[2] / floor.seconds)
