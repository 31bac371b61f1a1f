"""Requests that are sent again: lost with their replica, moved off one that drains, turned away and backed off, or
waited for in vain.

Each attempt is a request of its own with a row of its own; for the client all of them arrived when the first
one did.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from sim.cluster.clock import ARRIVAL
from sim.cluster.dispatch import place
from sim.cluster.driver import QueryRun
from sim.engine.request import Request
from sim.results.columns import Status

if TYPE_CHECKING:
    from sim.cluster.gateway import Gateway


@dataclass(frozen=True)
class Backoff:
    """How a client behaves that was turned away, or waited in vain: it tries again, each time after a longer while."""

    attempts: int = 3
    """Tries after the first."""
    first_ps: int = 1_000_000_000_000
    """Mean time before the first of them."""
    factor: float = 2.0
    """By how much each wait is longer than the one before."""
    jitter: float = 0.5
    """A wait is drawn evenly from its mean times (1 - jitter) to (1 + jitter)."""
    after_timeouts: bool = False
    """Clients whose patience has run out try again too, with the same patience for each try."""

    def wait_ps(self, attempt: int, draw: float) -> int:
        """Time before try number *attempt* (0, 1, …), with *draw* in [0, 1)."""
        mean = self.first_ps * self.factor**attempt
        return max(1, round(mean * (1 + self.jitter * (2 * draw - 1))))


class Retries:
    """Sends again on behalf of a gateway."""

    def __init__(self, gateway: Gateway, rng: np.random.Generator, backoff: Backoff | None) -> None:
        self._gateway = gateway
        self._rng = rng
        self._backoff = backoff
        self.max_retries = 3
        self._losses: dict[int, int] = {}  # by request: how often it was lost before
        self.after_timeouts = backoff is not None and backoff.after_timeouts
        self._tries: dict[int, int] = {}  # by request: how often it was tried before

    # ------------------------------------------------------------------ replicas that go

    def lost(self, index: int) -> None:
        """Replica *index* is gone: its requests are sent again elsewhere, or fail when they were sent too
        often.
        """
        gateway = self._gateway
        gateway.settle_on(index)
        if gateway.dispatch.handover is not None:
            gateway.dispatch.handover.lost(index)
        for request in gateway.live_on(index):
            gateway.dispatch.forget(request)
            self.lose(request)

    def lose(self, request: Request) -> None:
        """*request*, which stands on no replica any more, is sent again, or fails when it was sent too often."""
        gateway = self._gateway
        request.status, request.finished_ps = Status.FAILED, gateway.clock.now_ps
        losses = self._losses.pop(request.id, 0)
        if losses >= self.max_retries:
            gateway.left(request)
            return
        again, pool = self._replace(request)
        again.pool = again.replica = -1
        self._losses[again.id] = losses + 1
        if request.id in self._tries:
            self._tries[again.id] = self._tries.pop(request.id)
        send = partial(self._send, again, pool, request.truncated)
        gateway.clock.soon(ARRIVAL, place(again), send)

    def move_waiting(self, index: int) -> None:
        """Requests on replica *index* that have not been scheduled yet are routed anew; nothing of theirs
        is lost.
        """
        gateway = self._gateway
        shell, handover = gateway.shells[index], gateway.dispatch.handover
        for request in gateway.live_on(index):
            if handover is not None and handover.under_way(request):
                if handover.withdraw(request):
                    self._move(request)
                continue
            if shell.info.role == "decode":
                continue  # its KV is here
            if request.first_scheduled_ps >= 0 or not shell.cancel(request, Status.CANCELLED):
                continue
            gateway.dispatch.forget(request)
            self._move(request)

    def _move(self, request: Request) -> None:
        gateway = self._gateway
        request.status, request.finished_ps = Status.UNFINISHED, -1
        request.pool = request.replica = -1
        send = partial(self._send, request, gateway.pool_of(request), request.truncated)
        gateway.clock.soon(ARRIVAL, place(request), send)

    def _send(self, request: Request, pool: str | None, cut: bool) -> None:
        if request.status == Status.UNFINISHED:
            self._gateway.dispatch.send(request, pool, fresh=False)
            if cut and request.status == Status.UNFINISHED:
                request.truncated = True

    # ------------------------------------------------------------------ turned away, or out of patience

    def backs_off(self, request: Request) -> bool:
        """Whether the client of *request*, which was turned away, will try again; if so, that is set."""
        tries = self._tries.pop(request.id, 0)
        if self._backoff is None or tries >= self._backoff.attempts:
            return False
        request.status, request.finished_ps = Status.REJECTED, self._gateway.clock.now_ps
        request.pool = request.replica = -1
        self._try_later(*self._replace(request), tries)
        return True

    def tries_again(self, request: Request) -> bool:
        """Whether the client of *request*, which was cancelled when its patience ran out, tries again; if so, that is set."""
        tries = self._tries.pop(request.id, 0)
        if self._backoff is None or not self.after_timeouts or tries >= self._backoff.attempts:
            return False
        gateway = self._gateway
        gateway.tally.retried += 1
        again = gateway.open[request.query] = gateway.copy(request)
        self._try_later(again, None, tries)
        return True

    def _try_later(self, again: Request, pool: str | None, tries: int) -> None:
        assert self._backoff is not None
        again.pool = again.replica = -1
        self._tries[again.id] = tries + 1
        if self.after_timeouts:
            self._gateway.patience.tries[again.query] = tries + 1  # the patience of the try before is over
        clock = self._gateway.clock
        at_ps = clock.now_ps + self._backoff.wait_ps(tries, float(self._rng.random()))
        clock.at(at_ps, ARRIVAL, place(again), partial(self._try, again, pool))

    def _try(self, request: Request, pool: str | None) -> None:
        if request.status != Status.UNFINISHED:
            return
        if self.after_timeouts:
            self._gateway.patience.begin(request.query)
        self._gateway.dispatch.send(request, pool)

    # ------------------------------------------------------------------ once more

    def _replace(self, old: Request) -> tuple[Request, str | None]:
        gateway = self._gateway
        gateway.requests.take(old)
        gateway.tally.retried += 1
        again = gateway.copy(old)
        item = gateway.open[old.query]
        if isinstance(item, QueryRun):
            return again, item.replace(old, again)
        gateway.open[old.query] = again
        return again, None
