"""A small model first; a larger one where the small one is not sure of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sim.policies.reasoning import Answer, Confidence, QueryView, Run, Strategy, TokenBudget, budget_of, generation
from sim.policies.strategies import strategy


@strategy("cascade")
@dataclass(frozen=True)
class Cascade(Strategy):
    """*first_pool* answers; where its confidence is below *threshold*, *then_pool* answers from the start.

    Confidence is normal, *discrimination* standard deviations higher for right answers (1.0: an area under
    the ROC curve of 0.76); a threshold of half of that escalates right and wrong answers alike often wrongly.
    """

    first_pool: str
    then_pool: str
    threshold: float = 0.5
    discrimination: float = 1.0
    thinking_token_budget: TokenBudget = None
    """Of the first answer: one number, or by category (with ``default``)."""

    judged: ClassVar[bool] = True
    looks_at_load: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.discrimination < 0:
            raise ValueError("discrimination must be at least 0")

    def run(self, query: QueryView) -> Run:
        first = yield generation(0, self.first_pool, budget_of(self.thinking_token_budget, query.category))
        if first.ok:
            sure = yield Confidence(first, self.discrimination)
            if sure.score >= self.threshold:
                return Answer(first)
        then = yield generation(1, self.then_pool)
        if then.ok:
            return Answer(then)
        return Answer(first if first.ok else None)
