"""The busiest that still meets the deadline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sim.policies.routers import router
from sim.policies.routing import RoutedRequest, Router, Sees, View


@router("slo_aware")
@dataclass(frozen=True)
class SloAware(Router):
    """Of the replicas that should answer by the request's deadline, the busiest, so that idle ones stay free
    for queries that need them; when none should, the one with the shortest wait (on a tie the one with
    fewer requests). Deadlines come from the time-to-answer target."""

    margin: float = 0.8
    """Share of the time left that the prediction may use up."""

    sees: ClassVar[Sees] = "snapshots"

    def __post_init__(self) -> None:
        if not 0 < self.margin <= 1:
            raise ValueError(f"margin must be above 0 and at most 1, not {self.margin}")

    def choose(self, view: View, request: RoutedRequest) -> int:
        infos = view.replicas
        left_ps = (request.deadline_ps - view.now_ps) * self.margin
        tokens = request.prompt_tokens + max(request.predicted_tokens, 0)

        def longest_wait(index: int) -> float:
            return left_ps - tokens * infos[index].token_ps * infos[index].max_num_seqs

        busiest = view.most_loaded(view.candidates, view.token_ps, longest_wait)
        return view.least_loaded(view.candidates, view.token_ps) if busiest is None else busiest
