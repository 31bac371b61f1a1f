"""Reasoning in chunks: after a quantum of reasoning a request yields its place to others that wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import merge
from typing import Any, ClassVar, Literal

from sim.engine.request import Request
from sim.engine.settings import EngineSettings
from sim.engine.step import FOREVER, Step
from sim.policies.schedulers import scheduler


@dataclass
class _Notes:
    """What the scheduler remembers of one replica."""

    since: dict[Request, int]
    """Output tokens with which the chunk under way began."""
    parked: dict[Request, None]
    """Paused between two chunks, the oldest first."""
    refused: Request | None = None
    """Who was next and found no blocks."""
    busy_until_ps: int = -1
    """Until then a token is in flight of somebody who was taken out of the batch."""
    due: int = 0
    """Before this step nobody's chunk is over who is not parked, of those admitted up to ``newest``: a step yields a token."""
    newest: int = 0
    """Place in the order of admission."""


@scheduler("chunked_reasoning")
@dataclass(frozen=True)
class ChunkedReasoning:
    """Reasoning is interrupted every ``quantum_tokens`` where somebody waits and no seat is free, so that short queries do
    not wait for the end of long chains. Answers are not interrupted. Between two chunks a request's KV is kept in
    the pool (``keep``), checkpointed to the host and brought back (``host``, needs ``kv: swap``), or thrown away and
    computed again (``recompute``); these two give blocks back, so a chunk ends there also where it is blocks that somebody
    lacks. What is kept is reclaimed, the oldest first, when nothing else can run.
    Newcomers enter before those that have yielded, unless ``newcomers_first`` is false: then it goes round and round.
    """

    quantum_tokens: int = 2048
    between_chunks: Literal["keep", "host", "recompute"] = "keep"
    newcomers_first: bool = True
    serves_all_when_nobody_waits: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.quantum_tokens < 1:
            raise ValueError(f"quantum_tokens must be at least 1, not {self.quantum_tokens}")
        if self.between_chunks not in ("keep", "host", "recompute"):
            raise ValueError(f"between_chunks must be keep, host or recompute, not {self.between_chunks!r}")

    @property
    def serves_all_then_admits_heads(self) -> bool:
        """Whether that is all it does where blocks are short."""
        return self.between_chunks == "keep"

    def displaces(self, step: Step, head: Request) -> bool:
        """Whether somebody may yield to who waits."""
        return step.seats <= 0

    @property
    def swaps(self) -> bool:
        """Whether what it preempts has to go to the host."""
        return self.between_chunks == "host"

    def queue_order(self, settings: EngineSettings) -> Callable[[Request], Any]:
        """Newcomers by arrival, then who has yielded longest ago; or all by how long they have waited."""

        def key(request: Request) -> tuple[bool, int]:
            if request.yielded_ps < 0:
                return False, request.arrived_ps
            return self.newcomers_first, request.yielded_ps

        return key

    def schedule(self, step: Step) -> None:
        notes = self._notes(step)
        least = self._yield(step, notes)
        out = set(step.preempted)  # who has just yielded comes back later
        self._resume(step, notes, out)
        self._reclaim(step, notes)
        yielded = len(step.preempted)
        step.serve_running()
        if len(step.preempted) == yielded or not self._active(step):  # else memory is short: let the others go on first
            self._admit(step, notes, {*out, *step.preempted})
        for request in step.preempted:
            notes.busy_until_ps = max(notes.busy_until_ps, request.busy_until_ps)
        self._hold(step, notes, least)

    # ------------------------------------------------------------------ parts of a plan

    def _notes(self, step: Step) -> _Notes:
        notes: _Notes | None = step.memory.get("chunks")
        if notes is None:
            notes = step.memory["chunks"] = _Notes({}, {})
        if notes.refused and (step.seats <= 0 or notes.refused.finished_ps >= 0):
            notes.refused = None  # it was noted plans ago, since plans that admit nobody may go unasked
        if len(notes.parked) != step.replica.paused:  # some were cancelled
            for gone in [request for request in notes.parked if not (request.running and request.paused)]:
                del notes.parked[gone]
        if len(notes.since) > 2 * (len(step.running) + len(step.waiting)) + 64:
            present = {*step.running, *step.waiting}
            for gone in [request for request in notes.since if request not in present]:
                del notes.since[gone]
        return notes

    def _left(self, step: Step, notes: _Notes) -> list[tuple[int, Request]]:
        """Tokens until the chunk of each is over who reasons and is not parked; none or less: it is."""
        quantum, since = self.quantum_tokens, notes.since
        return [(quantum - tokens + since.get(request, 0), request) for request, tokens in step.reasoning()]

    @staticmethod
    def _active(step: Step) -> bool:
        """Whether anybody runs who is not parked."""
        return len(step.running) > step.replica.paused

    def _wanted(self, step: Step, notes: _Notes) -> int:
        """How many have to yield for those who wait, or are parked."""
        if step.seats <= 0:
            return len(step.waiting) + len(notes.parked)
        return int(notes.refused is not None and self.between_chunks != "keep")  # it is blocks that are short

    def _yield(self, step: Step, notes: _Notes) -> int | None:
        """As many as others wait for a place give it up, who has had it longest first. Return how many tokens are left of a
        chunk of those who stay, at the least; None: nobody waits for a place."""
        wanted = self._wanted(step, notes)
        if not wanted:
            return None
        if self._undue(step, notes):
            return notes.due - step.number
        chunks = self._left(step, notes)
        notes.newest = max((request.order for request in step.running), default=0)
        least = min([left for left, _ in chunks], default=FOREVER)
        if least > 0:
            notes.due = step.number + least
            return least
        over = sorted((left, request.order, request) for left, request in chunks if left <= 0)
        for _, _, request in over[:wanted]:
            notes.since[request] = step.generated(request)
            request.yielded_ps = step.now_ps
            notes.busy_until_ps = max(notes.busy_until_ps, request.busy_until_ps)
            if self.between_chunks == "keep":
                step.pause(request)
                notes.parked[request] = None
            else:
                step.preempt(request)
        least = 0 if len(over) > wanted else min([left for left, _ in chunks if left > 0], default=FOREVER)
        notes.due = step.number + least
        return least

    def _undue(self, step: Step, notes: _Notes) -> bool:
        """Whether it is known that nobody's chunk is over, whom to look at being who was admitted meanwhile."""
        number = step.number
        if notes.due <= number or step.settings.speculation:
            return False
        newest = notes.newest
        for request in reversed(step.running):
            if request.order <= newest:
                break
            if not step.answering(request):
                left = self.quantum_tokens - step.generated(request) + notes.since.get(request, 0)
                notes.due = min(notes.due, number + left)
            notes.newest = max(notes.newest, request.order)
        return notes.due > number

    def _waiting(self, step: Step, out: set[Request]) -> Iterator[Request]:
        """Who may be admitted, the next first."""
        return (request for request in step.candidates() if request not in out)

    def _resume(self, step: Step, notes: _Notes, out: set[Request]) -> None:
        """Parked requests whose turn it is take the seats that nobody before them needs."""
        seats, ready = step.seats, list[Request]()
        for request in notes.parked if seats > 0 else ():
            if len(ready) >= seats and request.yielded_ps > ready[-1].yielded_ps:
                break  # they were parked in that order, and more are not needed
            if request.busy_until_ps <= step.now_ps:
                ready.append(request)
        if not ready:
            return
        key = self.queue_order(step.settings)

        def rank(request: Request) -> tuple[Any, int]:
            return key(request), request.id

        ready.sort(key=rank)
        # while there are no blocks for who waits, others go on
        order = ready if notes.refused else merge(ready, self._waiting(step, out), key=rank)
        left = len(ready)
        for request in order:
            if seats <= 0 or not left:
                return
            seats -= 1
            if request in notes.parked:
                left -= 1
                step.resume(request)
                del notes.parked[request]
                notes.due = min(notes.due, step.number + self.quantum_tokens)

    def _reclaim(self, step: Step, notes: _Notes) -> None:
        """What runs needs blocks: parked requests give theirs up, the oldest first."""
        while notes.parked and step.blocks_needed() > step.free_blocks:
            self._drop(step, notes)

    @staticmethod
    def _drop(step: Step, notes: _Notes) -> None:
        oldest = next(iter(notes.parked))
        del notes.parked[oldest]
        step.preempt(oldest)

    def _admit(self, step: Step, notes: _Notes, out: set[Request]) -> None:
        notes.refused = None
        for request in self._waiting(step, out):
            if step.budget <= 0 or step.seats <= 0:
                return
            while not step.admit(request):
                if not notes.parked or self._active(step):
                    notes.refused = request
                    return
                self._drop(step, notes)  # nothing else can run

    def _hold(self, step: Step, notes: _Notes, least: int | None) -> None:
        if step.preempted:
            return
        if not step.waiting and not notes.parked:
            step.hold = FOREVER
            return
        if notes.busy_until_ps > step.now_ps:
            return
        if notes.refused and not step.stays_refused(notes.refused):
            return
        if step.seats > 0 and (notes.parked or not notes.refused):
            return  # the next plan fills these seats
        if not self._wanted(step, notes):
            step.hold = FOREVER  # whose chunk is over goes on
            step.wake_on_new_head = True  # who comes after one who is refused is not looked at
            return
        if least is None:
            least = min([left for left, _ in self._left(step, notes)], default=FOREVER)
        else:  # of those who stay, before this step; who has entered meanwhile has a whole chunk before him
            least = min(least, self.quantum_tokens)
        step.hold = max(1, least)
        step.wake_on_arrival = step.seats > 0  # else nobody is admitted before somebody yields
