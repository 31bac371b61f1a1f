"""Where the prefix is cached."""

from __future__ import annotations

from dataclasses import dataclass

from sim.policies.routers import router
from sim.policies.routing import Affinity, RoutedRequest


@router("prefix_affinity")
@dataclass(frozen=True)
class PrefixAffinity(Affinity):
    """Queries whose prompts begin alike (a shared prefix, the same prompt, a session) go to one replica,
    where their KV is cached, as long as it is not overloaded; others go where the fewest requests are."""

    guard: float = 1.5
    """A replica with more than `guard` times the mean of outstanding requests, plus `slack`, is overloaded.
    """
    slack: int = 4

    def key(self, request: RoutedRequest) -> object | None:
        if request.session >= 0:
            return ("session", request.session)
        group: object | None = request.prefix_group
        return group
