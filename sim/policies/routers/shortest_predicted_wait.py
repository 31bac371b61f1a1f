"""Where the work in front is done soonest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sim.policies.routers import router
from sim.policies.routing import RoutedRequest, Router, Sees, View


@router("shortest_predicted_wait")
@dataclass(frozen=True)
class ShortestPredictedWait(Router):
    """The replica whose outstanding tokens are worked off soonest at its own speed: unlike a count of tokens,
    it sends more to faster hardware. On a tie the first."""

    sees: ClassVar[Sees] = "snapshots"

    def choose(self, view: View, request: RoutedRequest) -> int:
        return view.least_loaded(view.candidates, view.token_ps)
