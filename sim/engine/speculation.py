"""Speculative decoding: a draft is verified in one step, and what of it is right comes all at once.

A decode computes its own token and a draft of up to ``draft_tokens`` more; of the draft it keeps the tokens before the first
wrong one. Each token of a draft is right with a given probability, drawn from (seed, query, sample, position) alone: a request
faces the same luck wherever and whenever it runs. Slots for the draft are taken like tokens, and wrong tokens are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calibration.step_cost import StepCost
    from sim.engine.request import Request

PPM = 1_000_000
_WORD = (1 << 64) - 1


@dataclass(frozen=True)
class Speculation:
    """How drafts are made, and how often they are right."""

    draft_tokens: int
    """Tokens of a draft."""
    acceptance: float
    """Probability that a token of the draft is right, if those before it are."""
    draft_ppm: int = 0
    """A draft token's time, in millionths of the target's time for one token of the same batch, context aside."""
    seed: int = 0

    _below: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.draft_tokens < 1:
            raise ValueError(f"draft_tokens must be at least 1, not {self.draft_tokens}")
        if not 0 <= self.acceptance <= 1:
            raise ValueError(f"acceptance must lie between 0 and 1, not {self.acceptance}")
        if self.draft_ppm < 0:
            raise ValueError(f"draft_ppm must be at least 0, not {self.draft_ppm}")
        chances = (self.acceptance**count for count in range(1, self.draft_tokens + 1))
        object.__setattr__(self, "_below", tuple(int(chance * 2.0**64) for chance in chances))

    def accepted(self, request: Request) -> int:
        """Tokens of a whole draft behind the known tokens of *request* that are right."""
        owner = request.query if request.query >= 0 else ~request.id
        word = _mix(_mix(_mix(_mix(self.seed) ^ (owner & _WORD)) ^ request.sample) ^ request.known)
        count = 0
        for limit in self._below:
            if word >= limit:
                break
            count += 1
        return count

    def draft_ps(self, decodes: int, cost: StepCost) -> int:
        """Time that the drafts of *decodes* sequences add to a step."""
        if not decodes:
            return 0
        return self.draft_tokens * (cost.host_ps + cost.linear(decodes)) * self.draft_ppm // PPM


def _mix(word: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every bit depends on every bit."""
    word = (word + 0x9E3779B97F4A7C15) & _WORD
    word = ((word ^ word >> 30) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ word >> 27) * 0x94D049BB133111EB) & _WORD
    return word ^ word >> 31
