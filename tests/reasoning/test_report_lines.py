"""Each strategy, and each thing that changes how queries are answered, has a line in the report."""

from __future__ import annotations

from typing import Any

import pytest
from short_run import POOL, run

from sim.report.answering import lines
from sim.report.page import page
from sim.report.text import summary

MAIN = {"first_pool": "main", "then_pool": "main"}


def engine(**settings: Any) -> dict[str, Any]:
    return {"pools": {"main": {**POOL, "engine": {**POOL["engine"], **settings}}}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strategy": {"name": "majority_vote", "samples": 3}}, "Strategy majority_vote: 3 requests a query"),
        ({"strategy": {"name": "cascade", **MAIN}}, "Strategy cascade: 1."),
        ({"strategy": {"name": "single", "thinking_token_budget": 200}}, "of queries cut by a limit or budget"),
        ({"strategy": "early_exit"}, "of the reasoning kept"),
        ({"latent": {"tokens_per_step": 8}}, "one for 8 tokens, each at a position of its own"),
        ({"depth": [{"depth": 0.5, "share": 0.4}]}, "runs 80 % of its layers a token"),
        (engine(speculative_config={"num_speculative_tokens": 3, "acceptance": 0.7}), "of drafted tokens kept"),
        (
            engine(max_num_seqs=2, scheduler={"name": "chunked_reasoning", "quantum_tokens": 64}),
            "of requests interrupted",
        ),
        (engine(kv={"name": "r-kv", "kept_tokens": 512}), "by r-kv to 512 tokens"),
    ],
)
def test_a_line_each(changes: dict[str, Any], words: str) -> None:
    results = run(**changes)
    assert any(words in line for line in lines(results)), lines(results)
    assert page(results).lines == lines(results)
    assert " ".join(lines(results)[-1].split()[:4]) in summary(results, color=False, width=300)


def test_lines_stand_in_page_and_terminal() -> None:
    drafts = {"speculative_config": {"num_speculative_tokens": 3, "acceptance": 0.7}}
    results = run(**engine(**drafts), strategy="early_exit")
    strategy, exits, drafted = page(results).lines
    assert strategy.startswith("Strategy early_exit: 1 requests a query")
    assert "of the reasoning kept" in exits
    assert "of drafted tokens kept" in drafted
    assert all(line in summary(results, color=False, width=400) for line in (strategy, exits, drafted))


def test_nothing_where_nothing_is_to_be_said() -> None:
    assert lines(run()) == []


@pytest.mark.slow
def test_the_figures_of_drafts_are_those_of_their_law() -> None:
    """Drafts of one token, right with certainty: two tokens a step, all drafts kept; never right: one, none kept."""
    for acceptance, tokens in ((1.0, 2.0), (0.0, 1.0)):
        drafts = {"num_speculative_tokens": 1, "acceptance": acceptance}
        figures = run(**engine(speculative_config=drafts)).summary["reasoning"]["pools"]["main"]
        assert figures["tokens_per_decode"] == pytest.approx(tokens, abs=0.01)
        kept = figures["drafts_kept_share"]  # what is drafted beyond the last token is dropped
        assert kept == pytest.approx(1.0, abs=0.01) if acceptance else kept is None
