"""Shortest remaining predicted time first, with preemption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from sim.engine.request import Request
from sim.engine.settings import EngineSettings
from sim.engine.step import FOREVER, Step
from sim.policies.batching import clear_place, make_room, steps_to_refinement
from sim.policies.schedulers import scheduler


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

    def schedule(self, step: Step) -> None:
        make_room(step, lambda request: (step.remaining(request), request.order))
        head, cleared = step.next_candidate(), False
        if head is not None and not step.preempted:
            limit = self.factor * step.remaining(head)
            left = [(step.remaining(request), request.order, request) for request in step.running]
            longer = sorted((each for each in left if each[0] > limit), reverse=True)
            cleared = clear_place(step, head, (request for _, _, request in longer))
        refined = steps_to_refinement(step)
        step.serve_running()
        if step.preempted:
            if head is not None and step.budget > 0 and step.seats > 0:
                step.admit(head)
            return
        if step.waiting:
            step.admit_heads()
        else:
            step.hold = FOREVER
        step.wake_on_arrival = True  # even where no seat is free
        step.hold = 1 if cleared and step.waiting else min(step.hold, refined)
