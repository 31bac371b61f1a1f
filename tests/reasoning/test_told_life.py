"""What `thinkcap explain` tells of queries that are answered in another way than by one plain generation."""

from __future__ import annotations

from typing import Any

import pytest
from short_run import POOL, run

from sim.cli.explain import explain
from sim.results.results import Results


def told(results: Results) -> str:
    return "\n".join(line for query in range(8) for line in explain(results, query))


def recurring(**cache: Any) -> Results:
    lengths = {"prompt": 300, "reasoning": 200, "answer": 40}
    workload = {
        "arrivals": "poisson",
        "rate": "0.2/s",
        "queries": 8,
        "lengths": lengths,
        "recurrence": {"problems": 2},
    }
    return run(workload=workload, trace_cache={"recall": 1.0, "false_hit": 0.0, **cache})


@pytest.mark.slow
def test_a_chain_that_is_read_on_the_way_has_paused_and_was_not_cut() -> None:
    routed = {"name": "difficulty_routing", "easy_pool": "main", "hard_pool": "main", "read_tokens": 50}
    words = told(run(strategy=routed))
    assert "paused there for its strategy" in words
    assert "cut by a limit" not in words
    cut = told(run(strategy={"name": "single", "thinking_token_budget": 50}))
    assert "cut by a limit" in cut
    assert "paused" not in cut


@pytest.mark.slow
def test_latent_steps_are_thought_before_the_first_token() -> None:
    words = told(run(latent={"tokens_per_step": 8}))
    assert "latent steps until" in words
    assert "thought from then" not in words


@pytest.mark.slow
def test_tokens_that_come_together_are_no_standing_still() -> None:
    drafts = {**POOL, "engine": {"speculative_config": {"num_speculative_tokens": 4, "acceptance": 0.9}}}
    results = run(pools={"main": drafts}, rate="0.05/s")
    assert len(results.tables["stalls"])
    assert "stood still" not in told(results)


@pytest.mark.slow
def test_a_look_up_is_told() -> None:
    words = told(recurring())
    assert "which held nothing for it" in words
    assert "which held the trace of its problem" in words
    assert "no request was made for it" in words
    assert "trace cache" not in told(run())


@pytest.mark.slow
def test_a_cost_shared_by_few_is_said() -> None:
    lengths = {"prompt": 300, "reasoning": 600, "answer": 40}  # between four and five seconds
    workload = {"arrivals": "constant", "rate": "1/s", "queries": 30, "lengths": lengths}

    def found(duration: str) -> list[str]:
        summary = run(workload=workload, measure={"duration": duration}).summary
        assert summary["cost"]["basis"] == "window"
        return [each["name"] for each in summary["anomalies"]]

    assert "cost_of_few" in found("8 s")
    assert "cost_of_few" not in found("20 s")
