"""What an autoscaler is asked, what it may see, and what it answers.

At each interval it says how many replicas a pool should have. Limits, cold starts, cool-down and draining are
the controller's (`sim.cluster.scaling`); an autoscaler only wants a number.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PoolState:
    """A pool as its metrics show it."""

    now_s: float
    """Time since the start of the run."""
    ready: int
    """Replicas that take requests."""
    starting: int
    """Replicas that are being started."""
    outstanding: int
    """Requests sent to the pool and not ended."""
    waiting: int
    """Of these, not running yet (preempted ones included)."""
    tokens: int
    """Outstanding tokens (`sim.policies.routing.View.tokens`), all replicas together."""
    kv_use: float
    """Share of the KV pool in use, mean over ready replicas."""

    @property
    def size(self) -> int:
        """Ready and starting."""
        return self.ready + self.starting


class Autoscaler:
    """Base of the autoscalers: a subclass fills in `wanted`."""

    def wanted(self, pool: PoolState) -> int:
        """How many replicas the pool should have."""
        raise NotImplementedError
