"""Not when it would wait too long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sim.policies.admission import admission
from sim.policies.overload import Admission
from sim.policies.routing import RoutedRequest, Sees, View, shortest_wait_ps

PS_PER_S = 1e12


@admission("max_wait")
@dataclass(frozen=True)
class MaxWait(Admission):
    """A query is turned away when every replica would need too long to work off what is outstanding on it."""

    max_wait_s: float = 60.0
    """Predicted time to work off what is outstanding."""

    sees: ClassVar[Sees] = "snapshots"

    def __post_init__(self) -> None:
        if self.max_wait_s <= 0:
            raise ValueError(f"max_wait_s must be above 0, not {self.max_wait_s}")

    def refuses(self, view: View, request: RoutedRequest) -> str | None:
        shortest_s = shortest_wait_ps(view) / PS_PER_S
        if shortest_s > self.max_wait_s:
            return f"the shortest wait is {shortest_s:.1f} s, {self.max_wait_s:g} s are allowed"
        return None
