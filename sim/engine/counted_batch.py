"""The decoding requests of the fast mode: counted, not walked.

One counter of decode steps serves all: a request's computed tokens are its ``base`` plus the counter. A histogram of where
they stand within their blocks says how many blocks a step takes; heaps on the counter say who stops, who begins to answer,
whose growth changes and whose cache is compressed next. Here requests join this batch and leave it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection
from heapq import heappop, heappush
from typing import TYPE_CHECKING, cast

from sim.engine.counted_step import CountedStep, by_order
from sim.engine.host_tier import HostTier
from sim.engine.paged_kv import PagedKv
from sim.engine.replica import Replica, Sink
from sim.engine.request import Request
from sim.engine.set_aside import SetAside
from sim.engine.settings import EngineSettings
from sim.engine.step import AdmitsFirsts, Scheduler, Step
from sim.engine.step_log import StepLog
from sim.engine.waiting import ClientQueue, KeyQueue

if TYPE_CHECKING:
    from calibration.step_cost import StepCost


_NO_PARTS = (0, 0)


class CountedBatch(Replica):
    """A replica that counts its decodes."""

    # NOTE: slots for performance reasons: with more than 30 attributes a dictionary is slow to read
    __slots__ = (
        "_admits_firsts",
        "_asks_nothing",
        "_before",
        "_borders",
        "_budget",
        "_by_client",
        "_compressed",
        "_decode_ps",
        "_displaces",
        "_displaces_after",
        "_full_step",
        "_head",
        "_holds_out",
        "_joined",
        "_joins",
        "_kv_ps",
        "_left",
        "_marks",
        "_no_parts",
        "_overtakes",
        "_paged",
        "_pending",
        "_points",
        "_quiet_until_ps",
        "_rested_ps",
        "_run_applied",
        "_run_fresh",
        "_run_growth_ps",
        "_run_planned_ps",
        "_run_start_ps",
        "_run_step_ps",
        "_run_steps",
        "_set_aside",
        "_short_ways",
        "_stops",
        "_waited",
        "_wake",
        "_who_yields",
        "_write_pattern",
        "_write_row",
        "chunking",
        "context",
        "counter",
        "crossing",
        "decoders",
        "growing",
        "resting",
        "resumed",
        "unsettled",
        "unsettled_blocks",
        "walking",
    )

    kv: PagedKv
    _step: CountedStep

    def __init__(
        self,
        settings: EngineSettings,
        cost: StepCost,
        scheduler: Scheduler,
        *,
        segments: Sink | None = None,
        log: StepLog | None = None,
    ) -> None:
        super().__init__(settings, cost, scheduler, segments=segments, log=log)
        settings = self.settings
        self.kv = PagedKv(
            settings.usable_blocks,
            settings.block_size,
            caching=settings.enable_prefix_caching,
            committed=self._committed,
        )
        if settings.host_blocks:
            self.kv.host = HostTier(settings.host_blocks)
        self._budget = settings.max_num_batched_tokens
        self.counter = 0
        self.decoders = 0
        self.growing = 0
        self.context = 0
        self.crossing = array("H", [0] * settings.block_size)
        """Blocks that the counted batch takes when a decode stands at each place within its block."""
        self.chunking: list[Request] = []
        self.resumed = False
        """Whether a request in ``chunking`` may be a decode that paused."""
        self._rested_ps = -1
        """When the batch ends, or ended, in which the counted batch was served again after it had been left out."""
        self.resting = False
        """Whether the counted batch was left out of the last step: its requests then know when they got their last tokens."""
        self.walking = False
        self._stops: list[tuple[int, int, Request]] = []
        self._marks: list[tuple[int, int, Request]] = []
        self._pending: list[tuple[int, int, Request]] = []
        self._run_steps = 0
        self._run_start_ps = self._run_step_ps = self._run_growth_ps = 0
        self._waited = 0
        self._joined: list[tuple[int, int]] = []
        self._run_applied = self._run_planned_ps = self._run_fresh = 0
        """Of the first: how many steps of the run under way are applied; of the last: who was left out before it."""
        self._before: tuple[int, ...] | None = None
        """Ends of the batches in flight before a chained run, None when the run under way is not chained."""
        self._quiet_until_ps = 0
        """Until when nothing comes from outside, as who had it planned has said."""
        self._left = False
        self._borders: list[tuple[int, int, Request]] = []
        self._points: list[tuple[int, int, Request]] = []
        """When counted requests come to the next compression of their cache, by the counter."""
        self._compressed: list[tuple[Request, int]] = []
        self._paged = settings.reservation == "none" and not settings.sliding_window
        self._short_ways = self._paged and log is None and not settings.swap_block_ps and not settings.compression
        """Whether nothing is at work that the module of short ways leaves out."""
        self._by_client = isinstance(self.waiting, ClientQueue)
        self._admits_firsts: AdmitsFirsts | None = None
        """The scheduler, where no whole plan is needed while all decode and the first of the client who is next does not fit."""
        asked_less = bool(getattr(scheduler, "serves_all_then_admits_firsts", False))
        if asked_less and self._by_client and self._short_ways and not settings.host_blocks:
            self._admits_firsts = cast(AdmitsFirsts, scheduler)
        self._joins = self._admits_firsts is not None or (
            self._short_ways
            and not settings.host_blocks
            and not settings.long_prefill_token_threshold
            and bool(getattr(scheduler, "serves_all_then_admits_heads", False))
        )
        """Whether an arrival into a batch that decodes needs no asking; see `_join`."""
        self._holds_out = self._joins and settings.policy == "fcfs"
        """Whether those who wait need no asking while all decode and the head does not fit; see `_hold_out`."""
        self._who_yields = getattr(scheduler, "who_yields", None)
        """Who makes room where blocks are short; None: the last admitted."""
        self._displaces = getattr(scheduler, "displaces", None)
        """Whether somebody's place may be taken for the head of the queue; None: never."""
        self._displaces_after: Callable[[Step, Request], int] | None = getattr(scheduler, "displaces_after", None)
        """For how many steps it is not; None: for all, if it is not now."""
        self._overtakes = isinstance(self.waiting, KeyQueue)
        """Whether somebody who comes may stand before the head of the queue."""
        limit = getattr(scheduler, "tokens_a_step", None)
        self._full_step = min(self._budget, limit(settings)) if limit is not None else self._budget
        """Tokens that a step may have in all where decodes alone are fewer."""
        self._asks_nothing = (
            bool(getattr(scheduler, "serves_all_when_nobody_waits", False)) and not settings.compression
        )
        self._wake = True
        self._head: Request | None = None
        """Who has to stay the head of the queue for the run under way to go on, whoever comes."""
        self._no_parts = _NO_PARTS
        """Blocks set aside outside the batch, and of windows there: what a row begins with."""
        self._set_aside = SetAside(settings.block_size, self.windows)
        """Of the counted requests, where blocks are set aside or windows kept."""
        self.unsettled: dict[Request, None] = {}
        """Counted requests whose windows hold other blocks than those of decodes do that have long been in every batch."""
        self.unsettled_blocks = 0
        """How many more, in all."""
        self._tabulate(cost)
        """A decode step without its context, by the number of decodes."""
        self._write_row = self.sink.write
        self._write_pattern = self.sink.write_pattern

    def _new_step(self) -> Step:
        return CountedStep(self)

    def _committed(self, request: Request) -> int:
        """Tokens of a running request that are computed and known."""
        if request.counted:
            flying = int(request.last_token_ps > self._step.now_ps) if self.resting else self.lag
            return request.base + self.counter - flying
        if request.paused:
            return request.computed - int(request.busy_until_ps > self._step.now_ps)
        return request.computed - request.in_flight

    def _count(self, request: Request, end_ps: int) -> None:
        """*request* got a token at *end_ps* in the batch just planned: from the next on it is counted, or it leaves."""
        computed, counter, end, order = request.computed, self.counter, request.end, request.order
        left = end - 1 - computed
        if self.lag and end < request.foreseen_end:
            left += 1  # an end that the engine does not foresee: one token more is computed, and dropped
        if left <= 0:
            self._leave(request, end_ps)
            return
        request.counted = True
        request.base = base = computed - counter
        request.counted_from = counter
        request.stop = stop = counter + left
        evicted = request.evicted
        self.decoders += 1
        self.context += computed - evicted
        if self._paged:
            request.growth = growth = 1
            if self.compression:
                heappush(self._points, (request.point - base, request.order, request))
        else:
            self._set_growth(request)
            growth = request.growth
            self._set_aside.join(request, counter)
            if self.windows is not None:
                self._join_windows(request, computed)
        self.crossing[(base - evicted) % self._block_size] += growth
        self.growing += growth
        if request.looks is not None and request.point:
            heappush(self._points, (request.point - base, order, request))
        heappush(self._stops, (stop, order, request))
        request.mark = -1
        if request.first_answer_ps < 0:
            reasoned = request.prompt_tokens + request.reasoning_tokens - request.probe_tokens
            if reasoned < end:
                request.mark = mark = reasoned - base
                heappush(self._marks, (mark, order, request))

    def _uncount(self, request: Request) -> None:
        """*request* leaves the counted batch; its own fields hold from here."""
        counter, base, growth, evicted = self.counter, request.base, request.growth, request.evicted
        if not self._paged:
            self._set_aside.leave(request, counter)
            if self.windows is not None:
                self._leave_windows(request)
        steps = counter - request.counted_from
        request.counted = request.decoding = False
        request.computed = computed = base + counter
        request.scheduled_tokens += steps
        request.steps += steps
        self.decoders -= 1
        self.context -= computed - evicted
        self.crossing[(base - evicted) % self._block_size] -= growth
        self.growing -= growth

    def _leave(self, request: Request, end_ps: int) -> None:
        """Its last token comes at *end_ps*: nothing more is scheduled for *request*, which drains until then."""
        request.draining = True
        request.in_flight = self.lag
        request.known = request.end - self.lag
        request.last_token_ps = request.busy_until_ps = end_ps
        heappush(self._pending, (end_ps, request.order, request))

    def evict(self, request: Request, planned: int) -> None:
        """Take a running request's blocks and computed tokens; a token in flight is kept when it arrives."""
        if request.shared_blocks:
            self.copies.drop(request)
        counted = request.counted
        if counted:
            self._uncount(request)
            request.in_flight = self._in_flight(request)
            if request.in_flight and request.computed + 1 >= request.end:
                self._leave(request, request.last_token_ps)
            request.known = request.computed + 1
        elif request.decoding:
            request.in_flight = int(request.busy_until_ps > self._step.now_ps)
            if request.paused or (request.draining and request.cancelled is not None):
                request.known = request.computed + 1 - request.in_flight
            if request in self.chunking:  # resumed in this very step
                self.chunking.remove(request)
        elif request in self.chunking:
            self.chunking.remove(request)
        blocks = self.blocks_of(request)
        self.table_blocks -= blocks
        self.computed_tokens -= request.computed - request.evicted
        self.kv.release(request, blocks, request.computed - request.in_flight)
        self._end_tenure(request, planned)
        self._swap_out(request, planned)
        self._unpause(request)
        if not counted:
            request.known += request.in_flight  # it will have come before the request can be looked at again
        request.computed = request.reserved = request.evicted = request.slid_blocks = 0
        if self.compression:
            request.point = self.compression.first_point(request.prompt_tokens)
        request.in_flight = 0
        request.decoding = request.running = False
        del self.running[request]

    def seat(self, request: Request, cached: int, blocks: int) -> None:
        """See :meth:`Replica.seat`; keeps the counts."""
        # NOTE: inlined from Replica.seat() for performance reasons
        self._admissions = request.order = self._admissions + 1
        request.running = True
        self.running[request] = None
        request.reused = cached
        request.cached_tokens += cached
        if request.cached_tokens_first < 0:
            request.cached_tokens_first = cached
        self.table_blocks += blocks
        self.computed_tokens += request.computed

    def _growth_of(self, request: Request) -> int:
        """How many blocks *request* takes when it crosses into a new one, where it stands."""
        computed, size, windows = request.base + self.counter, self._block_size, self.windows
        growth = int(computed >= request.reserved * size)
        return growth + windows.groups if windows is not None and computed < windows.most * size else growth

    def _set_growth(self, request: Request) -> None:
        """Note that of *request*, and when it changes, if it does before it stops."""
        size, counter = self._block_size, self.counter
        request.growth = self._growth_of(request)
        for border in (request.reserved, self.windows.most if self.windows is not None else 0):
            at = border * size - request.base
            if counter < at < request.stop:
                heappush(self._borders, (at, request.order, request))

    def _join_windows(self, request: Request, computed: int) -> None:
        """*request*, with *computed* tokens, is counted from here on: a prefill's windows take two decodes to settle."""
        windows = self.windows
        assert windows is not None
        lead = windows.passed_evenly(computed) - request.slid_blocks
        if lead or windows.outside(computed - request.last_tokens) != windows.passed_evenly(computed + 1):
            self.unsettled[request] = None
            self.unsettled_blocks += windows.groups * lead

    def _leave_windows(self, request: Request) -> None:
        """*request* is counted no longer: what its windows have given back is its own to know."""
        windows, computed = self.windows, request.base + self.counter
        assert windows is not None
        passed = windows.passed_evenly(computed)
        if request in self.unsettled:
            del self.unsettled[request]
            self.unsettled_blocks -= windows.groups * (passed - request.slid_blocks)
        else:
            request.slid_blocks = passed
        if self.counter > request.counted_from:
            request.last_tokens = 1

    def sliding(self) -> list[tuple[Request, int, int]]:
        """Unsettled requests, with the blocks of a group that their windows have given back once the next step is planned, and by
        how many blocks more than those of settled decodes they grow in it. Their last batch has to be in flight."""
        windows, counter = self.windows, self.counter
        assert windows is not None
        moves = []
        for request in self.unsettled:
            computed = request.base + counter
            flying = request.last_tokens if request.counted_from == counter else 1
            passed = max(request.slid_blocks, windows.outside(computed - flying))
            lead = windows.passed_evenly(computed) - request.slid_blocks
            moves.append((request, passed, windows.groups * (windows.passed_evenly(computed + 1) - passed - lead)))
        return moves

    def slide_on(self, moves: list[tuple[Request, int, int]]) -> None:
        """The step of which `sliding` told is planned: the decodes are counted already."""
        windows, kv = self.windows, self.kv
        assert windows is not None
        for request, passed, more in moves:
            request.slid_blocks = passed
            self.unsettled_blocks += more
            self.table_blocks += more
            if more > 0:
                kv.take(more)
            else:
                kv.shrink(request, -more)
            if windows.passed_evenly(request.base + self.counter) == passed:
                del self.unsettled[request]

    def _cross_borders(self) -> None:
        """Apply the changes of growth that the counter has reached. Who pauses and goes on has left notes that hold no more,
        or are there twice: a note says when to look, not what is found."""
        borders, size = self._borders, self._block_size
        while borders and borders[0][0] <= self.counter:
            _, order, request = heappop(borders)
            if request.counted and request.order == order:
                change = self._growth_of(request) - request.growth
                request.growth += change
                self.crossing[(request.base - request.evicted) % size] += change
                self.growing += change
                self._set_aside.cross(request, self.counter)

    def _due(self) -> list[Request]:
        """Counted requests that have come to a compression of their cache in the step that was just counted."""
        points, counter = self._points, self.counter
        due: list[Request] = []
        while points and points[0][0] <= counter:
            at, order, request = heappop(points)
            valid = request.counted and request.order == order and request.point - request.base == at == counter
            if valid and (not due or due[-1] is not request):  # who pauses and goes on at once is noted twice
                due.append(request)
        return due

    def _plan_compression(self, due: list[Request]) -> int:
        """Choose who of *due* is compressed after this step; return the time that it takes."""
        self._compressed, work_ps = self.compressible(due)
        chosen = {request for request, _ in self._compressed}
        for request in due:
            if request.counted and request not in chosen:
                heappush(self._points, (request.point - request.base, request.order, request))
        return work_ps

    def _compress(self) -> None:
        """The caches of those that were chosen hold what they keep from the next step on."""
        compression, size = self.compression, self._block_size
        assert compression is not None
        for request, kept in self._compressed:
            counted, base = request.counted, request.base
            computed = base + self.counter if counted else request.computed
            evicted = computed - kept
            gone = evicted - request.evicted
            if request.shared_blocks:
                self.copies.leave(request)
            blocks, kept_blocks = -(-(computed - request.evicted) // size), -(-kept // size)
            self.kv.compact(request, blocks, kept_blocks, self._committed(request))
            self.table_blocks -= blocks - kept_blocks
            self.computed_tokens -= gone
            request.point = computed + compression.interval_tokens
            if counted:
                self.context -= gone
                self.crossing[(base - request.evicted) % size] -= request.growth
                self.crossing[(base - evicted) % size] += request.growth
                heappush(self._points, (request.point - base, request.order, request))
            request.evicted = evicted
        self._compressed = []

    def _until_point(self) -> int:
        """Steps until the cache of a counted request is cut: up to the end of its next look, or before the step that comes
        to a compression, which is planned by itself.
        """
        points = self._points
        while points:
            at, order, request = points[0]
            if request.counted and request.order == order and request.point - request.base == at:
                return at - self.counter - (1 if self.compression else 0)
            heappop(points)
        return 1 << 60

    def _ended_looks(self) -> None:
        """Counted requests whose look ended in the step that was just booked stand where they stood before it."""
        points, counter, size = self._points, self.counter, self._block_size
        free = self.kv.free
        while points and points[0][0] <= counter:
            at, order, request = heappop(points)
            if not (request.counted and request.order == order and request.point - request.base == at == counter):
                continue
            looks, base = request.looks, request.base
            assert looks is not None
            tokens, computed = looks.tokens, base + counter
            if computed + 1 >= request.end:
                continue
            self.kv.register(
                request, (computed - tokens) // size
            )  # all of them are known: what is in flight is the look's
            if not self._paged:
                self._set_aside.leave(request, counter)
                if self.windows is not None:
                    self._leave_windows(request)
            blocks = self._end_look(request, computed)
            request.base = base - tokens
            self.context -= tokens
            self.computed_tokens -= tokens
            self.table_blocks -= blocks
            self.kv.shrink(request, blocks)
            self.crossing[base % size] -= request.growth
            self.growing -= request.growth
            if not self._paged:
                self._set_growth(request)
                self._set_aside.join(request, counter)
                if self.windows is not None:
                    self._join_windows(request, computed - tokens)
            self.crossing[request.base % size] += request.growth
            self.growing += request.growth
            if request.point:
                heappush(points, (request.point - request.base, order, request))
        self._log_given_back(self.kv.free - free)

    def _log_given_back(self, blocks: int) -> None:
        if self.log is not None:
            rows = self.log.rows
            rows[-1].given_back += blocks
            if not self.lag:
                rows[-1].free_after_update += blocks
            elif len(rows) > 1 and rows[-2].t_end_ps > rows[-1].t_scheduled_ps:  # else it was over by then
                rows[-2].free_after_update += blocks

    def _looks_that_end(self, counter: int) -> tuple[int, int]:
        """Blocks and tokens that counted requests give back when the run under way has come to *counter*."""
        blocks = tokens = 0
        ending = {
            request
            for at, order, request in self._points
            if at == counter and request.counted and request.order == order and request.point - request.base == at
        }
        for request in ending:
            assert request.looks is not None
            if request.point + 1 < request.end:
                tokens += request.looks.tokens
                blocks += self._settled_blocks(request, request.point)
                blocks -= self._settled_blocks(request, request.point - request.looks.tokens)
        return blocks, tokens

    def _settled_blocks(self, request: Request, computed: int) -> int:
        """Blocks that *request* holds with *computed* tokens when it has long been in every batch."""
        if self.windows is None:
            return self.blocks_for(request, computed)
        blocks = -(-computed // self._block_size)
        return max(blocks, request.reserved) + self.windows.settled(blocks)

    def _roll_back(self, request: Request) -> None:
        """The same for a request that is walked."""
        assert request.looks is not None
        blocks, tokens = self._end_look(request, request.computed), request.looks.tokens
        self.kv.shrink(request, blocks)
        self._log_given_back(blocks)
        self.table_blocks -= blocks
        self.computed_tokens -= tokens
        request.computed -= tokens
        request.known -= tokens

    def _in_flight(self, request: Request) -> int:
        """Tokens of *request* in flight as it leaves the counted batch, while a step is planned; its last one is noted."""
        if not self.resting:
            request.last_token_ps = request.busy_until_ps = self.gpu_free_ps
            request.last_batch = self.batches - 1
            return self.lag
        return int(request.last_token_ps > self._step.now_ps)

    def _rest(self, now_ps: int) -> bool:
        """The step that is planned leaves the counted batch out; False where one of it comes to its end meanwhile, since its
        last token is in flight and the engine does not know, or where one who has just been resumed is left out too.
        """
        lag = self.lag
        if self.windows is not None or any(request.decoding for request in self.chunking):
            return False
        counted = [request for request in self.running if request.counted]
        if lag and any(request.base + self.counter + 1 >= request.end for request in counted):
            return False
        if not self.resting:
            self.resting = True
            for request in counted:
                request.last_token_ps = request.busy_until_ps = self.gpu_free_ps
                request.last_batch = self.batches - 1
        return True

    def commit_rested(self) -> None:
        """The step that is planned serves the counted batch again, all of whose tokens have come: blocks that it fills are
        registered at once. Without a rest one is in flight as the next is planned, and they are registered later.
        """
        now_ps, size = self._step.now_ps, self._block_size
        for request in self.running:
            if request.counted and request.last_token_ps <= now_ps:
                self.kv.register(request, (request.base + self.counter) // size)

    def _end_rest(self, end_ps: int) -> int:
        """The counted batch gets its tokens again, at *end_ps*; how many of it were left out of the step before."""
        fresh, before = 0, self.batches - 1
        for request in self.running:
            if request.counted and request.last_batch != before:
                fresh += 1
                self.sink.stall(request.id, end_ps, end_ps - request.last_token_ps)
        self.resting = False
        self._rested_ps = end_ps
        return fresh

    def _coming(self, request: Request, ends: Collection[int], now_ps: int) -> int:
        """Tokens of a counted *request* that are in flight at *now_ps*, as the batches that end at *ends* are."""
        if self.resting:
            return int(request.last_token_ps > now_ps)
        decodes = self.counter - request.counted_from
        if decodes and self._rested_ps > now_ps:
            return sum(end >= self._rested_ps for end in ends) + int(request.last_token_ps > now_ps)
        # Counted in the batch that gave it a token; in one that was walked, the token before may be in flight too.
        return min(len(ends), decodes + max(1, request.in_flight))

    def park(self, request: Request) -> None:
        """*request* is paused: it leaves the counted batch with a token in flight, if it decodes."""
        if request.counted:
            self._uncount(request)
            request.decoding = True
            request.in_flight = self._in_flight(request)
            request.known = request.computed + 1 - request.in_flight
            if request.in_flight and request.computed + 1 >= request.end:
                self._leave(request, request.last_token_ps)
        elif request in self.chunking:
            self.chunking.remove(request)

    def unpark(self, request: Request) -> None:
        """*request* is resumed: its next token is given like a prefill of one token, then it is counted again."""
        if request.draining:
            return
        if request.decoding:
            request.in_flight = 0
            request.known = request.computed + 1
            if self.walking:
                return
            self.resumed = True
        if not self.walking:
            self.chunking.append(request)
            self.chunking.sort(key=by_order)

    def walk(self, now_ps: int) -> None:
        """From here on this step is walked: every request's own fields are brought up to date."""
        for request in self.running:
            if request.counted:
                self._uncount(request)
                if self._in_flight(request) and request.computed + 1 >= request.end:
                    self._leave(request, request.last_token_ps)
                    request.draining = False  # its end is not foreseen: one token more is computed
                request.decoding = True
            if request.decoding:
                request.in_flight = int(request.busy_until_ps > now_ps)
                request.known = request.computed + 1 - request.in_flight
        self._stops.clear()
        self._marks.clear()
        self._borders.clear()
        self._points.clear()
        self.chunking.clear()
        self.resting = False
        self.walking = True

    def use_cost(self, cost: StepCost, now_ps: int) -> None:
        """See :meth:`Replica.use_cost`; a run under way ends with the step under way."""
        super().use_cost(cost, now_ps)
        self._tabulate(cost)

    def _tabulate(self, cost: StepCost) -> None:
        most = min(self.settings.max_num_seqs, self.settings.max_num_batched_tokens, 1024)
        self._decode_ps = [cost.decode_ps(decodes, 0) for decodes in range(most + 1)]
        self._kv_ps = cost.kv_ps
