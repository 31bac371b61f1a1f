"""A run split over processes leaves what one process leaves: whole tables, over random scenarios."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from sim import load, simulate
from sim.cluster import split
from sim.errors import InputError

LENGTHS: dict[str, Any] = {
    "prompt": {"law": "lognormal", "median": 300, "sigma": 0.8, "min": 16, "max": 3000},
    "reasoning": {"law": "lognormal", "median": 200, "sigma": 1.0, "min": 10, "max": 4000},
    "answer": {"law": "lognormal", "median": 60, "sigma": 0.6, "min": 5, "max": 800},
}
POOL: dict[str, Any] = {"model": "llama-3.1-8b", "hardware": "h100-sxm", "replicas": 3}
TIGHT: dict[str, Any] = {"num_gpu_blocks_override": 520, "max_model_len": 8192}
QUALITY: dict[str, Any] = {"benchmark": "b", "models": {"any": {"b": {"accuracy": 0.6, "concentration": 2.0}}}}
BASE: dict[str, Any] = {
    "name": "split",
    "workload": {"arrivals": "poisson", "rate": "20/s", "lengths": LENGTHS},
    "pools": {"main": POOL},
    "router": "round_robin",
    "measure": {"warmup": "1 s", "queries": 40},
}

pytestmark = pytest.mark.skipif(not split.available(), reason="processes cannot be forked here")


def drawn(seed: int) -> dict[str, Any]:
    """A scenario that can be split."""
    rng = random.Random(seed)
    engine = TIGHT | {"async_scheduling": rng.random() < 0.5}
    if rng.random() < 0.3:
        engine["num_gpu_blocks_override"] = 120
        engine["max_model_len"] = 1500  # some queries never fit
    pools = {"main": POOL | {"replicas": rng.randint(2, 5), "engine": engine}}
    router: Any = rng.choice(["round_robin", "random", "consistent_hash"])
    if rng.random() < 0.4:
        pools["other"] = POOL | {"replicas": rng.randint(1, 2), "engine": {"max_model_len": 8192}}
        if rng.random() < 0.5:
            router = {"name": "by_length_class", "pools": ["main", "other"], "bounds": [400], "then": "round_robin"}
    measure = rng.choice(
        [
            {"warmup": "1 s", "queries": 40},
            {"warmup_queries": 10, "queries": 40},
            {"warmup": "0 s", "duration": "3 s", "max_drain": "0 s"},
            {"warmup": "1 s", "duration": "3 s", "max_drain": "2 s"},
            {"duration": "3 s"},
        ]
    )
    sections: dict[str, Any] = {"seed": seed, "pools": pools, "router": router, "measure": measure}
    if rng.random() < 0.4:
        sections["gateway"] = {"timeout": rng.choice(["1 s", "4 s"])}
    if rng.random() < 0.4:
        sections["strategy"] = {"name": "single", "thinking_token_budget": 200}
    return BASE | sections


def compare(case: dict[str, Any], workers: int) -> int:
    """Assert that both ways are equal; return how many rows requests have."""
    scenario = load(case)
    whole, parts = simulate(scenario), simulate(scenario, workers=workers)
    for name, table in whole.tables.items():
        for column, values in table.columns.items():
            assert values.tobytes() == parts.tables[name].columns[column].tobytes(), (name, column)
    assert whole.summary == parts.summary
    return len(whole.tables["requests"])


def test_two_processes_leave_what_one_does() -> None:
    assert compare(BASE | {"gateway": {"timeout": "4 s"}, "pools": {"main": POOL | {"engine": TIGHT}}}, 2) > 40


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_whole_tables_over_random_scenarios(seed: int) -> None:
    compare(drawn(seed), 2 + seed % 3)


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"router": "least_outstanding_requests"}, "router looks"),
        ({"failures": {"mtbf": "1 min", "mttr": "1 s"}}, "come and go"),
        ({"admission": "max_outstanding"}, "admission"),
        ({"strategy": {"name": "majority_vote", "samples": 3}, "quality": QUALITY}, "strategy"),
        ({"pools": {"main": POOL | {"replicas": 1}}}, "one replica"),
        (
            {"workload": BASE["workload"] | {"sessions": {"turns": 3, "think_time": "1 s"}}},
            "conversations",
        ),
    ],
)
def test_what_cannot_be_split_says_why(sections: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(split._Member, "start")  # at once: nobody starts anything before
    with pytest.raises(InputError, match=why):
        simulate(load(BASE | sections), workers=2)


def test_a_trace_with_turns_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ["arrived_at,num_prefill_tokens,num_decode_tokens,parent_id", *(f"{i},100,20,-1" for i in range(9))]
    trace = tmp_path / "t.csv"
    trace.write_text("\n".join(rows) + "\n")
    case = BASE | {"workload": {"trace": str(trace)}, "measure": {}}
    assert compare(case, 2) == 9  # who goes on after nobody is no turn
    trace.write_text("\n".join([*rows, "9,200,20,3"]) + "\n")
    monkeypatch.delattr(split._Member, "start")
    with pytest.raises(InputError, match="conversations"):
        simulate(load(case), workers=2)
