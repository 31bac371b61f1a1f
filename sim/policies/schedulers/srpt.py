"""Shortest remaining predicted time first, with preemption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, ClassVar, NamedTuple

from sim.engine.request import Request
from sim.engine.settings import EngineSettings
from sim.engine.step import FOREVER, Step
from sim.policies.batching import clear_place, make_room_by, steps_to_refinement, victims_for
from sim.policies.schedulers import scheduler


class _Looked(NamedTuple):
    """What is known of who runs."""

    least: int
    """Nobody has ``factor`` times as many tokens to go."""
    order: int
    """Of those who were admitted up to this place in the order."""


@scheduler("srpt")
@dataclass(frozen=True)
class Srpt:
    """Shortest remaining processing time by predicted output (Schrage 1968; for LLM serving TRAIL, Shahout et
    al., 2024): the request with the fewest tokens to go enters first, and takes the place of a running one
    that has ``factor`` times as many to go. A factor near 1 preempts, and recomputes, again and again: TRAIL
    forbids preemption of old requests for the same reason. Whoever has outlived its prediction counts as
    nearly done. Long requests may starve."""

    factor: float = 2.0
    serves_all_when_nobody_waits: ClassVar[bool] = True
    serves_all_then_admits_heads: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ValueError(f"factor must be at least 1, not {self.factor}")

    def queue_order(self, settings: EngineSettings) -> Callable[[Request], Any]:
        """Fewest predicted tokens to go first; nothing changes while a request waits."""

        def key(request: Request) -> tuple[int, int]:
            generated = max(0, request.peak + 1 - request.prompt_tokens)
            tokens = request.predicted_tokens
            if request.refine_after and generated >= request.refine_after:
                tokens = request.refined_tokens
            if tokens < 0:
                tokens = settings.max_model_len - request.prompt_tokens
            return (max(1, tokens - generated), request.arrived_ps)

        return key

    def who_yields(self, step: Step) -> Request:
        """The one with the most tokens to go, of those the last admitted."""
        left = step.remaining_of_all()
        return max(zip(reversed(left), reversed(step.running), strict=True), key=itemgetter(0))[1]

    def _longer(self, step: Step, head: Request) -> list[tuple[int, int, Request]]:
        """Who runs and has ``factor`` times as many tokens to go as *head*: how many, its place in the order, itself."""
        limit, left = self.factor * step.remaining(head), step.remaining_of_all()
        return [
            (tokens, request.order, request)
            for tokens, request in zip(left, step.running, strict=True)
            if tokens > limit
        ]

    def _nobody_longer(self, step: Step, head: Request) -> bool:
        """Whether that is known to be nobody, nor anybody whose prediction will be refined. Who was not longer is not later, so
        only who was admitted since all were looked at is looked at.
        """
        known: _Looked | None = step.memory.get("looked")
        if known is None or step.remaining(head) < known.least:
            return False
        limit, newest = self.factor * known.least, known.order
        for request in reversed(step.running):
            if request.order <= known.order:
                break
            if request.refine_after or step.remaining(request) > limit:
                return False
            newest = max(newest, request.order)
        step.memory["looked"] = _Looked(known.least, newest)
        return True

    def displaces(self, step: Step, head: Request) -> bool:
        """Whether *head* would take the places of longer ones, or may as soon as a prediction is refined."""
        longer: list[tuple[int, int, Request]] = []
        if not self._nobody_longer(step, head):
            if steps_to_refinement(step) < FOREVER:
                return True
            longer = self._longer(step, head)
            if not longer:
                newest = max((request.order for request in step.running), default=0)
                step.memory["looked"] = _Looked(step.remaining(head), newest)
        return victims_for(step, head, (request for _, _, request in longer)) is not None

    def schedule(self, step: Step) -> None:
        make_room_by(step, self.who_yields)
        head, cleared, refined = step.next_candidate(), False, FOREVER
        if head is not None and not step.preempted:
            longer = [] if self._nobody_longer(step, head) else sorted(self._longer(step, head), reverse=True)
            cleared = clear_place(step, head, (request for _, _, request in longer))
        if step.waiting:
            refined = steps_to_refinement(step)
        step.serve_running()
        if step.preempted:
            if cleared and head is not None and step.budget > 0 and step.seats > 0:
                step.admit(head)
            return
        if step.waiting:
            step.admit_heads()
        else:
            step.hold = FOREVER
        step.wake_on_arrival = True  # even where no seat is free
        step.hold = 1 if cleared and step.waiting else min(step.hold, refined)
