"""Runs every table of the article and puts them together: what ``thinkcap reproduce`` prints and draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sim.errors import InputError, Problem, nearest
from sim.validation.article import (
    compute,
    memory,
    recommendations,
    serving,
    thinking,
    tokens,
    training,
    verification,
)
from sim.validation.article.cases import Case, Ran
from sim.validation.article.rows import Table

if TYPE_CHECKING:
    from sim.planning.runs import Runner

SCHEMA_VERSION = 1

MADE: dict[str, tuple[tuple[Case, ...], Callable[[Ran], Table]]] = {
    "serving_configurations": (serving.CASES, serving.table),
    "recommendations": ((*recommendations.CASES, *tokens.CASES), recommendations.table),
    "kv_cache": (memory.CASES, memory.table),
    "tokens_per_query": (tokens.CASES, tokens.table),
    "verification_math500": (verification.cases(), verification.table),
    "majority_vote_p06": (verification.cases(), verification.vote_table),
    "compute_equivalent_math500": (compute.CASES, compute.table),
    "accuracy_gain_per_range_math500": (thinking.CASES, thinking.budget_table),
    "aime_2024": (thinking.CASES, thinking.aime_table),
    "chain_of_thought_palm_540b": (thinking.CASES, thinking.chain_table),
    "training_for_reasoning": ((), lambda _: training.table()),
}
"""By table: what it needs run, and how it is made."""


def reproduce(runner: Runner, *, only: Sequence[str] = (), quick: bool = False) -> dict[str, Any]:
    """The tables named in *only* (default: all), simulated by *runner*; raise an InputError for an unknown name.

    *quick* measures a few queries of each case: a look at the page, no evidence.
    """
    wrong = [name for name in only if name not in MADE]
    if wrong:
        raise InputError(
            [
                Problem(f"unknown table {name!r}", key="--only", expected=", ".join(MADE), nearest=nearest(name, MADE))
                for name in wrong
            ]
        )
    chosen = [name for name in MADE if not only or name in only]
    cases = {case.name: case for name in chosen for case in _needed(name)}
    ran = Ran(list(cases.values()), runner, quick=quick)
    tables = [MADE[name][1](ran).plain() for name in chosen]
    rows = [row for table in tables for row in table["rows"]]
    verdicts = sorted({row["verdict"] for row in rows})
    return {
        "schema_version": SCHEMA_VERSION,
        "quick": quick,
        "points": sum(len(tasks) for tasks in ran.tasks.values()),
        "verdicts": {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in verdicts},
        "tables": tables,
    }


def _needed(name: str) -> Sequence[Case]:
    cases, _ = MADE[name]
    start = {"verification_math500": "verification/", "majority_vote_p06": "vote/", "aime_2024": "aime/",
             "accuracy_gain_per_range_math500": "budget/", "chain_of_thought_palm_540b": "chain/"}.get(name, "")  # fmt: skip
    return [case for case in cases if case.name.startswith(start)]
