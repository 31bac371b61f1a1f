"""Hard queries to the reasoning pool, the others to the standard one, as a classifier sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from sim.policies.reasoning import (
    Answer,
    Classify,
    Generate,
    Outcome,
    Probes,
    QueryView,
    Run,
    Strategy,
    Wait,
    generation,
)
from sim.policies.strategies import strategy
from sim.policies.strategies.early_exit import PRESETS


@strategy("difficulty_routing")
@dataclass(frozen=True)
class DifficultyRouting(Strategy):
    """The hardest *hard_share* of the queries belong to *hard_pool*, the rest to *easy_pool*.

    The classifier sends a hard query there with probability *sensitivity* and an easy one away from it with
    probability *specificity*, after *delay_s*. With *read_tokens* it looks at the first tokens that the easy
    pool's model writes: an easy query goes on from them, a hard one starts anew.
    """

    easy_pool: str
    hard_pool: str
    hard_share: float = 0.2
    sensitivity: float = 0.85
    specificity: float = 0.9
    delay_s: float = 0.0
    read_tokens: int = 0
    easy_budget: int | None = None
    """Thinking-token budget of queries taken for easy."""
    hard_budget: int | None = None
    early_exit: Literal["none", "deer", "dynasor"] = "none"
    """Probes of the reasoning of queries taken for hard, as in ``early_exit``."""

    judged: ClassVar[bool] = True
    looks_at_load: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("hard_share", "sensitivity", "specificity"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1")
        for name in ("delay_s", "read_tokens", "easy_budget", "hard_budget"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} must be at least 0")

    def probes_in_line(self) -> Probes | None:
        return PRESETS.get(self.early_exit)

    def run(self, query: QueryView) -> Run:
        if self.delay_s > 0:
            yield Wait(self.delay_s)
        first: Outcome | None = None
        if self.read_tokens > 0:
            first = yield Generate(0, self.easy_pool, self.easy_budget, pause_tokens=self.read_tokens)
            if not first.ok:
                return Answer(None)
        hard = yield Classify(self.hard_share, self.sensitivity, self.specificity)
        if hard:
            probes = PRESETS.get(self.early_exit)
            if probes is None:
                outcome = yield generation(0, self.hard_pool, self.hard_budget)
            else:
                outcome = yield Generate(0, self.hard_pool, self.hard_budget, probes=probes)
        elif first is None:
            outcome = yield generation(0, self.easy_pool, self.easy_budget)
        elif first.paused:
            made = first.reasoning_tokens + first.answer_tokens
            outcome = yield Generate(0, self.easy_pool, self.easy_budget, made_tokens=made)
        else:
            outcome = first
        return Answer(outcome if outcome.ok else None)
