"""The cheapest that is not too busy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sim.policies.routers import router
from sim.policies.routing import Choose, RoutedRequest, Router, Sees, View, wait_ps

PS_PER_S = 1e12


@router("cost_aware")
@dataclass(frozen=True)
class CostAware(Router):
    """Of the replicas whose predicted wait is short enough, the one whose tokens cost least (price by speed);
    when none is, the one with the shortest wait. On a tie the one with
    fewer requests, then the first."""

    max_wait_s: float = 10.0
    """Predicted time to work off what is outstanding, beyond which a replica is too busy."""

    sees: ClassVar[Sees] = "snapshots"

    def begin(self, rng: np.random.Generator) -> Choose:
        limit = self.max_wait_s * PS_PER_S
        found: dict[tuple[int, ...], list[list[int]]] = {}

        def choose(view: View, request: RoutedRequest) -> int:
            candidates = tuple(view.candidates)
            groups = found.get(candidates)
            if groups is None:
                groups = found[candidates] = _by_cost(view)
            waits = []
            for alike in groups:
                index = view.least_loaded(alike, view.token_ps)
                wait = wait_ps(view, index)
                if wait <= limit:
                    return index
                waits.append((wait, view.outstanding[index], index))
            return min(waits)[2]

        return choose


def _by_cost(view: View) -> list[list[int]]:
    """The candidates, those together whose tokens cost the same, cheapest first."""
    infos, groups = view.replicas, dict[float, list[int]]()
    for index in view.candidates:
        groups.setdefault(infos[index].price_usd_per_hour * infos[index].token_ps, []).append(index)
    return [groups[cost] for cost in sorted(groups)]
