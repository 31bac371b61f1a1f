"""Fairness between clients by virtual token counters."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import ClassVar

from sim.engine.request import Request
from sim.engine.step import FOREVER, Step
from sim.policies.schedulers import scheduler


@dataclass
class _Books:
    """Tokens charged: to each client, and of that for the output of each request that has not ended."""

    counter: dict[int, float]
    charged: dict[Request, int]
    ran: dict[Request, None]
    """Who has run since all were charged last."""
    queued: set[int]
    last: int | None
    """The client that left the queue last."""


@scheduler("vtc")
@dataclass(frozen=True)
class Vtc:
    """Virtual token counter (Sheng et al., OSDI 2024): each client is charged for the tokens served to it,
    prompts when they enter, outputs as they come, and the next request admitted is the first of the client
    charged least. A client that comes back is lifted to the least counter of those that wait, so that idling
    saves up nothing. Clients that always have work are served alike within a bound; nobody is preempted for
    it."""

    prompt_weight: float = 1.0
    output_weight: float = 2.0
    queues_by_client: ClassVar[bool] = True

    def schedule(self, step: Step) -> None:
        books = step.memory.get("books")
        if books is None:
            books = step.memory["books"] = _Books({}, {}, {}, set(), None)
        step.serve_running()
        if not step.waiting:
            books.queued = set()
            step.hold = FOREVER
            return
        firsts = step.firsts()
        contested = len(firsts) > 1 or not books.queued.issuperset(firsts)
        if contested or len(books.ran) > 4 * len(step.running) + 64:
            self._charge(step, books)  # at other times nobody asks who was charged what
        self._lift(books, firsts)
        if step.preempted:
            return
        while firsts and step.budget > 0 and step.seats > 0:
            client = min(firsts, key=lambda each: (books.counter[each], each))
            request = firsts[client]
            if not step.admit(request):
                if step.stays_refused(request):
                    step.hold = self._steps_to_flip(step, books, client, firsts)
                return
            books.counter[client] += self.prompt_weight * request.prompt_tokens
            books.charged[request] = max(books.charged.get(request, 0), 0)
            books.ran[request] = None
            following = step.first_of(client)
            if following is None:
                del firsts[client]
                books.last = client
            else:
                firsts[client] = following
        if not firsts or step.seats <= 0:
            step.hold = FOREVER

    def _charge(self, step: Step, books: _Books) -> None:
        """Charge every client for the output since the last plan."""
        counter, charged, weight = books.counter, books.charged, self.output_weight
        for request in books.ran:
            if request.finished_ps >= 0:
                now = request.known - request.prompt_tokens + request.probe_tokens
                counter[request.client] += weight * (now - charged.pop(request))
            elif not request.running:
                now = step.generated(request)
                counter[request.client] += weight * (now - charged[request])
                charged[request] = now
        running = step.running
        for request, now in zip(running, step.generated_by_all(), strict=True):
            before = charged.get(request, now)  # whose KV came from another engine was never admitted here
            if now != before:
                counter[request.client] += weight * (now - before)
                charged[request] = now
        books.ran = dict.fromkeys(running)

    def _lift(self, books: _Books, firsts: dict[int, Request]) -> None:
        """Clients new in the queue are lifted."""
        stayed = [books.counter[client] for client in books.queued if client in firsts]
        least = min(stayed) if stayed else books.counter.get(books.last, 0.0) if books.last is not None else 0.0
        for client in firsts:
            if client not in books.queued:
                books.counter[client] = max(books.counter.get(client, 0.0), least)
        books.queued = set(firsts)

    def _steps_to_flip(self, step: Step, books: _Books, client: int, firsts: dict[int, Request]) -> int:
        """For how many steps *client* stays the one charged least, while all that run decode."""
        rate: dict[int, int] = {}
        for request in step.running:
            if not request.paused:
                rate[request.client] = rate.get(request.client, 0) + 1
        steps = FOREVER
        if len(firsts) == 1:
            return steps
        for other in firsts:
            faster = self.output_weight * (rate.get(client, 0) - rate.get(other, 0))
            if other != client and faster > 0:
                gap = books.counter[other] - books.counter[client]
                steps = min(steps, max(1, floor(gap / faster)))
        return steps
