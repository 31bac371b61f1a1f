"""One query under a strategy: drives its generator in simulated time and adds up what it cost."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from sim.cluster.clock import CANCEL, REACTION
from sim.cluster.trace_cache import Trace
from sim.engine.request import Request
from sim.errors import PolicyError
from sim.policies.reasoning import (
    Answer,
    Classify,
    Confidence,
    Generate,
    NextStep,
    Outcome,
    Parallel,
    QueryView,
    Run,
    Verify,
    Wait,
)
from sim.results.columns import Lookup, Role, Status

if TYPE_CHECKING:
    from sim.cluster.gateway import Gateway

PS_PER_S = 1_000_000_000_000
GENERATE = int(Role.GENERATE)
_new = tuple.__new__
"""Makes a named tuple of its fields in order, in half the time of its own constructor; several are made a request."""
CODES = {status.name.lower(): status for status in Status}
NAMES = {int(status): name for name, status in CODES.items()}


class QueryRun:
    """A query from its arrival to its answer. Over time it is *open*, then *answered* (or given up), and
    leaves its row when the last of its requests that were taken back is settled."""

    __slots__ = (
        "_answer_tokens",
        "_calls",
        "_closed",
        "_cut",
        "_enough",
        "_first_answer_ps",
        "_gateway",
        "_generator",
        "_grown",
        "_homes",
        "_judged",
        "_latest",
        "_left_ps",
        "_lingering",
        "_misled",
        "_open",
        "_outcomes",
        "_parallel",
        "_pauses",
        "_pool",
        "_read_tokens",
        "_reasoning_tokens",
        "_requests",
        "_retries",
        "_row",
        "_shortened",
        "_status",
        "_truncated",
        "_verified",
        "arrived_ps",
    )

    def __init__(self, gateway: Gateway, row: tuple[int, ...], now_ps: int) -> None:
        source, judged, strategy = gateway.source, gateway.judged, gateway.strategy
        self._gateway = gateway
        self._row = row
        self.arrived_ps = now_ps
        self._judged = judged.begin(row) if judged is not None else None
        self._generator: Run = strategy.run(
            _new(
                QueryView,
                (
                    row[0],
                    source.categories[row[5]],
                    source.clients[row[6]],
                    row[2],
                    row[3],
                    row[4],
                    gateway.load() if strategy.looks_at_load else 0.0,
                    self._judged.coin if self._judged is not None else 0.5,
                ),
            )
        )
        self._open: dict[int, tuple[int, Request]] = {}  # by request: place among the calls, the request
        self._calls: tuple[Generate | Verify, ...] = ()
        self._outcomes: list[Outcome | None] = []
        self._enough: Any = None
        self._parallel = False
        self._homes: dict[str | None, int] = {}
        self._requests = self._retries = 0
        self._pool = -1
        self._first_answer_ps = -1
        self._reasoning_tokens = self._answer_tokens = self._read_tokens = 0
        self._truncated = False
        # None where there is nothing to note, as in most queries: a container takes time to make and to throw away
        self._cut: set[int] | None = None  # requests whose reasoning a budget ends
        self._latest: dict[int, Request] = {}  # by sample: its request made last
        self._grown: dict[int, int] | None = None  # of a path's requests: which each goes on from, -1: the prompt
        self._verified: dict[int, Request] | None = None  # by request: the one that read its output
        self._pauses: dict[int, int] | None = None  # by request: tokens after which it pauses
        self._shortened = 1.0  # share of the reasoning that a trace from the cache leaves
        self._misled = False  # … which belongs to another problem
        self._status = Status.UNFINISHED
        self._closed = False
        self._lingering = 0
        self._left_ps = -1

    # ------------------------------------------------------------------ the trace cache

    def begin(self) -> None:
        """The query has arrived: it is looked up in the trace cache, where there is one, and answered."""
        traces = self._gateway.traces
        if traces is None:
            self.advance(None)
        elif traces.settings.lookup_ps:
            at_ps = self.arrived_ps + traces.settings.lookup_ps
            self._gateway.clock.at(at_ps, REACTION, -1 - self._row[0], self._looked_up)
        else:
            self._looked_up()

    def _looked_up(self) -> None:
        if self._closed:
            return
        gateway, row = self._gateway, self._row
        traces = gateway.traces
        assert traces is not None
        settings = traces.settings
        found, trace = traces.look_up(row[0], row[8], gateway.clock.now_ps)
        if found == Lookup.MISS:
            self.advance(None)
        elif settings.shortens:
            self._shortened = settings.keep_share
            self._misled = found == Lookup.FALSE_HIT
            self._row = (*row[:2], row[2] + settings.trace_tokens, *row[3:])
            if self._judged is not None:
                self._judged.row = self._row
            self.advance(None)
        else:
            self._generator.close()
            if gateway.judged is not None:
                gateway.judged.correct[row[0]] = trace is not None and trace.right
            self._end(Status.COMPLETED)

    # ------------------------------------------------------------------ the generator

    def advance(self, value: Any) -> None:
        """Give *value* to the strategy and do what it says next."""
        while True:
            try:
                call = self._generator.send(value)
            except StopIteration as stop:
                self._answered(stop.value)
                return
            if type(call) is Generate or type(call) is Verify:
                self._parallel, self._enough = False, None
                self._calls, self._outcomes = (call,), [None]
                request = self._make(call)
                self._open[request.id] = (0, request)
                self._send(request, call.pool)
                return
            if type(call) is Confidence or type(call) is Classify:
                if self._judged is None:
                    raise PolicyError(f"strategy {self._name()} needs a quality model")
                value = self._judged.tell(call)
            else:
                self._do(call)
                return

    def _do(self, call: Any) -> None:
        if isinstance(call, Parallel):
            self._parallel, self._enough = True, call.enough
            calls = tuple(call.calls)
            if not all(isinstance(each, (Generate, Verify)) for each in calls):
                raise PolicyError(
                    f"strategy {self._name()}: Parallel takes calls that generate or verify, got {calls!r}"
                )
            if not calls:
                raise PolicyError(f"strategy {self._name()}: Parallel without calls")
            self._launch(calls)
        elif isinstance(call, NextStep):
            if self._gateway.rollout is None:
                self._gateway.clock.soon(REACTION, self.order, self.resume)
            else:
                self._gateway.rollout.pause(self)
        elif isinstance(call, Wait):
            clock = self._gateway.clock
            at_ps = clock.now_ps + round(call.seconds * PS_PER_S)
            clock.at(at_ps, REACTION, -1 - self._row[0], partial(self._waited))
        else:
            raise PolicyError(f"strategy {self._name()} yielded {call!r}, which is not a call")

    def _name(self) -> str:
        return type(self._gateway.strategy).__name__

    @property
    def order(self) -> int:
        """Its place among reactions of one instant: before those of requests."""
        return -1 - self._row[0]

    def resume(self) -> None:
        """The next training step has begun."""
        if not self._closed:
            self.advance(None)

    def _waited(self) -> None:
        if not self._closed:
            self.advance(None)

    def _launch(self, calls: tuple[Generate | Verify, ...]) -> None:
        self._calls = calls
        self._outcomes = [None] * len(calls)
        made = [(place, self._make(call)) for place, call in enumerate(calls)]
        for place, request in made:
            self._open[request.id] = (place, request)
        for place, request in made:
            self._send(request, calls[place].pool)

    def _make(self, call: Generate | Verify) -> Request:
        request = self._generation(call) if isinstance(call, Generate) else self._reading(call)
        self._requests += 1
        self._gateway.run_of[request.id] = self
        return request

    def _generation(self, call: Generate) -> Request:
        gateway, row, judged = self._gateway, self._row, self._judged
        reasoning, answer = row[12], row[13]
        sample, branch = call.sample, call.branch
        if sample:
            reasoning, answer = gateway.source.sample_lengths(row[0], sample)
        cut, looks = False, None
        if self._shortened != 1.0 and branch is None and not self._misled:
            reasoning = round(reasoning * self._shortened)
        if judged is not None:
            misled = self._shortened if self._misled else 1.0
            reasoning, answer, cut, read, looks = judged.lengths(call, reasoning, answer, misled)
            if read:
                row = (*row[:2], row[2] + read, *row[3:])
        elif call.probes is not None or branch is not None or call.reads or call.effort != 1.0:
            raise PolicyError(f"strategy {self._name()} needs a quality model")
        else:
            if self._misled:
                reasoning = round(reasoning * self._shortened)
            budget = call.thinking_token_budget
            if budget is not None and reasoning > budget:
                reasoning, cut = budget, True
                answer = answer if call.forced_answer else 0
        limit = row[3] if call.max_tokens is None else call.max_tokens
        if call.made_tokens or call.pause_tokens is not None:
            if looks is not None and (call.pause_tokens or call.made_tokens):
                raise PolicyError(
                    f"strategy {self._name()}: a generation with tokens that are rolled back cannot pause"
                )
            request = self._part(call, row, reasoning, answer, limit)
        else:
            request = gateway.make(row, sample, reasoning, answer, limit)
            request.looks = looks
        if branch is not None:
            after = branch.after
            if after is not None and judged is not None:
                request.parent = judged.made.get(after.request)
                if request.parent is not None:
                    request.prefix_group, request.prefix_len = None, request.prompt_tokens
            self._goes_on_from(request, after.request if after is not None else -1)
        self._latest[sample] = request
        if request.parent is None and (self._requests or len(self._calls) > 1):
            self._share(request)
        if judged is not None:
            judged.made[request.id] = request
        if cut:
            if self._cut is None:
                self._cut = set()
            self._cut.add(request.id)
        return request

    def _goes_on_from(self, request: Request, before: int) -> None:
        """*request* goes on a path from request *before*; -1: from the prompt."""
        if self._grown is None:
            self._grown = {}
        self._grown[request.id] = before

    def _part(self, call: Generate, row: tuple[int, ...], reasoning: int, answer: int, limit: int) -> Request:
        """A request that pauses before its end, or goes on where an earlier one paused."""
        gateway, made, pauses = self._gateway, call.made_tokens, call.pause_tokens
        if made:
            if not 0 < made < reasoning + answer:
                raise PolicyError(f"strategy {self._name()}: made_tokens={made} leave nothing of {reasoning + answer}")
            limit = limit if limit < 0 else max(limit - made, 1)
            row = (*row[:2], row[2] + made, *row[3:])
            reasoning, answer = max(reasoning - made, 0), answer - max(made - reasoning, 0)
        if pauses is not None and pauses < reasoning + answer and (limit < 0 or pauses < limit):
            limit = pauses
        else:
            pauses = None
        request = gateway.make(row, call.sample, reasoning, answer, limit)
        if pauses is not None:
            if self._pauses is None:
                self._pauses = {}
            self._pauses[request.id] = pauses
        before = self._latest.get(call.sample) if made else None
        if made and gateway.rollout is None:  # the same weights: what was made before is still in the cache
            request.parent = before
            if before is not None:
                request.prefix_group, request.prefix_len = None, request.prompt_tokens
        if call.branch is None and (made or pauses is not None):  # a verifier reads all of a chain in parts
            self._goes_on_from(request, before.id if before is not None else -1)
        return request

    def _reading(self, call: Verify) -> Request:
        row, outcome = self._row, call.outcome
        read = outcome.answer_tokens + (outcome.reasoning_tokens if call.with_reasoning else 0)
        grown = self._grown.get(outcome.request) if self._grown is not None else None
        if grown is not None and self._judged is not None:  # of a path, all its steps are read
            read += self._judged.made[outcome.request].prompt_tokens - row[2]
        request = self._gateway.make(
            (*row[:2], row[2] + read, *row[3:]),
            outcome.sample,
            0,
            call.output_tokens,
            call.output_tokens,
            Role.VERIFY,
        )
        if self._verified is None:
            self._verified = {}
        request.parent = self._verified.get(grown) if grown is not None else None
        if request.parent is not None:
            request.prefix_group, request.prefix_len = None, request.parent.prompt_tokens
        else:
            request.prefix_group, request.prefix_len = ("verified", row[0]), row[2]
        self._verified[outcome.request] = request
        return request

    def _share(self, request: Request) -> None:
        """Samples of one query share the prompt's KV, beyond what its group shares already."""
        if request.prefix_group is None and request.parent is None:
            rollout = self._gateway.rollout
            key = ("query", self._row[0]) if rollout is None else ("query", self._row[0], rollout.version)
            request.prefix_group, request.prefix_len = key, self._row[2]

    def _send(self, request: Request, pool: str | None) -> None:
        gateway = self._gateway
        dispatch = gateway.dispatch
        home = -1 if dispatch.router.per_request else self._homes.get(pool, -1)
        index = dispatch.send(request, pool, home, fresh=self._requests == len(self._calls))
        if self._cut is not None and request.id in self._cut and request.status == Status.UNFINISHED:
            request.truncated = True  # after the engine has judged the other limits
        if index >= 0:
            self._homes.setdefault(pool, index)
            if self._pool < 0:
                self._pool = request.pool

    # ------------------------------------------------------------------ what comes back

    def received(self, request: Request) -> None:
        """*request* has ended by itself; called in the reactions of its instant."""
        found = self._open.pop(request.id, None)
        if found is None:
            return  # it was taken into account by a sibling that ended at the same instant
        reasoning, answer = self._count(request)
        if self._closed:
            return
        place = found[0]
        outcome = self._outcomes[place] = self._outcome(request, place, reasoning, answer)
        if not self._parallel:
            self.advance(outcome)
            return
        if self._open and self._enough is not None and self._enough(tuple(self._outcomes)):
            self._take_back_the_rest()
        if not self._open:
            self.advance(list(self._outcomes))

    def _take_back_the_rest(self) -> None:
        """Enough is known: siblings that ended at this very instant count, the others are cancelled."""
        for place, request in list(self._open.values()):
            if request.status == Status.UNFINISHED:
                self._cancel(request, Status.CANCELLED)
                self._outcomes[place] = Outcome(
                    request.id,
                    request.sample,
                    "cancelled",
                    0,
                    0,
                    False,
                    self._gateway.clock.now_ps / PS_PER_S,
                )
            else:
                self._outcomes[place] = self._outcome(request, place, *self._count(request))
        self._open.clear()

    def _cancel(self, request: Request, status: Status) -> None:
        gateway = self._gateway
        self._lingering += 1
        gateway.clock.soon(CANCEL, request.id, partial(gateway.cancel, request, status))

    def _outcome(self, request: Request, place: int, reasoning: int, answer: int) -> Outcome:
        said, score = None, None
        if self._judged is not None:
            said, score = self._judged.ended(request, self._calls[place], reasoning + answer)
        return _new(
            Outcome,
            (
                request.id,
                request.sample,
                NAMES[request.status],
                reasoning,
                answer,
                request.truncated,
                request.finished_ps / PS_PER_S,
                said,
                score,
                self._pauses is not None and reasoning + answer == self._pauses.get(request.id),
            ),
        )

    def _count(self, request: Request) -> tuple[int, int]:
        """Add up what *request* cost; return its tokens: (reasoning, answer)."""
        generated, reasoning = request.generated, request.reasoning_tokens
        if generated < reasoning:
            reasoning = generated
        if self._pool < 0:  # it had to wait for a replica
            self._pool = request.pool
        if request.role == GENERATE:
            self._reasoning_tokens += reasoning
            self._answer_tokens += generated - reasoning
            self._first_answer_ps = request.first_answer_ps
        else:
            self._read_tokens += generated + request.prompt_tokens
        if request.truncated and (self._pauses is None or request.id not in self._pauses):
            self._truncated = True
        return reasoning, generated - reasoning

    def pool_of(self, request: Request) -> str | None:
        """Pool that *request* was meant for."""
        return self._calls[self._open[request.id][0]].pool

    def replace(self, lost: Request, request: Request) -> str | None:
        """*lost* went down with its replica and *request* takes its place; return the pool it is meant
        for.
        """
        pool = self.pool_of(lost)
        place, _ = self._open.pop(lost.id)
        self._count(lost)
        self._gateway.run_of.pop(lost.id, None)
        self._gateway.run_of[request.id] = self
        self._open[request.id] = (place, request)
        self._stands_for(lost, request)
        self._requests += 1
        self._retries += 1
        self._homes.pop(pool, None)
        return pool

    def _stands_for(self, lost: Request, request: Request) -> None:
        """What was noted of *lost* holds for *request*: where it pauses, whose path it goes on, what it reads."""
        for numbers in (self._pauses, self._grown):
            if numbers is not None and lost.id in numbers:
                numbers[request.id] = numbers[lost.id]
        for noted in (self._latest, self._verified or {}):
            for key, value in noted.items():
                if value is lost:
                    noted[key] = request
        if self._judged is not None and request.role == GENERATE:
            self._judged.made[request.id] = request

    # ------------------------------------------------------------------ the end

    def _answered(self, answer: Answer | None) -> None:
        outcome = answer.outcome if answer is not None else None
        if self._open:
            for _, request in list(self._open.values()):
                self._cancel(request, Status.CANCELLED)
            self._open.clear()
        if outcome is not None:
            status = Status.COMPLETED
        else:
            last = [known for known in self._outcomes if known is not None]
            status = CODES[last[-1].status] if last else Status.FAILED
            if status == Status.COMPLETED:
                status = Status.FAILED
        gateway, row = self._gateway, self._row
        right = False
        if self._judged is not None and gateway.judged is not None:
            right = outcome is not None and status == Status.COMPLETED and self._judged.right(outcome)
            gateway.judged.correct[row[0]] = right
        if gateway.traces is not None and status == Status.COMPLETED and outcome is not None:
            tokens = outcome.reasoning_tokens + outcome.answer_tokens
            gateway.traces.keep(row[0], row[8], Trace(right, tokens, gateway.clock.now_ps))
        self._end(status)

    def _end(self, status: Status) -> None:
        gateway, query = self._gateway, self._row[0]
        del gateway.open[query]
        self.leave(status, gateway.clock.now_ps)
        gateway.query_done(query, self.arrived_ps, -1 - query)

    def time_out(self) -> None:
        """The client gave up; the gateway has forgotten the query already."""
        self._generator.close()
        for _, request in list(self._open.values()):
            self._lingering += 1
            self._gateway.cancel(request, Status.TIMED_OUT)
        self._open.clear()
        self.leave(Status.TIMED_OUT, self._gateway.clock.now_ps)
        self._gateway.query_done(self._row[0], self.arrived_ps, self.order)

    def live(self) -> list[Request]:
        """Requests that have not ended."""
        return [request for _, request in self._open.values()]

    def leave(self, status: Status, now_ps: int) -> None:
        """The query ends with *status*; its row follows when nothing of it is pending any more."""
        self._status = status
        self._closed = True
        self._left_ps = now_ps
        if status == Status.UNFINISHED:
            for _, request in self._open.values():
                self._count(request)
        if not self._lingering or status == Status.UNFINISHED:
            self._write()

    def settled(self, request: Request) -> None:
        """A request that was taken back is out of its engine."""
        self._count(request)
        self._lingering -= 1
        if not self._lingering and self._closed:
            self._write()

    def _write(self) -> None:
        row = self._row
        one = self._requests - self._retries == 1
        first_answer_ps = self._first_answer_ps if one else self._left_ps
        if 0 <= self._left_ps < first_answer_ps:
            first_answer_ps = -1  # the client had gone
        queries = self._gateway.queries
        assert queries is not None
        queries.add(
            (
                row[0],
                row[5],
                row[6],
                self.arrived_ps,
                self._left_ps,
                first_answer_ps if self._status == Status.COMPLETED or one else -1,
                self._status,
                self._requests,
                self._retries,
                self._pool,
                row[2],
                self._reasoning_tokens,
                self._answer_tokens,
                self._read_tokens,
                self._truncated,
            )
        )
