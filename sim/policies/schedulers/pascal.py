"""Phase-aware scheduling: requests that answer and requests that reason are not alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import floor
from typing import Any, Literal

from sim.engine.request import Request
from sim.engine.settings import EngineSettings
from sim.engine.step import FOREVER, Step
from sim.policies.batching import admit_listed, clear_place, make_room_by, victims_for
from sim.policies.schedulers import scheduler


@scheduler("pascal")
@dataclass(frozen=True)
class Pascal:
    """PASCAL (arXiv 2602.11530) tells the two phases of a reasoning request apart. With ``first: answering``,
    the default here, whoever has begun to answer is recomputed last and comes back first, so that answers
    flow smoothly once begun and the time to the first answer token stays low under pressure. With ``first:
    reasoning`` it is the other way round, as in the paper: reasoning, which nobody reads, is hurried to its
    end, and an answer may be interrupted while its reader, at ``reading_tokens_per_s``, is still behind what
    was written. Within a phase first come, first served. Users must see where reasoning ends; the engine
    does, by its end-of-thinking token."""

    first: Literal["answering", "reasoning"] = "answering"
    reading_tokens_per_s: float = 10.0

    def __post_init__(self) -> None:
        if self.first not in ("answering", "reasoning"):
            raise ValueError(f"first must be 'answering' or 'reasoning', not {self.first!r}")
        if self.reading_tokens_per_s < 0:
            raise ValueError(f"reading_tokens_per_s must be at least 0, not {self.reading_tokens_per_s}")

    @property
    def serves_all_when_nobody_waits(self) -> bool:
        """Whether nothing has to be noted then: with ``first: reasoning`` it is when each began to answer."""
        return self.first == "answering"

    serves_all_then_admits_heads = serves_all_when_nobody_waits

    def queue_order(self, settings: EngineSettings) -> Callable[[Request], Any]:
        """Phase, then arrival; nothing changes while a request waits."""

        def key(request: Request) -> tuple[bool, int]:
            generated = max(0, request.peak + 1 - request.prompt_tokens)
            return ((generated > request.reasoning_tokens) != (self.first == "answering"), request.arrived_ps)

        return key

    def _later(self, step: Step, request: Request) -> bool:
        """Whether *request* belongs to the phase that yields to the other."""
        return step.answering(request) != (self.first == "answering")

    def _yielding(self, step: Step) -> list[Request]:
        """Who runs in that phase, in order of admission."""
        return step.in_phase(answering=self.first == "reasoning")

    def who_yields(self, step: Step) -> Request:
        """The last admitted of that phase, then of the other."""
        for request in reversed(step.running):
            if self._later(step, request):
                return request
        return next(reversed(step.running))

    def displaces(self, step: Step, head: Request) -> bool:
        """Whether *head* would take places of the phase that yields."""
        return not self._later(step, head) and victims_for(step, head, self._yielding(step)) is not None

    def _ahead(self, step: Step, request: Request) -> bool:
        """Whether the reader of an answer that yields is still busy with what was written."""
        if self.first == "answering":
            return True
        return step.generated(request) - request.reasoning_tokens > self._read(step, request)

    def _read(self, step: Step, request: Request) -> float:
        """Tokens of its answer that the reader of *request* may have read by now."""
        begun_ps: int = step.memory.setdefault(request, step.now_ps)
        return self.reading_tokens_per_s * (step.now_ps - begun_ps) * 1e-12

    def _steps_to_ahead(self, step: Step, request: Request) -> int:
        """How many tokens the answer is short of what its reader, who has caught up, may have read by now: he stays so for that
        many steps, since he reads on meanwhile. Who is busy now may only cease to be: no victim is found by that.
        """
        short = floor(self._read(step, request)) - (step.generated(request) - request.reasoning_tokens)
        return FOREVER if short < 0 else short + 1

    def schedule(self, step: Step) -> None:
        step.wake_on_phase = self.first == "reasoning"  # else who begins to answer merely yields no more
        for request in [request for request in step.memory if request.finished_ps >= 0]:
            del step.memory[request]
        if self.first == "reasoning":
            for request in step.in_phase(answering=True):
                step.memory.setdefault(request, step.now_ps)
        make_room_by(step, self.who_yields)
        head = step.next_candidate()
        cleared, hold = False, FOREVER
        if head is not None and not step.preempted and not self._later(step, head):
            yielding = self._yielding(step)
            cleared = clear_place(step, head, (each for each in reversed(yielding) if self._ahead(step, each)))
            if self.first == "reasoning" and not cleared:
                hold = min((self._steps_to_ahead(step, each) for each in yielding), default=FOREVER)
        step.serve_running()
        if step.preempted and not cleared:
            return
        if cleared:
            out = {*step.preempted}  # who was preempted just now comes back later
            admit_listed(step, (request for request in step.candidates() if request not in out))
            step.hold = 1 if step.waiting else FOREVER
            return
        step.admit_heads()
        step.wake_on_arrival = True  # even where no seat is free
        step.hold = min(step.hold, hold)
