"""The two commonest things that happen to an engine, each in one go.

While all decode and nobody waits, a request comes (`_join`), or a request gets its last token (`_end_run`). Both are what
the general path does, call by call, written out without what cannot be the case then. Every step of the general path has to
be ready for more, and these two are most of all work.
"""

# NOTE: the whole module is there for performance reasons; whatever differs from the general path is a mistake here

from __future__ import annotations

from heapq import heappop, heappush
from math import sqrt

from sim.engine.chunks import Chunks
from sim.engine.request import Request
from sim.engine.runs import WHOLE_PATTERN
from sim.results.columns import Status
from sim.results.sinks import pack_segment

_COMPLETED = int(Status.COMPLETED)  # an enum's attributes are slow to read


class Shortcuts(Chunks):
    """A replica that takes the short way where it may."""

    __slots__ = ()

    def _join(self, now_ps: int, quiet_until_ps: int) -> bool:
        """A first request comes while all decode and nobody waits, the commonest of events: the run under way ends with the
        step under way, the request is prefilled in the next step, and from then on it decodes with the others. False, with
        nothing changed, where anything else may happen.
        """
        # NOTE: _shorten(), _close_run(), CountedStep.serve_running(), Step.admit(), seat(), _schedule_mixed() and step_ps() of
        # the cost in one, for performance reasons: this is a third of all work, and each alone has to be ready for more
        (request,) = self.waiting
        if (
            self._waited
            or self._left
            or not self._wake
            or self._pending
            or self._cancels
            or self.chunking
            or self.paused
            or request.order
            or request.shared_blocks
            or request.awaits_kv
            or self._points  # somebody decodes tokens that are rolled back
            or request.looks is not None
        ):
            return False
        start, planned_ps = self._run_start_ps, self._run_planned_ps
        distance, first, growth = now_ps - start, self._run_step_ps, self._run_growth_ps
        if now_ps <= planned_ps or distance <= 0:
            return False
        if growth:
            # The root is found in floats, a step too low at the worst, and made exact in whole numbers.
            g = first - 0.5 * growth
            steps = int((sqrt(g * g + 2.0 * growth * distance) - g) / growth)
            taken = steps * first + growth * (steps * (steps - 1) // 2)
            while taken < distance:
                taken += first + growth * steps
                steps += 1
        else:
            steps = -(-distance // first)
            taken = steps * first
        lag, ends, kv, size = self.lag, self._ends, self.kv, self._block_size
        now = start + taken  # the next step is planned then
        if lag:
            taken += first + growth * steps
            steps += 1
        if steps >= self._run_steps:
            return False
        gpu_free_ps = start + taken
        if not now_ps < now < quiet_until_ps:
            return False
        decodes, counter, context, applied = self.decoders, self.counter, self.context, self._run_applied
        crossing, at = self.crossing, -counter % size  # the place within a block whose decodes take one
        extra = steps - applied
        rest = extra % size
        blocks = extra // size * self.growing
        if rest:
            upto = at + 1
            if upto >= rest:
                blocks += sum(crossing[upto - rest : upto])
            else:
                blocks += sum(crossing[:upto]) + sum(crossing[upto - rest :])
        known, running = request.known, self.running
        count, free, unhashed, need = len(running), kv.free, kv._unhashed, -(-known // size)
        taken = blocks + crossing[(at - extra) % size]
        if (
            decodes + known > self._full_step
            or taken + need + self.watermark_blocks > free
            or count >= self.settings.max_num_seqs
        ):
            return False
        # ---- the run
        step, duplicates = self._step, self.copies.duplicates
        unused, window = self._no_parts
        held, table, computed = kv.total - free, self.table_blocks, self.computed_tokens
        ends_at = held + blocks
        live = computed - (table - held) * size
        before, tail = context, free - unhashed
        if applied:
            before -= decodes
            place = at
        else:
            live += decodes
            first_takes = crossing[at]
            held += first_takes
            if tail and first_takes > unhashed:
                tail -= first_takes - unhashed
            place = (at - 1) % size
        pattern = 0
        if steps > 1:
            if size <= WHOLE_PATTERN:
                pattern = size
                self._write_pattern(crossing)
            else:
                pattern = min(steps - 1, size)
                takes, place, _, _ = self._short_patterns(pattern, place, b"", b"")
                self._write_pattern(takes)
        else:
            place = 0
        self._run_steps = 0
        self._before = None
        self.counter = counter = counter + extra
        tokens = decodes * extra
        self.context = context = context + tokens
        self.batches += steps
        marks = self._marks
        if marks and marks[0][0] <= counter:
            self._settle(start, first, growth, steps)
        self._write_row(
            pack_segment(start, steps, first, growth, decodes, self._run_fresh, 0, before, 0, 0, 0, 0, held, ends_at, live,
                         count, 0, len(step.preempted), tail, unused, window, duplicates, place, pattern)
        )  # fmt: skip
        # ---- the step that the request enters in
        self._run_fresh = 0
        step.now_ps = now
        if step.preempted:
            step.preempted = []
        step.copied_ps = self._fruitless = 0
        self.counter = counter = counter + 1
        self.context = context + decodes
        if self._admits_firsts:
            self._admits_firsts.note_admission(step, request)
        self.waiting.remove(request)
        cached = 0
        if kv.caching:
            if taken:
                kv.take(taken)
            hits, hit = kv.lookup(request)
            cached = hit * size
            kv.admit(request, hits, hit, need - hit)
            kv.register(request, known // size)
        elif (taking := taken + need) <= unhashed:
            kv._unhashed = unhashed - taking
            kv.free = free - taking
        else:
            kv.take(taking)
        request.computed = known
        self._admissions = order = request.order = self._admissions + 1
        request.running = True
        running[request] = None
        request.reused = request.cached_tokens = request.cached_tokens_first = cached
        self.table_blocks = table = table + taken + need
        self.computed_tokens = computed = computed + tokens + decodes + known
        new = known - cached
        if new > 1:
            pairs, step_growth, fresh, chunks, chunk_tokens = new * (new + 2 * cached), 0, 0, 1, new
            cost = self.cost
            linear, tokens = cost.linear_ps, decodes + new
            span = (
                cost.host_ps
                + (linear[tokens] if tokens < len(linear) else cost.linear(tokens))
                + cost.seq_ps * (decodes + 1)
                + cost.kv_ps * context
                + cost.half_pair_ps * pairs
                + cost.cached_ps * cached
                + cost.mixed_ps * decodes
            )
            seen, under = context, cached
        else:
            pairs, step_growth, fresh, chunks, chunk_tokens = 0, self._kv_ps * (decodes + 1), 1, 0, 0
            seen, under = context + cached, 0
            span = self.cost.step_ps(decodes=decodes + 1, context=seen, chunks=0, chunk_tokens=0, pairs=0, cached=0)
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
        self._write_row(
            pack_segment(gpu_free_ps, 1, span, step_growth, decodes + fresh, fresh, dropped, seen, chunks, chunk_tokens, pairs,
                         under, held, held, computed - (table - held) * size, count + 1, 0, 0, kv.free - kv._unhashed, unused,
                         window, duplicates, 0, 0)
        )  # fmt: skip
        request.scheduled_tokens = new
        request.steps = 1
        request.first_scheduled_ps = gpu_free_ps
        request.busy_until_ps = request.first_token_ps = end
        if not request.reasoning_tokens:
            request.first_answer_ps = end
        # ---- from then on it decodes
        left = request.end - 1 - known
        if lag and request.end < request.foreseen_end:
            left += 1  # an end that the engine does not foresee: one token more is computed, and dropped
        if left <= 0:
            self._leave(request, end)
        else:
            request.counted = True
            request.base = base = known - counter
            request.counted_from = counter
            request.growth = 1
            self.decoders += 1
            self.context += known
            crossing[base % size] += 1
            self.growing += 1
            request.stop = stop = counter + left
            heappush(self._stops, (stop, order, request))
            request.mark = -1
            if request.first_answer_ps < 0:
                reasoned = request.prompt_tokens + request.reasoning_tokens
                if reasoned < request.end:
                    request.mark = mark = reasoned - base
                    heappush(marks, (mark, order, request))
        # ---- and the run that follows
        decodes = self.decoders
        if (
            not self._pending
            and self._asks_nothing
            and not self.walking
            and not self.paused
            and 0 < decodes <= self._budget
            and crossing[-counter % size] <= kv.free
        ):
            self._before = tuple(ends)
            step.now_ps = self._run_planned_ps = ends[0]
            self._run_applied = self._waited = 0
            if self._joined:
                self._joined.clear()
            self._run_start_ps = end
            costs, kv_ps = self._decode_ps, self._kv_ps
            first = (costs[decodes] if decodes < len(costs) else self.cost.decode_ps(decodes, 0)) + kv_ps * self.context
            self._run_step_ps = first
            self._run_growth_ps = growth = kv_ps * decodes
            stops = self._stops
            while True:
                stop, order, next_out = stops[0]
                if next_out.stop == stop and next_out.order == order and next_out.counted:
                    break
                heappop(stops)
            steps = stop - counter
            if self.growing * (steps // size + 1) > kv.free:
                steps = self._steps_that_fit(steps)
                if steps < 1:
                    steps = 1
            self._run_steps = steps
            last = steps - 1
            self.gpu_free_ps = end = end + steps * first + growth * (steps * last // 2)
            ends.clear()
            if lag:
                ends.append(end - first - growth * last)
            ends.append(end)
        self.next_end_ps = ends[0]
        return True

    def _end_run(self, now_ps: int) -> list[Request]:
        """The run under way is over; return who came to an end by it, as `_close_run` and then `_process` do.

        Only with blocks that are taken as needed, no log, no end pending and no cancel.
        """
        steps, applied, kv, size, crossing = (
            self._run_steps,
            self._run_applied,
            self.kv,
            self._block_size,
            self.crossing,
        )
        start, first, growth = self._run_start_ps, self._run_step_ps, self._run_growth_ps
        decodes, counter, context, computed = self.decoders, self.counter, self.context, self.computed_tokens
        self._run_steps = 0
        self._before = None
        free, unhashed = kv.free, kv._unhashed
        held = last = kv.total - free
        live = computed - (self.table_blocks - held) * size
        cached = free - unhashed
        at = -counter % size
        before = context
        if applied:
            before -= decodes
            extra = steps - 1
            place = at
        else:
            live += decodes
            taken = crossing[at]
            held += taken
            if cached and taken > unhashed:
                cached -= taken - unhashed
            extra = steps
            place = (at - 1) % size
        pattern = 0
        joined = self._joined
        if joined and joined[0][0] < steps:
            self.sink.join(joined)
        if steps > 1:
            if size <= WHOLE_PATTERN:
                pattern = size
                self._write_pattern(crossing)
            else:
                pattern = min(steps - 1, size)
                takes, place, _, _ = self._short_patterns(pattern, place, b"", b"")
                self._write_pattern(takes)
        else:
            place = 0
        if extra:
            rest = extra % size
            blocks = extra // size * self.growing
            if rest:
                upto = at + 1
                if upto >= rest:
                    blocks += sum(crossing[upto - rest : upto])
                else:
                    blocks += sum(crossing[:upto]) + sum(crossing[upto - rest :])
            if blocks:
                if blocks <= unhashed:
                    kv._unhashed = unhashed - blocks
                    kv.free = free - blocks
                else:
                    kv.take(blocks)
                self.table_blocks += blocks
                last += blocks
            tokens = decodes * extra
            self.counter = counter = counter + extra
            self.context = context = context + tokens
            self.computed_tokens = computed = computed + tokens
        self.batches += steps
        running, origin, lag = self.running, counter - steps, self.lag
        dropped = 0
        row_running = len(running)
        marks = self._marks
        while marks and marks[0][0] <= counter:
            mark, order, request = heappop(marks)
            if request.counted and request.order == order and request.mark == mark:
                k = mark - origin
                request.first_answer_ps = start + k * first + growth * (k * (k - 1) // 2)
        stops, pending = self._stops, self._pending
        last_one: Request | None = None
        while stops and stops[0][0] <= counter:
            stop, order, request = heappop(stops)
            if request.stop != stop or request.order != order or not request.counted:
                continue
            base, growing, k = request.base, request.growth, stop - origin
            yielded = counter - request.counted_from
            request.counted = request.decoding = False
            request.computed = mine = base + counter
            request.scheduled_tokens += yielded
            request.steps += yielded
            self.decoders -= 1
            self.context -= mine
            crossing[base % size] -= growing
            self.growing -= growing
            if lag and request.end < request.foreseen_end:
                k -= 1
                dropped += 1
            end_ps = start + k * first + growth * (k * (k - 1) // 2)
            request.last_token_ps = request.busy_until_ps = end_ps
            request.in_flight = lag
            if end_ps > now_ps or pending or last_one is not None:
                request.draining = True
                request.known = request.end - lag
                heappush(pending, (end_ps, order, request))
            else:
                last_one = request
        unused, window = self._no_parts
        self._write_row(
            pack_segment(start, steps, first, growth, decodes, self._run_fresh, dropped, before, 0, 0, 0, 0, held, last, live,
                         row_running, self._waited, len(self._step.preempted), cached, unused, window, self.copies.duplicates,
                         place, pattern)
        )  # fmt: skip
        self._run_fresh = 0
        if last_one is None:
            return self._process(now_ps) if pending and pending[0][0] <= now_ps else []
        # ---- the one whose last token came
        request = last_one
        if request.shared_blocks:
            self.copies.drop(request)
        mine = request.computed
        in_flight = 1 if mine >= request.end else 0
        request.dropped_tokens += in_flight
        blocks = -(-mine // size)
        self.table_blocks -= blocks
        self.computed_tokens = computed - mine
        if request.keeps_kv:
            kv.register(request, (mine - in_flight) // size)
            self.stand(request, blocks, mine - in_flight)
        elif request.tenure is None:
            kv._unhashed += blocks
            kv.free += blocks
        else:
            kv.release(request, blocks, mine - in_flight)
        request.running = False
        del running[request]
        request.known = request.end
        if request.space is None and not request.peak:
            request.status = _COMPLETED
            request.finished_ps = now_ps
        else:
            self._close(request, _COMPLETED, now_ps)
        if pending and pending[0][0] <= now_ps:
            return [request, *self._process(now_ps)]
        return [request]
