"""Strategies from end to end: neutral ones change nothing, both engine modes agree, tokens are conserved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sim import load, simulate
from sim.errors import InputError
from sim.rng import Streams
from workloads.quality.judge import Judge

VERIFIER = {"model": "llama-3.1-8b", "hardware": "h100-sxm", "role": "verify"}
LAW = {"accuracy": 0.6, "concentration": 2.0, "wrong_answers": 4}


def scenario(strategy: Any = "single", *, verifier: bool = False, quality: Any = True, **changes: Any) -> Any:
    pools: dict[str, Any] = {
        "main": {
            "model": "llama-3.1-8b",
            "hardware": "h100-sxm",
            "replicas": 2,
            "engine": {"num_gpu_blocks_override": 3000, "max_num_seqs": 64, "max_model_len": 16384},
        }
    }
    if verifier:
        pools["verifier"] = VERIFIER
    data: dict[str, Any] = {
        "name": "small",
        "seed": 3,
        "workload": {
            "arrivals": "poisson",
            "rate": "2/s",
            "lengths": {
                "prompt": {"law": "lognormal", "median": 200, "sigma": 0.8, "min": 16, "max": 2000},
                "reasoning": {"law": "lognormal", "median": 400, "sigma": 0.8, "min": 10, "max": 4000},
                "answer": {"law": "lognormal", "median": 60, "sigma": 0.6, "min": 5, "max": 500},
            },
        },
        "pools": pools,
        "strategy": strategy,
        "measure": {"queries": 40},
    }
    if quality is True:
        quality = {"benchmark": "b", "models": {"any": {"b": LAW}}}
    if quality:
        data["quality"] = quality
    data.update(changes)
    return load(data)


def same(one: Any, two: Any, *, but: tuple[str, ...] = ()) -> None:
    for name in ("queries", "requests", "segments", "stalls"):
        for column, array in one.tables[name].columns.items():
            if column not in but:
                assert array.tobytes() == two.tables[name].columns[column].tobytes(), (name, column)


def test_a_quality_model_changes_nothing_but_what_is_right():
    same(simulate(scenario(quality=None)), simulate(scenario()), but=("correct",))


NEUTRAL = [
    {"name": "majority_vote", "samples": 1},
    {"name": "effort", "level": 1.0},
    {"name": "early_exit", "method": "own", "hit": 0.0, "probe_tokens": 0},
    {"name": "cascade", "first_pool": "main", "then_pool": "main", "threshold": -1e9},
    {"name": "difficulty_routing", "easy_pool": "main", "hard_pool": "main"},
]


@pytest.mark.parametrize("strategy", NEUTRAL, ids=lambda s: s["name"])
def test_a_neutral_strategy_is_one_generation_to_the_last_bit(strategy):
    same(simulate(scenario()), simulate(scenario(strategy)))


MANY = [
    {"name": "majority_vote", "samples": 5, "stop_early": True},
    {"name": "best_of_n", "samples": 4, "verifier_pool": "verifier"},
    {"name": "weighted_majority", "samples": 4, "verifier_pool": "verifier", "reads": "orm"},
    {"name": "tree_search", "verifier_pool": "verifier", "width": 2, "beam": 2, "depth": 3, "step_tokens": 100},
    {"name": "tree_search", "method": "mcts", "verifier_pool": "verifier", "rounds": 5, "width": 2, "depth": 3},
    {"name": "parallel_merge"},
    {"name": "early_exit", "method": "deer"},
    {"name": "effort", "level": "low", "thinking_token_budget": 500, "budget_at_full_load": 50},
    {"name": "cascade", "first_pool": "main", "then_pool": "main"},
    {"name": "difficulty_routing", "easy_pool": "main", "hard_pool": "main", "read_tokens": 80, "hard_share": 0.5},
    {"name": "single", "thinking_token_budget": 300, "forced_answer": False},
]


@pytest.mark.parametrize("strategy", MANY, ids=lambda s: s["name"])
def test_stepwise_equals_fast_forward_and_tokens_are_conserved(strategy):
    made = scenario(strategy, verifier="verifier_pool" in strategy, measure={"queries": 15})
    fast, slow = simulate(made), simulate(made, stepwise=True)  # each checks its balances
    for name in ("queries", "requests"):
        for column, array in fast.tables[name].columns.items():
            assert array.tobytes() == slow.tables[name].columns[column].tobytes(), (name, column)
    assert fast.summary["quality"] == slow.summary["quality"]
    assert fast.summary["quality"]["n"] == 15


IN_PARTS = [
    {"name": "difficulty_routing", "easy_pool": "main", "hard_pool": "main", "read_tokens": 80, "hard_share": 0.5},
    pytest.param(
        {"name": "tree_search", "verifier_pool": "verifier", "width": 2, "beam": 2, "depth": 3, "step_tokens": 100},
        marks=pytest.mark.slow,
    ),
    pytest.param(
        {"name": "early_exit", "method": "own", "every_tokens": 100, "verifier_pool": "verifier"},
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize("strategy", IN_PARTS)
def test_a_part_that_is_lost_with_its_replica_goes_on_where_it_was_to(strategy: dict[str, Any]) -> None:
    options: dict[str, Any] = {"verifier": "verifier_pool" in strategy, "measure": {"queries": 15}}
    calm = simulate(scenario(strategy, **options)).tables["queries"]
    queries = simulate(scenario(strategy, failures={"mtbf": "6 s", "mttr": "1 s"}, **options)).tables["queries"]
    done = queries.equals("status", "completed")
    assert (queries["retries"][done] > 0).sum() >= 3
    for number in np.flatnonzero(done[:15]).tolist():
        assert queries["answer_tokens"][number] >= calm["answer_tokens"][number] > 0


def test_stopping_early_costs_no_accuracy_and_fewer_tokens():
    full, early = (
        simulate(scenario({"name": "majority_vote", "samples": 7, "stop_early": stop}, measure={"queries": 80}))
        for stop in (False, True)
    )
    assert full.summary["quality"]["accuracy"] == early.summary["quality"]["accuracy"]
    spent = [r.summary["quality"]["tokens_per_correct_answer"] for r in (full, early)]
    assert spent[1] < spent[0]
    assert (early.requests["status"] == "cancelled").any()


def test_samples_share_the_prompt_once():
    results = simulate(
        scenario({"name": "majority_vote", "samples": 4}, workload=long_prompts(), measure={"queries": 12})
    )
    requests = results.requests
    first = requests[requests["sample"] == 0]
    others = requests[requests["sample"] > 0]
    assert (others["cached_tokens_first"] >= 1984).mean() > 0.9
    assert (first["cached_tokens_first"] == 0).all()


def long_prompts() -> dict[str, Any]:
    lengths = {"prompt": 2000, "reasoning": 300, "answer": 20}
    return {"arrivals": "constant", "rate": "1/s", "lengths": lengths}


def test_branches_go_on_from_what_is_in_the_cache():
    strategy = {"name": "tree_search", "verifier_pool": "verifier", "width": 2, "beam": 2, "depth": 3}
    results = simulate(scenario(strategy, verifier=True, workload=long_prompts(), measure={"queries": 6}))
    generate = results.requests[results.requests["role"] == "generate"]
    deep = generate[generate["prompt_tokens"] > 2500]
    assert len(deep)
    assert (deep["cached_tokens_first"] > 0.9 * deep["prompt_tokens"]).all()


def test_a_reward_model_reads_the_whole_path_and_finds_what_it_has_read_in_its_cache():
    strategy = {
        "name": "tree_search",
        "verifier_pool": "verifier",
        "width": 2,
        "beam": 2,
        "depth": 3,
        "step_tokens": 100,
    }
    results = simulate(scenario(strategy, verifier=True, workload=long_prompts(), measure={"queries": 6}))
    requests = results.requests[results.requests["status"] == "completed"]
    made, read = (requests[requests["role"] == role] for role in ("generate", "verify"))
    whole = made["prompt_tokens"] + made["reasoning_tokens"] + made["answer_tokens"]
    for query in range(6):  # every path that was grown was read from its prompt to its end
        assert sorted(whole[made["query"] == query]) == sorted(read["prompt_tokens"][read["query"] == query])
    deep = read[read["prompt_tokens"] > 2150]
    assert len(deep) == 6 * 8
    assert (deep["prompt_tokens"] - deep["cached_tokens_first"] <= 150).all()


def test_an_easy_query_goes_on_from_the_tokens_that_were_read():
    """No token is generated twice for it; a hard one pays for the look."""
    base = {
        "name": "difficulty_routing",
        "easy_pool": "main",
        "hard_pool": "main",
        "sensitivity": 1.0,
        "specificity": 1.0,
    }
    plain = simulate(scenario({**base, "hard_share": 0.4}))
    read = simulate(scenario({**base, "hard_share": 0.4, "read_tokens": 100}))
    done = (plain.queries["status"] == "completed") & (read.queries["status"] == "completed")
    total = [(r.queries["reasoning_tokens"] + r.queries["answer_tokens"])[done] for r in (plain, read)]
    extra = (total[1] - total[0]).to_numpy()
    assert set(extra[extra > 0]) <= set(range(1, 101))
    assert 0.2 < (extra > 0).mean() < 0.6
    assert (extra >= 0).all()
    assert (plain.queries["correct"][done] == read.queries["correct"][done]).all()
    going_on = read.requests[(read.requests["prompt_tokens"] > 100 + 16)]
    assert (going_on["cached_tokens_first"] > 0).any()


@pytest.mark.parametrize("name", ["single", "majority_vote", "cascade", "parallel_merge", "effort", "best_of_n"])
def test_budgets_hold_by_category(name):
    budgets = {"short": 50, "default": 300}
    more = {
        "cascade": {"first_pool": "main", "then_pool": "main", "threshold": -1e9},
        "parallel_merge": {"samples": 2, "effort": 1.0, "merge_effort": 0},
        "majority_vote": {"samples": 2},
        "best_of_n": {"samples": 2, "verifier_pool": "verifier"},
    }
    lengths = {"prompt": 100, "reasoning": 500, "answer": 20}
    workload = {
        "arrivals": "constant",
        "rate": "2/s",
        "categories": {"short": {"lengths": lengths}, "long": {"lengths": lengths}},
    }
    strategy = {"name": name, "thinking_token_budget": budgets, **more.get(name, {})}
    made = scenario(strategy, verifier=name == "best_of_n", workload=workload, measure={"queries": 16})
    requests = simulate(made).requests
    requests = requests[(requests["role"] == "generate") & (requests["status"] == "completed")]
    thought = requests[requests["reasoning_tokens"] > 0].groupby("category", observed=True)["reasoning_tokens"]
    assert thought.max().to_dict() == thought.min().to_dict() == {"short": 50, "long": 300}


def test_an_ideal_verifier_beats_majority_and_a_useless_one_does_not():
    accuracy = {}
    for d in (0.0, float("inf")):
        strategy = {"name": "best_of_n", "samples": 6, "verifier_pool": "verifier", "discrimination": d}
        if d:
            strategy["discrimination"] = 1e6
        accuracy[d] = simulate(scenario(strategy, verifier=True, measure={"queries": 150})).summary["quality"]
    vote = simulate(scenario({"name": "majority_vote", "samples": 6}, measure={"queries": 150}))
    single = simulate(scenario(measure={"queries": 150}))
    majority = vote.summary["quality"]["accuracy"]
    assert accuracy[float("inf")]["accuracy"] > majority > accuracy[0.0]["accuracy"] - 0.02
    low, high = accuracy[0.0]["accuracy_ci"]
    assert low < single.summary["quality"]["accuracy"] < high


def test_cost_and_intervals_are_there_and_add_up():
    results = simulate(scenario(measure={"queries": 60, "replications": 2}))
    quality, cost = results.summary["quality"], results.summary["cost"]
    assert quality["n"] == 120
    low, high = quality["accuracy_ci"]
    assert low < quality["accuracy"] < high
    assert quality["cost_per_correct_answer"] > cost["cost_per_query"] > 0
    correct = results.queries["correct"][results.queries["in_window"]]
    assert quality["accuracy"] == pytest.approx(float(np.mean(correct)))


def test_what_a_query_brings_counts_right_and_wrong_answers_and_the_gpus():
    worth = {"value_of_correct": 0.5, "cost_of_wrong": 0.2}
    law = {"benchmark": "b", "models": {"any": {"b": LAW}}}
    results = simulate(scenario(quality={**law, **worth}, measure={"queries": 60}))
    plain = simulate(scenario(quality=law, measure={"queries": 60}))
    assert plain.summary["quality"]["value_per_query"] is None
    cost, run = results.summary["cost"], results.runs[0]
    queries = results.queries
    ended = queries[queries["status"] == "completed"]
    ended = ended[
        (ended["finished_s"] >= run.window_start_ps / 1e12) & (ended["finished_s"] < run.window_end_ps / 1e12)
    ]
    right, n = ended["correct"].sum(), len(ended)
    assert results.summary["quality"]["value_per_query"] == pytest.approx(
        (0.5 * right - 0.2 * (n - right) - cost["total"]) / n
    )
    assert results.summary["quality"]["cost_per_correct_answer"] == pytest.approx(cost["total"] / right)
    from sim.report.text import summary

    said = summary(results, color=False, width=200)
    assert "cost a correct answer" in said
    assert "wrong answers and GPUs paid" in said


def test_probes_save_tokens_and_false_exits_cost_accuracy():
    base = {"name": "early_exit", "method": "own", "every_tokens": 50}
    runs = {
        name: simulate(scenario({**base, **options}, measure={"queries": 150})).summary
        for name, options in {"none": {"hit": 0.0}, "good": {}, "hasty": {"false_exit": 0.3}}.items()
    }
    tokens = {name: run["totals"]["reasoning_tokens"] for name, run in runs.items()}
    right = {name: run["quality"]["accuracy"] for name, run in runs.items()}
    assert tokens["hasty"] < tokens["good"]
    assert right["good"] == right["none"]
    assert right["hasty"] < right["good"] - 0.1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strategy": "majority_vote", "quality": None}, "nothing says which are right"),
        ({"strategy": {"name": "best_of_n", "verifier_pool": "verfier"}, "verifier": True}, "verfier"),
        ({"quality": {"benchmark": "math-5000"}}, "math-500"),
        ({"quality": {"benchmark": "math-500"}}, "no figure of model"),
        ({"quality": {}, "strategy": "single"}, "names no benchmark"),
        ({"strategy": {"name": "majority_vote", "samples": 0}}, "at least 1"),
        *(
            ({"strategy": {"name": "difficulty_routing", "easy_pool": "main", "hard_pool": "main", name: -1}}, name)
            for name in ("delay_s", "read_tokens", "easy_budget", "hard_budget")
        ),
        (
            {"strategy": {"name": "cascade", "first_pool": "main", "then_pool": "main", "discrimination": -1}},
            "discrimination must",
        ),
    ],
)
def test_bad_input_is_said(changes, words):
    if changes.get("quality") == {}:
        changes = {**changes, "quality": {"length_correlation": 0.0}}
    with pytest.raises(InputError, match=words):
        scenario(**changes)


TWO_POOLS = {name: {"model": "llama-3.1-8b", "hardware": "h100-sxm", "replicas": 2} for name in ("main", "large")}


def test_a_classifier_is_right_as_often_as_its_confusion_matrix_says():
    how = {"name": "difficulty_routing", "easy_pool": "main", "hard_pool": "large", "hard_share": 0.3}
    made = scenario({**how, "sensitivity": 0.8, "specificity": 0.9}, pools=TWO_POOLS, measure={"queries": 400})
    results = simulate(made)
    queries = results.queries[results.queries["in_window"]]
    judged = Judge(made.quality, Streams(3), pools=[("main", "llama-3.1-8b")], categories=["all"])
    number = queries["query"].to_numpy()
    hard = judged.easiness(number, np.full(len(number), -1)) < 0.3
    sent = (queries["pool"] == "large").to_numpy()
    assert hard.mean() == pytest.approx(0.3, abs=0.06)
    assert sent[hard].mean() == pytest.approx(0.8, abs=0.09)
    assert sent[~hard].mean() == pytest.approx(0.1, abs=0.05)


def test_a_cascade_buys_accuracy_where_confidence_tells_right_from_wrong():
    """Escalated are mostly wrong answers, so that it is nearly as right as the large model alone."""
    law = {"models": {"any": {"b": LAW, "large": {**LAW, "accuracy": 0.9}}}, "benchmark": "b"}
    quality = {**law, "pools": {"large": {"benchmark": "large"}}}
    accuracy, escalated = {}, {}
    for sharp in (0.0, 3.0):
        how = {"name": "cascade", "first_pool": "main", "then_pool": "large", "threshold": sharp / 2}
        made = scenario({**how, "discrimination": sharp}, quality=quality, pools=TWO_POOLS, measure={"queries": 200})
        results = simulate(made)
        accuracy[sharp] = results.summary["quality"]["accuracy"]
        escalated[sharp] = float((results.queries["requests"] > 1).mean())
    assert accuracy[3.0] > accuracy[0.0] + 0.05
    assert accuracy[3.0] > 0.84
    assert abs(escalated[3.0] - 0.43) < 0.12
    assert abs(escalated[0.0] - 0.5) < 0.1
