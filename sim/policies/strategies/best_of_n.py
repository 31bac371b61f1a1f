"""Several answers, each read by a verifier, and the one with the best score."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from sim.policies.reasoning import (
    Answer,
    Call,
    Outcome,
    Parallel,
    QueryView,
    Run,
    Samples,
    Strategy,
    TokenBudget,
    Verify,
    budget_of,
    generation,
)
from sim.policies.strategies import strategy


@strategy("best_of_n")
@dataclass(frozen=True)
class BestOfN(Strategy):
    """*samples* answers in parallel; a model of *verifier_pool* reads each one and scores it.

    Which one is taken follows from simulated scores: normal, and *discrimination* standard deviations higher
    for right answers. 0.55 gives what the ORM of the article's MATH-500 row does with 16 samples, 0.80 its
    PRM. A process reward model (``prm``) reads the chain of thought, an outcome reward model the answer only.
    """

    verifier_pool: str
    samples: Samples = 8
    discrimination: float = 0.8
    reads: Literal["orm", "prm"] = "prm"
    thinking_token_budget: TokenBudget = None
    pool: str | None = None

    judged: ClassVar[bool] = True
    looks_at_load: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError("samples must be at least 1")
        if self.discrimination < 0:
            raise ValueError("discrimination must be at least 0")

    def run(self, query: QueryView) -> Run:
        scored = yield from scores(self, query)
        best = max(scored, key=lambda pair: pair[1], default=(None, 0.0))
        return Answer(best[0])


def scores(how: BestOfN, query: QueryView) -> Generator[Call, Any, list[tuple[Outcome, float]]]:
    """Generate and verify; the answers with their scores."""
    budget = budget_of(how.thinking_token_budget, query.category)
    outcomes = yield Parallel(tuple(generation(number, how.pool, budget) for number in range(how.samples)))
    answered = [outcome for outcome in outcomes if outcome.ok]
    if not answered:
        return []
    verdicts = yield Parallel(
        tuple(
            Verify(
                outcome,
                how.verifier_pool,
                with_reasoning=how.reads == "prm",
                discrimination=how.discrimination,
            )
            for outcome in answered
        )
    )
    return [
        (outcome, verdict.score if verdict.ok and verdict.score is not None else float("-inf"))
        for outcome, verdict in zip(answered, verdicts, strict=True)
    ]
