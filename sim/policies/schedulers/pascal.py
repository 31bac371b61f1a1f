"""Phase-aware scheduling: requests that answer and requests that reason are not alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sim.engine.request import Request
from sim.engine.step import FOREVER, Step
from sim.policies.batching import admit_listed, clear_place, make_room
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

    def _later(self, step: Step, request: Request) -> bool:
        """Whether *request* belongs to the phase that yields to the other."""
        return step.answering(request) != (self.first == "answering")

    def _ahead(self, step: Step, request: Request) -> bool:
        """Whether the reader of an answer that yields is still busy with what was written."""
        if self.first == "answering":
            return True
        begun_ps = step.memory.setdefault(request, step.now_ps)
        written = step.generated(request) - request.reasoning_tokens
        return bool(written > self.reading_tokens_per_s * (step.now_ps - begun_ps) * 1e-12)

    def schedule(self, step: Step) -> None:
        step.wake_on_phase = True
        for request in [request for request in step.memory if request.finished_ps >= 0]:
            del step.memory[request]
        if self.first == "reasoning":
            for request in step.running:
                if step.answering(request):
                    step.memory.setdefault(request, step.now_ps)
        make_room(step, lambda request: (self._later(step, request), request.order))
        order = sorted(step.candidates(), key=lambda r: (self._later(step, r), r.arrived_ps, r.id))
        cleared, yielding = False, []
        if order and not step.preempted and not self._later(step, order[0]):
            yielding = [request for request in step.running if self._later(step, request)]
            ready = [request for request in reversed(yielding) if self._ahead(step, request)]
            cleared = clear_place(step, order[0], ready)
        step.serve_running()
        if step.preempted and not cleared:
            return
        refused = admit_listed(step, order)
        if cleared and step.waiting:
            return
        if self.first == "reasoning" and yielding:
            return  # readers catch up with time, not with steps
        if refused is None or step.stays_refused(refused):
            step.hold = FOREVER
