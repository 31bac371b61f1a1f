"""Features with neutral parameters change nothing: every table is, byte for byte, that of one plain generation a query.

The traffic presses: KV memory is short, replicas fail, clients give up. What is not neutral though one might expect it is
here as well, with what stays the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sim import load, simulate
from sim.errors import InputError
from sim.results.results import Results

MUCH = 100_000
"""More tokens than any query has."""
LENGTHS = {
    "prompt": {"law": "lognormal", "median": 150, "sigma": 0.8, "min": 1, "max": 1500},
    "reasoning": {"law": "lognormal", "median": 200, "sigma": 0.9, "min": 0, "max": 2000},
    "answer": {"law": "lognormal", "median": 40, "sigma": 0.8, "min": 1, "max": 300},
}
WORKLOADS: dict[str, dict[str, Any]] = {
    "plain": {"arrivals": "poisson", "rate": "12/s", "lengths": LENGTHS},
    "recurring": {"arrivals": "poisson", "rate": "12/s", "lengths": LENGTHS, "recurrence": {"problems": 5}},
    "sessions": {
        "arrivals": "poisson",
        "rate": "8/s",
        "lengths": LENGTHS,
        "sessions": {"turns": 3, "think_time": "500 ms"},
    },
}


def scenario(
    strategy: Any = "single", *, workload: str = "plain", engine: Any = None, quality: Any = None, **changes: Any
) -> dict[str, Any]:
    """*strategy* on two replicas under pressure, with a second pool and a verifier that a strategy may name."""
    pool = {"model": "llama-3.1-8b", "hardware": "h100-sxm"}
    settings = {"num_gpu_blocks_override": 240, "max_num_seqs": 12, "max_model_len": 3800}
    return {
        "name": "neutral",
        "seed": 8,
        "workload": WORKLOADS[workload],
        "pools": {
            "main": {**pool, "replicas": 2, "engine": {**settings, **(engine or {})}},
            "verifier": {**pool, "role": "verify"},
        },
        "strategy": strategy,
        "quality": {
            "benchmark": "b",
            "models": {"any": {"b": {"accuracy": 0.6, "concentration": 2.0, "wrong_answers": 4}}},
            **(quality or {}),
        },
        "gateway": {"timeout": "20 s"},
        "failures": {"mtbf": "5 s", "mttr": "1 s"},
        "measure": {"queries": 40, "max_drain": "60 s"},
        **changes,
    }


CALM: dict[str, Any] = {"failures": {}, "gateway": {}}
"""Nothing fails and nobody gives up."""
_plain: dict[tuple[str, bool], Results] = {}


def plain(workload: str, *, calm: bool = False) -> Results:
    """The run that nothing is said in, once for all."""
    key = workload, calm
    if key not in _plain:
        _plain[key] = simulate(load(scenario(workload=workload, **(CALM if calm else {}))))
    return _plain[key]


def differing(one: Results, two: Results, *, but: tuple[str, ...] = ()) -> list[str]:
    """Columns that are not the same bytes."""
    return [
        f"{name}.{column}"
        for name, table in one.tables.items()
        for column, array in table.columns.items()
        if column not in but and array.tobytes() != two.tables[name].columns[column].tobytes()
    ]


SLOWLY = [pytest.param(workload, marks=pytest.mark.slow) for workload in WORKLOADS]


@pytest.mark.parametrize("workload", ["plain", *SLOWLY[1:]])
def test_the_traffic_presses(workload: str) -> None:
    results = plain(workload)
    queries = results.tables["queries"]
    assert results.summary["totals"]["preemptions"] > 0
    assert queries["retries"].any()
    assert len(set(queries["status"].tolist())) > 1
    assert int(results.tables["requests"]["reasoning_tokens"].max()) < MUCH


ROUTED = {"name": "difficulty_routing", "easy_pool": "main", "hard_pool": "main"}
PROBED = {"name": "early_exit", "method": "own"}
STRATEGIES: dict[str, dict[str, Any]] = {
    "budget above all lengths": {"name": "single", "thinking_token_budget": MUCH},
    "budget by kind above all lengths": {"name": "single", "thinking_token_budget": {"default": MUCH}},
    "budget without an answer, never reached": {
        "name": "single",
        "thinking_token_budget": MUCH,
        "forced_answer": False,
    },
    "budget of a load that is never reached": {
        "name": "effort",
        "thinking_token_budget": MUCH,
        "budget_at_full_load": MUCH,
    },
    "medium effort": {"name": "effort", "level": "medium"},
    "effort of one, in its pool": {"name": "effort", "level": 1.0, "pool": "main"},
    "probes of no tokens that see nothing": {**PROBED, "hit": 0.0, "probe_tokens": 0},
    "probes that come too late": {**PROBED, "every_tokens": MUCH},
    "a reward model that comes too late": {**PROBED, "every_tokens": MUCH, "verifier_pool": "verifier"},
    "majority of one": {"name": "majority_vote", "samples": 1},
    "majority of one, stopped early": {"name": "majority_vote", "samples": 1, "stop_early": True},
    "group of one": {"name": "group", "samples": 1},
    "group of one in a segment that is never full": {"name": "group", "samples": 1, "segment_tokens": MUCH},
    "routing to one pool": ROUTED,
    "routing of nobody": {**ROUTED, "hard_share": 0.0, "specificity": 1.0},
    "reading that is never over": {**ROUTED, "read_tokens": MUCH, "hard_share": 0.0, "specificity": 1.0},
    "routing with probes that come never": {**ROUTED, "early_exit": "none", "easy_budget": MUCH, "hard_budget": MUCH},
}
QUICK = ("a reward model that comes too late", "reading that is never over", "budget of a load that is never reached")


@pytest.mark.parametrize("workload", SLOWLY)
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_neutral_strategy_changes_nothing(name: str, workload: str) -> None:
    assert differing(plain(workload), simulate(load(scenario(STRATEGIES[name], workload=workload)))) == []


@pytest.mark.parametrize("name", QUICK)
def test_a_neutral_strategy_changes_nothing_in_short(name: str) -> None:
    assert differing(plain("plain"), simulate(load(scenario(STRATEGIES[name])))) == []


ENGINES: dict[str, dict[str, Any]] = {
    **{
        f"{name} that keeps everything": {"kv": {"name": name, "kept_tokens": MUCH}}
        for name in ("r-kv", "snapkv", "h2o")
    },
    "every layer once": {"adaptive_depth": [{"depth": 1.0, "share": 0.7}, {"depth": 0.5, "share": 0.0}]},
}


@pytest.mark.slow
@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("name", ENGINES)
def test_a_neutral_engine_changes_nothing(name: str, workload: str) -> None:
    assert differing(plain(workload), simulate(load(scenario(engine=ENGINES[name], workload=workload)))) == []


@pytest.mark.slow
@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize(
    "quality",
    [
        {"pools": {"main": {"reasoning_scale": 1.0, "answer_scale": 1.0}}},
        {"length_correlation": 0.0},
        {"value_of_correct": 1.0, "cost_of_wrong": 1.0},
    ],
    ids=str,
)
def test_a_neutral_quality_model_changes_nothing(quality: dict[str, Any], workload: str) -> None:
    assert differing(plain(workload), simulate(load(scenario(quality=quality, workload=workload)))) == []


TRACES = {"lookup": "0 s", "recall": 0.0, "false_hit": 0.0}


@pytest.mark.slow
@pytest.mark.parametrize("use", ["answer", "shorten"])
def test_a_trace_cache_that_finds_nothing_at_no_cost_changes_nothing(use: str) -> None:
    found = simulate(load(scenario(workload="recurring", trace_cache={**TRACES, "use": use})))
    assert differing(plain("recurring"), found, but=("trace_cache",)) == []
    assert found.summary["trace_cache"]["hit_rate"] == 0


@pytest.mark.slow
def test_a_latent_step_for_every_token_changes_only_when_a_token_is_seen_first() -> None:
    """No token comes out of a latent step, so that the first one is the answer's."""
    found = simulate(load(scenario(quality={"pools": {"main": {"latent": {"tokens_per_step": 1}}}})))
    assert differing(plain("plain"), found, but=("ttft_s", "first_token_s", "tpot_s")) == []


CHUNKS = {"name": "chunked_reasoning", "quantum_tokens": MUCH}


@pytest.mark.slow
@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("between", ["keep", "recompute"])
def test_chunks_that_are_never_over_change_nothing(between: str, workload: str) -> None:
    """But for a request that lost its replica: it waits by when it first arrived, not by when it was sent again."""
    engine = {"scheduler": {**CHUNKS, "between_chunks": between}}
    found = simulate(load(scenario(engine=engine, workload=workload, **CALM)))
    assert plain(workload, calm=True).summary["totals"]["preemptions"] > 0
    assert differing(plain(workload, calm=True), found) == []


CASCADE = {"name": "cascade", "first_pool": "main", "then_pool": "main", "threshold": -1e9}


@pytest.mark.slow
@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("budget", [{}, {"thinking_token_budget": MUCH}], ids=str)
def test_a_cascade_that_never_escalates_changes_nothing(budget: dict[str, int], workload: str) -> None:
    """But for an answer that fails: the second pool makes up for it, too."""
    found = simulate(load(scenario({**CASCADE, **budget}, workload=workload, **CALM)))
    assert differing(plain(workload, calm=True), found) == []


def once(strategy: Any = "single", **lengths: Any) -> Results:
    """Forty calm queries and no more, however long they take."""
    workload = {**WORKLOADS["plain"], "queries": 40, "lengths": {**LENGTHS, **lengths}}
    return simulate(load({**scenario(strategy, measure={}, **CALM), "workload": workload}))


def generations(results: Results, *, of: int = 0) -> dict[str, bytes]:
    """Columns of the requests that generate sample number *of*, but for their own numbers."""
    requests = results.tables["requests"]
    mine = requests.equals("role", "generate") & (requests["sample"] == of)
    order = np.argsort(requests["query"][mine])
    return {name: array[mine][order].tobytes() for name, array in requests.columns.items() if name != "request"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["best_of_n", "weighted_majority"])
def test_the_best_of_one_is_read_all_the_same(name: str) -> None:
    """The reading takes the verifier's time; generations and answers are those of a plain run."""
    base, found = once(), once({"name": name, "samples": 1, "verifier_pool": "verifier"})
    assert generations(base) == generations(found)
    queries, plain_queries = found.tables["queries"], base.tables["queries"]
    for column in ("correct", "reasoning_tokens", "answer_tokens", "arrived_s"):
        assert queries[column].tobytes() == plain_queries[column].tobytes()
    assert (queries["tta_s"] > plain_queries["tta_s"]).all()
    assert (queries["verification_tokens"] > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["beam", "mcts"])
def test_a_tree_of_one_path_is_a_generation_that_is_read(method: str) -> None:
    """With all reasoning as long as its only step."""
    narrow = {"width": 1, "beam": 1, "depth": 1, "rounds": 1, "step_tokens": 300}
    base = once(reasoning=300)
    found = once({"name": "tree_search", "method": method, "verifier_pool": "verifier", **narrow}, reasoning=300)
    assert generations(base) == generations(found)
    assert found.tables["queries"]["correct"].tobytes() == base.tables["queries"]["correct"].tobytes()


@pytest.mark.slow
def test_a_merge_of_one_answers_what_it_reads() -> None:
    found = once({"name": "parallel_merge", "samples": 1, "effort": 1.0, "merge_effort": 0})
    assert found.tables["queries"]["correct"].tobytes() == once().tables["queries"]["correct"].tobytes()
    assert (found.tables["queries"]["requests"] == 2).all()


@pytest.mark.slow
def test_drafts_that_are_never_right_cost_time_and_change_no_answer() -> None:
    """A draft of no tokens is refused; one of which no token is right is verified all the same."""
    drafts = {"speculative_config": {"num_speculative_tokens": 2, "acceptance": 0.0, "draft_cost": 0.0}}
    workload = {**WORKLOADS["plain"], "queries": 40}
    base, found = (
        simulate(load({**scenario(engine=engine, measure={}, **CALM), "workload": workload}))
        for engine in ({"async_scheduling": False}, drafts)
    )
    for column in ("reasoning_tokens", "answer_tokens", "correct"):
        assert found.tables["queries"][column].tobytes() == base.tables["queries"][column].tobytes()
    assert found.tables["queries"]["tta_s"].mean() > base.tables["queries"]["tta_s"].mean()
    drafts["speculative_config"]["num_speculative_tokens"] = 0
    with pytest.raises(InputError, match="num_speculative_tokens"):
        load(scenario(engine=drafts))
