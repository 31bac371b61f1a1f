"""Clients that wait for so long and no longer: a query whose patience runs out is given up, or tried again."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from sim.cluster.clock import CANCEL
from sim.cluster.driver import QueryRun
from sim.results.columns import Status

if TYPE_CHECKING:
    from sim.cluster.gateway import Gateway


class Patience:
    """The deadlines of the clients of *gateway*, each *timeout_ps* after a try; None: they wait for ever."""

    def __init__(self, gateway: Gateway, timeout_ps: int | None) -> None:
        self._gateway = gateway
        self.timeout_ps = timeout_ps
        self.given_up_ps: dict[int, int] = {}
        """When its client left, by query that had one request."""
        self.tries: dict[int, int] = {}
        """Tries before the one under way, by query, where each has a patience of its own."""
        self._deadlines: deque[tuple[int, int, int]] = deque()  # (time, query, its try), in order of time
        self._alarm = gateway.clock.alarm(CANCEL, -1, self._run_out)

    def begin(self, query: int) -> None:
        """From now on the client of *query* is patient for the timeout, and no longer."""
        timeout_ps, deadlines, clock = self.timeout_ps, self._deadlines, self._gateway.clock
        assert timeout_ps is not None
        due_ps = clock.now_ps + timeout_ps
        deadlines.append((due_ps, query, self.tries.get(query, 0)))
        if len(deadlines) == 1:
            clock.set(self._alarm, due_ps)

    def _is_due(self, query: int, tries: int) -> bool:
        """Whether *query* still waits, and for the same try."""
        return query in self._gateway.open and self.tries.get(query, 0) == tries

    def _run_out(self) -> None:
        """The oldest deadlines have come; clients of queries that are still open give up."""
        gateway, deadlines = self._gateway, self._deadlines
        now_ps = gateway.clock.now_ps
        while deadlines and deadlines[0][0] <= now_ps:
            _, query, tries = deadlines.popleft()
            if not self._is_due(query, tries):
                continue
            item = gateway.open.pop(query)
            if isinstance(item, QueryRun):
                item.time_out()
                continue
            gateway.cancel(item, Status.TIMED_OUT)
            if not gateway.retries.tries_again(item):
                self.given_up_ps[query] = now_ps
                gateway.query_done(query, item.arrived_ps, item.id)
        while deadlines and not self._is_due(*deadlines[0][1:]):
            deadlines.popleft()
        if deadlines:
            gateway.clock.set(self._alarm, deadlines[0][0])
