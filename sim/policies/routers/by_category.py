"""Each category to its pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sim.policies.routers import router
from sim.policies.routing import PoolPicker, RoutedRequest, View
from sim.scenario.policy import PerCategory


@router("by_category")
@dataclass(frozen=True)
class ByCategory(PoolPicker):
    """Queries go to the pool of their category, as a gateway that is told the kind of query would send them;
    which replica of it, another router says."""

    pools: PerCategory[str] = field(default_factory=dict)
    """Pool by category."""
    default: str | None = None
    """Pool of all other categories; default: any replica."""
    then: str = "least_outstanding_requests"
    """Router within the pool."""

    def named_pools(self) -> Sequence[str]:
        return [*self.pools.values(), *([self.default] if self.default is not None else [])]

    def pool(self, view: View, request: RoutedRequest) -> str | None:
        return self.pools.get(view.categories[request.category], self.default)
