"""The busiest that still meets the deadline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sim.policies.routers import router
from sim.policies.routing import RoutedRequest, Router, Sees, View, wait_ps


@router("slo_aware")
@dataclass(frozen=True)
class SloAware(Router):
    """Of the replicas that should answer by the request's deadline, the busiest, so that idle ones stay free
    for queries that need them; when none should, the one with the shortest wait. Deadlines come from the
    time-to-answer target."""

    margin: float = 0.8
    """Share of the time left that the prediction may use up."""

    sees: ClassVar[Sees] = "snapshots"

    def __post_init__(self) -> None:
        if not 0 < self.margin <= 1:
            raise ValueError(f"margin must be above 0 and at most 1, not {self.margin}")

    def choose(self, view: View, request: RoutedRequest) -> int:
        infos = view.replicas
        waits = {index: wait_ps(view, index) for index in view.candidates}
        left_ps = (request.deadline_ps - view.now_ps) * self.margin
        tokens = request.prompt_tokens + max(request.predicted_tokens, 0)
        able = [i for i in waits if waits[i] + tokens * infos[i].token_ps * infos[i].max_num_seqs <= left_ps]
        if not able:
            return min(waits, key=lambda index: (waits[index], index))
        return max(able, key=lambda index: (waits[index], -index))
