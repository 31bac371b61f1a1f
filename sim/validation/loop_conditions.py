"""In what a serving loop differs from a grid of timed steps: caches, work around the step, noise that adds up.

Each difference is measured beside the grid and stated: a self-check whose two errors cancel would prove nothing.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from calibration.parts import EngineCost, HardwareCost, combine
from calibration.profiler.loop import LoopRun, Timed
from calibration.profiler.points import Point
from calibration.profiler.run import Bench, Measured
from calibration.step_cost import StepCost

PS = 10**12


class ServingBench(Bench, Protocol):
    """A bench that can also time a step as a serving loop meets it."""

    def measure_served(self, point: Point, repeats: int) -> Measured:
        """Time *point* with caches as the step before left them, launched as a loop launches it."""
        ...


@dataclass(frozen=True)
class Conditions:
    """What a loop has beside the steps of a grid."""

    host_s: float
    """A step's work outside of the device's step (its input, tokens to the host): the median over the warm-up loop."""
    flushed: float
    """How much longer the same steps take with caches flushed, as the profiler times them, as a fraction."""
    flushed_spread: float
    """Interquartile range of that over the pairs, as a fraction."""
    pairs: int

    def step_cost(self, fitted: HardwareCost, mixed_s: float) -> StepCost:
        """A step of the loop from what was *fitted*."""
        return combine(fitted, EngineCost("loop", "", self.host_s, 0.0, 0.0, mixed_s, 0.0), layers=1)

    def lines(self) -> list[str]:
        """In words."""
        return [
            f"in the prediction: {1e3 * self.host_s:.3f} ms a step around the device's own, as in the warm-up",
            f"not in it: with caches flushed, as `measure` times them, these steps take {self.flushed:+.1%} "
            f"(median of {self.pairs} pairs, interquartile range {self.flushed_spread:.1%})",
        ]


def probes(points: Sequence[Point]) -> list[Point]:
    """Few of *points* at which flushed and unflushed caches are compared: the least and the most of each kind."""
    chosen: list[Point] = []
    for kind in ("decode", "prefill"):
        own = sorted((p for p in points if p.kind == kind), key=lambda p: (p.tokens, p.kv_tokens))
        chosen += [point for point in (own[:1] + own[-1:]) if point not in chosen]
    return chosen


def conditions(warm_up: LoopRun, pairs: Sequence[tuple[Measured, Measured]]) -> Conditions:
    """What the *warm_up* and *pairs* of (served, flushed) timings in turns say of them."""
    ratios = [flushed.time_s / served.time_s - 1.0 for served, flushed in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Conditions(
        host_s=statistics.median(step.outside_s for step in warm_up.steps),
        flushed=middle,
        flushed_spread=high - low,
        pairs=len(ratios),
    )


def of_median_steps(loops: Sequence[LoopRun]) -> LoopRun:
    """The loop in which every step took its median over *loops*, which took the same steps.

    A loop is a sum and has every burst of noise in it; the medians of a grid have none. This loop has none either, so
    what is left between it and a prediction is the fit's.
    """
    steps = [statistics.median(step.seconds for step in same) for same in zip(*(r.steps for r in loops), strict=True)]
    ends = list(itertools.accumulate(steps))
    first = loops[0]
    return LoopRun([ends[step] for step in first.first_step], [ends[step] for step in first.last_step])


def step_errors(loops: Sequence[LoopRun], cost: StepCost) -> dict[str, tuple[float, int]]:
    """Median absolute error of single steps by kind, each step's measured time being its median over the
    loops."""
    found: dict[str, list[float]] = {}
    for steps in zip(*(run.steps for run in loops), strict=True):
        first = steps[0]
        kind = "decode" if not first.chunks else "mixed" if first.decodes else "prefill"
        error = predicted_s(first, cost) / statistics.median(step.seconds for step in steps) - 1.0
        found.setdefault(kind, []).append(abs(error))
    return {kind: (statistics.median(errors), len(errors)) for kind, errors in sorted(found.items())}


def predicted_s(step: Timed, cost: StepCost) -> float:
    """What *step* costs."""
    return (
        cost.step_ps(
            decodes=step.decodes,
            context=step.context,
            chunks=step.chunks,
            chunk_tokens=step.chunk_tokens,
            pairs=step.pairs,
            cached=step.cached,
        )
        / PS
    )
