"""One step at a time: the oracle that the fast mode has to equal, to the last bit."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from sim.engine.block_pool import BlockPool
from sim.engine.host_tier import HostTier
from sim.engine.paged_kv import PagedKv
from sim.engine.replica import Replica, Sink, Snapshot
from sim.engine.request import Request
from sim.engine.settings import EngineSettings
from sim.engine.step import Scheduler, Step
from sim.engine.step_log import StepLog, StepRow
from sim.results.columns import Status

if TYPE_CHECKING:
    from calibration.step_cost import StepCost


class Stepwise(Replica):
    """One step at a time, every request walked, every block a number: slow, obvious, and always right."""

    pool: type[BlockPool] | type[PagedKv] = BlockPool

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
        self.kv = self.pool(
            settings.usable_blocks,
            settings.block_size,
            caching=settings.enable_prefix_caching,
            committed=lambda request: min(request.computed - request.in_flight, request.known),
        )
        if settings.host_blocks:
            self.kv.host = HostTier(settings.host_blocks)
        self._outputs: deque[tuple[int, list[tuple[Request, bool]]]] = deque()

    def _new_step(self) -> Step:
        return Step(self)

    def _withdraw(self, request: Request, now_ps: int) -> None:
        if request.known + request.in_flight >= request.end:
            request.cancelled = None
        elif request.busy_until_ps <= now_ps:
            self._finish(request, now_ps)
        else:
            request.draining = True
            self._cancels.append(request)

    def settle(self, now_ps: int) -> None:
        """Nothing to do: every request's own fields hold at all times."""

    def _interrupt(self, now_ps: int) -> None:
        """Nothing to do: no step is planned before its time."""

    def evict(self, request: Request, planned: int) -> None:
        """Blocks go back; the tokens that are in flight are kept when they arrive."""
        if request.shared_blocks:
            self.copies.drop(request)
        self.kv.release(request, self.blocks_of(request), request.computed - request.in_flight)
        self._end_tenure(request, planned)
        self._swap_out(request, planned)
        self._unpause(request)
        request.computed = request.reserved = request.evicted = request.slid_blocks = 0
        request.ahead = request.burst = request.drafted = 0
        if self.compression:
            request.point = self.compression.first_point(request.prompt_tokens)
        request.decoding = request.running = False
        del self.running[request]

    def _schedule(self, now_ps: int) -> bool:
        step = self._step
        step.begin(now_ps)
        self.scheduler.schedule(step)
        self._check(step, False)
        if not step.work:
            return False
        start = max(now_ps, self.gpu_free_ps)
        admitted = {request for request, _ in step.admitted}
        decodes = fresh = context = chunks = chunk_tokens = pairs = cached = dropped = 0
        outputs: list[tuple[Request, bool]] = []
        drafted = 0
        for request, new in step.work.items():
            before = request.computed - request.evicted - (request.burst or new)
            follows = False
            if new == 1 or request.drafted:
                decodes += 1
                drafted += request.drafted
                context += before
                follows = request.last_batch == self.batches - 1 and request not in admitted
                fresh += not follows
            else:
                chunks += 1
                chunk_tokens += new
                pairs += new * (new + 2 * before)
                cached += before
            if request.drafted or request.computed == request.known + request.in_flight:
                request.decoding = True
                outputs.append((request, follows))
                request.last_batch = self.batches
                dropped += request.computed >= request.end
        cost = self.cost.step_ps(
            decodes=decodes,
            context=context,
            chunks=chunks,
            chunk_tokens=chunk_tokens,
            pairs=pairs,
            cached=cached,
            drafted=drafted,
        )
        if drafted and self.settings.speculation:
            cost += self.settings.speculation.draft_ps(decodes, self.cost)
        cost += step.copied_ps
        compressed: list[tuple[Request, int]] = []
        if self.compression:
            compressed, work_ps = self.compressible(r for r in step.work if r.computed >= r.point)
            cost += work_ps
        end = start + cost
        for request, new in step.work.items():
            request.scheduled_tokens += new
            request.steps += 1
            request.busy_until_ps = end
            if request.first_scheduled_ps < 0:
                request.first_scheduled_ps = start
        for request, _ in outputs:
            request.in_flight += request.burst or 1
            if request.drafted:
                request.dropped_tokens += 1 + request.drafted - request.burst
                request.drafted = 0
        self._outputs.append((end, outputs))
        self._ends.append(end)
        self.gpu_free_ps = end
        self.batches += 1
        held = self.kv.total - self.kv.free
        tables = sum(self.blocks_of(request) for request in self.running)
        tokens = sum(request.computed - request.evicted for request in self.running)
        for blocks, inside in self.standing.values():
            tables += blocks
            tokens += inside
        live = tokens - (tables - held) * self.settings.block_size
        parts = [self.parts_of(request, request.computed) for request in self.running]
        self.sink.add(
            (start, 1, cost, self.cost.decode_growth_ps(decodes) if not chunks else 0, decodes, fresh, dropped, context, chunks,
             chunk_tokens + drafted, pairs, cached, held, held, live, len(self.running), len(self.waiting), len(step.preempted),
             self.kv.cached, sum(unused for unused, _ in parts) + self.blocks_to_fill, sum(window for _, window in parts),
             self.copies.duplicates)
        )  # fmt: skip
        if self.log is not None:
            self.log.rows.append(
                StepRow(
                    now_ps, start, end, decodes + drafted + chunk_tokens, context + cached + decodes + drafted + chunk_tokens,
                    len(self.running), len(self.waiting), self.kv.free, self.kv.free,
                    [(request.id, hit) for request, hit in step.admitted],
                    sorted(request.id for request in step.preempted), [],
                    [(request.id, new) for request, new in step.work.items()],
                )
            )  # fmt: skip
        for request, kept in compressed:
            self._compress(request, kept)
        for request in step.work:
            if request.looks is not None and request.computed == request.point and request.computed + 1 < request.end:
                self._roll_back(request)
        return True

    def _roll_back(self, request: Request) -> None:
        """A look is over: its blocks go back, and the next token follows the one before it."""
        assert request.looks is not None
        self.kv.shrink(request, self._end_look(request, request.computed))
        request.computed -= request.looks.tokens
        request.known -= request.looks.tokens

    def _compress(self, request: Request, kept: int) -> None:
        """The cache of *request* holds *kept* tokens from the next step on."""
        assert self.compression is not None
        size = self.settings.block_size
        if request.shared_blocks:
            self.copies.leave(request)
        self.kv.compact(request, self.blocks_of(request), -(-kept // size), request.computed - request.in_flight)
        request.evicted = request.computed - kept
        request.point = request.computed + self.compression.interval_tokens

    def _process(self, now_ps: int) -> list[Request]:
        end, outputs = self._outputs.popleft()
        assert end == now_ps
        ended: list[Request] = []
        for request, follows in outputs:
            tokens, request.burst = request.burst or 1, 0
            request.in_flight -= tokens
            if request.status != Status.UNFINISHED:
                continue
            before = request.generated
            request.known += tokens
            if request.last_token_ps < 0:
                request.first_token_ps = now_ps
            elif not follows:
                self.sink.stall(request.id, now_ps, now_ps - request.last_token_ps)
            for _ in range(tokens - 1):  # they come together with the first
                self.sink.stall(request.id, now_ps, 0)
            if before <= request.reasoning_tokens < before + tokens:
                request.first_answer_ps = now_ps
            request.last_token_ps = now_ps
            if request.running:
                self.kv.register(request, (request.computed - request.in_flight) // self.settings.block_size)
            if request.known >= request.end:
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
        request.dropped_tokens += request.in_flight
        if request.running:
            if request.shared_blocks:
                self.copies.drop(request)
            blocks, computed = self.blocks_of(request), request.computed - request.in_flight
            if request.keeps_kv and request.cancelled is None:
                self.kv.register(request, computed // self.settings.block_size)
                self.stand(request, blocks, computed)
            else:
                self.kv.release(request, blocks, computed)
            self._unpause(request)
            request.running = False
            del self.running[request]
        else:
            self.waiting.remove(request)
            request.keeps_kv = False  # it was preempted, and holds nothing
        self._close(request, Status.COMPLETED if request.cancelled is None else request.cancelled, now_ps)

    def snapshot(self, now_ps: int) -> Snapshot:
        """See :class:`Snapshot`."""
        return Snapshot(
            running=len(self.running),
            waiting=len(self.waiting) + self._landing(),
            free_blocks=self.kv.free,
            total_blocks=self.settings.usable_blocks,
            computed_tokens=sum(request.computed - request.evicted for request in self.running)
            + sum(tokens for _, tokens in self.standing.values()),
            queued_tokens=sum(r.known - r.computed for r in self.running if not (r.decoding or r.draining))
            + sum(r.known + r.in_flight for r in self.waiting)
            + self._landing_tokens(),
        )


class Walked(Stepwise):
    """One step at a time with counted blocks: the fast mode where tokens a step vary (speculative decoding)."""

    pool = PagedKv
