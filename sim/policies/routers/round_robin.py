"""Each in turn."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import numpy as np

from sim.policies.routers import router
from sim.policies.routing import Choose, RoutedRequest, Router, View


@router("round_robin")
@dataclass(frozen=True)
class RoundRobin(Router):
    """The replicas in turn, whatever they are doing."""

    def begin(self, rng: np.random.Generator) -> Choose:
        turn = count()

        def choose(view: View, request: RoutedRequest) -> int:
            candidates = view.candidates
            return candidates[next(turn) % len(candidates)]

        return choose
