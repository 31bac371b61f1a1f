"""Where the session was."""

from __future__ import annotations

from dataclasses import dataclass

from sim.policies.routers import router
from sim.policies.routing import Affinity, RoutedRequest


@router("session_affinity")
@dataclass(frozen=True)
class SessionAffinity(Affinity):
    """Turns of a session go where its last turn went, as long as that replica is not overloaded; the first
    turn, and queries without a session, go where the fewest requests are."""

    guard: float = 1.5
    """A replica with more than `guard` times the mean of outstanding requests, plus `slack`, is overloaded.
    """
    slack: int = 4

    def key(self, request: RoutedRequest) -> object | None:
        return request.session if request.session >= 0 else None
