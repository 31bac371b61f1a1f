"""By the clock."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

from sim.policies.autoscalers import autoscaler
from sim.policies.scaling import Autoscaler, PoolState
from sim.scenario.policy import Seconds


@autoscaler("scheduled")
@dataclass(frozen=True)
class Scheduled(Autoscaler):
    """A number of replicas by the time of day, whatever the load."""

    replicas: Mapping[Seconds, int] = field(default_factory=lambda: {0.0: 1})
    """Replicas from each time on, counted from the start of the period (`8 h`, or plain seconds); before the first, those of
    the last."""
    period_s: float = 86_400.0
    """After which it begins anew."""

    def __post_init__(self) -> None:
        if not self.replicas or self.period_s <= 0:
            raise ValueError("replicas and period_s must say something")

    def wanted(self, pool: PoolState) -> int:
        times = sorted(self.replicas)
        return self.replicas[times[bisect_right(times, pool.now_s % self.period_s) - 1]]
