"""Anywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.policies.routers import router
from sim.policies.routing import Choose, RoutedRequest, Router, View, draws


@router("random")
@dataclass(frozen=True)
class Random(Router):
    """A replica drawn at random, each as likely as the others."""

    def begin(self, rng: np.random.Generator) -> Choose:
        draw = draws(rng)

        def choose(view: View, request: RoutedRequest) -> int:
            candidates = view.candidates
            return candidates[int(next(draw) * len(candidates))]

        return choose
