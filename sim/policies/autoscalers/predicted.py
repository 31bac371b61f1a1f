"""By the traffic that the time of day usually brings."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sim.policies.autoscalers import autoscaler
from sim.policies.scaling import Autoscaler, PoolState


@autoscaler("predicted")
@dataclass(frozen=True)
class Predicted(Autoscaler):
    """As many replicas as the traffic expected a while ahead needs, so that a cold start is over when it
    comes; the expectation is a profile of the day, as one would take it from last week."""

    rates_per_s: tuple[float, ...] = (1.0,)
    """Queries a second in equal parts of the period."""
    per_replica_per_s: float = 1.0
    """Queries a second that one replica serves within its targets."""
    lead_s: float = 300.0
    """How far ahead it looks."""
    period_s: float = 86_400.0

    def __post_init__(self) -> None:
        if not self.rates_per_s or self.per_replica_per_s <= 0 or self.period_s <= 0:
            raise ValueError("rates_per_s, per_replica_per_s and period_s must be above 0")

    def wanted(self, pool: PoolState) -> int:
        count = len(self.rates_per_s)
        now, ahead = (
            int((time_s % self.period_s) / self.period_s * count) % count
            for time_s in (pool.now_s, pool.now_s + self.lead_s)
        )
        rate = max(self.rates_per_s[now], self.rates_per_s[ahead])
        return math.ceil(rate / self.per_replica_per_s - 1e-9)
