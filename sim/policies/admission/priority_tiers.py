"""The less urgent go first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sim.policies.admission import admission
from sim.policies.overload import Admission
from sim.policies.routing import RoutedRequest, View


@admission("priority_tiers")
@dataclass(frozen=True)
class PriorityTiers(Admission):
    """Each priority has a limit of its own on what is outstanding: batch work is turned away long before
    interactive queries are, and fills the valleys when it comes back."""

    per_replica: Mapping[int, int] = field(default_factory=dict)
    """Outstanding requests a replica, in the mean, from which on queries of a priority (or a larger number,
    which is less urgent) are turned away; a priority below all of them is always let in."""

    def __post_init__(self) -> None:
        if min(self.per_replica.values(), default=0) < 0:
            raise ValueError("per_replica must be at least 0 at every priority")

    def refuses(self, view: View, request: RoutedRequest) -> str | None:
        tiers = [priority for priority in self.per_replica if priority <= request.priority]
        if not tiers:
            return None
        limit = self.per_replica[max(tiers)] * len(view.candidates)
        present = sum(view.outstanding[index] for index in view.candidates)
        if present >= limit:
            return f"{present:,} requests are outstanding, {limit:,} are allowed at priority {request.priority}"
        return None
