"""A device whose costs are known: a StepCost plus noise, without torch. What is measured on it can be
checked exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from calibration.profiler.loop import Work
from calibration.profiler.points import Limits, Point
from calibration.profiler.run import Measured, summarise
from calibration.step_cost import StepCost

PS = 10**12


class SyntheticBench:
    """Times steps as *cost* says, each repeat off by log-normal noise of width *noise* and, seldom, by a
    large burst.

    The noise is drawn from *seed*, so that two runs measure the same.
    """

    writes = True

    def __init__(
        self,
        cost: StepCost,
        *,
        noise: float = 0.01,
        bursts: float = 0.02,
        seed: int = 0,
        limits: Limits | None = None,
    ) -> None:
        self.cost, self.noise, self.bursts, self.seed = cost, noise, bursts, seed
        self.limits = limits or Limits(kv_tokens=2**20, max_context=131_072, max_tokens=16_384)
        self._rng = np.random.default_rng(seed)
        self.elapsed_s = 0.0
        """Seconds that all steps so far would have taken."""

    def exact_ps(self, point: Point) -> int:
        """What *point* costs without noise."""
        new, old = point.chunk_tokens, point.chunk_cached
        return self.cost.step_ps(
            decodes=point.decodes,
            context=point.decodes * point.context,
            chunks=point.chunks,
            chunk_tokens=point.chunks * new,
            pairs=point.chunks * (new * new + 2 * new * old),
            cached=point.chunks * old,
        )

    def noisy_s(self, duration_ps: int) -> float:
        """One timing of a step that takes *duration_ps*."""
        factor = float(np.exp(self._rng.normal(0.0, self.noise))) if self.noise else 1.0
        if self._rng.random() < self.bursts:
            factor *= 1.0 + 2.0 * float(self._rng.random())
        seconds = duration_ps / PS * factor
        self.elapsed_s += seconds
        return seconds

    def identity(self) -> dict[str, Any]:
        """See Bench."""
        return {"device": "synthetic", "model": "synthetic", "noise": self.noise, "seed": self.seed}

    def facts(self) -> dict[str, Any]:
        """See Bench."""
        return {"kind": "synthetic"}

    def columns(self) -> dict[str, Any]:
        """See Bench."""
        return {
            "source": "thinkcap",
            "gpu": "synthetic",
            "model": "synthetic",
            "dtype": "bf16",
            "tp": 1,
            "engine": "synthetic",
        }

    def measure(self, point: Point, repeats: int) -> Measured:
        """See Bench."""
        times = [self.noisy_s(self.exact_ps(point)) for _ in range(repeats)]
        middle, spread = summarise([times], [1.0])
        return Measured(middle, spread, repeats)

    def measure_served(self, point: Point, repeats: int) -> Measured:
        """The same: this device has no caches."""
        return self.measure(point, repeats)

    def agree(self, value: int) -> int:
        """See Bench."""
        return value


class SyntheticExecutor:
    """Steps of a serving loop on a synthetic device."""

    outside_s = 0.0

    def __init__(self, bench: SyntheticBench) -> None:
        self.bench = bench

    def begin(self, job: int, tokens: int) -> None:
        """See Executor."""

    def end(self, job: int) -> None:
        """See Executor."""

    def execute(self, work: Sequence[Work]) -> float:
        """See Executor."""
        decodes = [item for item in work if item.new == 1]
        chunks = [item for item in work if item.new > 1]
        return self.bench.noisy_s(
            self.bench.cost.step_ps(
                decodes=len(decodes),
                context=sum(item.cached for item in decodes),
                chunks=len(chunks),
                chunk_tokens=sum(item.new for item in chunks),
                pairs=sum(item.new * (item.new + 2 * item.cached) for item in chunks),
                cached=sum(item.cached for item in chunks),
            )
        )


def example_cost() -> StepCost:
    """Costs like those of a 14B model on a large GPU: flat to 256 tokens, then rising with them."""
    table = [8_000_000_000 + max(0, tokens - 256) * 30_000_000 for tokens in range(16_385)]
    return StepCost(
        host_ps=500_000_000,
        linear_ps=tuple(table),
        linear_slope_ps=30_000_000,
        seq_ps=20_000_000,
        kv_ps=55_000,
        half_pair_ps=700,
        cached_ps=60_000,
        mixed_ps=120_000_000,
    )
