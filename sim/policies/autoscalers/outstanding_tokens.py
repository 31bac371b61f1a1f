"""Keep the tokens of a replica at a target."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sim.policies.autoscalers import autoscaler
from sim.policies.scaling import Autoscaler, PoolState


@autoscaler("outstanding_tokens")
@dataclass(frozen=True)
class OutstandingTokens(Autoscaler):
    """As many replicas as bring outstanding tokens to the target a replica: unlike a count of requests, it
    tells long from short."""

    target: int = 100_000
    """Outstanding tokens a replica."""

    def __post_init__(self) -> None:
        if self.target < 1:
            raise ValueError(f"target must be at least 1, not {self.target}")

    def wanted(self, pool: PoolState) -> int:
        return math.ceil(pool.tokens / self.target)
