"""Earliest deadline first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, ClassVar

from sim.engine.request import Request
from sim.engine.settings import EngineSettings
from sim.engine.step import FOREVER, Step
from sim.policies.batching import clear_place, make_room_by, victims_for
from sim.policies.schedulers import scheduler

_deadline = attrgetter("deadline_ps")


@scheduler("edf")
@dataclass(frozen=True)
class Edf:
    """Earliest deadline first (Liu and Layland 1973): the deadline is the arrival plus the tightest
    time-to-answer target of the request's category; without one it comes last. Under memory pressure the
    latest deadline is recomputed; with ``preempt`` an earlier deadline also takes the place of a later one.
    Best while all deadlines can be met: beyond, it spends the machine on requests that are late already."""

    preempt: bool = False
    serves_all_when_nobody_waits: ClassVar[bool] = True
    serves_all_then_admits_heads: ClassVar[bool] = True

    def queue_order(self, settings: EngineSettings) -> Callable[[Request], Any]:
        """Earliest deadline first, then earliest arrival."""
        return lambda request: (request.deadline_ps, request.arrived_ps)

    def who_yields(self, step: Step) -> Request:
        """The one with the latest deadline, of those the last admitted."""
        return max(reversed(step.running), key=_deadline)

    @staticmethod
    def _later(step: Step, head: Request) -> list[Request]:
        """Who runs with a later deadline than *head*."""
        return [request for request in step.running if request.deadline_ps > head.deadline_ps]

    def displaces(self, step: Step, head: Request) -> bool:
        """Whether *head* would take the places of later deadlines."""
        return self.preempt and victims_for(step, head, self._later(step, head)) is not None

    def schedule(self, step: Step) -> None:
        make_room_by(step, self.who_yields)
        head = step.next_candidate() if self.preempt and not step.preempted else None
        cleared = False
        if head is not None:
            later = self._later(step, head)
            cleared = clear_place(step, head, sorted(later, key=lambda r: (-r.deadline_ps, -r.order)))
        step.serve_running()
        if step.preempted:
            if head is not None and step.budget > 0 and step.seats > 0:
                step.admit(head)
            return
        if step.waiting:
            step.admit_heads()
            step.wake_on_arrival = step.wake_on_arrival or self.preempt
            if cleared:
                step.hold = 1  # its place is there, yet it did not get in: look again
        else:
            step.hold = FOREVER
