"""Who cannot be served in time is not let in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sim.policies.admission import admission
from sim.policies.overload import Admission
from sim.policies.routing import RoutedRequest, Sees, View, shortest_wait_ps


@admission("deadline_shedding")
@dataclass(frozen=True)
class DeadlineShedding(Admission):
    """Turns a query away when even the replica that is free first would work off what is outstanding, at its
    full batch, only after the query's deadline (arrival and tightest time-to-answer target): serving it would
    make others late too. With a length predictor the query's own output counts. ``safety`` above 1 sheds
    earlier. Queries without a target are let in."""

    safety: float = 1.0
    sees: ClassVar[Sees] = "snapshots"

    def __post_init__(self) -> None:
        if self.safety <= 0:
            raise ValueError(f"safety must be above 0, not {self.safety}")

    def refuses(self, view: View, request: RoutedRequest) -> str | None:
        left_ps = request.deadline_ps - view.now_ps
        best_ps = shortest_wait_ps(view)
        own = max(0, request.predicted_tokens)
        fastest = min(view.replicas[index].token_ps * view.replicas[index].max_num_seqs for index in view.candidates)
        need_ps = self.safety * (best_ps + own * fastest)
        if need_ps <= left_ps:
            return None
        return f"an answer in {need_ps / 1e12:,.1f} s, {left_ps / 1e12:,.1f} s are left"
