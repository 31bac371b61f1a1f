"""A few queries on one replica, with or without what changes how they are answered."""

from __future__ import annotations

from typing import Any

from sim import load, simulate

POOL: dict[str, Any] = {"model": "llama-3.1-8b", "hardware": "h100-sxm", "engine": {"num_gpu_blocks_override": 900}}


def run(*, latent: Any = None, depth: Any = None, stepwise: bool = False, rate: str = "6/s", **changes: Any) -> Any:
    engine = {**POOL["engine"], **({"adaptive_depth": depth} if depth is not None else {})}
    data: dict[str, Any] = {
        "name": "coming",
        "seed": 4,
        "workload": {
            "arrivals": "poisson",
            "rate": rate,
            "queries": 8,
            "lengths": {"prompt": 300, "reasoning": {"law": "lognormal", "median": 400, "sigma": 0.7}, "answer": 40},
        },
        "pools": {"main": {**POOL, "engine": engine}},
        "strategy": "single",
        "quality": {
            "benchmark": "b",
            "models": {"any": {"b": {"accuracy": 0.6}}},
            "pools": {"main": {"latent": latent}},
        },
    }
    if latent is None:
        del data["quality"]["pools"]
    return simulate(load({**data, **changes}), stepwise=stepwise)


def same(a: Any, b: Any) -> bool:
    """All tables of both runs are the same bytes."""
    return all(
        table.columns[name].tobytes() == b.tables[each].columns[name].tobytes()
        for each, table in a.tables.items()
        for name in table.columns
    )
