"""Keep KV use at a target."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sim.policies.autoscalers import autoscaler
from sim.policies.scaling import Autoscaler, PoolState


@autoscaler("target_kv_use")
@dataclass(frozen=True)
class TargetKvUse(Autoscaler):
    """As many replicas as bring the mean KV use to the target: ready * use / target, as Kubernetes' HPA
    computes it; no change while use is within the tolerance."""

    target: float = 0.6
    """Share of the KV pool in use."""
    tolerance: float = 0.1
    """Relative deviation from the target that is left alone."""

    def __post_init__(self) -> None:
        if not 0 < self.target < 1:
            raise ValueError(f"target must be between 0 and 1, not {self.target}")

    def wanted(self, pool: PoolState) -> int:
        if not pool.ready:
            return max(pool.size, 1 if pool.outstanding else 0)
        ratio = pool.kv_use / self.target
        if abs(ratio - 1) <= self.tolerance:
            return pool.size
        return math.ceil(pool.ready * ratio - 1e-9)
