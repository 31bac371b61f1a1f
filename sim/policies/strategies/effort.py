"""One generation whose length follows an effort level, the category, or the load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from sim.policies.reasoning import Answer, Generate, QueryView, Run, Strategy, TokenBudget, budget_of
from sim.policies.strategies import strategy
from sim.scenario.policy import PerCategory, TokenCount

LEVELS = {"low": 0.53, "medium": 1.0, "high": 1.79}
"""Lengths against medium: 3,465, 6,528 and 11,660 tokens of gpt-5 on Aider polyglot."""


@strategy("effort")
@dataclass(frozen=True)
class Effort(Strategy):
    """Reasoning is *level* times its natural length: ``low``, ``medium``, ``high``, or a number; by category
    with ``default``. Accuracy follows by the saturating law of the quality model.

    With *budget_at_full_load* thinking is cut at that many tokens when as many requests are outstanding as
    there are seats, at *thinking_token_budget* when there are none, and in between in a straight line.
    """

    level: str | float | PerCategory[str | float] = "medium"
    thinking_token_budget: TokenBudget = None
    budget_at_full_load: TokenCount | None = None
    forced_answer: bool = True
    pool: str | None = None

    judged: ClassVar[bool] = True

    def __post_init__(self) -> None:
        levels = self.level.values() if isinstance(self.level, Mapping) else [self.level]
        for level in levels:
            known = level in LEVELS if isinstance(level, str) else level > 0
            if not known:
                raise ValueError(f"level {level!r}: expected low, medium, high or a number above 0")
        if self.budget_at_full_load is not None and self.thinking_token_budget is None:
            raise ValueError("budget_at_full_load needs a thinking_token_budget to start from")

    @property
    def plain(self) -> bool:
        return self.budget_at_full_load is None and self.pool is None

    def length(self, category: str) -> float:
        level = self.level
        if isinstance(level, Mapping):
            level = level.get(category, level.get("default", 1.0))
        return LEVELS[level] if isinstance(level, str) else level

    def budget(self, category: str) -> int | None:
        return budget_of(self.thinking_token_budget, category)

    def forces_answer(self) -> bool:
        return self.forced_answer

    def run(self, query: QueryView) -> Run:
        budget = self.budget(query.category)
        if budget is not None and self.budget_at_full_load is not None:
            share = min(1.0, query.load)
            budget = round(budget + share * (min(self.budget_at_full_load, budget) - budget))
        effort = self.length(query.category)
        outcome = yield Generate(0, self.pool, budget, forced_answer=self.forced_answer, effort=effort)
        return Answer(outcome if outcome.ok else None)
