"""Where queries enter and answers leave: arrivals, routing, ends, client timeouts, and what each leaves in
the tables.

A strategy that makes one generation a query (``plain``) has no generator: the query is its request.
Everything else runs through `sim.cluster.driver`, to the same result. Requests of one query go where its
first one of that pool went, unless the router wants each request by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from sim.cluster.arrivals import arrivals
from sim.cluster.clock import ARRIVAL, CANCEL, FAILURE, REACTION, TICK, Clock
from sim.cluster.driver import QueryRun
from sim.cluster.shell import Shell
from sim.cluster.view import LiveView, StaleView
from sim.cluster.window import FOREVER, Window
from sim.engine.request import Request
from sim.errors import PolicyError
from sim.policies.reasoning import Strategy
from sim.policies.routing import Choose, Router
from sim.results.columns import Status
from sim.results.sinks import QUERY_ROW, RequestSink, RowSink
from sim.rng import Streams
from workloads.source import QuerySource

SAMPLE_BITS = 24
"""Samples of one query keep their order within an instant up to this many bits."""
CLOSE, DRAIN, REFRESH, FIRST_FREE_TICK = range(4)


class Predictor(Protocol):
    """Guesses the output of a request from what is visible of it."""

    def __call__(self, request: Request) -> int: ...


@dataclass
class GatewaySettings:
    """What a client or an operator sets at the gateway; times in picoseconds."""

    timeout_ps: int | None = None
    """A client gives up on a query so long after it sent it; None: never."""
    refresh_ps: int | None = None
    """Age that the router's picture of the replicas can reach; None: it sees the present."""
    deadlines_ps: tuple[int | None, ...] | None = None
    """Time-to-answer target by category code, for schedulers and routers that look at deadlines."""


@dataclass
class Tally:
    """What the run counted beside its tables."""

    queries: int = 0
    """Arrived."""
    queries_done: int = 0
    requests: int = 0
    retried: int = 0
    rejections: list[str] = field(default_factory=list)
    """Reasons of the first few rejections, in words."""


class Gateway:
    """The control plane of one run."""

    def __init__(
        self,
        clock: Clock,
        source: QuerySource,
        *,
        strategy: Strategy,
        router: Router,
        window: Window,
        streams: Streams,
        settings: GatewaySettings | None = None,
        predictor: Predictor | None = None,
    ) -> None:
        self.clock = clock
        self.source = source
        self.strategy = strategy
        self.router = router
        self.window = window
        self.settings = settings or GatewaySettings()
        self.tally = Tally()
        self.requests = RequestSink()
        self.queries: RowSink | None = None if strategy.plain else RowSink(QUERY_ROW)
        self._predict = predictor
        self._choose: Choose = router.begin(streams.generator("router"))
        self._budgets = self._plain_budgets(strategy, source)
        self._open: dict[int, Request | QueryRun] = {}
        self._run_of: dict[int, QueryRun] = {}
        self._lingering: dict[int, tuple[Request, Status]] = {}
        self._parents: dict[int, Request] = {}
        self.max_retries = 3
        self.emptied: Callable[[int], None] | None = None
        """Told when a replica has nothing outstanding any more."""
        self._attempts: dict[int, int] = {}  # by request: how often it was sent again
        self.given_up_ps: dict[int, int] = {}
        self._deadlines: deque[tuple[int, int]] = deque()
        self._deadline_alarm = clock.alarm(CANCEL, -1, self._time_out)
        self._rows = arrivals(source)
        self._next: tuple[int, ...] | None = None
        self._alarm = clock.alarm(ARRIVAL, 0, self._arrive)
        self._closed_loop = source.closed_loop
        self._window_closed = False
        self._coming = 0  # closed loop: released slots whose query has not arrived yet
        self._last_arrival_ps = 0
        self._parked: list[tuple[Request, str | None]] = []

    @staticmethod
    def _plain_budgets(strategy: Strategy, source: QuerySource) -> list[int | None] | None:
        if not strategy.plain:
            return None
        budgets = [strategy.budget(category) for category in source.categories]
        return budgets if any(budget is not None for budget in budgets) else None

    # ------------------------------------------------------------------ start and end

    def start(self, shells: Sequence[Shell]) -> None:
        """Take charge of *shells* and set the first arrivals."""
        self.shells = shells
        self.outstanding = [0] * len(shells)
        self._expected = None if self._predict is None else [0] * len(shells)
        self._first: dict[int, int] = {}
        for shell in shells:
            self._first.setdefault(shell.info.pool_index, shell.info.index)
        self.live = LiveView(shells, self.outstanding, self.source.categories, self._expected)
        self.view = self.live
        if self.settings.refresh_ps is not None:
            needs = self.router.needs()
            self.view = StaleView(
                shells, self.outstanding, self.source.categories, self._expected, needs == "snapshots"
            )
            if needs != "nothing":
                self._refresh_alarm = self.clock.alarm(TICK, REFRESH, self._refresh)
                self.clock.set(self._refresh_alarm, self.settings.refresh_ps)
        self.membership_changed()
        if self.window.end_ps < FOREVER:
            self._set_close()
        self._next = next(self._rows, None)
        if self._closed_loop is None:
            self._set_arrival()
        else:
            for _ in range(self._closed_loop):
                self._release()
        self._stop_if_over()

    def look(self, now_ps: int) -> None:
        """Let `live` show the present."""
        self.live.now_ps = now_ps

    def parked(self, pool: str) -> int:
        """Requests that wait here for a replica of *pool*, or of any."""
        return sum(
            wanted in (None, pool) and request.status == Status.UNFINISHED for request, wanted in self._parked
        )

    def membership_changed(self) -> None:
        """Some replica began or stopped to take requests: who can be chosen is found anew."""
        by_pool: dict[str | None, list[int]] = {None: []}
        for shell in self.shells:
            if shell.accepting:
                by_pool.setdefault(shell.info.pool, []).append(shell.info.index)
                if shell.info.role == "generate":
                    by_pool[None].append(shell.info.index)
        self._candidates = {pool: tuple(indices) for pool, indices in by_pool.items()}
        self._members = {pool: frozenset(indices) for pool, indices in by_pool.items()}
        only = self._candidates[None]
        self._only = only[0] if len(self.shells) == 1 and len(only) == 1 else -1
        if self._parked and only:
            parked, self._parked = self._parked, []
            for request, pool in parked:
                if request.status == Status.UNFINISHED:
                    self.clock.soon(ARRIVAL, _place(request), partial(self.send, request, pool))

    def finish(self) -> None:
        """The run is over: what is still open is unfinished, and leaves its row."""
        for shell in self.shells:
            shell.stop()
        for key in sorted(self._lingering):
            request, status = self._lingering[key]
            request.status = status
            request.finished_ps = self.clock.now_ps
            self._settle(request)
        for item in self._open.values():
            if isinstance(item, QueryRun):
                self.requests.take_all(item.live())
                item.leave(Status.UNFINISHED, -1)
            else:
                self.requests.take(item)
        if self.window.end_ps == FOREVER:
            self.window.end_ps = self._last_arrival_ps + 1
        elif self._next is None and not self._window_closed:
            self.window.end_ps = min(self.window.end_ps, self._last_arrival_ps + 1)
        self.window.start_ps = min(self.window.start_ps, self.window.end_ps)

    def _set_close(self) -> None:
        self.clock.at(self.window.end_ps, TICK, CLOSE, self._close)

    def _close(self) -> None:
        self._window_closed = True
        if not self.window.open:
            self.clock.stop()
        elif self.window.max_drain_ps < FOREVER:
            drain_ps = self.clock.now_ps + self.window.max_drain_ps
            if drain_ps == self.clock.now_ps:
                self.clock.stop()
            else:
                self.clock.at(drain_ps, TICK, DRAIN, self.clock.stop)

    def _refresh(self) -> None:
        assert isinstance(self.view, StaleView)
        self.view.refresh(self.clock.now_ps)
        self.clock.set(self._refresh_alarm, self.clock.now_ps + (self.settings.refresh_ps or 0))

    # ------------------------------------------------------------------ arrivals

    def _set_arrival(self) -> None:
        row = self._next
        if row is not None:
            self._alarm.order = row[0] << SAMPLE_BITS
            self.clock.set(self._alarm, row[1])

    def _release(self) -> None:
        """Closed loop: a slot is free, and its next query comes after its think time."""
        row = self._next
        if row is not None:
            self._next = next(self._rows, None)
            self._coming += 1
            self.clock.at(
                self.clock.now_ps + row[1], ARRIVAL, row[0] << SAMPLE_BITS, partial(self._come, row)
            )
        else:
            self._stop_if_over()

    def _come(self, row: tuple[int, ...]) -> None:
        self._coming -= 1
        self._enter(row)

    def _arrive(self) -> None:
        row = self._next
        assert row is not None
        # The next one is set before this one is served, so that queries of one instant come in their order.
        following = self._next = next(self._rows, None)
        if following is not None:
            alarm = self._alarm
            alarm.order = following[0] << SAMPLE_BITS
            self.clock.set(alarm, following[1])
        self._enter(row)

    def _enter(self, row: tuple[int, ...]) -> None:
        now_ps = self.clock.now_ps
        self._last_arrival_ps = now_ps
        self.tally.queries += 1
        query = row[0]
        window = self.window
        end_ps = window.end_ps
        window.arrived(now_ps)
        if window.end_ps != end_ps:
            self._set_close()
        timeout_ps = self.settings.timeout_ps
        if timeout_ps is not None:
            self._deadlines.append((now_ps + timeout_ps, query))
            if len(self._deadlines) == 1:
                self.clock.set(self._deadline_alarm, now_ps + timeout_ps)
        if self.strategy.plain:
            reasoning = row[12]
            cut = False
            if self._budgets is not None:
                budget = self._budgets[row[5]]
                if budget is not None and reasoning > budget:
                    reasoning, cut = budget, True
            request = self.make(row, 0, reasoning, row[13], row[3])
            self._open[query] = request
            self.send(request)
            if cut and request.status == Status.UNFINISHED:
                request.truncated = True
        else:
            run = self._open[query] = QueryRun(self, row, now_ps)
            run.advance(None)

    def make(
        self, row: tuple[int, ...], sample: int, reasoning: int, answer: int, max_tokens: int, role: int = 0
    ) -> Request:
        """A request of the query in *row*, whose output would be *reasoning* + *answer* tokens."""
        prompt, group, prefix_len, parent = row[8], row[9], row[10], row[11]
        key: Any = None
        if prompt >= 0:
            key, prefix_len = ("prompt", prompt), row[2]
        elif group >= 0:
            key = group
        number = self.tally.requests
        self.tally.requests = number + 1
        request = Request(
            number,
            arrived_ps=self.clock.now_ps,
            prompt_tokens=row[2],
            output_tokens=reasoning + answer,
            reasoning_tokens=reasoning,
            max_tokens=max_tokens,
            query=row[0],
            sample=sample,
            role=role,
            priority=row[4],
            category=row[5],
            client=row[6],
            session=row[7],
            prefix_group=key,
            prefix_len=prefix_len,
        )
        if parent >= 0:
            before = request.parent = self._parents.get(parent)
            if before is not None and before.session == row[7] >= 0:
                del self._parents[parent]  # the next turn goes on from this one
        if row[7] >= 0 or parent >= 0:
            self._parents[row[0]] = request
        deadlines_ps = self.settings.deadlines_ps
        if deadlines_ps is not None and (target_ps := deadlines_ps[row[5]]) is not None:
            request.deadline_ps = request.arrived_ps + target_ps
        if self._predict is not None:
            request.predicted_tokens = self._predict(request)
        return request

    # ------------------------------------------------------------------ routing

    def send(self, request: Request, pool: str | None = None, home: int = -1) -> int:
        """Route *request* to a replica of *pool* (None: any that generates); return which, or -1.

        With *home* it goes there, if that replica still takes requests. Without any replica to go to it waits
        here. A request that fits on none of them is rejected.
        """
        index = self._only
        if index < 0 or pool is not None:
            candidates = self._candidates.get(pool, ())
            if not candidates:
                self._parked.append((request, pool))
                request.pool = request.replica = -1
                return -1
            if home >= 0 and self.shells[home].accepting:
                index = home
            else:
                index = self._route(request, candidates, self._members[pool])
        shell = self.shells[index]
        why = shell.engine.never_fits(request)
        if why is not None:
            return self._send_where_it_fits(request, pool, why)
        self._submit(request, index)
        return index

    def _submit(self, request: Request, index: int) -> None:
        self.outstanding[index] += 1
        if self._expected is not None:
            self._expected[index] += request.prompt_tokens + request.predicted_tokens
        self.shells[index].submit(request)
        request.parent = None  # its engine has taken what it needs; a chain of turns must not live for ever

    def _forget(self, request: Request) -> None:
        index = self._first[request.pool] + request.replica
        self.outstanding[index] -= 1
        if self._expected is not None:
            self._expected[index] -= request.prompt_tokens + request.predicted_tokens
        if not self.outstanding[index] and self.emptied is not None:
            self.clock.soon(FAILURE, index, partial(self._report_empty, index))

    def _report_empty(self, index: int) -> None:
        if not self.outstanding[index] and self.emptied is not None:
            self.emptied(index)

    def _route(self, request: Request, candidates: tuple[int, ...], members: frozenset[int]) -> int:
        view = self.view
        view.now_ps = self.clock.now_ps
        view.candidates = candidates
        index = self._choose(view, request)
        if index not in members:
            name = type(self.router).__name__
            raise PolicyError(f"router {name} chose replica {index}, which is not one of {list(candidates)}")
        return index

    def _send_where_it_fits(self, request: Request, pool: str | None, why: str) -> int:
        fits = tuple(
            index
            for index in self._candidates.get(pool, ())
            if self.shells[index].engine.never_fits(request) is None
        )
        if not fits:
            self.reject(request, why)
            return -1
        index = self._route(request, fits, frozenset(fits))
        self._submit(request, index)
        return index

    def reject(self, request: Request, why: str) -> None:
        """Turn *request* away; *why* is kept for the first few."""
        if len(self.tally.rejections) < 5:
            self.tally.rejections.append(f"request {request.id} (query {request.query}): {why}")
        request.status = Status.REJECTED
        request.finished_ps = self.clock.now_ps
        request.pool = request.replica = -1
        self._left(request)

    # ------------------------------------------------------------------ ends

    def ended(self, request: Request) -> None:
        """An engine is done with *request*."""
        if self._lingering and self._lingering.pop(request.id, None) is not None:
            self._settle(request)  # cancelled before; now its last step is paid
            return
        self._forget(request)
        self._left(request)

    def _settle(self, request: Request) -> None:
        self.requests.take(request)
        run = self._run_of.pop(request.id, None)
        if run is not None:
            run.settled(request)

    def _index_of(self, request: Request) -> int:
        return self._first[request.pool] + request.replica

    def _left(self, request: Request) -> None:
        self.requests.take(request)
        if not self.strategy.plain:
            run = self._run_of.pop(request.id)
            self.clock.soon(REACTION, request.id, partial(run.received, request))
            return
        query = request.query
        del self._open[query]
        self.query_done(request.arrived_ps, request.id)

    def query_done(self, arrived_ps: int, request_id: int) -> None:
        """A query has ended, in whatever way."""
        self.tally.queries_done += 1
        window = self.window
        window.ended(arrived_ps)
        if self._closed_loop is not None:
            self.clock.soon(REACTION, request_id, self._release)
        self._stop_if_over()

    def _stop_if_over(self) -> None:
        """Nothing measured is open any more, or nothing at all is open and nothing comes."""
        over = self._next is None and not self._open and not self._coming
        if over or (self._window_closed and not self.window.open):
            self.clock.stop()

    # ------------------------------------------------------------------ replicas that go

    def _live_on(self, index: int) -> list[Request]:
        info = self.shells[index].info
        found = [
            request
            for item in self._open.values()
            for request in (item.live() if isinstance(item, QueryRun) else (item,))
            if (request.pool, request.replica) == (info.pool_index, info.replica)
        ]
        return sorted(found, key=_by_id)

    def lost(self, index: int) -> None:
        """Replica *index* is gone: its requests are sent again elsewhere, or fail when they were sent too
        often.
        """
        info = self.shells[index].info
        for key in sorted(self._lingering):
            request, status = self._lingering[key]
            if (request.pool, request.replica) == (info.pool_index, info.replica):
                del self._lingering[key]
                request.status, request.finished_ps = status, self.clock.now_ps
                self._settle(request)
        for request in self._live_on(index):
            self._forget(request)
            request.status, request.finished_ps = Status.FAILED, self.clock.now_ps
            attempts = self._attempts.pop(request.id, 0)
            if attempts >= self.max_retries:
                self._left(request)
            else:
                self._send_again(request, attempts + 1)

    def _send_again(self, lost: Request, attempts: int) -> None:
        self.requests.take(lost)
        self.tally.retried += 1
        request = self.copy(lost)
        self._attempts[request.id] = attempts
        item = self._open[lost.query]
        pool: str | None = None
        if isinstance(item, QueryRun):
            pool = item.replace(lost, request)
        else:
            self._open[lost.query] = request
        self.clock.soon(ARRIVAL, _place(request), partial(self._resend, request, pool, lost.truncated))

    def _resend(self, request: Request, pool: str | None, cut: bool) -> None:
        self.send(request, pool)
        if cut and request.status == Status.UNFINISHED:
            request.truncated = True

    def copy(self, request: Request) -> Request:
        """*request* once more, with a number of its own; for the client it has arrived when the first one
        did.
        """
        number = self.tally.requests
        self.tally.requests = number + 1
        again = Request(
            number,
            arrived_ps=request.arrived_ps,
            prompt_tokens=request.prompt_tokens,
            output_tokens=request.output_tokens,
            reasoning_tokens=request.reasoning_tokens,
            max_tokens=request.max_tokens,
            query=request.query,
            sample=request.sample,
            role=request.role,
            priority=request.priority,
            category=request.category,
            client=request.client,
            session=request.session,
            prefix_group=request.prefix_group,
            prefix_len=request.prefix_len,
        )
        again.deadline_ps = request.deadline_ps
        again.predicted_tokens = request.predicted_tokens
        return again

    def move_waiting(self, index: int) -> None:
        """Requests on replica *index* that have not been scheduled yet are routed anew; nothing of theirs
        is lost.
        """
        shell = self.shells[index]
        for request in self._live_on(index):
            if request.first_scheduled_ps >= 0 or not shell.cancel(request, Status.CANCELLED):
                continue
            self._forget(request)
            request.status, request.finished_ps = Status.UNFINISHED, -1
            request.pool = request.replica = -1
            item = self._open[request.query]
            pool = item.pool_of(request) if isinstance(item, QueryRun) else None
            cut = request.truncated
            self.clock.soon(ARRIVAL, _place(request), partial(self._resend, request, pool, cut))

    def cancel(self, request: Request, status: Status) -> None:
        """Take *request* back from wherever it is; its row follows when its last step has ended."""
        if request.pool >= 0:
            self._forget(request)
            if not self.shells[self._index_of(request)].cancel(request, status):
                self._lingering[request.id] = (request, status)
                return
        else:
            request.status = status
            request.finished_ps = self.clock.now_ps
        self._settle(request)

    def _time_out(self) -> None:
        """The oldest deadlines have come; clients of queries that are still open give up."""
        deadlines, now_ps = self._deadlines, self.clock.now_ps
        while deadlines and deadlines[0][0] <= now_ps:
            _, query = deadlines.popleft()
            item = self._open.pop(query, None)
            if isinstance(item, QueryRun):
                item.time_out()
            elif item is not None:
                self.given_up_ps[query] = now_ps
                self.cancel(item, Status.TIMED_OUT)
                self.query_done(item.arrived_ps, item.id)
        while deadlines and deadlines[0][1] not in self._open:
            deadlines.popleft()
        if deadlines:
            self.clock.set(self._deadline_alarm, deadlines[0][0])


def _by_id(request: Request) -> int:
    return request.id


def _place(request: Request) -> int:
    return request.query << SAMPLE_BITS | request.sample
