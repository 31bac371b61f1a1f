"""The whole main job: repeatable, alike in both modes, honest about rejections, progress and replications."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim import load, simulate
from sim.errors import InputError
from sim.results.results import PROVENANCE_FILE
from sim.simulate import run_once


def scenario(**changes: Any) -> Any:
    data: dict[str, Any] = {
        "name": "small",
        "seed": 3,
        "workload": {
            "arrivals": "poisson",
            "rate": "2/s",
            "lengths": {
                "prompt": {"law": "lognormal", "median": 300, "sigma": 0.8, "min": 16, "max": 4000},
                "reasoning": {"law": "lognormal", "median": 600, "sigma": 1.0, "min": 10, "max": 8000},
                "answer": {"law": "lognormal", "median": 100, "sigma": 0.6, "min": 5, "max": 1000},
            },
        },
        "pools": {
            "main": {
                "model": "llama-3.1-8b",
                "hardware": "h100-sxm",
                "replicas": 2,
                "engine": {"num_gpu_blocks_override": 2000, "max_num_seqs": 32, "max_model_len": 16384},
            }
        },
        "slo": {"tta": {"p99": "60 s"}},
        "measure": {"warmup": "10 s", "queries": 60, "replications": 2},
    }
    data.update(changes)
    return load(data)


def tables_equal(one: Any, two: Any, names: tuple[str, ...]) -> None:
    for name in names:
        for column, array in one.tables[name].columns.items():
            assert array.tobytes() == two.tables[name].columns[column].tobytes(), (name, column)


def test_the_same_scenario_gives_the_same_files(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        simulate(scenario()).save(tmp_path / folder)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) > 5
    for file in files:
        if file != PROVENANCE_FILE:
            assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


@pytest.mark.parametrize("asynchronous", [True, False])
def test_stepwise_gives_the_same_tables(asynchronous: bool) -> None:
    small = scenario()
    pool = small.resolved()["pools"]["main"]
    pool["engine"]["async_scheduling"] = asynchronous
    small = scenario(pools={"main": pool}, measure={"queries": 25})
    fast, slow = simulate(small), simulate(small, stepwise=True)
    tables_equal(fast, slow, ("queries", "requests"))
    assert fast.summary["totals"] == slow.summary["totals"]
    steps = {name: int(r.tables["segments"]["steps"].sum()) for name, r in (("fast", fast), ("slow", slow))}
    assert steps["fast"] == steps["slow"]
    tables_equal(fast, slow, ("segments",))


def test_one_replication_alone_is_the_same_one() -> None:
    both, second = simulate(scenario()), simulate(scenario(), replication=1)
    mine = both.queries[both.queries["replication"] == 1].reset_index(drop=True)
    assert [run.replication for run in second.runs] == [1]
    assert mine.equals(second.queries)
    assert not mine["arrived_s"].equals(both.queries[both.queries["replication"] == 0]["arrived_s"])


def test_where_nothing_is_drawn_one_replication_stands_for_all(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(
        "arrived_at,num_prefill_tokens,num_decode_tokens\n" + "".join(f"{i},100,{50 + i}\n" for i in range(90))
    )
    replay = {"trace": str(trace)}
    drawn = simulate(scenario())
    assert drawn.summary["replications"] == 2
    assert not any("came to the same" in text for text in drawn.summary["banners"])
    once = simulate(scenario(workload=replay, measure={"replications": 3}))
    assert once.summary["replications"] == 1
    assert once.summary["metrics"]["tta"]["n"] == 90
    assert not any(key.endswith("_ci") for key in once.summary["metrics"]["tta"])
    assert any("all 3 replications came to the same" in text for text in once.summary["banners"])
    late = iter([False, False, True])  # the third differs: chance decides, though it took a while to tell
    once_more = run_once

    def differs(*args: Any, **options: Any) -> Any:
        info, tables = once_more(*args, **options)
        if next(late):
            tables["queries"].columns["correct"][:] = 1.0
        return info, tables

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sim.simulate.run_once", differs)
        assert simulate(scenario(workload=replay, measure={"replications": 3})).summary["replications"] == 3
    by_chance = simulate(scenario(workload=replay, router="random", measure={"replications": 3}))
    assert by_chance.summary["replications"] == 3


def test_the_window_has_the_queries_asked_for_and_totals_balance() -> None:
    results = simulate(scenario())
    queries = results.queries
    assert (queries.groupby("replication")["in_window"].sum() == 60).all()
    assert (queries[queries["in_window"]]["arrived_s"] >= 10).all()
    assert (queries[queries["in_window"]]["status"] == "completed").all()
    totals = results.summary["totals"]
    ends = ("completed", "rejected", "timed_out", "cancelled", "failed", "unfinished")
    assert totals["queries"] == sum(totals[end] for end in ends) == len(queries)
    assert totals["reasoning_tokens"] == results.requests["reasoning_tokens"].sum()
    assert np.allclose(results.summary["littles_law"]["relative_difference"], 0, atol=1e-9)


def test_progress_only_goes_forward_and_ends_at_the_total() -> None:
    seen: list[tuple[float, int]] = []
    results = simulate(scenario(), progress=lambda seconds, queries: seen.append((seconds, queries)))
    assert seen == sorted(seen)
    assert seen[-1][0] == pytest.approx(results.summary["totals"]["simulated_s"])


def test_what_can_never_fit_is_refused_with_the_arithmetic() -> None:
    lengths = {"prompt": 20_000, "output": 100}
    workload = {"arrivals": "constant", "rate": "1/s", "queries": 3, "lengths": lengths}
    results = simulate(scenario(workload=workload, measure={"replications": 1}))
    assert results.summary["totals"]["rejected"] == 3
    assert "20,000" in results.runs[0].banners[0]
    assert results.requests["pool"].isna().all()


@pytest.mark.parametrize("strategy", ["single", {"name": "group", "samples": 3}])
def test_users_of_a_closed_loop_who_are_always_refused_come_to_an_end(strategy: Any) -> None:
    workload = {"arrivals": {"process": "closed", "in_flight": 3}, "lengths": {"prompt": 900_000, "answer": 1}}
    found = simulate(
        scenario(workload=workload, strategy=strategy, measure={"queries": 10, "warmup_queries": 5, "replications": 1})
    )
    totals = found.summary["totals"]
    assert totals["rejected"] == totals["queries"] >= 10
    assert totals["simulated_s"] == pytest.approx(0.005)  # rounds of three users, a round trip apart


def test_timeouts_are_counted() -> None:
    results = simulate(scenario(gateway={"timeout": "3 s"}, measure={"queries": 40}))
    totals = results.summary["totals"]
    assert totals["timed_out"] > 0
    late = results.queries[results.queries["status"] == "timed_out"]
    assert np.allclose(late["finished_s"] - late["arrived_s"], 3.0)


def test_a_thinking_budget_cuts_reasoning_and_says_so() -> None:
    results = simulate(scenario(strategy={"name": "single", "thinking_token_budget": 400}))
    requests = results.requests
    done = requests[requests["status"] == "completed"]
    assert done["reasoning_tokens"].max() == 400
    assert (done[done["reasoning_tokens"] == 400]["truncated"]).mean() > 0.9
    assert not done[done["reasoning_tokens"] < 400]["truncated"].any()


def test_several_pools_behind_one_router() -> None:
    small = scenario().resolved()["pools"]["main"]
    other = {**small, "hardware": "a100-sxm-80gb", "replicas": 1}
    results = simulate(scenario(pools={"new": small, "old": other}, router="shortest_predicted_wait"))
    shares = results.requests["pool"].value_counts()
    assert set(shares.index) == {"new", "old"}
    assert shares["new"] > shares["old"]


def test_an_interrupt_passes_through() -> None:
    def stop(seconds: float, queries: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(scenario(), progress=stop)


def _two_pools(**changes: Any) -> Any:
    pools = scenario().resolved()["pools"]
    pools["hard"] = pools["main"] | {"model": "llama-3.1-70b", "tensor_parallel_size": 4}
    quality = {"benchmark": "b", "models": {"any": {"b": {"accuracy": 0.6, "concentration": 2.0}}}}
    return scenario(pools=pools, quality=quality, **changes)


@pytest.mark.parametrize("shared", [False, True])
def test_a_router_and_a_strategy_find_the_same_queries_hard(shared: bool) -> None:
    options = {"easy_pool": "main", "hard_pool": "hard", "hard_share": 0.3, "sensitivity": 0.8, "specificity": 0.9}
    words = {"recurrence": {"problems": 20}} if shared else {}
    work = scenario().resolved()["workload"] | words
    routed = simulate(_two_pools(router={"name": "by_difficulty", **options}, workload=work))
    told = simulate(_two_pools(strategy={"name": "difficulty_routing", **options}, workload=work))
    count = min(len(routed.queries), len(told.queries))  # they run on until the last measured one has its answer
    mine, theirs = (each.queries.set_index(["replication", "query"])["pool"].astype(str) for each in (routed, told))
    both = mine.index.intersection(theirs.index)
    assert len(both) > 0.9 * count
    assert (mine[both] == theirs[both]).all()
    share = (mine == "hard").mean()
    assert abs(share - (0.3 * 0.8 + 0.7 * 0.1)) < (0.25 if shared else 0.12)


def test_a_router_that_judges_needs_to_know_how_hard_queries_are() -> None:
    with pytest.raises(InputError, match=r"by_difficulty asks how hard queries are.*quality section"):
        scenario(router={"name": "by_difficulty", "hard_pool": "main"})
