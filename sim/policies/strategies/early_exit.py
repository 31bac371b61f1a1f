"""One generation whose reasoning ends when a probe sees that it has settled on its answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from sim.policies.reasoning import Answer, Generate, Probes, QueryView, Run, Strategy
from sim.policies.strategies import strategy

PRESETS = {
    "deer": Probes(every_tokens=256, probe_tokens=12, hit=0.55, false_exit=0.01),
    "dynasor": Probes(every_tokens=64, probe_tokens=20, hit=0.12, false_exit=0.002),
}
"""Guesses, not fitted to the savings that the papers report; `workloads.quality.exits` compares DEER's.
DEER keeps 55 to 72 % of R1-Distill-Qwen-7B's tokens
at equal or better accuracy (digest of arXiv 2504.15895); Dynasor asks often and leaves after several equal
answers in a row, here a low chance a probe."""


@strategy("early_exit")
@dataclass(frozen=True)
class EarlyExit(Strategy):
    """Reasoning is probed every so many tokens (*method*, or your own figures) and left when a probe says so.

    Probe tokens are decoded in line. A false exit, before the chain has settled, costs accuracy; a miss costs
    tokens.
    """

    method: Literal["deer", "dynasor", "own"] = "deer"
    every_tokens: int = 256
    probe_tokens: int = 12
    hit: float = 1.0
    false_exit: float = 0.0
    thinking_token_budget: int | None = None
    pool: str | None = None

    judged: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.every_tokens < 1 or self.probe_tokens < 0:
            raise ValueError("every_tokens must be at least 1, probe_tokens at least 0")
        if not (0 <= self.hit <= 1 and 0 <= self.false_exit <= 1):
            raise ValueError("hit and false_exit must lie between 0 and 1")

    def probes(self) -> Probes:
        """What is looked at, when, and how well."""
        own = Probes(self.every_tokens, self.probe_tokens, self.hit, self.false_exit)
        return PRESETS.get(self.method, own)

    def run(self, query: QueryView) -> Run:
        outcome = yield Generate(0, self.pool, self.thinking_token_budget, probes=self.probes())
        return Answer(outcome if outcome.ok else None)
