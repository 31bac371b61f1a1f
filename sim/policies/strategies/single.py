"""One generation a query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sim.policies.reasoning import Answer, Generate, QueryView, Run, Strategy, TokenBudget, budget_of
from sim.policies.strategies import strategy


@strategy("single")
@dataclass(frozen=True)
class Single(Strategy):
    """One generation a query, its reasoning cut at the budget where there is one."""

    thinking_token_budget: TokenBudget = None
    """Reasoning tokens after which the answer is forced: one number, or by category (with ``default``)."""

    forced_answer: bool = True
    """At the budget the answer is forced; False: the generation ends there, without an answer."""

    looks_at_load: ClassVar[bool] = False

    @property
    def plain(self) -> bool:
        return True

    def budget(self, category: str) -> int | None:
        return budget_of(self.thinking_token_budget, category)

    def forces_answer(self) -> bool:
        return self.forced_answer

    def run(self, query: QueryView) -> Run:
        outcome = yield Generate(thinking_token_budget=self.budget(query.category), forced_answer=self.forced_answer)
        return Answer(outcome if outcome.ok else None)
