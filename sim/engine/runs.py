"""Runs of decode steps in closed form: how long one may be, what it takes, and what it leaves when it is over.

A run is planned for as long as its batch stays as it is, and applied when it is over, since it may be cut short.
"""

from __future__ import annotations

from array import array
from heapq import heappop, heappush
from math import isqrt

from sim.engine.counted_batch import CountedBatch
from sim.engine.counted_step import CountedStep
from sim.engine.request import Request
from sim.engine.step import FOREVER, NEVER_PS
from sim.engine.step_log import StepRow
from sim.results.growth import WIDTH
from sim.results.sinks import pack_segment

WHOLE_PATTERN = 64
"""Block size up to which the whole pattern of a run's growth is kept, however short the run."""


class Runs(CountedBatch):
    """A replica that decodes many steps at once."""

    __slots__ = ()

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
        if steps * first + growth * (steps * (steps - 1) // 2) < distance_ps:
            steps += 1
        return steps

    def _run_time(self, steps: int) -> int:
        """What *steps* steps of the run take."""
        return steps * self._run_step_ps + self._run_growth_ps * (steps * (steps - 1) // 2)

    def _decode_on(
        self, now_ps: int, waiting: int = 0, wake: bool = True, head: Request | None = None, hold: int = FOREVER
    ) -> None:
        """All decode until one stops, blocks run out, or somebody comes; the scheduler is not asked. Or *waiting* wait who
        stay out for *hold* steps, and who comes does not matter unless *wake*, nor with a *head* unless it goes before that.
        """
        # NOTE: Step.begin(), _start_run() and _run_length() in one for performance reasons, without what only a scheduler
        # can bring about; this is where half of all plans end
        step, ends, decodes = self._step, self._ends, self.decoders
        step.now_ps = now_ps
        if step.preempted:
            step.preempted = []
        step.copied_ps = self._run_applied = 0
        self._waited = waiting
        self._wake = wake
        self._head = head
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
            if self._points:
                steps = min(steps, self._until_point())
            if steps > hold:
                steps = hold
            if self.growing * (steps // self._block_size + 1) > self.kv.free:
                steps = self._steps_that_fit(steps)
            if steps < 1:
                steps = 1
            wake_at_ps = step.wake_at_ps
            if waiting and wake_at_ps < NEVER_PS:
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
        waiting = self.waiting
        self._waited = len(waiting)
        self._wake = wake
        self._head = waiting.head() if step.wake_on_new_head and waiting else None
        if self._joined:
            self._joined.clear()
        if self.compression and (due := self._due()):
            self._run_step_ps = first = first + self._plan_compression(due)
            hold = 1
        if self.resting:
            self._run_fresh = self._end_rest(start + first)
        if hold <= 1 or step.preempted or self._pending or self._cancels or (self.lag and not ends):
            steps = 1
        else:
            steps = self._run_length(hold, applied)
            wake_at_ps = step.wake_at_ps
            if wake_at_ps < NEVER_PS and wake_at_ps < steps * (first + growth * steps) + start:
                steps = min(steps, max(1, self._steps_until(wake_at_ps - start) + self.lag))
        last = steps - 1
        self.gpu_free_ps = end = start + steps * first + growth * (steps * last // 2)
        if last or self._before is not None:
            self._run_steps = steps
            ends.clear()
            if self.lag:
                ends.append(end - first - growth * last)
            ends.append(end)
            return
        ends.append(end)
        if applied and self._short_ways and not self._points:
            self._write_step(start, first)
            return
        self._run_steps = steps
        self._close_run()
        if self._compressed:
            self._compress()

    def _write_step(self, start: int, span: int) -> None:
        """A step of nothing but decodes, already applied, that stands by itself: what `_close_run` comes to then."""
        # NOTE: there for performance reasons: under pressure a plan in three holds for one step
        kv, counter, decodes = self.kv, self.counter, self.decoders
        unused, window = self._no_parts
        context, computed, running = self.context - decodes, self.computed_tokens, len(self.running)
        free, fresh, dropped, marks = kv.free, self._run_fresh, 0, self._marks
        held = kv.total - free
        self._run_fresh = 0
        self.batches += 1
        if self._stops[0][0] <= counter or (marks and marks[0][0] <= counter):
            dropped = self._settle(start, span, 0, 1)
        self._write_row(
            pack_segment(start, 1, span, self._run_growth_ps, decodes, fresh, dropped, context, 0, 0, 0, 0, held, held,
                         computed - (self.table_blocks - held) * self._block_size, running, self._waited,
                         len(self._step.preempted), free - kv._unhashed, unused, window, self.copies.duplicates, 0, 0)
        )  # fmt: skip

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
        if self._points:
            extra = min(extra, self._until_point())
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
        left, growing, crossing, size = self.kv.free, self.growing, self.crossing, self._block_size
        rounds = left // growing
        left -= rounds * growing
        steps = rounds * size
        if steps >= most:
            return most
        at = -self.counter % size  # a step looks one place further down, round and round
        for places in (crossing[at::-1], crossing[:at:-1]):
            for taken in places:
                left -= taken
                if left < 0:
                    return steps if steps < most else most
                steps += 1
        return most

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
        decodes, counter, size, context, crossing = (
            self.decoders,
            self.counter,
            self._block_size,
            self.context,
            self.crossing,
        )
        held = last = kv.total - kv.free
        computed = self.computed_tokens
        live = computed - (self.table_blocks - held) * size
        start, first, growth = self._run_start_ps, self._run_step_ps, self._run_growth_ps
        if applied:
            context -= decodes
            extra = steps - 1
        else:
            live += decodes
            held += crossing[-counter % size]
            extra = steps
        cached = kv.free - kv._unhashed
        if cached and not applied:
            first_takes = crossing[-counter % size]
            if first_takes > kv._unhashed:
                cached -= first_takes - kv._unhashed
        unused_now, window_now = self._no_parts
        unused = window = b""
        at = (applied - 1 - counter) % size
        if not self._paged:
            unused_now, window_now = self._parts(1 - applied)
            unused, window = self._set_aside.unused_takes.tobytes(), self._set_aside.window_takes.tobytes()
        pattern, takes = 0, b""
        if joined and joined[0][0] < steps:
            self.sink.join(joined)
        if steps > 1:
            if unused or size > WHOLE_PATTERN:
                takes = crossing.tobytes()
                if size > WHOLE_PATTERN:
                    takes, at, unused, window = self._short_patterns(min(steps - 1, size), at, unused, window)
                pattern = len(takes) // WIDTH
                if not unused:
                    self._write_pattern(takes)
            else:
                pattern = size
                self._write_pattern(crossing)
        if extra:
            # NOTE: inlined from _blocks_of_steps() for performance reasons
            rest = extra % size
            blocks = extra // size * self.growing
            if rest:
                upto = -counter % size + 1
                if upto >= rest:
                    blocks += sum(crossing[upto - rest : upto])
                else:
                    blocks += sum(crossing[:upto]) + sum(crossing[upto - rest :])
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
        if (
            self._stops[0][0] <= counter
            or (marks and marks[0][0] <= counter)
            or (self._borders and self._borders[0][0] <= counter)
        ):
            dropped = self._settle(start, first, growth, steps)
        else:
            dropped = 0
        fresh, self._run_fresh = self._run_fresh, 0
        if unused and takes:
            self.sink.add_reserved(
                (start, steps, first, growth, decodes, fresh, dropped, context, 0, 0, 0, 0, held, last, live, running,
                 self._waited, len(self._step.preempted), cached, unused_now, window_now, self.copies.duplicates),
                takes, at, unused, window,
            )  # fmt: skip
        else:
            self._write_row(
                pack_segment(start, steps, first, growth, decodes, fresh, dropped, context, 0, 0, 0, 0, held, last, live, running,
                             self._waited, len(self._step.preempted), cached, unused_now, window_now, self.copies.duplicates, at,
                             pattern)
            )  # fmt: skip
        if self._points and not self.compression:
            self._ended_looks()

    def _parts(self, ahead: int = 0) -> tuple[int, int]:
        """Blocks reserved and not reached by tokens, and blocks of windows, of all that run, *ahead* steps from now."""
        unused, window = self._no_parts
        if self._paged:
            return unused, window
        self._set_aside.go_on(self.counter)
        counted = self._set_aside.after(ahead)
        unused, window = unused + counted[0], window + counted[1] + self.unsettled_blocks
        if len(self.running) > self.decoders:
            for request in self.running:
                if not request.counted:
                    mine = self.parts_of(request, request.computed)
                    unused += mine[0]
                    window += mine[1]
        return unused, window

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
                if not self._paged:
                    self._set_aside.leave(request, counter)
                    if self.windows is not None:
                        self._leave_windows(request)
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
                before = rows[-1]
                rows[-2 if len(rows) > 1 else -1].free_after_update = before.free_after_schedule + before.given_back
            rows.append(
                StepRow(
                    planned, start, end, decoders, context + decoders * (i + 1), len(self.running),
                    waiting, free, free, [], preempted if not i else [], [], order,
                )
            )  # fmt: skip
            planned = start if self.lag else end
            start = end

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
