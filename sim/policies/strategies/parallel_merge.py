"""Several chains of thought side by side, and one that reads their answers and writes the final one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sim.policies.reasoning import Answer, Generate, Parallel, QueryView, Run, Samples, Strategy, TokenBudget, budget_of
from sim.policies.strategies import strategy


@strategy("parallel_merge")
@dataclass(frozen=True)
class ParallelMerge(Strategy):
    """*samples* chains at once, each *effort* times as long as a single one would be; a last call reads
    their answers and thinks *merge_effort* times as long. It answers what most of them do; where several
    answers lead it sides with its own, if that is among them.
    """

    samples: Samples = 4
    effort: float = 0.5
    merge_effort: float = 0.1
    thinking_token_budget: TokenBudget = None
    pool: str | None = None

    judged: ClassVar[bool] = True
    looks_at_load: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.samples < 1 or self.effort <= 0 or self.merge_effort < 0:
            raise ValueError("samples must be at least 1, effort above 0, merge_effort at least 0")

    def run(self, query: QueryView) -> Run:
        budget = budget_of(self.thinking_token_budget, query.category)
        outcomes = yield Parallel(
            tuple(Generate(number, self.pool, budget, effort=self.effort) for number in range(self.samples))
        )
        read = tuple(outcome for outcome in outcomes if outcome.ok)
        if not read:
            return Answer(None)
        merged = yield Generate(self.samples, self.pool, effort=self.merge_effort, reads=read)
        return Answer(merged if merged.ok else read[0])
