"""Where the fewest requests are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sim.policies.routers import router
from sim.policies.routing import RoutedRequest, Router, Sees, View


@router("least_outstanding_requests")
@dataclass(frozen=True)
class LeastOutstandingRequests(Router):
    """The replica with the fewest requests outstanding, waiting or running; the first of them on a tie."""

    sees: ClassVar[Sees] = "counts"

    def choose(self, view: View, request: RoutedRequest) -> int:
        outstanding, candidates = view.outstanding, view.candidates
        if len(candidates) == len(outstanding):
            return outstanding.index(min(outstanding))
        return min(candidates, key=outstanding.__getitem__)
