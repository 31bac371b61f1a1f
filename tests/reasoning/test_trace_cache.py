"""Problems that come again, and the cache of traces that they meet: laws of the cache, and whole runs."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import load, simulate
from sim.cluster.trace_cache import Trace, TraceCache, TraceCacheSettings
from sim.errors import InputError
from sim.results.columns import Lookup
from sim.rng import Streams
from workloads.source import build
from workloads.spec import WorkloadSpec

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


def scenario(trace_cache: Any = None, *, recurrence: Any = None, **changes: Any) -> Any:
    lengths = {
        "prompt": {"law": "lognormal", "median": 200, "sigma": 0.5, "min": 16, "max": 2000},
        "reasoning": {"law": "lognormal", "median": 400, "sigma": 0.8, "min": 20, "max": 4000},
        "answer": {"law": "lognormal", "median": 60, "sigma": 0.5, "min": 5, "max": 500},
    }
    data: dict[str, Any] = {
        "name": "again",
        "seed": 4,
        "workload": {"arrivals": "poisson", "rate": "2/s", "lengths": lengths},
        "pools": {
            "main": {"model": "llama-3.1-8b", "hardware": "h100-sxm", "engine": {"num_gpu_blocks_override": 3000}}
        },
        "quality": {"benchmark": "b", "models": {"any": {"b": {"accuracy": 0.6, "concentration": 2.0}}}},
        "measure": {"queries": 300},
        **changes,
    }
    if recurrence is None:
        recurrence = {"problems": 40}
    if recurrence:
        data["workload"]["recurrence"] = recurrence
    if trace_cache is not None:
        data["trace_cache"] = trace_cache
    return load(data)


def same(one: Any, two: Any, *, but: tuple[str, ...] = ()) -> None:
    for name in ("queries", "requests", "segments", "stalls"):
        for column, array in one.tables[name].columns.items():
            if column not in but:
                assert array.tobytes() == two.tables[name].columns[column].tobytes(), (name, column)


# -- what recurs ------------------------------------------------------------------------------------


def source(**recurrence: Any) -> Any:
    lengths = {"prompt": {"law": "lognormal", "median": 200, "sigma": 0.8}, "reasoning": 400, "answer": 60}
    lengths["reasoning"] = {"law": "lognormal", "median": 400, "sigma": 0.9}
    spec = {"arrivals": "poisson", "rate": "1/s", "lengths": lengths}
    if recurrence:
        spec["recurrence"] = recurrence
    return build(WorkloadSpec.model_validate(spec), seed=3)


def test_popularity_is_zipf():
    prompt = source(problems=50, skew=1.2).block(0).prompt
    rank = prompt - prompt.min()
    seen = np.bincount(rank, minlength=50) / len(rank)
    wanted = (np.arange(50) + 1.0) ** -1.2
    assert np.abs(seen - wanted / wanted.sum()).max() < 0.02


def test_queries_of_one_problem_are_alike_and_others_are_left_as_they_were():
    plain, again = source().block(0), source(problems=30, share=0.5).block(0)
    own = again.prompt < 0
    assert 0.4 < own.mean() < 0.6
    for name in ("num_prefill_tokens", "num_reasoning_tokens", "arrived_ps"):
        assert (getattr(plain, name)[own] == getattr(again, name)[own]).all()
    by_problem = [again.num_reasoning_tokens[again.prompt == p] for p in np.unique(again.prompt[~own])]
    within = np.mean([np.log(part).std() for part in by_problem if len(part) > 20])
    assert within < 0.5 * np.log(again.num_reasoning_tokens).std()
    assert {len(set(again.num_prefill_tokens[again.prompt == p])) for p in again.prompt[~own]} == {1}


def test_samples_of_one_query_belong_to_its_problem():
    made = source(problems=3)
    block = made.block(0)
    means = [np.mean([made.sample_lengths(q, s)[0] for s in range(40)]) for q in range(60)]
    by_problem = [np.array(means)[block.prompt[:60] == p] for p in np.unique(block.prompt[:60])]
    assert max(part.std() / part.mean() for part in by_problem) < 0.2
    assert made.sample_lengths(5, 0) == (block.num_reasoning_tokens[5], block.num_answer_tokens[5])


def test_other_words_do_not_share_kv_and_the_same_ones_do():
    def cached(**how: Any) -> float:
        results = simulate(scenario(recurrence={"problems": 5, **how}, measure={"queries": 60}))
        return float(results.requests["cached_tokens_first"].sum())

    assert cached() == 0
    assert cached(wording="same") > 0


# -- the cache --------------------------------------------------------------------------------------


def cache(**changes: Any) -> TraceCache:
    how = {"capacity": 3, "shortens": False, "lookup_ps": 0, "recall": 1.0, "false_hit": 0.0, "keep_share": 0.3}
    return TraceCache(TraceCacheSettings(**{**how, "trace_tokens": 0, **changes}), Streams(1))


@given(st.integers(1, 6), st.lists(st.integers(0, 9), max_size=120))
def test_it_is_an_lru_cache(capacity, problems):
    made, model = cache(capacity=capacity), OrderedDict()
    for query, problem in enumerate(problems):
        found, trace = made.look_up(query, problem, query)
        assert (found == Lookup.HIT) == (problem in model)
        if trace is not None:
            model.move_to_end(problem)
            assert trace.tokens == model[problem]
        else:
            if len(model) >= capacity:
                model.popitem(last=False)
            model[problem] = query
            made.keep(query, problem, Trace(True, query, query))
        assert made.figures()["held"] == len(model) <= capacity
        assert made.figures()["held_tokens"] == sum(model.values())


def test_recall_and_false_hits_come_as_often_as_stated():
    made = cache(capacity=10, recall=0.7, false_hit=0.2)
    for problem in range(2):
        made.keep(10_000 + problem, problem, Trace(True, 1, 0))
    found = [made.look_up(query, 0, 0)[0] for query in range(4000)]
    assert np.mean([f == Lookup.HIT for f in found]) == pytest.approx(0.7, abs=0.03)
    assert np.mean([f == Lookup.FALSE_HIT for f in found]) == pytest.approx(0.3 * 0.2, abs=0.02)
    alone = cache(false_hit=1.0)
    assert alone.look_up(0, 5, 0)[0] == Lookup.MISS  # nothing is held that could be taken for it
    alone.keep(0, 5, Trace(True, 1, 0))
    assert alone.look_up(1, 6, 0)[0] == Lookup.FALSE_HIT


def test_what_is_too_old_is_found_no_more():
    made = cache(expires_ps=100)
    made.keep(0, 5, Trace(True, 1, 0))
    assert made.look_up(1, 5, 99)[0] == Lookup.HIT
    assert made.look_up(2, 5, 100)[0] == Lookup.MISS
    assert made.figures()["expired"] == 1
    assert made.figures()["held"] == 0


# -- in a run ---------------------------------------------------------------------------------------

USES = [
    {"use": "answer"},
    {"use": "shorten", "keep_share": 0.2},
    {"use": "answer", "capacity": 5, "false_hit": 0.3, "expires": "30 s"},
    {"use": "shorten", "capacity": 5, "false_hit": 0.3},
]


@pytest.mark.parametrize("use", USES, ids=str)
@pytest.mark.parametrize("strategy", ["single", {"name": "majority_vote", "samples": 3}], ids=["single", "vote"])
def test_both_engine_modes_agree(use, strategy):
    made = scenario(use, strategy=strategy, measure={"queries": 40})
    fast, slow = simulate(made), simulate(made, stepwise=True)
    for name in ("queries", "requests"):
        for column, array in fast.tables[name].columns.items():
            assert array.tobytes() == slow.tables[name].columns[column].tobytes(), (name, column)
    assert fast.summary["trace_cache"] == slow.summary["trace_cache"]
    assert fast.summary["trace_cache"]["hits"] > 0


def test_a_cache_that_finds_nothing_changes_nothing():
    blind = {"recall": 0.0, "false_hit": 0.0, "lookup": "0 s"}
    plain, looked = simulate(scenario()), simulate(scenario(blind))
    same(plain, looked, but=("trace_cache",))
    assert looked.summary["trace_cache"]["lookups"] == 300
    assert plain.summary["trace_cache"] is None


def test_hits_answer_at_once_and_cost_no_generation():
    results = simulate(scenario({"lookup": "30 ms", "recall": 1.0, "false_hit": 0.0}))
    queries, found = results.queries, results.summary["trace_cache"]
    hits = queries[queries["trace_cache"] == "hit"]
    assert found["hits"] == len(hits[hits["in_window"]]) > 150
    assert (hits["requests"] == 0).all()
    assert np.allclose(hits["tta_s"], 0.03, atol=1e-9)
    assert (hits["reasoning_tokens"] + hits["answer_tokens"] == 0).all()
    missed = queries[queries["trace_cache"] == "miss"]
    assert (missed["requests"] == 1).all()
    assert found["answered_without_generation"] == found["hits"]
    cost = simulate(scenario()).summary["totals"]["reasoning_tokens"]
    assert results.summary["totals"]["reasoning_tokens"] < 0.5 * cost
    # an answer is given again as it was kept, right or wrong
    first = missed.groupby("prompt")["correct"].last()
    assert set(hits["correct"].unique()) <= {0.0, 1.0}
    assert len(first)


def test_hit_rate_follows_from_capacity_and_popularity():
    def rate(capacity: int, skew: float) -> float:
        made = scenario({"capacity": capacity}, recurrence={"problems": 60, "skew": skew})
        return float(simulate(made).summary["trace_cache"]["hit_rate"])

    assert rate(5, 1.0) < rate(20, 1.0) < rate(60, 1.0)
    assert rate(20, 0.2) < rate(20, 1.5)


def test_false_hits_cost_accuracy():
    def accuracy(use: str, false_hit: float) -> float:
        made = scenario({"use": use, "recall": 0.0, "false_hit": false_hit, "keep_share": 0.1})
        return float(simulate(made).summary["quality"]["accuracy"])

    for use in ("answer", "shorten"):
        assert accuracy(use, 0.5) < accuracy(use, 0.0) - 0.15


def test_a_trace_shortens_the_reasoning_and_leaves_the_answer():
    how = {"use": "shorten", "recall": 1.0, "false_hit": 0.0, "keep_share": 0.25, "trace_tokens": 300, "lookup": "0 s"}
    plain, short = simulate(scenario()), simulate(scenario(how))
    done = (short.queries["status"] == "completed").to_numpy()
    both = int(np.argmin(done)) if not done.all() else len(done)  # all before the first that is still open
    plain_rows, short_rows = plain.queries[:both], short.queries[:both]
    assert (plain_rows["status"] == "completed").all()
    hit = (short_rows["trace_cache"] == "hit").to_numpy()
    full = plain_rows["reasoning_tokens"].to_numpy()[hit]
    assert hit.sum() > 150
    assert np.abs(short_rows["reasoning_tokens"].to_numpy()[hit] - full * 0.25).max() <= 0.5
    assert (short_rows["prompt_tokens"].to_numpy()[hit] == plain_rows["prompt_tokens"].to_numpy()[hit] + 300).all()
    assert (short_rows["correct"].to_numpy() == plain_rows["correct"].to_numpy()).all()


def test_it_is_said_in_the_report():
    from sim.report.text import summary

    results = simulate(scenario({"capacity": 10}, measure={"queries": 60}))
    assert "trace cache hits" in summary(results, color=False)


def test_clients_that_give_up_during_the_look_up_are_timed_out():
    results = simulate(scenario({"lookup": "5 s"}, gateway={"timeout": "2 s"}, measure={"queries": 20}))
    measured = results.queries[results.queries["in_window"]]
    assert (measured["status"] == "timed_out").all()
    assert (results.queries["requests"] == 0).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trace_cache": {}, "recurrence": False}, "ever comes again"),
        ({"trace_cache": {"capacity": 0}}, "capacity"),
        ({"trace_cache": {"use": "guess"}}, "use"),
        ({"trace_cache": {"lookup": 20}}, "lookup"),
        ({"recurrence": {"problems": 0}}, "problems"),
    ],
)
def test_bad_input_is_said(changes, words):
    with pytest.raises(InputError, match=words):
        scenario(**changes)
