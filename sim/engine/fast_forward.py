"""The fast mode: many decode steps at once, exactly.

Between two changes of a batch all decode steps are alike: the same requests, one token each. So decoding requests are not
walked but counted: one counter of decode steps for all, a request's computed tokens being ``base + counter``. A histogram of
``base`` modulo the block size says how many blocks a step takes; a heap on the counter says who stops next; ``k`` steps take
``k·a + b·k(k-1)/2`` integer picoseconds. Three kinds of steps:

    run      k pure decode steps in closed form
    mixed    decodes counted, only prefills, admissions and victims walked
    walked   request by request, as the oracle does it (priority preemption, decodes beyond the token budget)

What a run does is applied when it is over, since an arrival may cut it short: it then ends with the step under way.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from heapq import heappop, heappush
from itertools import accumulate
from math import isqrt
from typing import TYPE_CHECKING, Any

from sim.engine.counted_step import CountedStep, by_order
from sim.engine.host_tier import HostTier
from sim.engine.paged_kv import PagedKv
from sim.engine.replica import Replica, Sink, Snapshot
from sim.engine.request import Request
from sim.engine.settings import EngineSettings
from sim.engine.step import NEVER_PS, Scheduler, Step
from sim.engine.step_log import StepLog, StepRow
from sim.results.columns import Status
from sim.results.growth import Run
from sim.results.sinks import SEGMENT_ROW

if TYPE_CHECKING:
    from calibration.step_cost import StepCost

_COMPLETED, _UNFINISHED = (
    int(Status.COMPLETED),
    int(Status.UNFINISHED),
)  # an enum's attributes are slow to read

_NO_PARTS = (0, 0)
_WHOLE_PATTERN = 64
"""Block size up to which the whole pattern of a run's growth is kept, however short the run."""


class FastForward(Replica):
    """A replica that advances many steps at once; see the module."""

    # NOTE: slots for performance reasons: with more than 30 attributes a dictionary is slow to read
    __slots__ = (
        "_add_row",
        "_asks_nothing",
        "_before",
        "_borders",
        "_budget",
        "_compressed",
        "_decode_ps",
        "_joined",
        "_joins",
        "_kv_ps",
        "_left",
        "_marks",
        "_no_parts",
        "_paged",
        "_pending",
        "_points",
        "_run_applied",
        "_run_growth_ps",
        "_run_planned_ps",
        "_run_start_ps",
        "_run_step_ps",
        "_run_steps",
        "_stops",
        "_waited",
        "_wake",
        "chunking",
        "context",
        "counter",
        "crossing",
        "decoders",
        "growing",
        "resumed",
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
        self.walking = False
        self._stops: list[tuple[int, int, Request]] = []
        self._marks: list[tuple[int, int, Request]] = []
        self._pending: list[tuple[int, int, Request]] = []
        self._run_steps = 0
        self._run_start_ps = self._run_step_ps = self._run_growth_ps = 0
        self._waited = 0
        self._joined: list[tuple[int, int]] = []
        self._run_applied = self._run_planned_ps = 0
        self._before: tuple[int, ...] | None = None
        """Ends of the batches in flight before a chained run, None when the run under way is not chained."""
        self._left = False
        self._borders: list[tuple[int, int, int, Request]] = []
        self._points: list[tuple[int, int, Request]] = []
        """When counted requests come to the next compression of their cache, by the counter."""
        self._compressed: list[tuple[Request, int]] = []
        self._paged = settings.reservation == "none" and not settings.window_blocks
        self._joins = (
            self._paged
            and log is None
            and not settings.swap_block_ps
            and not settings.compression
            and not settings.host_blocks
            and not settings.long_prefill_token_threshold
            and bool(getattr(scheduler, "serves_all_then_admits_heads", False))
        )
        """Whether an arrival into a batch that decodes needs no asking; see `_join`."""
        self._asks_nothing = (
            bool(getattr(scheduler, "serves_all_when_nobody_waits", False)) and not settings.compression
        )
        self._wake = True
        self._no_parts = _NO_PARTS
        """Blocks set aside outside the batch, and of windows there: what a row begins with."""
        self._tabulate(cost)
        """A decode step without its context, by the number of decodes."""
        self._add_row = self.sink.add

    def _new_step(self) -> Step:
        return CountedStep(self)

    # ------------------------------------------------------------------ the counted batch

    def _committed(self, request: Request) -> int:
        """Tokens of a running request that are computed and known."""
        if request.counted:
            return request.base + self.counter - self.lag
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
        self.crossing[(base - evicted) % self._block_size] += growth
        self.growing += growth
        request.stop = stop = counter + left
        heappush(self._stops, (stop, order, request))
        request.mark = -1
        if request.first_answer_ps < 0:
            reasoned = request.prompt_tokens + request.reasoning_tokens
            if reasoned < end:
                request.mark = mark = reasoned - base
                heappush(self._marks, (mark, order, request))

    def _uncount(self, request: Request) -> None:
        """*request* leaves the counted batch; its own fields hold from here."""
        counter, base, growth, evicted = self.counter, request.base, request.growth, request.evicted
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
            request.last_token_ps = request.busy_until_ps = self.gpu_free_ps
            request.in_flight = self.lag
            if self.lag and request.computed + 1 >= request.end:
                self._leave(request, self.gpu_free_ps)
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
        request.computed = request.reserved = request.evicted = 0
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

    def _set_growth(self, request: Request) -> None:
        """How many blocks *request* takes when it crosses into a new one, and when that changes."""
        size, window = self.kv.block_size, self.settings.window_blocks
        computed = request.base + self.counter
        request.growth = int(computed >= request.reserved * size) + int(computed < window * size)
        for border, change in ((request.reserved, 1), (window, -1)):
            if border * size > computed:
                heappush(self._borders, (border * size - request.base, request.order, change, request))

    def _cross_borders(self) -> None:
        """Apply the changes of growth that the counter has reached."""
        borders, size = self._borders, self.kv.block_size
        before: tuple[int, int, int, Request] | None = None
        while borders and borders[0][0] <= self.counter:
            entry = heappop(borders)
            at, order, change, request = entry
            if entry == before:
                continue  # who pauses and goes on at once is noted twice
            before = entry
            if (
                request.counted
                and request.order == order
                and request.base + at == (request.reserved if change > 0 else self.settings.window_blocks) * size
            ):
                request.growth += change
                self.crossing[request.base % size] += change
                self.growing += change

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

    def park(self, request: Request) -> None:
        """*request* is paused: it leaves the counted batch with a token in flight, if it decodes."""
        if request.counted:
            self._uncount(request)
            request.decoding = True
            request.last_batch = self.batches - 1
            request.in_flight = self.lag
            request.known = request.computed + 1 - self.lag
            request.last_token_ps = request.busy_until_ps = self.gpu_free_ps
            if self.lag and request.computed + 1 >= request.end:
                self._leave(request, self.gpu_free_ps)
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
                request.busy_until_ps = request.last_token_ps = self.gpu_free_ps
                request.last_batch = self.batches - 1
                if self.lag and request.computed + 1 >= request.end:
                    self._leave(request, self.gpu_free_ps)
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
        self.walking = True

    def use_cost(self, cost: StepCost, now_ps: int) -> None:
        """See :meth:`Replica.use_cost`; a run under way ends with the step under way."""
        super().use_cost(cost, now_ps)
        self._tabulate(cost)

    def _tabulate(self, cost: StepCost) -> None:
        most = min(self.settings.max_num_seqs, self.settings.max_num_batched_tokens, 1024)
        self._decode_ps = [cost.decode_ps(decodes, 0) for decodes in range(most + 1)]
        self._kv_ps = cost.kv_ps

    # ------------------------------------------------------------------ KV from and for other engines

    def land(self, request: Request, now_ps: int) -> None:
        """See :meth:`Replica.land`; it goes before a head that was refused, so the plan may change."""
        super().land(request, now_ps)
        self._left = True

    def stand(self, request: Request, blocks: int, tokens: int) -> None:
        """See :meth:`Replica.stand`; keeps the counts."""
        super().stand(request, blocks, tokens)
        self._no_parts = (self.blocks_to_fill, 0)
        self.table_blocks += blocks
        self.computed_tokens += tokens

    def stand_down(self, request: Request) -> tuple[int, int]:
        """See :meth:`Replica.stand_down`; keeps the counts."""
        blocks, tokens = super().stand_down(request)
        self._no_parts = (self.blocks_to_fill, 0)
        self.table_blocks -= blocks
        self.computed_tokens -= tokens
        return blocks, tokens

    def _interrupt(self, now_ps: int) -> None:
        """See :meth:`Replica._interrupt`; a run under way ends with the step under way."""
        if self._run_steps and not self._cut(now_ps) and self._run_steps:
            self._close_run()

    # ------------------------------------------------------------------ ending early

    def _withdraw(self, request: Request, now_ps: int) -> None:
        """See :meth:`Replica._withdraw`; a run under way ends with the step under way: all of it is planned by now."""
        self._interrupt(now_ps)
        self._drain(request, now_ps)

    def _drain(self, request: Request, now_ps: int) -> None:
        """No run is under way: take *request* out of the batch, unless its last token is in flight."""
        if request.counted:
            if request.base + self.counter + 1 >= request.end:
                request.cancelled = None
                return
            request.in_flight = min(self.counter - request.counted_from, self.lag) + 1
            self._uncount(request)
            request.decoding = True
            request.busy_until_ps = self.gpu_free_ps
            request.last_token_ps = self.gpu_free_ps
        elif request.draining or (request.decoding and request.computed + 1 >= request.end):
            request.cancelled = None
            return
        elif request in self.chunking:
            self.chunking.remove(request)
        if request.busy_until_ps <= now_ps:
            self._finish(request, now_ps)
            return
        request.draining = True
        self._cancels.append(request)

    def _forget_in_flight(self, request: Request, now_ps: int) -> None:
        self._left = True  # with one less in the queue, another may be admitted
        if request.busy_until_ps > now_ps and request.last_token_ps > now_ps:
            request.known -= 1
        self._hide_future(request, now_ps)

    @staticmethod
    def _hide_future(request: Request, now_ps: int) -> None:
        """Times that were known in advance and are not reached."""
        if request.first_token_ps > now_ps:
            request.first_token_ps = -1
        if request.first_answer_ps > now_ps:
            request.first_answer_ps = -1

    def settle(self, now_ps: int) -> None:
        """See :meth:`Replica.settle`: the run under way is ended, the counted requests get their own figures."""
        if self._run_steps:
            self._shorten(now_ps + 1)  # what is planned at this instant counts
        if self._run_steps:
            self._close_run()
        coming = sorted(end for end in self._ends if end > now_ps)
        last = {request: end for end, _, request in self._pending}
        for request in self.running:
            if request.counted:
                yielded = self.counter - request.counted_from + 1
                self._uncount(request)
                request.known = request.computed + 1 - min(len(coming), yielded)
            elif request in last:
                flying = sum(end <= last[request] for end in coming)
                request.known = request.end - min(flying, request.end - request.prompt_tokens)
            elif (request.draining or request.paused) and request.decoding:
                coming_here = sum(end <= request.busy_until_ps for end in coming)
                request.known = request.computed + 1 - min(request.in_flight, coming_here)
            self._hide_future(request, now_ps)
        for request in self.waiting:
            self._forget_in_flight(request, now_ps)

    # ------------------------------------------------------------------ planning

    def complete(self, now_ps: int) -> list[Request]:
        """See :meth:`Replica.complete`."""
        ends = self._ends
        if not ends or ends[0] != now_ps:
            raise ValueError(f"nothing ends at {now_ps}; next is {self.next_end_ps}")
        ends.popleft()
        self.next_end_ps = ends[0] if ends else None
        if self._run_steps:
            self._close_run()
        if self._pending or self._cancels or self.log is not None:
            return self._process(now_ps)
        return []

    def plan(self, now_ps: int, quiet_until_ps: int = 0) -> int | None:
        """See :meth:`Replica.plan`."""
        if self._joins and self._run_steps and len(self.waiting) == 1 and self._join(now_ps, quiet_until_ps):
            end = self.next_end_ps
        else:
            end = self._plan(now_ps)
        while end is not None and end < quiet_until_ps:
            # Nobody must come to an end there: no last token is due, and the run under way reaches nobody's last step.
            if self._cancels or (self._pending and self._pending[0][0] <= end):
                break
            steps = self._run_steps
            if steps and self._stops[0][0] <= self.counter + steps - self._run_applied:
                break
            # NOTE: inlined from complete() for performance reasons
            ends = self._ends
            ends.popleft()
            self.next_end_ps = ends[0] if ends else None
            if steps:
                self._close_run()
            if self._pending or self.log is not None:
                self._process(end)
            end = self._plan(end)
        return end

    def _join(self, now_ps: int, quiet_until_ps: int) -> bool:
        """A first request comes while all decode and nobody waits, the commonest of events: the run under way ends with the
        step under way, the request is prefilled in the next step, and from then on it decodes with the others. False, with
        nothing changed, where anything else may happen.
        """
        # NOTE: _shorten(), _close_run(), CountedStep.serve_running(), Step.admit(), seat() and _schedule_mixed() in one, for
        # performance reasons: this is a third of all work, and each of them alone has to be ready for more
        (request,) = self.waiting
        if (
            self._waited
            or self._left
            or not self._wake
            or self._pending
            or self._cancels
            or self.chunking
            or request.order
            or request.shared_blocks
            or request.awaits_kv
        ):
            return False
        start, planned_ps = self._run_start_ps, self._run_planned_ps
        distance, first, growth = now_ps - start, self._run_step_ps, self._run_growth_ps
        if now_ps <= planned_ps or distance <= 0:
            return False
        if growth:
            g = 2 * first - growth
            steps = (isqrt(g * g + 8 * growth * distance) - g) // (2 * growth)
            while steps * first + growth * (steps * (steps - 1) // 2) < distance:
                steps += 1
        else:
            steps = -(-distance // first)
        lag, ends, kv, size = self.lag, self._ends, self.kv, self._block_size
        steps += lag
        if steps >= self._run_steps:
            return False
        last = steps - 1
        gpu_free_ps = start + steps * first + growth * (steps * last // 2)
        now = gpu_free_ps - lag * (first + growth * last)  # the next step is planned then
        if not now_ps < now < quiet_until_ps:
            return False
        decodes, counter, context, applied = self.decoders, self.counter, self.context, self._run_applied
        extra = steps - applied
        at = -(counter + extra) % size  # border at which the next step looks
        rest = extra % size
        blocks = extra // size * self.growing
        crossing = self.crossing
        if rest:
            upto = -counter % size + 1
            if upto >= rest:
                blocks += sum(crossing[upto - rest : upto])
            else:
                blocks += sum(crossing[:upto]) + sum(crossing[upto - rest :])
        known, free, running = request.known, kv.free, self.running
        taken = blocks + crossing[at]
        if (
            decodes + known > self._budget
            or taken - (-known // size) + self.watermark_blocks > free
            or len(running) >= self.settings.max_num_seqs
        ):
            return False
        # ---- the run
        step = self._step
        held = kv.total - free
        ends_at = held + blocks
        shared = (self.table_blocks - held) * size
        computed = self.computed_tokens
        live = computed - shared
        if applied:
            before = context - decodes
        else:
            before = context
            live += decodes
            held += crossing[-counter % size]
        tail = kv.free - kv._unhashed
        if tail and not applied and crossing[-counter % size] > kv._unhashed:
            tail -= crossing[-counter % size] - kv._unhashed
        takes, at = b"", (applied - 1 - counter) % size
        if steps > 1:
            if size <= _WHOLE_PATTERN:
                takes = crossing.tobytes()
            else:
                takes, at, _, _ = self._short_patterns(min(steps - 1, size), at, b"", b"")
        self._run_steps = 0
        self._before = None
        self.counter = counter = counter + extra
        tokens = decodes * extra
        self.context = context = context + tokens
        self.batches += steps
        marks = self._marks
        if marks and marks[0][0] <= counter:
            self._settle(start, first, growth, steps)
        self._add_row(
            (start, steps, first, growth, decodes, 0, 0, before, 0, 0, 0, 0, held, ends_at, live,
             len(running), 0, len(step.preempted), tail, *self._no_parts, self.copies.duplicates), takes, at
        )  # fmt: skip
        # ---- the step that the request enters in
        step.now_ps = now
        if step.preempted:
            step.preempted = []
        step.copied_ps = self._fruitless = 0
        if taken:
            kv.take(taken)
        self.counter = counter = counter + 1
        self.context = context + decodes
        self.waiting.remove(request)
        cached, need = 0, -(-known // size)
        if kv.caching:
            hits, hit = kv.lookup(request)
            cached = hit * size
            kv.admit(request, hits, hit, need - hit)
            kv.register(request, known // size)
        else:
            kv.admit(request, [], 0, need)
        request.computed = known
        self._admissions = request.order = self._admissions + 1
        request.running = True
        running[request] = None
        request.reused = request.cached_tokens = request.cached_tokens_first = cached
        self.table_blocks += taken + need
        self.computed_tokens = computed = computed + tokens + decodes + known
        new = known - cached
        if new > 1:
            span = self.cost.step_ps(
                decodes=decodes,
                context=context,
                chunks=1,
                chunk_tokens=new,
                pairs=new * (new + 2 * cached),
                cached=cached,
            )
            row = (0, 0), (context, 1, new, new * (new + 2 * cached), cached)
        else:
            span = self.cost.step_ps(
                decodes=decodes + 1, context=context + cached, chunks=0, chunk_tokens=0, pairs=0, cached=0
            )
            row = (self._kv_ps * (decodes + 1), 1), (context + cached, 0, 0, 0, 0)
        end = gpu_free_ps + span
        self.gpu_free_ps = end
        ends.clear()
        if lag:
            ends.append(gpu_free_ps)
        ends.append(end)
        held = kv.total - kv.free
        self.batches += 1
        dropped = 0
        if decodes and (self._stops[0][0] <= counter or (marks and marks[0][0] <= counter)):
            dropped = self._settle(gpu_free_ps, span, 0, 1)
        (step_growth, fresh), (seen, chunks, chunk_tokens, pairs, under) = row
        self._add_row(
            (gpu_free_ps, 1, span, step_growth, decodes + fresh, fresh, dropped, seen, chunks, chunk_tokens, pairs, under,
             held, held, self.computed_tokens - (self.table_blocks - held) * size, len(running), 0, 0,
             kv.free - kv._unhashed, *self._no_parts, self.copies.duplicates)
        )  # fmt: skip
        request.scheduled_tokens = new
        request.steps = 1
        request.first_scheduled_ps = gpu_free_ps
        request.busy_until_ps = request.first_token_ps = end
        if not request.reasoning_tokens:
            request.first_answer_ps = end
        self._count(request, end)
        # ---- and on
        if not self._pending and not self._asks():
            self._before = tuple(ends)
            self._decode_on(ends[0])
        self.next_end_ps = ends[0]
        return True

    def _plan(self, now_ps: int) -> int | None:
        """Plan for *now_ps*; a run under way ends with the step under way if what came may change the plan."""
        waiting = self.waiting
        if self._run_steps:
            if self._left or (self._wake and len(waiting) > self._waited):
                self._left = False
                if not self._cut(now_ps):
                    return self.next_end_ps
            else:
                if len(waiting) > self._waited:
                    self._joined.append((self._planned_before(now_ps), len(waiting)))
                return self.next_end_ps
        ends, lag, running = self._ends, self.lag, self.running
        while len(ends) <= lag and (running or waiting):
            self.resumed = False
            if self._borders:
                self._cross_borders()
            if not waiting and not self._asks():
                self._decode_on(now_ps)
            elif not self._schedule(now_ps):
                if not self._try_again():
                    break
                continue
            elif (
                len(ends) > lag and self._step.work and not (waiting or self._pending or self._cancels or self._asks())
            ):
                # The pipeline is full: the run that follows is planned too, unless something comes. What comes before
                # the run would have been planned undoes it, and nothing has happened.
                self._before = tuple(ends)
                self._decode_on(ends[0])
            self.next_end_ps = ends[0]
        return self.next_end_ps

    def _cut(self, now_ps: int) -> bool:
        """End the run under way with the last batch that is planned before *now_ps*; True when it is over by that."""
        if not self._shorten(now_ps) or self.next_end_ps != now_ps:
            return False
        ended = self.complete(now_ps)
        assert not ended  # a run that was cut short reaches nobody's end
        return True

    def _shorten(self, now_ps: int) -> bool:
        """Leave out of the run what is not planned before *now_ps*; False when that is nothing."""
        start, ends = self._run_start_ps, self._ends
        if self._before is not None and now_ps <= self._run_planned_ps:
            self._run_steps = 0
            ends.clear()
            ends.extend(self._before)
            self._before = None
            self.gpu_free_ps = start
            self.next_end_ps = ends[0]
            return True
        # NOTE: inlined from _planned_before(), _steps_until() and _run_time() for performance reasons
        distance, first, growth = now_ps - start, self._run_step_ps, self._run_growth_ps
        if distance <= 0:
            steps = 0
        elif growth:
            g = 2 * first - growth
            steps = (isqrt(g * g + 8 * growth * distance) - g) // (2 * growth)
            while steps * first + growth * (steps * (steps - 1) // 2) < distance:
                steps += 1
        else:
            steps = -(-distance // first)
        steps += self.lag
        if steps < 1:
            steps = 1
        if steps >= self._run_steps:
            return False
        self._run_steps = steps
        last = steps - 1
        self.gpu_free_ps = end = start + steps * first + growth * (steps * last // 2)
        ends.clear()
        if self.lag:
            ends.append(end - first - growth * last)
        ends.append(end)
        self.next_end_ps = ends[0]
        return True

    def _planned_before(self, now_ps: int) -> int:
        """How many steps of the run are planned before *now_ps*."""
        if now_ps <= self._run_planned_ps and self._before is not None:
            return 0
        return max(1, self._steps_until(now_ps - self._run_start_ps) + self.lag)

    def _steps_until(self, distance_ps: int) -> int:
        """The least number of steps of the run that take at least *distance_ps*."""
        if distance_ps <= 0:
            return 0
        first, growth = self._run_step_ps, self._run_growth_ps
        if not growth:
            return -(-distance_ps // first)
        g = 2 * first - growth
        steps = (isqrt(g * g + 8 * growth * distance_ps) - g) // (2 * growth)
        while steps * first + growth * (steps * (steps - 1) // 2) < distance_ps:
            steps += 1
        return steps

    def _run_time(self, steps: int) -> int:
        """What *steps* steps of the run take."""
        return steps * self._run_step_ps + self._run_growth_ps * (steps * (steps - 1) // 2)

    def _schedule(self, now_ps: int) -> bool:
        step = self._step
        step.begin(now_ps)
        if self.walking:
            self.walk(now_ps)
        self.scheduler.schedule(step)
        if step.served and self.decoders and not self.walking and step.budget >= 0:
            self._fruitless = 0  # NOTE: what _check() finds then, for performance reasons
        else:
            self._check(step, False)
        work = step.work
        if self.walking or (work and not step.served and self.decoders):
            if not self.walking:
                self.walk(now_ps)  # decodes that are left out
            return self._schedule_walked(step)
        if work:
            self._schedule_mixed(step)
        elif step.served and self.decoders:
            self._start_run(now_ps, step.hold, applied=1, wake=step.wake_on_arrival)
        else:
            return False
        return True

    def _asks(self) -> bool:
        """Nobody waits: has the scheduler to be asked, rather than all decode as it has promised
        (``serves_all_when_nobody_waits``)?
        """
        if self.chunking or not self._asks_nothing or self.walking or self.paused:
            return True
        decoders = self.decoders
        return not decoders or decoders > self._budget or self.crossing[-self.counter % self._block_size] > self.kv.free

    def _decode_on(self, now_ps: int) -> None:
        """All decode until one stops, blocks run out, or somebody comes; the scheduler is not asked."""
        # NOTE: Step.begin(), _start_run() and _run_length() in one for performance reasons, without what only a scheduler
        # can bring about; this is where half of all plans end
        step, ends, decodes = self._step, self._ends, self.decoders
        step.now_ps = now_ps
        if step.preempted:
            step.preempted = []
        step.copied_ps = self._run_applied = self._waited = 0
        self._wake = True
        if self._joined:
            self._joined.clear()
        self._run_planned_ps = now_ps
        start = self.gpu_free_ps
        if start < now_ps:
            start = now_ps
        self._run_start_ps = start
        table, kv_ps = self._decode_ps, self._kv_ps
        first = (table[decodes] if decodes < len(table) else self.cost.decode_ps(decodes, 0)) + kv_ps * self.context
        self._run_step_ps = first
        self._run_growth_ps = growth = kv_ps * decodes
        if self._pending or self._cancels or (self.lag and not ends):
            steps = 1
        else:
            stops = self._stops
            while True:
                stop, order, request = stops[0]
                if request.stop == stop and request.order == order and request.counted:
                    break
                heappop(stops)
            steps = stop - self.counter
            if self._borders:
                steps = min(steps, self._borders[0][0] - self.counter)
            if self.growing * (steps // self._block_size + 1) > self.kv.free:
                steps = self._steps_that_fit(steps)
            if steps < 1:
                steps = 1
        self._run_steps = steps
        last = steps - 1
        self.gpu_free_ps = end = start + steps * first + growth * (steps * last // 2)
        if last or self._before is not None:
            ends.clear()
            if self.lag:
                ends.append(end - first - growth * last)
            ends.append(end)
        else:
            ends.append(end)
            self._close_run()

    def _start_run(self, now_ps: int, hold: int, *, applied: int, wake: bool) -> None:
        """Nothing but decodes: as many steps as the batch stays as it is; *applied* of them are applied already."""
        decodes, ends, step, kv_ps = self.decoders, self._ends, self._step, self._kv_ps
        start = self.gpu_free_ps
        if start < now_ps:
            start = now_ps
        self._run_planned_ps = now_ps
        self._run_start_ps = start
        self._run_applied = applied
        table = self._decode_ps
        first = table[decodes] if decodes < len(table) else self.cost.decode_ps(decodes, 0)
        first += kv_ps * (self.context - decodes * applied)
        if step.copied_ps:
            first += step.copied_ps
        self._run_step_ps = first
        self._run_growth_ps = growth = kv_ps * decodes
        self._waited = len(self.waiting)
        self._wake = wake
        if self._joined:
            self._joined.clear()
        if self.compression and (due := self._due()):
            self._run_step_ps = first = first + self._plan_compression(due)
            hold = 1
        if hold <= 1 or step.preempted or self._pending or self._cancels or (self.lag and not ends):
            steps = 1
        else:
            steps = self._run_length(hold, applied)
            wake_at_ps = step.wake_at_ps
            if wake_at_ps < NEVER_PS and wake_at_ps < steps * (first + growth * steps) + start:
                steps = min(steps, max(1, self._steps_until(wake_at_ps - start) + self.lag))
        self._run_steps = steps
        last = steps - 1
        self.gpu_free_ps = end = start + steps * first + growth * (steps * last // 2)
        if last or self._before is not None:
            ends.clear()
            if self.lag:
                ends.append(end - first - growth * last)
            ends.append(end)
        else:
            ends.append(end)
            self._close_run()
            if self._compressed:
                self._compress()

    def _schedule_mixed(self, step: CountedStep) -> None:
        """One step with prefills, or with decodes of one token that were prefills: these are walked."""
        now_ps, work, batches, kv = step.now_ps, step.work, self.batches, self.kv
        counted = self.decoders if step.served else 0
        context = self.context - counted
        start = self.gpu_free_ps if self.gpu_free_ps > now_ps else now_ps
        fresh = chunks = chunk_tokens = pairs = cached = 0
        decodes = counted
        for request, new in work.items():
            before = request.computed - request.evicted - new
            if new == 1:
                decodes += 1
                if not (request.decoding and request.last_batch == batches - 1):
                    fresh += 1  # but one that paused and went on at once
                context += before
            else:
                chunks += 1
                chunk_tokens += new
                pairs += new * (new + 2 * before)
                cached += before
        span = self.cost.step_ps(
            decodes=decodes, context=context, chunks=chunks, chunk_tokens=chunk_tokens, pairs=pairs, cached=cached
        )
        if step.copied_ps:
            span += step.copied_ps
        if self.compression:
            due = [request for request in work if request.computed >= request.point]
            span += self._plan_compression(due + self._due() if counted else due)
        self.gpu_free_ps = end = start + span
        self._ends.append(end)
        held = kv.total - kv.free
        parts = self._no_parts if self._paged else self._parts()
        if self.log is not None:
            self._log_step(step, start, end, context + cached + decodes + chunk_tokens, counted)
        self.batches = batches + 1
        dropped, marks, counter = 0, self._marks, self.counter
        if counted and (self._stops[0][0] <= counter or (marks and marks[0][0] <= counter) or self._borders):
            dropped = self._settle(start, span, 0, 1)
        self._add_row(
            (start, 1, span, 0 if chunks else self._kv_ps * decodes, decodes, fresh, dropped, context,
             chunks, chunk_tokens, pairs, cached, held, held,
             self.computed_tokens - (self.table_blocks - held) * self._block_size,
             len(self.running), len(self.waiting), len(step.preempted), kv.free - kv._unhashed, *parts,
             self.copies.duplicates)
        )  # fmt: skip
        if self._compressed:
            self._compress()
        chunking = []
        for request, new in work.items():
            request.scheduled_tokens += new
            request.steps += 1
            request.busy_until_ps = end
            if request.first_scheduled_ps < 0:
                request.first_scheduled_ps = start
            known = request.known
            if request.computed == known:
                if not request.decoding or request.last_batch != batches - 1:
                    # a prefill is complete: it yields a token
                    if request.first_token_ps < 0:
                        request.first_token_ps = end
                    else:
                        self.sink.stall(request.id, end, end - request.last_token_ps)
                if known - request.prompt_tokens == request.reasoning_tokens:
                    request.first_answer_ps = end
                self._count(request, end)
            else:
                chunking.append(request)
        if self.chunking:
            kept = [request for request in self.chunking if request not in work]
            if kept:
                chunking = sorted(kept + chunking, key=by_order)
        self.chunking = chunking

    def _run_length(self, hold: int, applied: int) -> int:
        """For how many steps the decode batch stays as it is, the *applied* ones included, *hold* at the most."""
        stops = self._stops
        while True:
            stop, order, request = stops[0]
            if request.counted and request.order == order and request.stop == stop:
                break
            heappop(stops)
        extra = min(stop - self.counter, hold - applied)
        if self._borders:
            extra = min(extra, max(0, self._borders[0][0] - self.counter))
        if self.compression:
            points = self._points  # the step that comes to one is planned by itself
            while points and not (
                points[0][2].counted
                and points[0][2].order == points[0][1]
                and points[0][2].point - points[0][2].base == points[0][0]
            ):
                heappop(points)
            if points:
                extra = min(extra, points[0][0] - 1 - self.counter)
        if self._step.wake_on_phase:
            marks = self._marks
            while marks and not (
                marks[0][2].counted and marks[0][2].order == marks[0][1] and marks[0][2].mark == marks[0][0]
            ):
                heappop(marks)
            if marks:
                extra = min(extra, marks[0][0] - self.counter)
        if self.growing * (extra // self._block_size + 1) > self.kv.free:
            extra = self._steps_that_fit(extra)
        return max(extra + applied, 1)

    def _steps_that_fit(self, most: int) -> int:
        """How many steps, *most* at the most, the free blocks suffice for."""
        free, growing = self.kv.free, self.growing
        rounds = free // growing
        at = -self.counter % self._block_size  # a step looks one place further down, round and round
        taken = list(accumulate(self.crossing[at::-1] + self.crossing[:at:-1]))
        steps = rounds * self._block_size + bisect_right(taken, free - rounds * growing)
        return steps if steps < most else most

    def _blocks_of_steps(self, steps: int, after: int = 0) -> int:
        """Blocks that the counted batch takes in *steps* steps, the next *after* ones left out."""
        size, crossing = self._block_size, self.crossing
        rest = steps % size
        blocks = steps // size * self.growing
        if rest:
            upto = -(self.counter + after) % size + 1  # a step looks one place further down, round and round
            if upto >= rest:
                blocks += sum(crossing[upto - rest : upto])
            else:
                blocks += sum(crossing[:upto]) + sum(crossing[upto - rest :])
        return blocks

    def _close_run(self) -> None:
        """Apply the run, now that its length is known: its first step was applied when it was planned."""
        steps, kv, applied, joined = self._run_steps, self.kv, self._run_applied, self._joined
        if self.log is not None:
            self._log_run(steps, self._before is not None)
        self._run_steps = 0
        self._before = None
        decodes, counter, size, context = self.decoders, self.counter, self._block_size, self.context
        held = last = kv.total - kv.free
        computed = self.computed_tokens
        live = computed - (self.table_blocks - held) * size
        start, first, growth = self._run_start_ps, self._run_step_ps, self._run_growth_ps
        if applied:
            context -= decodes
            extra = steps - 1
        else:
            live += decodes
            held += self.crossing[-counter % size]
            extra = steps
        cached = kv.free - kv._unhashed
        if cached and not applied:
            first_takes = self.crossing[-counter % size]
            if first_takes > kv._unhashed:
                cached -= first_takes - kv._unhashed
        takes, parts, unused, window = b"", self._no_parts, b"", b""
        at = (applied - 1 - counter) % size
        if not self._paged:
            parts, unused, window = self._run_parts(1 - applied)
        if steps > 1:
            if size <= _WHOLE_PATTERN:
                takes = self.crossing.tobytes()
            else:
                takes, at, unused, window = self._short_patterns(min(steps - 1, size), at, unused, window)
        if extra:
            # NOTE: inlined from _blocks_of_steps() for performance reasons
            rest = extra % size
            blocks = extra // size * self.growing
            if rest:
                upto = -counter % size + 1
                if upto >= rest:
                    blocks += sum(self.crossing[upto - rest : upto])
                else:
                    blocks += sum(self.crossing[:upto]) + sum(self.crossing[upto - rest :])
            if blocks:
                kv.take(blocks)
                self.table_blocks += blocks
                last += blocks
            tokens = decodes * extra
            self.counter = counter = counter + extra
            self.context += tokens
            self.computed_tokens = computed + tokens
        self.batches += steps
        marks = self._marks
        running = len(self.running)
        if self._stops[0][0] <= counter or (marks and marks[0][0] <= counter) or self._borders:
            dropped = self._settle(start, first, growth, steps)
        else:
            dropped = 0
        row = (start, steps, first, growth, decodes, 0, dropped, context, 0, 0, 0, 0, held, last, live,
               running, self._waited, len(self._step.preempted), cached, *parts, self.copies.duplicates)  # fmt: skip
        if joined and joined[0][0] < steps:
            self._add_split(row, Run(takes, at, unused, window))
        elif unused and takes:
            self.sink.add_reserved(row, takes, at, unused, window)
        else:
            self._add_row(row, takes, at)

    def _add_split(self, row: tuple[int, ...], run: Run) -> None:
        """Rows of a run that others joined the queue behind: one for each length of the queue."""
        named = dict(zip(SEGMENT_ROW, row, strict=True))
        done, steps, waiting = 0, named["steps"], self._waited
        for upto, longer in [*(entry for entry in self._joined if entry[0] < steps), (steps, 0)]:
            if upto > done:
                part = run.part(named, done, upto, self.kv.total) | {"waiting": waiting}
                rest: Any = run.rest(done) if upto - done > 1 else ()
                if len(rest) > 2:
                    self.sink.add_reserved(tuple(part.values()), *rest)
                else:
                    self.sink.add(tuple(part.values()), *rest)
                done = upto
            waiting = longer

    def _parts(self) -> tuple[int, int]:
        """Blocks reserved and not reached by tokens, and blocks of windows, of all that run."""
        if self._paged:
            return self._no_parts
        unused, window = self._no_parts
        for request in self.running:
            computed = request.base + self.counter if request.counted else request.computed
            mine = self.parts_of(request, computed)
            unused += mine[0]
            window += mine[1]
        return unused, window

    def _run_parts(self, ahead: int) -> tuple[tuple[int, int], bytes, bytes]:
        """The same in the first step of a run, *ahead* steps from now, and how both change as the run goes on."""
        size, limit = self._block_size, self.settings.window_blocks
        unused, window = array("H", [0] * size), array("H", [0] * size)
        all_unused, all_window = self._no_parts
        for request in self.running:
            computed = request.computed
            if request.counted:
                computed = request.base + self.counter
                window[request.base % size] += computed < limit * size
                unused[request.base % size] += computed < request.reserved * size
                computed += ahead
            mine = self.parts_of(request, computed)
            all_unused += mine[0]
            all_window += mine[1]
        return (all_unused, all_window), unused.tobytes(), window.tobytes()

    def _short_patterns(self, length: int, at: int, *others: bytes) -> tuple[bytes, int, bytes, bytes]:
        """Patterns of large blocks, only as long as the run, their first entry last."""
        size = self._block_size
        places = [(at - i) % size for i in range(length)][::-1]
        whole = [self.crossing, *(array("H", other) if other else self.crossing for other in others)]
        takes, unused, window = (array("H", [pattern[place] for place in places]).tobytes() for pattern in whole)
        return takes, length - 1, *((unused, window) if others[0] else (b"", b""))

    def _settle(self, start_ps: int, first_ps: int, growth_ps: int, steps: int) -> int:
        """After *steps* steps: who began to answer in them, and whose last token came; return the tokens dropped."""
        dropped = 0
        if self._borders:
            self._cross_borders()
        counter = self.counter
        origin = counter - steps
        marks = self._marks
        while marks and marks[0][0] <= counter:
            at, order, request = heappop(marks)
            if request.counted and request.order == order and request.mark == at:
                k = at - origin
                request.first_answer_ps = start_ps + k * first_ps + growth_ps * (k * (k - 1) // 2)
        stops, size, lag = self._stops, self._block_size, self.lag
        while stops and stops[0][0] <= counter:
            at, order, request = heappop(stops)
            if request.stop == at and request.order == order and request.counted:
                # NOTE: inlined from _uncount() and _leave() for performance reasons
                base, growth, evicted, k = request.base, request.growth, request.evicted, at - origin
                yielded = counter - request.counted_from
                request.counted = request.decoding = False
                request.computed = computed = base + counter
                request.scheduled_tokens += yielded
                request.steps += yielded
                self.decoders -= 1
                self.context -= computed - evicted
                self.crossing[(base - evicted) % size] -= growth
                self.growing -= growth
                if lag and request.end < request.foreseen_end:
                    k -= 1
                    dropped += 1
                request.draining = True
                request.in_flight = lag
                request.known = request.end - lag
                end_ps = start_ps + k * first_ps + growth_ps * (k * (k - 1) // 2)
                request.last_token_ps = request.busy_until_ps = end_ps
                heappush(self._pending, (end_ps, order, request))
        return dropped

    def _schedule_walked(self, step: CountedStep) -> bool:
        """The end of a walked step: as the oracle does it, then back to counting if every decode was served."""
        if not step.work:
            self._recount(step, None)
            return False
        start = max(step.now_ps, self.gpu_free_ps)
        admitted = {request for request, _ in step.admitted}
        decodes = fresh = context = chunks = chunk_tokens = pairs = cached = dropped = 0
        tokens: list[tuple[Request, bool]] = []
        for request, new in step.work.items():
            before = request.computed - request.evicted - new
            follows = False
            if new == 1:
                decodes += 1
                context += before
                follows = request.last_batch == self.batches - 1 and request not in admitted
                fresh += not follows
            else:
                chunks += 1
                chunk_tokens += new
                pairs += new * (new + 2 * before)
                cached += before
            request.decoding = request.computed == request.known + request.in_flight
            if request.decoding:
                request.last_batch = self.batches
                if request.computed >= request.end:
                    dropped += 1
                else:
                    tokens.append((request, follows))
        cost = self.cost.step_ps(
            decodes=decodes,
            context=context,
            chunks=chunks,
            chunk_tokens=chunk_tokens,
            pairs=pairs,
            cached=cached,
        )
        cost += step.copied_ps
        if self.compression:
            cost += self._plan_compression([request for request in step.work if request.computed >= request.point])
        end = start + cost
        self._ends.append(end)
        self.gpu_free_ps = end
        self.table_blocks = sum(self.blocks_of(request) for request in self.running)
        self.computed_tokens = sum(request.computed - request.evicted for request in self.running)
        for blocks, inside in self.standing.values():
            self.table_blocks += blocks
            self.computed_tokens += inside
        held = self.kv.total - self.kv.free
        live = self.computed_tokens - (self.table_blocks - held) * self.kv.block_size
        self.sink.add(
            (start, 1, cost, self.cost.decode_growth_ps(decodes) if not chunks else 0, decodes, fresh, dropped, context, chunks,
             chunk_tokens, pairs, cached, held, held, live, len(self.running), len(self.waiting), len(step.preempted),
             self.kv.cached, *self._parts(), self.copies.duplicates)
        )  # fmt: skip
        if self.log is not None:
            self._log_step(step, start, end, context + cached + decodes + chunk_tokens, 0)
        if self._compressed:
            self._compress()
        for request, new in step.work.items():
            request.scheduled_tokens += new
            request.steps += 1
            request.busy_until_ps = end
            if request.first_scheduled_ps < 0:
                request.first_scheduled_ps = start
        for request, follows in tokens:
            request.in_flight += 1
            if request.first_token_ps < 0:
                request.first_token_ps = end
            elif not follows:
                self.sink.stall(request.id, end, end - request.last_token_ps)
            if request.known + request.in_flight - request.prompt_tokens == request.reasoning_tokens + 1:
                request.first_answer_ps = end
            request.last_token_ps = end
        self.batches += 1
        self._recount(step, end)
        return True

    def _recount(self, step: CountedStep, end_ps: int | None) -> None:
        """Count the decodes again, unless one of them was not served: then the next step is walked too."""
        ending = {request for _, _, request in self._pending}
        served = step.work
        decoding = []
        chunking = []
        starved = False
        for request in self.running:
            if request in ending or request.draining or request.paused:
                continue
            if request.decoding:
                decoding.append(request)
                starved = starved or request not in served
            else:
                chunking.append(request)
        if starved:
            self._walk_on(decoding, chunking, end_ps, served)
            return
        self.walking = False
        self.chunking = chunking
        for request in decoding:
            assert end_ps is not None
            self._count(request, end_ps)

    def _walk_on(
        self, decoding: list[Request], chunking: list[Request], end_ps: int | None, served: dict[Request, int]
    ) -> None:
        """Keep walking; whose last token was just planned is noted all the same."""
        self.chunking = chunking
        for request in decoding:
            if request in served and request.known + request.in_flight >= request.end:
                assert end_ps is not None
                self._leave(request, end_ps)
                request.draining = request.end >= request.foreseen_end

    # ------------------------------------------------------------------ outputs

    def _process(self, now_ps: int) -> list[Request]:
        pending = self._pending
        ended: list[Request] = []
        while pending and pending[0][0] <= now_ps:
            request = heappop(pending)[2]
            if request.status == _UNFINISHED:
                self._finish(request, now_ps)
                ended.append(request)
        if self._cancels:
            for request in [request for request in self._cancels if request.busy_until_ps <= now_ps]:
                self._cancels.remove(request)
                self._finish(request, now_ps)
                ended.append(request)
        if self.log is not None:
            self.log.update(now_ps, self.kv.free, [request.id for request in ended])
        return ended

    def _finish(self, request: Request, now_ps: int) -> None:
        request.draining = False
        if request.running:
            if request.shared_blocks:
                self.copies.drop(request)
            computed = request.computed
            in_flight = 1 if computed >= request.end else 0
            request.dropped_tokens += in_flight
            blocks = -(-(computed - request.evicted) // self._block_size) if self._paged else self.blocks_of(request)
            self.table_blocks -= blocks
            self.computed_tokens -= computed - request.evicted
            if request.keeps_kv and request.cancelled is None:
                self.kv.register(request, (computed - in_flight) // self._block_size)
                self.stand(request, blocks, computed - in_flight)
            else:
                self.kv.release(request, blocks, computed - in_flight)
            if request.paused:
                self._unpause(request)
            request.running = False
            del self.running[request]
        else:
            self.waiting.remove(request)
        cancelled = request.cancelled
        if cancelled is None:
            request.known = request.end
            self._close(request, _COMPLETED, now_ps)
        else:
            if request.decoding:
                request.known = request.computed + 1
            self._close(request, cancelled, now_ps)

    # ------------------------------------------------------------------ to be seen

    def snapshot(self, now_ps: int) -> Snapshot:
        """See :class:`Snapshot`; a run under way is looked into without ending it."""
        free, computed = self.kv.free, self.computed_tokens
        if self._run_steps:
            extra = min(self._planned_before(now_ps), self._run_steps) - self._run_applied
            free -= self._blocks_of_steps(extra)
            computed += extra * self.decoders
        return Snapshot(
            running=len(self.running),
            waiting=len(self.waiting) + self._landing(),
            free_blocks=free,
            total_blocks=self.settings.usable_blocks,
            computed_tokens=computed,
            queued_tokens=sum(r.known - r.computed for r in self.chunking)
            + sum(r.known for r in self.waiting)
            + (
                sum(r.known - r.computed for r in self.running if r.paused and not (r.decoding or r.draining))
                if self.paused
                else 0
            )
            + self._landing_tokens(),
        )

    def _log_step(self, step: CountedStep, start: int, end: int, context: int, counted: int) -> None:
        assert self.log is not None
        if counted:
            order = [(r.id, 1 if r.counted else step.work[r]) for r in self.running if r.counted or r in step.work]
        else:
            order = [(request.id, new) for request, new in step.work.items()]
        self.log.rows.append(
            StepRow(
                step.now_ps, start, end, sum(new for _, new in order), context, len(self.running), len(self.waiting),
                self.kv.free, self.kv.free, [(request.id, hit) for request, hit in step.admitted],
                sorted(request.id for request in step.preempted), [], order,
            )
        )  # fmt: skip

    def _log_run(self, steps: int, chained: bool) -> None:
        """One row a step of the run that is about to be applied."""
        assert self.log is not None
        rows = self.log.rows
        order = [(request.id, 1) for request in self.running if request.counted]
        applied, decoders = self._run_applied, self.decoders
        free, context, at = self.kv.free, self.context - decoders * applied, -(self.counter - applied)
        planned, start = self._run_planned_ps, self._run_start_ps
        preempted = sorted(request.id for request in self._step.preempted)
        joined, waiting = list(self._joined), self._waited
        for i in range(steps):
            if i >= applied:
                free -= self.crossing[(at - i) % self.kv.block_size]
            end = self._run_start_ps + self._run_time(i + 1)
            while joined and joined[0][0] <= i:
                waiting = joined.pop(0)[1]
            if self.lag and (i or chained):
                rows[-2 if len(rows) > 1 else -1].free_after_update = rows[-1].free_after_schedule
            rows.append(
                StepRow(
                    planned, start, end, decoders, context + decoders * (i + 1), len(self.running),
                    waiting, free, free, [], preempted if not i else [], [], order,
                )
            )  # fmt: skip
            planned = start if self.lag else end
            start = end
