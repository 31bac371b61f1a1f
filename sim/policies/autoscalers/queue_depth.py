"""Keep queues short."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sim.policies.autoscalers import autoscaler
from sim.policies.scaling import Autoscaler, PoolState


@autoscaler("queue_depth")
@dataclass(frozen=True)
class QueueDepth(Autoscaler):
    """One replica more for each `up` waiting requests a ready replica; one less when nobody waits and the
    rest could take all with fewer than `down` requests each."""

    up: float = 1.0
    """Waiting requests a replica above which the pool grows."""
    down: float = 8.0
    """Requests a replica below which the pool shrinks."""

    def __post_init__(self) -> None:
        if self.up <= 0 or self.down <= 0:
            raise ValueError("up and down must be above 0")

    def wanted(self, pool: PoolState) -> int:
        waiting = pool.waiting / max(pool.ready, 1)
        if waiting > self.up:
            return max(pool.size, pool.ready + math.ceil(waiting / self.up) - 1 + (not pool.ready))
        if not pool.waiting and pool.size > 1 and pool.outstanding / (pool.size - 1) < self.down:
            return pool.size - 1
        return pool.size
