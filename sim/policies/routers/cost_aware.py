"""The cheapest that is not too busy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sim.policies.routers import router
from sim.policies.routing import RoutedRequest, Router, Sees, View, wait_ps

PS_PER_S = 1e12


@router("cost_aware")
@dataclass(frozen=True)
class CostAware(Router):
    """Of the replicas whose predicted wait is short enough, the one whose tokens cost least (price by speed);
    when none is, the one with the shortest wait."""

    max_wait_s: float = 10.0
    """Predicted time to work off what is outstanding, beyond which a replica is too busy."""

    sees: ClassVar[Sees] = "snapshots"

    def choose(self, view: View, request: RoutedRequest) -> int:
        waits = {index: wait_ps(view, index) for index in view.candidates}
        limit = self.max_wait_s * PS_PER_S
        free = [index for index, wait in waits.items() if wait <= limit]
        if not free:
            return min(waits, key=lambda index: (waits[index], index))
        infos = view.replicas
        return min(free, key=lambda i: (infos[i].price_usd_per_hour * infos[i].token_ps, waits[i], i))
