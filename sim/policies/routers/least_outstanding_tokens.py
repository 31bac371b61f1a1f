"""Where the fewest tokens are outstanding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sim.policies.routers import router
from sim.policies.routing import RoutedRequest, Router, Sees, View


@router("least_outstanding_tokens")
@dataclass(frozen=True)
class LeastOutstandingTokens(Router):
    """The replica with the fewest outstanding tokens: prompts not yet computed, and what the predictor
    expects to follow (without a predictor, what live requests hold); on a tie the one with fewer requests,
    then the first."""

    sees: ClassVar[Sees] = "snapshots"

    def choose(self, view: View, request: RoutedRequest) -> int:
        return view.least_loaded(view.candidates)
