"""So many a second from each client, and no more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.policies.admission import admission
from sim.policies.overload import Admission, Refuses
from sim.policies.routing import RoutedRequest, View

PS_PER_S = 1e12


@admission("token_bucket")
@dataclass(frozen=True)
class TokenBucket(Admission):
    """Each client may send at a steady rate, and a burst beyond it; what comes faster is turned away."""

    rate_per_s: float = 1.0
    """Queries a second of each client."""
    burst: int = 10
    """Queries at once."""

    def __post_init__(self) -> None:
        if self.rate_per_s <= 0 or self.burst < 1:
            raise ValueError("rate_per_s must be above 0 and burst at least 1")

    def begin(self, rng: np.random.Generator) -> Refuses:
        filled: dict[int, tuple[float, int]] = {}

        def refuses(view: View, request: RoutedRequest) -> str | None:
            level, since_ps = filled.get(request.client, (float(self.burst), view.now_ps))
            gained = (view.now_ps - since_ps) / PS_PER_S * self.rate_per_s
            level = min(float(self.burst), level + gained)
            if level < 1:
                filled[request.client] = level, view.now_ps
                return f"the client sends more than {self.rate_per_s:g} queries a second"
            filled[request.client] = level - 1, view.now_ps
            return None

        return refuses
