"""What is planned when in the fast mode, and what comes of it: runs in closed form, mixed steps, walked steps."""

from __future__ import annotations

from heapq import heappop
from math import isqrt

from sim.engine.counted_step import CountedStep
from sim.engine.request import Request
from sim.engine.shortcuts import Shortcuts
from sim.results.columns import Status

_COMPLETED, _UNFINISHED = (
    int(Status.COMPLETED),
    int(Status.UNFINISHED),
)  # an enum's attributes are slow to read


class Planning(Shortcuts):
    """A replica that plans many steps at once."""

    __slots__ = ()

    def complete(self, now_ps: int) -> list[Request]:
        """See :meth:`Replica.complete`."""
        ends = self._ends
        if not ends or ends[0] != now_ps:
            raise ValueError(f"nothing ends at {now_ps}; next is {self.next_end_ps}")
        ends.popleft()
        self.next_end_ps = ends[0] if ends else None
        self._processed_ps = now_ps
        if self._run_steps:
            if self._short_ways and not (self._pending or self._cancels or self._points):
                return self._end_run(now_ps)
            self._close_run()
        if self._pending or self._cancels or self.log is not None:
            return self._process(now_ps)
        return []

    def plan(self, now_ps: int, quiet_until_ps: int = 0) -> int | None:
        """See :meth:`Replica.plan`."""
        waiting, ends = self.waiting, self._ends
        self._quiet_until_ps = quiet_until_ps
        if self._run_steps:
            if self._joins and len(waiting) == 1 and self._join(now_ps, quiet_until_ps):
                return self.next_end_ps
        elif (
            self._asks_nothing
            and 0 < self.decoders <= self._budget
            and self.crossing[-self.counter % self._block_size] <= self.kv.free
            and not (waiting or ends or self.lag or self._borders)
            and not (self.chunking or self.walking or self.paused or self.resting)
        ):
            # NOTE: what _plan() comes to when somebody has just left and not _asks(), for performance reasons
            self.resumed = False
            self._decode_on(now_ps)
            self.next_end_ps = ends[0]
            return ends[0]
        end = self._plan(now_ps)
        while end is not None and end < quiet_until_ps:
            # Nobody must come to an end there: no last token is due, and the run under way reaches nobody's last step.
            if self._cancels or (self._pending and self._pending[0][0] <= end):
                break
            steps = self._run_steps
            if steps and self._stops[0][0] <= self.counter + steps - self._run_applied:
                break
            # NOTE: inlined from complete() for performance reasons
            ends.popleft()
            self.next_end_ps = ends[0] if ends else None
            self._processed_ps = end
            if steps:
                self._close_run()
            if self._pending or self.log is not None:
                self._process(end)
            end = self._plan(end)
        return end

    def _plan(self, now_ps: int) -> int | None:
        """Plan for *now_ps*; a run under way ends with the step under way if what came may change the plan."""
        waiting = self.waiting
        if self._run_steps:
            head = self._head
            if self._left or (
                len(waiting) > self._waited
                and (
                    (
                        self._wake
                        and (head is None or (head is not waiting.head() and not self._new_head_stays_out(now_ps)))
                    )
                    or (self._by_client and self._somebody_came_back())
                )
            ):
                self._left = False
                if not self._cut(now_ps):
                    return self.next_end_ps
            else:
                if len(waiting) > self._waited:
                    self._joined.append((self._planned_before(now_ps), len(waiting)))
                return self.next_end_ps
        ends, lag, running = self._ends, self.lag, self.running
        if ends and self._processed_ps != now_ps:
            return self.next_end_ps  # it waits for the batch in flight
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
            if steps * first + growth * (steps * (steps - 1) // 2) < distance:
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

    def _schedule(self, now_ps: int) -> bool:
        short = self._holds_out and not (self.walking or self.paused or self.resting)
        if short and (self._chunk_on(now_ps) if self.chunking else self._hold_out(now_ps)):
            return True
        step = self._step
        step.begin(now_ps)
        if self.walking:
            self.walk(now_ps)
        settled = not self.unsettled
        self.scheduler.schedule(step)
        if step.served and self.decoders and not self.walking and step.budget >= 0:
            self._fruitless = 0  # NOTE: what _check() finds then, for performance reasons
        else:
            self._check(step, False)
        work = step.work
        if work and not step.served and self.decoders and not self.walking and not self._rest(now_ps):
            self.walk(now_ps)
        if self.walking:
            return self._schedule_walked(step)
        if work:
            self._schedule_mixed(step)
        elif step.served and self.decoders:
            hold = step.hold if settled else 1  # the plan was made before windows gave blocks back
            self._start_run(now_ps, hold, applied=1, wake=step.wake_on_arrival)
        else:
            return False
        return True

    def _asks(self) -> bool:
        """Nobody waits: has the scheduler to be asked, rather than all decode as it has promised
        (``serves_all_when_nobody_waits``)?
        """
        if self.chunking or not self._asks_nothing or self.walking or self.paused or self.resting or self.unsettled:
            return True
        decoders = self.decoders
        return not decoders or decoders > self._budget or self.crossing[-self.counter % self._block_size] > self.kv.free

    def _schedule_walked(self, step: CountedStep) -> bool:
        """The end of a walked step: as the oracle does it, then back to counting if every decode was served."""
        if not step.work:
            self._sum_up()  # windows may have given blocks back all the same
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
        self._sum_up()
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
            if request.generated + request.in_flight == request.reasoning_tokens + 1:
                request.first_answer_ps = end
            request.last_token_ps = end
        for request in step.work:
            if request.looks is not None and request.computed == request.point and request.computed + 1 < request.end:
                self._roll_back(request)
        self.batches += 1
        self._recount(step, end)
        return True

    def _sum_up(self) -> None:
        """Blocks of all tables and tokens in them, after a walk."""
        self.table_blocks = sum(self.blocks_of(request) for request in self.running)
        self.computed_tokens = sum(request.computed - request.evicted for request in self.running)
        for blocks, inside in self.standing.values():
            self.table_blocks += blocks
            self.computed_tokens += inside

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
            elif request.tenure is None:
                kv = self.kv  # NOTE: inlined from PagedKv.release() for performance reasons
                kv._unhashed += blocks
                kv.free += blocks
            else:
                self.kv.release(request, blocks, computed - in_flight)
            if request.paused:
                self._unpause(request)
            request.running = False
            del self.running[request]
        else:
            self.waiting.remove(request)
            request.keeps_kv = False  # it was preempted, and holds nothing
        cancelled = request.cancelled
        if cancelled is None:
            request.known = request.end
            if request.space is None and not request.swapped and not request.peak:
                request.status = _COMPLETED  # NOTE: what _close() comes to then, for performance reasons
                request.finished_ps = now_ps
            else:
                self._close(request, _COMPLETED, now_ps)
        else:
            if request.decoding:
                request.known = request.computed + 1
            self._close(request, cancelled, now_ps)
