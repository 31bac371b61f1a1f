"""Several answers to one prompt, all of them wanted: a group of a reinforcement-learning rollout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sim.policies.reasoning import Answer, Generate, NextStep, Outcome, Parallel, QueryView, Run, Samples, Strategy
from sim.policies.strategies import strategy
from sim.scenario.policy import TokenCount


@strategy("group")
@dataclass(frozen=True)
class Group(Strategy):
    """*samples* answers in parallel, to the end of the last one; arrivals ``process: rollout`` make steps of them.

    With *segment_tokens* an answer pauses after so many tokens and goes on in the next training step (a partial
    rollout), its tokens read again under the new weights. With a quality model the query is as right as its first
    sample: accuracy is pass@1.
    """

    samples: Samples = 8
    segment_tokens: int | None = None
    thinking_token_budget: TokenCount | None = None
    pool: str | None = None

    looks_at_load: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError("samples must be at least 1")
        if self.segment_tokens is not None and self.segment_tokens < 1:
            raise ValueError("segment_tokens must be at least 1")

    def run(self, query: QueryView) -> Run:
        made = [0] * self.samples
        last: list[Outcome | None] = [None] * self.samples
        going = list(range(self.samples))
        while going:
            outcomes = yield Parallel(
                tuple(
                    Generate(
                        number,
                        self.pool,
                        self.thinking_token_budget,
                        pause_tokens=self.segment_tokens,
                        made_tokens=made[number],
                    )
                    for number in going
                )
            )
            still = []
            for number, outcome in zip(going, outcomes, strict=True):
                last[number] = outcome
                made[number] += outcome.reasoning_tokens + outcome.answer_tokens
                if outcome.ok and outcome.paused:
                    still.append(number)
            going = still
            if going:
                yield NextStep()
        return Answer(next((outcome for outcome in last if outcome is not None and outcome.ok), None))
