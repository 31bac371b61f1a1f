"""One generation whose reasoning ends when a probe sees that it has settled on its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from sim.policies.reasoning import Answer, Generate, Outcome, Parallel, Probes, QueryView, Run, Strategy, Verify
from sim.policies.strategies import strategy
from sim.scenario.policy import TokenCount

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

    The tokens of a probe are decoded behind the chain so far and rolled back: their KV blocks are freed and the chain goes on
    where it stood. With *verifier_pool* a process reward model there reads the chain instead, while the chain goes on; its
    verdict takes the tokens back that came meanwhile. A false exit, before the chain has settled, costs accuracy; a miss costs
    tokens.
    """

    method: Literal["deer", "dynasor", "own"] = "deer"
    every_tokens: int = 256
    probe_tokens: int = 12
    hit: float = 1.0
    false_exit: float = 0.0
    thinking_token_budget: TokenCount | None = None
    pool: str | None = None
    verifier_pool: str | None = None
    """Pool of the model that reads the chain every so many tokens; default: the model is asked itself, by probe tokens."""

    judged: ClassVar[bool] = True
    looks_at_load: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.every_tokens < 1 or self.probe_tokens < 0:
            raise ValueError("every_tokens must be at least 1, probe_tokens at least 0")
        if not (0 <= self.hit <= 1 and 0 <= self.false_exit <= 1):
            raise ValueError("hit and false_exit must lie between 0 and 1")

    def probes(self) -> Probes:
        """What is looked at, when, and how well."""
        own = Probes(self.every_tokens, self.probe_tokens, self.hit, self.false_exit)
        return PRESETS.get(self.method, own)

    def probes_in_line(self) -> Probes | None:
        probes = self.probes()
        return probes if probes.probe_tokens and self.verifier_pool is None else None

    def run(self, query: QueryView) -> Run:
        if self.verifier_pool is not None:
            return (yield from self._with_verifier(self.verifier_pool))
        outcome = yield Generate(0, self.pool, self.thinking_token_budget, probes=self.probes())
        return Answer(outcome if outcome.ok else None)

    def _with_verifier(self, verifier_pool: str) -> Run:
        """The chain pauses every so many tokens, is read, and goes on meanwhile."""
        probes, budget, made = self.probes(), self.thinking_token_budget, 0
        chunk = yield Generate(0, self.pool, budget, pause_tokens=probes.every_tokens)
        while chunk.ok and chunk.paused and not chunk.answer_tokens:
            made += chunk.reasoning_tokens
            going = Generate(0, self.pool, budget, pause_tokens=probes.every_tokens, made_tokens=made)
            reading = Verify(chunk, verifier_pool, with_reasoning=True, settled=probes)
            chunk, verdict = yield Parallel((going, reading), enough=_settled)
            if _settled((chunk, verdict)) and not (chunk.ok and not chunk.paused):
                chunk = yield Generate(0, self.pool, made, made_tokens=made, leaves=True)
        if chunk.ok and chunk.paused:
            made += chunk.reasoning_tokens + chunk.answer_tokens
            chunk = yield Generate(0, self.pool, budget, made_tokens=made)
        return Answer(chunk if chunk.ok else None)


def _settled(outcomes: Sequence[Outcome | None]) -> bool:
    """The verdict, which comes last, says that the chain has settled."""
    verdict = outcomes[-1]
    return verdict is not None and verdict.ok and verdict.score == 1.0
