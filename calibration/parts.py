"""The two halves of a step's cost, in seconds, and how they make one integer :class:`StepCost`.

The *hardware* half is what the GPUs do: kernels and links, a function of GPU, model, parallelism and number
format. The *engine* half is what the serving software adds: host time a step, gaps between kernels a layer,
work a row, more in a step that mixes prefill with decode, and the front end outside the step. They are
measured apart and stored apart, so that a new engine version needs no new kernel measurements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from calibration.step_cost import StepCost

PS = 10**12


@dataclass(frozen=True)
class HardwareCost:
    """Seconds of kernels in a step: ``linear(T) + seq·B + kv·K + pair·Σ(n²/2 + nc) + cached·Σc``."""

    tokens: tuple[int, ...]
    """Knots of ``linear``, increasing, the first at 1."""
    linear_s: tuple[float, ...]
    """``linear`` at the knots, never falling; straight between them and past the last."""
    kv_s: float
    pair_s: float
    cached_s: float = 0.0
    seq_s: float = 0.0

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.linear_s) or len(self.tokens) < 2:
            raise ValueError("linear needs at least two knots, each with a time")
        if any(b <= a for a, b in zip(self.tokens, self.tokens[1:], strict=False)):
            raise ValueError("knots must increase")
        if any(b < a for a, b in zip(self.linear_s, self.linear_s[1:], strict=False)):
            raise ValueError("linear must never fall")

    def linear(self, tokens: float | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """``linear`` at *tokens*, straight past the last knot."""
        knots, times = np.asarray(self.tokens, float), np.asarray(self.linear_s)
        at = np.asarray(tokens, float)
        inside = np.interp(at, knots, times)
        beyond = times[-1] + self.slope_s * (at - knots[-1])
        out: npt.NDArray[np.float64] = np.where(at > knots[-1], beyond, inside)
        return out

    @property
    def slope_s(self) -> float:
        """Seconds a token past the last knot: the steepest mean slope to it, so that rare noise does not
        flatten it."""
        knots, times = np.asarray(self.tokens, float), np.asarray(self.linear_s)
        wide = max(0, int(np.searchsorted(knots, knots[-1] / 2)) - 1)
        return float((times[-1] - times[wide]) / (knots[-1] - knots[wide]))

    def sustained(self, share: float) -> HardwareCost:
        """The same cost where computing keeps only *share* of its rate: what ``linear`` takes beyond reading the
        weights, and attention's pairs, grow by 1/*share*; reading does not."""
        if share == 1.0:
            return self
        read = self.linear_s[0]
        return replace(
            self,
            linear_s=tuple(read + (value - read) / share for value in self.linear_s),
            pair_s=self.pair_s / share,
        )

    def computing_beyond(self, tokens: int, share: float) -> HardwareCost:
        """The same cost where matrices compute at *share* of their rate: what ``linear`` takes more than at *tokens*
        tokens, which are enough to read all weights, grows by 1/*share*."""
        base = float(self.linear(tokens))
        grown = (
            value if at <= tokens else base + (value - base) / share
            for at, value in zip(self.tokens, self.linear_s, strict=True)
        )
        return replace(self, linear_s=tuple(grown))

    def scaled(self, factor: float) -> HardwareCost:
        """The same cost, every part times *factor* (what-if bands)."""
        return HardwareCost(
            self.tokens,
            tuple(value * factor for value in self.linear_s),
            self.kv_s * factor,
            self.pair_s * factor,
            self.cached_s * factor,
            self.seq_s * factor,
        )


@dataclass(frozen=True)
class EngineCost:
    """Seconds that the engine adds: see ``calibration/engines`` for what identified each."""

    name: str
    version: str
    host_s: float
    """A step, whatever is in it."""
    layer_s: float
    """A layer of a step (gaps between kernels, norms, activations)."""
    seq_s: float
    """A sequence in a step (sampling, output handling, input preparation)."""
    mixed_s: float
    """A decode that shares its step with a prefill chunk."""
    front_end_s: float
    """Outside the step, once a request, in every time the client sees."""
    sampler_bytes: float = 24.0
    """Bytes of a logit while sampling, for the memory sum."""
    source: str = ""
    identified_by: str = ""

    def scaled(self, factor: float) -> EngineCost:
        """The same cost, every part of a step times *factor*."""
        return replace(
            self,
            host_s=self.host_s * factor,
            layer_s=self.layer_s * factor,
            seq_s=self.seq_s * factor,
            mixed_s=self.mixed_s * factor,
        )


def combine(hardware: HardwareCost, engine: EngineCost, *, layers: int, table_tokens: int = 16_384) -> StepCost:
    """The integer cost of a step of *layers* layers, each coefficient rounded once.

    The table of ``linear`` is written out to *table_tokens*; beyond it the last slope goes on.
    """
    size = max(table_tokens, hardware.tokens[-1])
    size = min(size, 65_536)
    linear = np.rint(hardware.linear(np.arange(size + 1, dtype=float)) * PS)
    linear = np.maximum.accumulate(linear)
    return StepCost(
        host_ps=_ps(engine.host_s + engine.layer_s * layers),
        linear_ps=tuple(linear.astype(np.int64).tolist()),
        linear_slope_ps=max(0, _ps(hardware.slope_s)),
        seq_ps=_ps(hardware.seq_s + engine.seq_s),
        kv_ps=_ps(hardware.kv_s),
        half_pair_ps=_ps(hardware.pair_s / 2),
        cached_ps=_ps(hardware.cached_s),
        mixed_ps=_ps(engine.mixed_s),
    )


def _ps(seconds: float) -> int:
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"a cost must be a finite number of seconds, at least 0, not {seconds!r}")
    return round(seconds * PS)


def knots(top: int = 32_768, *, moe: bool = False) -> tuple[int, ...]:
    """Numbers of tokens at which ``linear`` is known: dense where decode batches lie, then at tile edges.

    Every 16 tokens to 256, every 128 (a tile) and just past it to 1024, then in steps of a quarter octave.
    Experts touched saturate with the batch, so a mixture of experts gets every power of two and the middles
    as well.
    """
    found = {1, 2, 4, 8, *range(16, 257, 16), *range(384, 1025, 128)}
    found |= {257, 513}
    if moe:
        found |= {3, 6, 12, 24}
    step = 1024
    while step < top:
        found |= {step, step * 5 // 4, step * 3 // 2, step * 7 // 4}
        step *= 2
    return tuple(sorted(value for value in found | {top} if value <= top))
