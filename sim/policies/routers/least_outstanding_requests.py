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
        return min(view.candidates, key=view.outstanding.__getitem__)
