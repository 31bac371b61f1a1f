"""Routers look into as few replicas as they can, and choose as if they looked into all: whole tables with real engines."""

from __future__ import annotations

from typing import Any

import pytest

from sim import load, simulate
from sim.cluster.view import LiveView
from sim.engine.fast_forward import FastForward
from sim.results.results import Results

LENGTHS: dict[str, Any] = {
    "prompt": {"law": "lognormal", "median": 300, "sigma": 0.8, "min": 16, "max": 3000},
    "reasoning": {"law": "lognormal", "median": 400, "sigma": 1.0, "min": 10, "max": 6000},
    "answer": {"law": "lognormal", "median": 80, "sigma": 0.6, "min": 5, "max": 800},
}
SMALL: dict[str, Any] = {"model": "llama-3.1-8b", "hardware": "h100-sxm", "replicas": 4}
TIGHT: dict[str, Any] = {"num_gpu_blocks_override": 700, "max_model_len": 8192}


def scenario(pools: dict[str, Any], router: Any, **sections: Any) -> Any:
    workload = {"arrivals": "poisson", "rate": "20/s", "lengths": LENGTHS}
    measure = {"queries": 60}
    given = {"name": "few", "seed": 4, "workload": workload, "pools": pools, "router": router, "measure": measure}
    return load(given | sections)


PLACES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "under KV pressure": ({"main": SMALL | {"engine": TIGHT}}, {"gateway": {"timeout": "30 s"}}),
    "asynchronous": ({"main": SMALL | {"engine": TIGHT | {"async_scheduling": True}}}, {}),
    "sliding windows": (
        {"main": SMALL | {"model": "gpt-oss-20b", "engine": {"max_model_len": 8192, "num_gpu_blocks_override": 2500}}},
        {},
    ),
    "compressed KV": ({"main": SMALL | {"engine": TIGHT | {"kv": {"name": "r-kv", "kept_tokens": 512}}}}, {}),
    "prefill apart": (
        {"prefill": SMALL | {"replicas": 2, "role": "prefill"}, "decode": SMALL | {"role": "decode"}},
        {"kv_transfer": {"bandwidth": "1 GB/s"}},
    ),
    "a predictor, and two kinds of GPU": (
        {
            "main": SMALL | {"engine": TIGHT},
            "older": SMALL | {"hardware": "a100", "price": "1.5 USD/h", "engine": TIGHT},
        },
        {"predictor": "lognormal_error", "slo": {"tta": {"p90": "20 s"}}},
    ),
    "probes that are rolled back": (
        {"main": SMALL | {"engine": TIGHT}},
        {
            "strategy": {"name": "early_exit", "method": "own", "every_tokens": 40, "probe_tokens": 30, "hit": 0.3},
            "quality": {"benchmark": "b", "models": {"any": {"b": {"accuracy": 0.6, "concentration": 2.0}}}},
        },
    ),
    "replicas that crash": (
        {"main": SMALL | {"engine": TIGHT}},
        {"failures": {"mtbf": "20 s", "mttr": "3 s", "slowdowns": [{"pool": "main", "replica": 1, "factor": 2}]}},
    ),
}


def thorough(view: LiveView, candidates: Any) -> int:
    return min(candidates, key=lambda i: (view.state(i).kv_use, view.outstanding[i], i))


def thorough_tokens(view: LiveView, candidates: Any, weights: Any = None) -> int:
    return min(
        candidates, key=lambda i: (view.tokens(i) * (1 if weights is None else weights[i]), view.outstanding[i], i)
    )


def thorough_most(view: LiveView, candidates: Any, weights: Any, limit: Any) -> int | None:
    able = [(load, -i) for i in candidates if (load := view.tokens(i) * weights[i]) <= limit(i)]
    return -max(able)[1] if able else None


def same(one: Results, two: Results) -> None:
    for name in ("queries", "requests", "segments", "stalls"):
        for column, values in one.tables[name].columns.items():
            assert values.tobytes() == two.tables[name].columns[column].tobytes(), (name, column)


def compare(place: str, router: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pools, sections = PLACES[place]
    case = scenario(pools, router, **sections)
    looks = {"few": 0, "all": 0}
    snapshot = FastForward.snapshot

    def counted(how: str) -> Any:
        def look(engine: FastForward, now_ps: int) -> Any:
            looks[how] += 1
            return snapshot(engine, now_ps)

        return look

    monkeypatch.setattr(FastForward, "snapshot", counted("few"))
    few = simulate(case)
    monkeypatch.setattr(FastForward, "snapshot", counted("all"))
    monkeypatch.setattr(LiveView, "least_used", thorough)
    monkeypatch.setattr(LiveView, "least_loaded", thorough_tokens)
    monkeypatch.setattr(LiveView, "most_loaded", thorough_most)
    same(few, simulate(case))
    assert looks["few"] < looks["all"]


@pytest.mark.parametrize("place", ["under KV pressure"])
def test_least_kv_chooses_as_if_it_looked_into_all(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(place, "least_kv", monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(
    "router",
    [
        "least_kv",
        "least_outstanding_tokens",
        "shortest_predicted_wait",
        {"name": "cost_aware", "max_wait_s": "20 ms"},
        {"name": "slo_aware", "margin": 0.05},
    ],
    ids=lambda router: router if isinstance(router, str) else router["name"],
)
@pytest.mark.parametrize("place", PLACES)
def test_every_router_that_bounds_does(place: str, router: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(place, router, monkeypatch)
