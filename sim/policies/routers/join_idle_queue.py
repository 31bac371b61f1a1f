"""An idle replica if there is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sim.policies.routers import router
from sim.policies.routing import Choose, RoutedRequest, Router, Sees, View, draws


@router("join_idle_queue")
@dataclass(frozen=True)
class JoinIdleQueue(Router):
    """One of the idle replicas at random, of all when none is idle (Lu et al., Performance Evaluation
    2011).
    """

    idle_below: int = 1
    """A replica with fewer requests than this is idle."""

    sees: ClassVar[Sees] = "counts"

    def __post_init__(self) -> None:
        if self.idle_below < 1:
            raise ValueError(f"idle_below must be at least 1, not {self.idle_below}")

    def begin(self, rng: np.random.Generator) -> Choose:
        draw = draws(rng)
        limit = self.idle_below

        def choose(view: View, request: RoutedRequest) -> int:
            outstanding = view.outstanding
            among = [index for index in view.candidates if outstanding[index] < limit] or view.candidates
            return among[int(next(draw) * len(among))]

        return choose
