"""Where the KV cache is emptiest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sim.policies.routers import router
from sim.policies.routing import RoutedRequest, Router, Sees, View


@router("least_kv")
@dataclass(frozen=True)
class LeastKv(Router):
    """The replica with the smallest share of its KV pool in use; on a tie the one with fewer requests, then
    the first.
    """

    sees: ClassVar[Sees] = "snapshots"

    def choose(self, view: View, request: RoutedRequest) -> int:
        return view.least_used(view.candidates)
