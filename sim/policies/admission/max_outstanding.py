"""So many at once, and no more."""

from __future__ import annotations

from dataclasses import dataclass

from sim.policies.admission import admission
from sim.policies.overload import Admission
from sim.policies.routing import RoutedRequest, View


@admission("max_outstanding")
@dataclass(frozen=True)
class MaxOutstanding(Admission):
    """A query is turned away while the replicas that could serve it have too many requests outstanding in
    the mean.
    """

    per_replica: int = 256
    """Requests a replica."""

    def __post_init__(self) -> None:
        if self.per_replica < 1:
            raise ValueError(f"per_replica must be at least 1, not {self.per_replica}")

    def refuses(self, view: View, request: RoutedRequest) -> str | None:
        present = sum(view.outstanding[index] for index in view.candidates)
        limit = self.per_replica * len(view.candidates)
        if present >= limit:
            return f"{present:,} requests are outstanding, {limit:,} are allowed"
        return None
