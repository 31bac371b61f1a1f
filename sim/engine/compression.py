"""KV compression while a request decodes: how many of its tokens the cache still holds, and what compressing costs.

A request's *computed* tokens are its position; what it *holds* is less, once the cache has been compressed. It is
compressed whenever it comes to a compression point, and holds what is kept then. Points lie at fixed positions, so a request
that is recomputed after a preemption is compressed at the same ones::

    first point = max(prompt, kept + interval), then every interval tokens

Up to its first point a request is like any other. There it gives all its blocks up, shared ones too, and copies what it keeps
into blocks of its own: these have no hash, nobody can share them. While there is no room for the copy, since others hold what
it gives up, the point moves on, a token at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calibration.step_cost import StepCost

PPM = 1_000_000


@dataclass(frozen=True)
class Compression:
    """How the KV cache of each request is compressed; all in tokens."""

    kept_tokens: int
    """Kept at each point, at least."""
    interval_tokens: int
    """From one point to the next."""
    ratio_ppm: int = 0
    """Share of all tokens so far that is kept, in millionths, where that is more; 0: always ``kept_tokens``."""
    recent_tokens: int = 0
    """Of the kept tokens, the last ones: kept whatever they are, and the queries that score the others."""
    passes: int = 0
    """How often a compression reads or writes the request's whole cache."""

    def __post_init__(self) -> None:
        if self.kept_tokens < 1 or self.interval_tokens < 1:
            raise ValueError("a compression keeps at least one token, and has an interval of at least one")
        if not 0 <= self.ratio_ppm <= PPM:
            raise ValueError(f"ratio_ppm must lie between 0 and {PPM}, not {self.ratio_ppm}")
        if not 0 <= self.recent_tokens <= self.kept_tokens:
            raise ValueError("recent_tokens must not be more than kept_tokens")
        if self.passes < 0:
            raise ValueError(f"passes must be at least 0, not {self.passes}")

    def words(self) -> str:
        """What is kept and when, for people."""
        share = f", or {self.ratio_ppm / PPM:.0%} of all where that is more," if self.ratio_ppm else ""
        return f"each request's KV is cut down to {self.kept_tokens:,} tokens{share} every {self.interval_tokens:,}"

    def first_point(self, prompt_tokens: int) -> int:
        """Position at which a request with such a prompt is compressed first."""
        return max(prompt_tokens, self.kept_tokens + self.interval_tokens)

    def kept(self, position: int) -> int:
        """What is kept at a point there."""
        share = position * self.ratio_ppm // PPM
        return share if share > self.kept_tokens else self.kept_tokens

    def peak(self, prompt_tokens: int, tokens: int) -> int:
        """The most that a request ever holds on its way to *tokens*."""
        first = self.first_point(prompt_tokens)
        if tokens <= first:
            return tokens
        interval = self.interval_tokens
        last = first + (tokens - 1 - first) // interval * interval
        before = self.kept(last - interval) + interval if last > first else 0
        return max(first, before, self.kept(last) + tokens - last)

    def work_ps(self, held_tokens: int, cost: StepCost) -> int:
        """Time that one compression of *held_tokens* adds to its step."""
        return held_tokens * (self.passes * cost.kv_ps + 2 * self.recent_tokens * cost.half_pair_ps)
