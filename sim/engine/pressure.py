"""What an engine does when blocks are short, in one go: some of those that run make room, and the queue stays out.

Both are what the general path does, call by call, written out without what cannot be the case then: all decode, no prefill is
under way, and the scheduler has said that it serves all and then admits heads.
"""

# NOTE: the whole module is there for performance reasons; whatever differs from the general path is a mistake here

from __future__ import annotations

from heapq import heappop

from sim.engine.mixed import Mixed
from sim.engine.request import Request
from sim.engine.runs import WHOLE_PATTERN
from sim.engine.step import FOREVER, AdmitsFirsts
from sim.engine.waiting import ClientQueue
from sim.results.sinks import pack_segment


class Pressure(Mixed):
    """A replica that takes the short way where it may."""

    __slots__ = ()

    def _hold_out(self, now_ps: int) -> bool:
        """All decode, and no prefill is under way: make room where blocks are short, else decode on where the head of the queue
        does not fit. False, with nothing changed, where neither is so or more may happen.
        """
        decodes = self.decoders
        if not 0 < decodes <= self._budget or self.standing or self._points:
            return False
        if now_ps >= self._step.wake_at_ps or (self._admits_firsts and self._somebody_came_back()):
            return False
        crossing = self.crossing[-self.counter % self._block_size]
        if crossing > self.kv.free:
            if (
                self._displaces is not None
                and self._who_yields is None
                and self.waiting
                and not self._keeps_place(now_ps)
            ):
                return False  # places are taken before who runs is served, and only then the last admitted makes room
            return self._make_room(now_ps, crossing)
        hold = self._stays_out(now_ps, crossing)
        if hold:
            if self._displaces is not None and not (hold := min(hold, self._keeps_place(now_ps))):
                return False
            self._fruitless = 0
            head = None if self._by_client else self.waiting.head()
            self._decode_on(now_ps, len(self.waiting), self._overtakes, head, hold)
            return True
        return bool(self.waiting) and not self._admits_firsts and self._let_in(now_ps, crossing)

    def _keeps_place(self, planned_ps: int) -> int:
        """For how many steps the scheduler surely takes nobody's place for the head of the queue."""
        if self._displaces is None:
            return FOREVER
        head = self.waiting.head()
        if head.busy_until_ps > planned_ps:
            return 0
        if self._displaces_after is not None:
            return self._displaces_after(self._step, head)
        return 0 if self._displaces(self._step, head) else FOREVER

    def _new_head_stays_out(self, now_ps: int) -> bool:
        """Somebody has become the head of the queue while a run is under way: does that one stay out until the run is over,
        as the head before did? Judged by what was free when it began, since less is free later.
        """
        usual = self._holds_out and not (
            self.chunking or self.walking or self.paused or self.resting or self.standing or self._points
        )
        if usual and self._stays_out(now_ps, 0) and self._keeps_place(now_ps) >= self._run_steps:
            self._head = self.waiting.head()
            return True
        return False

    def _stays_out(self, planned_ps: int, crossing: int) -> int:
        """For how many steps from the one planned at *planned_ps* on the head of the queue is refused, or the first of the client
        who is next, while all merely decode; *crossing* blocks go to the decodes before.
        """
        # NOTE: Step.admit_heads(), as far as it refuses
        waiting, running, settings = self.waiting, self.running, self.settings
        if not waiting or len(running) >= self._full_step:
            return 0
        budget = self._full_step - self.decoders
        if len(running) >= settings.max_num_seqs or not budget:
            return FOREVER
        kv, size = self.kv, self._block_size
        if self._admits_firsts:
            return self._firsts_stay_out(self._admits_firsts, planned_ps, budget, kv.free - crossing)
        # NOTE: CountedStep.refuses() of the head, for performance reasons
        head = waiting.head()
        if head._kin or head.awaits_kv or head.busy_until_ps > planned_ps:
            return 0
        limit, known, hit = settings.max_model_len, head.known, 0
        spare = kv.free - crossing - self.watermark_blocks
        if kv.caching and not kv.finds_unheld(head):
            hits, hit = kv.lookup(head)
            if hit:
                spare -= kv.revived(hits)
        if known - hit * size > budget:
            return FOREVER if self._step.refuses(head, planned_ps, budget, kv.free - crossing) else 0
        return FOREVER if -(-(known if known < limit else limit) // size) - hit > spare else 0

    def _firsts_stay_out(self, scheduler: AdmitsFirsts, planned_ps: int, budget: int, free: int) -> int:
        """The same of the first of that client whom *scheduler* says to be next, or of all firsts."""
        step, waiting, hold = self._step, self.waiting, 1
        assert isinstance(waiting, ClientQueue)
        if step.next_until < self.batches or step.next_client not in waiting.clients():
            if all(step.refuses(head, planned_ps, budget, free) for head in waiting.heads()):
                return FOREVER
            if self._pending or self._cancels:
                return 0
            now_ps, step.now_ps = step.now_ps, planned_ps
            hold = scheduler.say_who_is_next(step)
            step.now_ps = now_ps
            if not hold:
                return 0
        if step.refuses(waiting.head_of(step.next_client), planned_ps, budget, free):
            return max(hold, step.next_until - self.batches + 1)
        return 0

    def _somebody_came_back(self) -> bool:
        waiting = self.waiting
        assert isinstance(waiting, ClientQueue)
        return bool(waiting.come_back)

    def _let_in(self, now_ps: int, crossing: int) -> bool:
        """The next step gives the decodes *crossing* blocks, and admits heads of the queue as long as they fit. Then all
        decode, if the next head stays out. False, with nothing changed, where the first of them is none of the usual kind.
        """
        # NOTE: CountedStep.serve_running(), Step.admit_heads() and _admit(), seat(), _schedule_mixed() and _count() in one
        running, waiting, kv, size, settings = self.running, self.waiting, self.kv, self._block_size, self.settings
        head = waiting.head()
        if len(running) >= self._full_step or not self._usual(head, now_ps):
            return False
        if self._displaces is not None:
            known, limit = head.known, settings.max_model_len
            whole = -(-(known if known < limit else limit) // size) + self.watermark_blocks
            # where the head fits by what is cached alone, a scheduler that counts all its blocks may take a place
            if whole > kv.free and self._displaces(self._step, head):
                return False
        step, lag, ends, decodes, counts = self._step, self.lag, self._ends, self.decoders, self.crossing
        limit, seats, watermark = settings.max_model_len, settings.max_num_seqs, self.watermark_blocks
        wake_at_ps = step.wake_at_ps
        step.begin(now_ps)
        step.wake_at_ps = wake_at_ps  # as the scheduler said last
        step.served = True
        self._fruitless = 0
        if crossing:
            kv.take(crossing)
            self.table_blocks += crossing
        context = self.context
        self.counter = counter = self.counter + 1
        self.context = context + decodes
        self.computed_tokens += decodes
        budget = self._full_step - decodes
        admitted: list[tuple[Request, int]] = []
        fresh = chunks = chunk_tokens = pairs = under = table = computed = 0
        usual = True
        while budget > 0 and len(running) < seats:
            known, hits, hit, spare = head.known, None, 0, kv.free - watermark
            if kv.caching:
                hits, hit = kv.lookup(head)
                if hit:
                    spare -= kv.revived(hits)
            cached = hit * size
            new = known - cached
            if new > budget:
                if not settings.enable_chunked_prefill:
                    break
                new = budget
            if -(-(known if known < limit else limit) // size) - hit > spare and settings.scheduler_reserve_full_isl:
                break
            upto = cached + new
            need = -(-(upto if upto < limit else limit) // size) - hit
            if need > spare:
                break
            waiting.remove(head)
            if hits is not None:
                kv.admit(head, hits, hit, need)
            elif need <= kv._unhashed:
                kv._unhashed -= need
                kv.free -= need
            else:
                kv.take(need)
            head.computed = upto
            self._admissions = head.order = self._admissions + 1
            head.running = True
            running[head] = None
            head.reused = cached
            head.cached_tokens += cached
            if head.cached_tokens_first < 0:
                head.cached_tokens_first = cached
            table += hit + need
            computed += upto
            if hits is not None:
                kv.register(head, upto // size)
            budget -= new
            admitted.append((head, new))
            if new == 1:
                fresh += 1
                context += cached
            else:
                chunks += 1
                chunk_tokens += new
                pairs += new * (new + 2 * cached)
                under += cached
            if not waiting:
                break
            head = waiting.head()
            if not self._usual(head, now_ps):
                usual = False
                break
        self.table_blocks += table
        self.computed_tokens = computed = self.computed_tokens + computed
        if not (admitted and usual):
            step.budget = budget
            step.work = dict(admitted)
            step.admitted = [(request, request.reused) for request, _ in admitted]
            step.admit_heads(overtaking=self._overtakes)
            if step.work:
                self._schedule_mixed(step)
            else:
                hold = step.hold if self._displaces is None else 1
                self._start_run(now_ps, hold, applied=1, wake=step.wake_on_arrival)
            return True
        # ---- the step
        start = self.gpu_free_ps
        if start < now_ps:
            start = now_ps
        span = self.cost.step_ps(
            decodes=decodes + fresh,
            context=context,
            chunks=chunks,
            chunk_tokens=chunk_tokens,
            pairs=pairs,
            cached=under,
        )
        self.gpu_free_ps = end = start + span
        ends.append(end)
        self.batches += 1
        dropped, marks, stops = 0, self._marks, self._stops
        if stops[0][0] <= counter or (marks and marks[0][0] <= counter):
            dropped = self._settle(start, span, 0, 1)
        held = kv.total - kv.free
        unused, window = self._no_parts
        growth = 0 if chunks else self._kv_ps * (decodes + fresh)
        self._write_row(
            pack_segment(start, 1, span, growth, decodes + fresh, fresh, dropped, context, chunks, chunk_tokens, pairs, under,
                         held, held, computed - (self.table_blocks - held) * size, len(running), len(waiting), 0,
                         kv.free - kv._unhashed, unused, window, self.copies.duplicates, 0, 0)
        )  # fmt: skip
        # ---- from then on they decode
        chunking = self.chunking = []
        for request, new in admitted:
            request.scheduled_tokens += new
            request.steps += 1
            request.busy_until_ps = end
            if request.first_scheduled_ps < 0:
                request.first_scheduled_ps = start
            known = request.known
            if request.computed != known:
                chunking.append(request)
                continue
            if request.first_token_ps < 0:
                request.first_token_ps = end
            else:
                self.sink.stall(request.id, end, end - request.last_token_ps)
            if known - request.prompt_tokens + request.probe_tokens == request.reasoning_tokens:
                request.first_answer_ps = end
            self._count(request, end)
        # ---- and the run that follows, unless something comes before it is planned
        crossing = counts[-counter % size]
        if (
            len(ends) > lag
            and not (chunking or self._pending or self._cancels)
            and 0 < self.decoders <= self._budget
            and crossing <= kv.free
        ):
            planned_ps = ends[0]
            if not waiting:
                if self._asks_nothing:
                    self._before = tuple(ends)
                    self._decode_on(planned_ps)
            elif (
                planned_ps < step.wake_at_ps
                and self._stays_out(planned_ps, crossing)
                and (hold := FOREVER if self._displaces is None else self._keeps_place(planned_ps))
            ):
                self._before = tuple(ends)
                self._decode_on(planned_ps, len(waiting), self._overtakes, waiting.head(), hold)
        return True

    @staticmethod
    def _usual(head: Request, now_ps: int) -> bool:
        """Whether *head* can be looked at now, and shares no prefix and is not looked into."""
        return not (head.awaits_kv or head.shared_blocks or head.busy_until_ps > now_ps or head.looks is not None)

    def _make_room(self, now_ps: int, crossing: int) -> bool:
        """The next step needs *crossing* blocks, and fewer are free: the last admitted go, or whom the scheduler names, and
        nobody is admitted in that step. Then all decode, if the head of the queue stays out, until somebody comes to an end or
        comes in; where blocks are short again before that, others go again.
        """
        # NOTE: CountedStep._serve_short(), evict(), _uncount(), _start_run(), _decode_on() and _close_run() in one. Somebody
        # stays: whoever runs alone fits, and the last admitted holds at least one block that nobody admitted before it does.
        running, kv, size, lag, counts = self.running, self.kv, self._block_size, self.lag, self.crossing
        if len(running) < 2 or self._pending or self._cancels:
            return False
        step, ends, waiting, stops, marks = self._step, self._ends, self.waiting, self._stops, self._marks
        quiet_until_ps, costs, kv_ps, write = self._quiet_until_ps, self._decode_ps, self._kv_ps, self._write_row
        unused, window = self._no_parts
        counter, table, computed, context = self.counter, self.table_blocks, self.computed_tokens, self.context
        step.copied_ps = self._fruitless = 0
        who_yields = self._who_yields
        while True:
            step.now_ps = now_ps
            step.preempted = preempted = []
            gpu_free_ps = self.gpu_free_ps
            while True:
                free = kv.free
                if who_yields is not None:  # chosen before anybody is served
                    if crossing <= free:
                        break
                    victim = who_yields(step)
                else:
                    taken = crossing if crossing < free else free
                    if taken:
                        kv.take(taken)
                        table += taken
                        crossing -= taken
                    if not crossing:
                        break
                    victim = next(reversed(running))
                base = victim.base
                mine = base + counter
                blocks, at = -(-mine // size), base % size
                if not mine % size:
                    crossing -= 1  # the last of those not yet served
                yielded = counter - victim.counted_from
                victim.counted = victim.decoding = victim.running = False
                victim.scheduled_tokens += yielded
                victim.steps += yielded
                self.decoders -= 1
                self.growing -= 1
                context -= mine
                computed -= mine
                table -= blocks
                counts[at] -= 1
                victim.last_token_ps = victim.busy_until_ps = gpu_free_ps
                victim.known = mine + 1
                if lag and mine + 1 >= victim.end:
                    self._leave(victim, gpu_free_ps)
                    victim.known = mine + 1
                if victim.shared_blocks:
                    self.copies.drop(victim)
                if victim.tenure is None:
                    kv._unhashed += blocks
                    kv.free += blocks
                else:
                    kv.release(victim, blocks, mine - lag)
                peak = victim.peak
                again = (peak if peak < mine else mine) - victim.reused
                if again > 0:
                    victim.recomputed_tokens += again
                if mine > peak:
                    victim.peak = mine
                victim.computed = victim.in_flight = 0
                del running[victim]
                waiting.push_front(victim)
                victim.preemptions += 1
                preempted.append(victim)
            if crossing:
                kv.take(crossing)
                table += crossing
            # ---- the step
            decodes, before = self.decoders, context
            self.counter = counter = counter + 1
            self.table_blocks = table
            self.context = context = context + decodes
            self.computed_tokens = computed = computed + decodes
            start = now_ps if now_ps > gpu_free_ps else gpu_free_ps
            cost = costs[decodes] if decodes < len(costs) else self.cost.decode_ps(decodes, 0)
            first = cost + kv_ps * before
            growth = kv_ps * decodes
            self.gpu_free_ps = start_ps = start + first
            ends.append(start_ps)
            self.batches += 1
            dropped, waited, duplicates, runs = 0, len(waiting), self.copies.duplicates, len(running)
            if stops[0][0] <= counter or (marks and marks[0][0] <= counter):
                dropped = self._settle(start, first, growth, 1)
            free = kv.free
            held = kv.total - free
            write(
                pack_segment(start, 1, first, growth, decodes, 0, dropped, before, 0, 0, 0, 0, held, held,
                             computed - (table - held) * size, runs, waited, len(preempted), free - kv._unhashed, unused, window,
                             duplicates, 0, 0)
            )  # fmt: skip
            # ---- and the run that follows, unless something comes before it is planned
            planned_ps = ends[0]
            crossing = counts[-counter % size]
            if (
                len(ends) <= lag
                or self.decoders <= 0
                or self._pending
                or crossing > free
                or planned_ps >= step.wake_at_ps
                or not (hold := self._stays_out(planned_ps, crossing))
                or (self._displaces is not None and not (hold := min(hold, self._keeps_place(planned_ps))))
            ):
                return True
            while True:
                stop, order, request = stops[0]
                if request.stop == stop and request.order == order and request.counted:
                    break
                heappop(stops)
            most = steps = min(stop - counter, hold)
            if self.growing * (steps // size + 1) > free:
                steps = self._steps_that_fit(steps)
            first = cost + kv_ps * context
            last = steps - 1
            end = start_ps + steps * first + growth * (steps * last // 2)
            plan_ps = end - first - growth * last if lag else end
            if steps >= most or plan_ps >= quiet_until_ps or plan_ps >= step.wake_at_ps:
                self._before = tuple(ends)
                head = None if self._by_client else waiting.head()
                self._decode_on(planned_ps, waited, self._overtakes, head, hold)
                return True
            # ---- nobody comes until blocks are short again: the run is over
            held, cached = held + crossing, free - kv._unhashed
            if cached and crossing > kv._unhashed:
                cached -= crossing - kv._unhashed
            live = computed - (table - (held - crossing)) * size + decodes
            at = -(counter + 1) % size
            if steps == 1:
                pattern = 0
            elif size <= WHOLE_PATTERN:
                pattern = size
                self._write_pattern(counts)
            else:
                pattern = last if last < size else size
                takes, at, _, _ = self._short_patterns(pattern, at, b"", b"")
                self._write_pattern(takes)
            blocks = self._blocks_of_steps(steps)
            kv.take(blocks)
            table += blocks
            before = context
            context += decodes * steps
            computed += decodes * steps
            self.counter = counter = counter + steps
            self.table_blocks, self.context, self.computed_tokens = table, context, computed
            self.batches += steps
            if marks and marks[0][0] <= counter:
                self._settle(start_ps, first, growth, steps)
            write(
                pack_segment(start_ps, steps, first, growth, decodes, 0, 0, before, 0, 0, 0, 0, held, kv.total - kv.free, live,
                             runs, waited, 0, cached, unused, window, duplicates, at, pattern)
            )  # fmt: skip
            ends.clear()
            if lag:
                ends.append(end)
            self.gpu_free_ps = end
            self._processed_ps = now_ps = plan_ps
            crossing = counts[-counter % size]
