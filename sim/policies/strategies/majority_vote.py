"""Several answers, and the one that most agree on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from sim.policies.reasoning import (
    Answer,
    Outcome,
    Parallel,
    QueryView,
    Run,
    Samples,
    Strategy,
    TokenBudget,
    budget_of,
    generation,
)
from sim.policies.strategies import strategy


@strategy("majority_vote")
@dataclass(frozen=True)
class MajorityVote(Strategy):
    """Self-consistency: *samples* answers in parallel, the most frequent one wins, a tie is drawn fairly.

    With *stop_early* the rest is cancelled as soon as no tie is possible any more: the accuracy is the same.
    """

    samples: Samples = 8
    stop_early: bool = False
    thinking_token_budget: TokenBudget = None
    """Of each sample: one number, or by category (with ``default``)."""
    pool: str | None = None

    judged: ClassVar[bool] = True
    looks_at_load: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError("samples must be at least 1")

    def run(self, query: QueryView) -> Run:
        budget = budget_of(self.thinking_token_budget, query.category)
        calls = tuple(generation(number, self.pool, budget) for number in range(self.samples))
        outcomes = yield Parallel(calls, enough=decided if self.stop_early else None)
        return Answer(plurality(outcomes, query.coin))


def plurality(outcomes: Sequence[Outcome], coin: float, weights: Sequence[float] | None = None) -> Outcome | None:
    """The first outcome that gives the answer with the most votes (or weight); ties are drawn by *coin*."""
    votes: dict[int, float] = {}
    first: dict[int, Outcome] = {}
    for place, outcome in enumerate(outcomes):
        if outcome.ok and outcome.answer is not None:
            votes[outcome.answer] = votes.get(outcome.answer, 0) + (weights[place] if weights else 1)
            first.setdefault(outcome.answer, outcome)
    if not votes:
        return next((outcome for outcome in outcomes if outcome.ok), None)
    most = max(votes.values())
    leaders = sorted(answer for answer, count in votes.items() if count == most)
    return first[leaders[int(coin * len(leaders))]]


def decided(outcomes: Sequence[Outcome | None]) -> bool:
    """No answer can catch up with the leader, not even to a tie."""
    votes: dict[int, int] = {}
    open_calls = 0
    for outcome in outcomes:
        if outcome is None:
            open_calls += 1
        elif outcome.ok and outcome.answer is not None:
            votes[outcome.answer] = votes.get(outcome.answer, 0) + 1
    first = second = 0
    for count in votes.values():
        if count > first:
            first, second = count, first
        elif count > second:
            second = count
    return first > second + open_calls
