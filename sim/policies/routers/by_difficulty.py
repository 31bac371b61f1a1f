"""Queries that look hard apart from the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from sim.policies.routers import router
from sim.policies.routing import PoolPicker, RoutedRequest, Sees, View


@router("by_difficulty")
@dataclass(frozen=True)
class ByDifficulty(PoolPicker):
    """The hardest *hard_share* of the queries belong to *hard_pool*, the rest to *easy_pool*; which replica of it, another
    router says. A classifier at the gateway sends a hard query there with probability *sensitivity* and an easy one away
    from it with probability *specificity*; how hard a query is the quality model says. Other than the strategy
    ``difficulty_routing``, whose classifier it is, it works under any strategy, and all requests of a query go to one pool."""

    judges: ClassVar[bool] = True

    easy_pool: str | None = None
    """Pool of queries taken for easy; default: any replica."""
    hard_pool: str | None = None
    """Pool of queries taken for hard; default: any replica."""
    hard_share: float = 0.2
    sensitivity: float = 0.85
    specificity: float = 0.9
    then: str = "least_outstanding_requests"
    """Router within the pool."""

    def __post_init__(self) -> None:
        for name in ("hard_share", "sensitivity", "specificity"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")

    def needs(self) -> Sees:
        inner = super().needs()
        return "counts" if inner == "nothing" else inner  # who is asked depends on more than the order of queries

    def named_pools(self) -> Sequence[str]:
        return [name for name in (self.easy_pool, self.hard_pool) if name is not None]

    def pool(self, view: View, request: RoutedRequest) -> str | None:
        if self.easy_pool == self.hard_pool:
            return self.easy_pool
        hard = view.looks_hard(request, self.hard_share, self.sensitivity, self.specificity)
        return self.hard_pool if hard else self.easy_pool
