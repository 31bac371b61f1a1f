"""Phase-aware scheduling: requests that answer and requests that reason are not alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from sim.engine.request import Request
from sim.engine.settings import EngineSettings
from sim.engine.step import FOREVER, Step
from sim.policies.batching import admit_listed, clear_place
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

    def _make_room(self, step: Step) -> None:
        """The last admitted of that phase, then of the other, until everybody who runs finds the blocks of its next token."""
        while step.blocks_needed() > step.free_blocks and len(step.running) > 1:
            step.preempt((self._yielding(step) or [*step.running])[-1])

    def _ahead(self, step: Step, request: Request) -> bool:
        """Whether the reader of an answer that yields is still busy with what was written."""
        if self.first == "answering":
            return True
        begun_ps = step.memory.setdefault(request, step.now_ps)
        written = step.generated(request) - request.reasoning_tokens
        return bool(written > self.reading_tokens_per_s * (step.now_ps - begun_ps) * 1e-12)

    @staticmethod
    def _admit(step: Step, cleared: bool) -> Request | None:
        """Admit in the queue's order, but nobody who was preempted just now; return who was refused, if anybody."""
        if cleared:
            return admit_listed(step, (request for request in step.candidates() if request not in step.preempted))
        while step.budget > 0 and step.seats > 0:
            request = step.next_candidate()
            if request is None:
                break
            if not step.admit(request):
                return request
        return None

    def schedule(self, step: Step) -> None:
        step.wake_on_phase = True
        for request in [request for request in step.memory if request.finished_ps >= 0]:
            del step.memory[request]
        if self.first == "reasoning":
            for request in step.in_phase(answering=True):
                step.memory.setdefault(request, step.now_ps)
        self._make_room(step)
        head = step.next_candidate()
        cleared, yielding = False, []
        if head is not None and not step.preempted and not self._later(step, head):
            yielding = self._yielding(step)
            cleared = clear_place(step, head, (each for each in reversed(yielding) if self._ahead(step, each)))
        step.serve_running()
        if step.preempted and not cleared:
            return
        refused = self._admit(step, cleared)
        if cleared and step.waiting:
            return
        if self.first == "reasoning" and yielding:
            return  # readers catch up with time, not with steps
        if refused is None or step.stays_refused(refused):
            step.hold = FOREVER
