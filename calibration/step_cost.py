"""What one engine step costs, in integer picoseconds.

A step that computes ``T`` tokens for ``B`` sequences, whose decodes read ``K`` context tokens in all and
whose prefill chunks compute ``n`` new tokens on ``c`` cached ones each, takes::

    host + linear(T) + seq·B + kv·K + half_pair·Σ(n² + 2nc) + cached·Σc
         + mixed·decodes, beside a prefill chunk

``linear`` is a monotone table: it *is* the roofline, flat while weights are read and rising once compute
binds. ``K`` and ``c`` count tokens computed before the step; a sequence with one scheduled token counts as a
decode. Every coefficient is rounded to an integer once, so ``k`` decode steps one by one and in closed form
are equal to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class StepCost:
    """Integer cost of a step; see the module's formula for each coefficient (all in picoseconds)."""

    host_ps: int
    """A step, whatever is in it."""
    linear_ps: tuple[int, ...]
    """``linear(T)`` for T = 0, 1, 2, …; beyond the table it goes on with ``linear_slope_ps`` a token."""
    linear_slope_ps: int
    """A token beyond the table."""
    seq_ps: int = 0
    """A sequence in the step."""
    kv_ps: int = 0
    """A context token read by a decode."""
    half_pair_ps: int = 0
    """Half a (query, key) pair of a prefill chunk: multiplies n² + 2nc."""
    cached_ps: int = 0
    """A cached token under a prefill chunk."""
    mixed_ps: int = 0
    """A decode that shares its step with a prefill chunk."""

    _last: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.linear_ps:
            raise ValueError("linear_ps must hold at least linear(0)")
        object.__setattr__(self, "_last", len(self.linear_ps) - 1)

    def linear(self, tokens: int) -> int:
        """Cost of the part that depends on the number of tokens alone."""
        if tokens <= self._last:
            return self.linear_ps[tokens]
        return self.linear_ps[-1] + self.linear_slope_ps * (tokens - self._last)

    def decode_ps(self, batch: int, context: int) -> int:
        """One step of *batch* decodes that read *context* tokens in all."""
        return self.host_ps + self.linear(batch) + self.seq_ps * batch + self.kv_ps * context

    def decode_growth_ps(self, batch: int) -> int:
        """By how much each further step of an unchanged decode batch is longer than the one before."""
        return self.kv_ps * batch

    def step_ps(
        self,
        *,
        decodes: int,
        context: int,
        chunks: int,
        chunk_tokens: int,
        pairs: int,
        cached: int,
        drafted: int = 0,
    ) -> int:
        """One step of *decodes* reading *context* tokens beside *chunks* of prefill, and *drafted* tokens that are verified.

        *chunk_tokens* is Σn, *pairs* Σ(n² + 2nc), *cached* Σc over the chunks.
        """
        cost = (
            self.host_ps
            + self.linear(decodes + drafted + chunk_tokens)
            + self.seq_ps * (decodes + chunks)
            + self.kv_ps * context
        )
        if chunks:
            cost += self.half_pair_ps * pairs + self.cached_ps * cached + self.mixed_ps * decodes
        return cost
