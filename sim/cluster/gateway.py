"""Where queries enter and answers leave: arrivals, routing, ends, and what each leaves in the tables. Requests are made by
`sim.cluster.making`; how long clients wait is in `sim.cluster.patience`.

A strategy that makes one generation a query (``plain``) has no generator, unless queries are looked up in a
trace cache first: the query is its request.
Everything else runs through `sim.cluster.driver`, to the same result. Requests of one query go where its
first one of that pool went, unless the router wants each request by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from sim.cluster.arrivals import arrivals
from sim.cluster.clock import ARRIVAL, REACTION, TICK, Clock
from sim.cluster.dispatch import CLOSE, DRAIN, FIRST_FREE_TICK, SAMPLE_BITS, Dispatcher, Predictor
from sim.cluster.driver import QueryRun
from sim.cluster.judged import Judged
from sim.cluster.making import RequestMaker
from sim.cluster.patience import Patience
from sim.cluster.retries import Backoff, Retries
from sim.cluster.rollout import Rollout, RolloutSettings
from sim.cluster.shell import Shell
from sim.cluster.trace_cache import TraceCache
from sim.cluster.window import FOREVER, Window
from sim.engine.request import Request
from sim.policies.overload import Admission
from sim.policies.reasoning import Strategy
from sim.policies.routing import Router
from sim.results.columns import Role, Status
from sim.results.sinks import QUERY_ROW, RequestSink, RowSink
from sim.rng import Streams
from workloads.source import QuerySource

AT_ONCE_PS = 1_000_000_000
"""In a closed loop, how long after a query that took no time at all (it was refused) its user's think time begins: the
millisecond of a round trip. Without it a user who is always refused would ask for ever within one instant."""


_GENERATE = int(Role.GENERATE)  # an enum's attributes are slow to read


@dataclass
class GatewaySettings:
    """What a client or an operator sets at the gateway; times in picoseconds."""

    timeout_ps: int | None = None
    """A client gives up on a query so long after it sent it; None: never."""
    refresh_ps: int | None = None
    """Age that the router's picture of the replicas can reach; None: it sees the present."""
    backoff: Backoff | None = None
    """How clients behave that are turned away by admission control; None: they go."""
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
    rejections: dict[int, str] = field(default_factory=dict)
    """Reasons of the first few rejections, in words, by request."""


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
        admission: Admission | None = None,
        judged: Judged | None = None,
        traces: TraceCache | None = None,
        rollout: RolloutSettings | None = None,
    ) -> None:
        self.judged = judged
        self.rollout = Rollout(self, rollout) if rollout is not None else None
        self.traces = traces
        self.clock = clock
        self.source = source
        self.strategy = strategy
        self._plain = strategy.plain and traces is None
        self.window = window
        self.settings = settings or GatewaySettings()
        self.tally = Tally()
        self.requests = RequestSink()
        self.queries: RowSink | None = None if self._plain else RowSink(QUERY_ROW)
        self.dispatch = Dispatcher(
            clock,
            router,
            streams=streams,
            categories=source.categories,
            refused=self._refused,
            admission=admission,
            predicting=predictor is not None,
            refresh_ps=self.settings.refresh_ps,
            classifier=judged.looks_hard if judged is not None else None,
        )
        self.maker = RequestMaker(clock, source, self.tally, predictor, self.settings.deadlines_ps)
        if judged is not None:
            self.maker.prompts = judged.prompts
        self.make = self.maker.make
        self.copy = self.maker.copy
        self.patience = Patience(self, self.settings.timeout_ps)
        self.retries = Retries(self, streams.generator("backoff"), self.settings.backoff)
        self._budgets = self._plain_budgets(strategy, source) if self._plain else None
        lengths = [strategy.length(category) for category in source.categories] if self._plain else []
        self._lengths = lengths if any(length != 1.0 for length in lengths) else None
        self.open: dict[int, Request | QueryRun] = {}
        self.run_of: dict[int, QueryRun] = {}
        self._lingering: dict[int, tuple[Request, Status]] = {}
        self._simple = (
            self._plain
            and judged is None
            and predictor is None
            and self._budgets is None
            and self._lengths is None
            and self.settings.deadlines_ps is None
            and self.settings.timeout_ps is None
        )
        self._rows = arrivals(source)
        self._next: tuple[int, ...] | None = None
        self._alarm = clock.alarm(ARRIVAL, 0, self._arrive)
        self._closed_loop = source.closed_loop
        self._window_closed = False
        self._shared = False
        self._stop: Callable[[], None] = clock.stop
        self._coming = 0  # closed loop: released slots whose query has not arrived yet
        self._last_arrival_ps = 0

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
        self.dispatch.start(shells)
        if self.window.end_ps < FOREVER:
            self._set_close()
        self._next = next(self._rows, None)
        if self.rollout is not None:
            self.rollout.begin()
        elif self._closed_loop is None:
            self._set_arrival()
        else:
            for _ in range(self._closed_loop):
                self._release()
        self._stop_if_over()

    def finish(self) -> None:
        """The run is over: what is still open is unfinished, and leaves its row."""
        for shell in self.shells:
            shell.stop()
        for key in sorted(self._lingering):
            request, status = self._lingering[key]
            request.status = status
            request.finished_ps = self.clock.now_ps
            self._settle(request)
        if self.dispatch.handover is not None:
            self.dispatch.handover.finish()
        for item in self.open.values():
            for request in item.live() if isinstance(item, QueryRun) else (item,):
                none = request.prompt_tokens - request.probe_tokens
                request.known = max(request.known, none)  # a first token in flight is none
            if isinstance(item, QueryRun):
                self.requests.take_all(item.live())
                item.leave(Status.UNFINISHED, -1)
            else:
                self.requests.take(item)
        self.trim_window(*self.came())

    def came(self) -> tuple[int, bool, bool]:
        """When the last query came, whether the window has closed, and whether no query is to come."""
        return self._last_arrival_ps, self._window_closed, self._next is None

    def trim_window(self, last_arrival_ps: int, closed: bool, all_came: bool) -> None:
        """A window that the source does not fill ends with it."""
        window = self.window
        if window.end_ps == FOREVER:
            window.end_ps = last_arrival_ps + 1
        elif all_came and not closed:
            window.end_ps = min(window.end_ps, last_arrival_ps + 1)
        window.start_ps = min(window.start_ps, window.end_ps)

    # ------------------------------------------------------------------ beside other processes

    def serve(self, rows: Iterator[tuple[int, ...]]) -> None:
        """Serve *rows* of the source alone: others are served elsewhere, and the end may come from there."""
        self._rows = rows
        self._shared = True

    def own_end(self) -> tuple[int, int]:
        """The run has stopped by itself. When all its queries had come and were answered, before the window closed (``FOREVER``:
        not so), and when the window is closed and what is measured is answered."""
        if self._window_closed:
            return FOREVER, self.clock.now_ps
        return self.clock.now_ps, self.window.end_ps

    def go_on_to(self, end_ps: int) -> None:
        """Not before *end_ps* is the run over."""
        clock = self.clock
        self._stop = _not_yet
        if end_ps > clock.now_ps:
            clock.resume()
            clock.at(end_ps, TICK, FIRST_FREE_TICK, clock.stop)

    def _set_close(self) -> None:
        self.clock.at(self.window.end_ps, TICK, CLOSE, self._close)

    def _close(self) -> None:
        self._window_closed = True
        if self._shared:
            self.clock.alone = False
        if not self.window.open:
            self._stop()
        elif self.window.max_drain_ps < FOREVER:
            drain_ps = self.clock.now_ps + self.window.max_drain_ps
            if drain_ps == self.clock.now_ps:
                self._stop()
            else:
                self.clock.at(drain_ps, TICK, DRAIN, self.clock.stop)

    # ------------------------------------------------------------------ arrivals

    def _set_arrival(self) -> None:
        row = self._next
        if row is not None:
            self._alarm.order = row[0] << SAMPLE_BITS
            self.clock.set(self._alarm, row[1])

    def _release(self) -> None:
        """Closed loop: a slot is free, and its next query comes after its think time."""
        if self.release() is None:
            self._stop_if_over()

    def release(self) -> int | None:
        """Let the next query come, after its think time; its number, None: there is none."""
        row = self._next
        if row is None:
            return None
        self._next = next(self._rows, None)
        self._coming += 1
        self.clock.at(self.clock.now_ps + row[1], ARRIVAL, row[0] << SAMPLE_BITS, partial(self._come, row))
        return row[0]

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
        if not self._simple:
            self._enter(row)
            return
        # NOTE: _enter() and make() in one for performance reasons, for a query of its own with nothing to look up
        (
            query,
            _,
            prompt_tokens,
            max_tokens,
            priority,
            category,
            client,
            session,
            prompt,
            group,
            prefix_len,
            parent,
            reasoning,
            answer,
        ) = row
        if session & prompt & group & parent != -1:  # -1, all bits set, is none
            self._enter(row)
            return
        tally, window = self.tally, self.window
        now_ps = self._last_arrival_ps = self.clock.now_ps
        tally.queries += 1
        number = tally.requests
        tally.requests = number + 1
        end_ps = window.end_ps
        window.arrived(now_ps)
        if window.end_ps != end_ps:
            self._set_close()
        request = self.open[query] = Request(  # NOTE: by position, since keywords cost as much as all the rest of it
            number, now_ps, prompt_tokens, reasoning + answer, reasoning, max_tokens, query, 0, _GENERATE, priority, category,
            client, -1, None, prefix_len,
        )  # fmt: skip
        self.dispatch.send(request)

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
        if self.settings.timeout_ps is not None:
            self.patience.begin(query)
        if self._plain:
            reasoning, answer = row[12], row[13]
            if self.judged is not None:
                reasoning, answer = self.judged.scaled(None, reasoning, answer)
            if self._lengths is not None and self._lengths[row[5]] != 1.0:
                reasoning = round(reasoning * self._lengths[row[5]])
            cut = False
            if self._budgets is not None:
                budget = self._budgets[row[5]]
                if budget is not None and reasoning > budget:
                    reasoning, cut = budget, True
                    answer = answer if self.strategy.forces_answer() else 0
            request = self.make(row, 0, reasoning, answer, row[3])
            if self.judged is not None:
                request.looks = self.judged.without_kv(None, reasoning)
            self.open[query] = request
            self.dispatch.send(request)
            if cut and request.status == Status.UNFINISHED:
                request.truncated = True
        else:
            run = self.open[query] = QueryRun(self, row, now_ps)
            run.begin()

    def _refused(self, request: Request, why: str, *, for_good: bool) -> None:
        if len(self.tally.rejections) < 5:
            self.tally.rejections[request.id] = f"request {request.id} (query {request.query}): {why}"
        if not for_good and self.retries.backs_off(request):
            return
        request.status = Status.REJECTED
        request.finished_ps = self.clock.now_ps
        request.pool = request.replica = -1
        self.left(request)

    # ------------------------------------------------------------------ who is where

    def load(self) -> float:
        """Requests outstanding over seats, of all replicas that generate and take requests."""
        return self.dispatch.load()

    def live_on(self, index: int) -> list[Request]:
        """Requests on replica *index* that have not ended, in order."""
        info = self.shells[index].info
        found = [
            request
            for item in self.open.values()
            for request in (item.live() if isinstance(item, QueryRun) else (item,))
            if (request.pool, request.replica) == (info.pool_index, info.replica)
            and request.status == Status.UNFINISHED  # its strategy may not have heard yet of its end
        ]
        return sorted(found, key=_by_id)

    def pool_of(self, request: Request) -> str | None:
        """Pool that *request* was meant for; None: any."""
        item = self.open[request.query]
        return item.pool_of(request) if isinstance(item, QueryRun) else None

    def settle_on(self, index: int) -> None:
        """Replica *index* is gone: requests that were taken back and still had a step to end have ended."""
        info = self.shells[index].info
        for key in sorted(self._lingering):
            request, status = self._lingering[key]
            if (request.pool, request.replica) == (info.pool_index, info.replica):
                del self._lingering[key]
                request.status, request.finished_ps = status, self.clock.now_ps
                self._settle(request)

    # ------------------------------------------------------------------ ends

    def ended(self, request: Request) -> None:
        """An engine is done with *request*."""
        if self._lingering and self._lingering.pop(request.id, None) is not None:
            self._settle(request)  # cancelled before; now its last step is paid
            return
        self.dispatch.forget(request)
        if not self._plain or self._closed_loop is not None:
            self.left(request)
            return
        # NOTE: inlined from left() and query_done() for performance reasons
        self.requests.take(request)
        del self.open[request.query]
        self.tally.queries_done += 1
        window = self.window
        if window.start_ps <= request.arrived_ps < window.end_ps:
            window.open -= 1
        if self._window_closed or not self.open:
            self._stop_if_over()

    def settle_lingering(self, request: Request) -> bool:
        """*request* was taken back while a step was paid for it, which is over: its row is written; else False."""
        waiting = self._lingering.pop(request.id, None)
        if waiting is None:
            return False
        request.status, request.finished_ps = waiting[1], self.clock.now_ps
        self._settle(request)
        return True

    def _settle(self, request: Request) -> None:
        self.requests.take(request)
        run = self.run_of.pop(request.id, None)
        if run is not None:
            run.settled(request)

    def left(self, request: Request) -> None:
        """*request* has ended: its row is written, and its query goes on or ends."""
        self.requests.take(request)
        if not self._plain:
            run = self.run_of.pop(request.id)
            self.clock.soon(REACTION, request.id, partial(run.received, request))
            return
        query = request.query
        del self.open[query]
        self.query_done(query, request.arrived_ps, request.id)

    def query_done(self, query: int, arrived_ps: int, request_id: int) -> None:
        """A query has ended, in whatever way."""
        self.tally.queries_done += 1
        window = self.window
        window.ended(arrived_ps)
        if self.rollout is not None:
            self.rollout.ended(query)
        elif self._closed_loop is not None:
            now_ps = self.clock.now_ps
            if arrived_ps == now_ps:
                self.clock.at(now_ps + AT_ONCE_PS, REACTION, request_id, self._release)
            else:
                self.clock.soon(REACTION, request_id, self._release)
        self._stop_if_over()

    def _stop_if_over(self) -> None:
        """Nothing measured is open any more, or nothing at all is open and nothing comes."""
        over = self._next is None and not self.open and not self._coming
        if over or (self._window_closed and not self.window.open):
            self._stop()

    def cancel(self, request: Request, status: Status) -> None:
        """Take *request* back from wherever it is; its row follows when its last step has ended."""
        handover = self.dispatch.handover
        if handover is not None and handover.under_way(request):
            if not handover.cancel(request, status):
                self._lingering[request.id] = (request, status)
                return
        elif request.pool >= 0:
            self.dispatch.forget(request)
            if not self.shells[self.dispatch.index_of(request)].cancel(request, status):
                self._lingering[request.id] = (request, status)
                return
        else:
            request.status = status
            request.finished_ps = self.clock.now_ps
        self._settle(request)


def _not_yet() -> None:
    """Others say when the run is over."""


def _by_id(request: Request) -> int:
    return request.id
