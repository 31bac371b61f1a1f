"""Short and long queries apart."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sim.policies.routers import router
from sim.policies.routing import PoolPicker, RoutedRequest, View


@router("by_length_class")
@dataclass(frozen=True)
class ByLengthClass(PoolPicker):
    """Queries go to a pool by their length, so that short ones do not wait behind long ones; which replica of
    it, another router says."""

    pools: tuple[str, ...] = ()
    """Pool of each class, shortest first: one more than `bounds`; none: any replica."""
    bounds: tuple[int, ...] = ()
    """Tokens from which the next class begins, ascending."""
    by: Literal["prompt", "output", "total"] = "prompt"
    """Prompt tokens; or the output that the predictor expects (without one, the client's limit); or both."""
    then: str = "least_outstanding_requests"
    """Router within the pool."""

    def __post_init__(self) -> None:
        if self.pools and len(self.pools) != len(self.bounds) + 1:
            need = len(self.pools) - 1
            raise ValueError(f"{len(self.pools)} pools need {need} bounds, not {len(self.bounds)}")
        if list(self.bounds) != sorted(self.bounds):
            raise ValueError(f"bounds must ascend: {self.bounds}")

    def named_pools(self) -> Sequence[str]:
        return self.pools

    def pool(self, view: View, request: RoutedRequest) -> str | None:
        if not self.pools:
            return None
        output = request.predicted_tokens if request.predicted_tokens >= 0 else 1 << 60
        tokens = {
            "prompt": request.prompt_tokens,
            "output": output,
            "total": request.prompt_tokens + output,
        }[self.by]
        return self.pools[bisect_right(self.bounds, tokens)]
