"""The better of two at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sim.policies.routers import router
from sim.policies.routing import Choose, RoutedRequest, Router, Sees, View, draws


@router("power_of_two")
@dataclass(frozen=True)
class PowerOfTwo(Router):
    """Of a few replicas drawn at random, the one with the fewest requests (Mitzenmacher, 2001)."""

    choices: int = 2
    """How many are drawn, each one different."""

    sees: ClassVar[Sees] = "counts"

    def __post_init__(self) -> None:
        if self.choices < 1:
            raise ValueError(f"choices must be at least 1, not {self.choices}")

    def begin(self, rng: np.random.Generator) -> Choose:
        draw = draws(rng)
        choices = self.choices

        def choose(view: View, request: RoutedRequest) -> int:
            pool = list(view.candidates)
            drawn = [
                pool.pop(int(next(draw) * len(pool))) for _ in range(choices if choices < len(pool) else len(pool))
            ]
            return min(drawn, key=view.outstanding.__getitem__)

        return choose
