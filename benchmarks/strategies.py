"""How fast strategies are simulated, beside one generation a query without a quality model.

A *stop* is where the engine has to turn to one request: its end, and each point within it where it is cut, compressed or
rolled back.
Strategies are compared by stops a second of CPU time, with requests a second and runs of like steps beside; they are meant to
keep half of the plain engine's stops a second.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.loads import scenario
from benchmarks.run import Row, measure
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
}
"""Each with about how many generations a query it makes: rates are divided by that, so that the batches are alike."""


def case(strategy: dict[str, Any] | None, generations: int, queries: int) -> Scenario:
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
    return load(data)


def whole(scenario: Scenario) -> tuple[int, int, int]:
    """``simulate``: (requests, runs of like steps, stops)."""
    results = simulate(scenario)
    requests = results.summary["totals"]["requests"]
    looks = results.runs[0].pools[0].looks
    rolled_back = int(results.tables["requests"]["probe_tokens"].sum()) // looks[2] if looks else 0
    return requests, len(results.tables["segments"]), requests + rolled_back


def strategies_table(queries: int, repeats: int) -> list[Row]:
    """Every strategy, and the plain engine before them, which is their ``floor``."""
    plain = Row("one generation, no quality model", partial(whole, case(None, 1, queries)))
    rows = [plain]
    for name, (strategy, generations) in STRATEGIES.items():
        rows.append(Row(name, partial(whole, case(strategy, generations, queries)), plain))
        whole(case(strategy, 1, 20))  # imports, and tables that are made once
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
