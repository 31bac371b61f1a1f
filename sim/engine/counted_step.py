"""A scheduling pass of the fast mode: the same decisions as :class:`Step`, by counts where that is exact.

All decodes are served at once, by the engine's one counter and its histogram of where they stand within their blocks; only
prefills and victims are looked at one by one. What counts cannot say, a walk does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.engine.request import Request
from sim.engine.step import Step

if TYPE_CHECKING:
    from sim.engine.counted_batch import CountedBatch


def by_order(request: Request) -> int:
    """Place of *request* in the running order."""
    return request.order


class CountedStep(Step):
    """A step whose decodes are counted where that is exact, and walked where it is not."""

    replica: CountedBatch
    served: bool

    def begin(self, now_ps: int) -> None:
        """Start a new pass at *now_ps*."""
        super().begin(now_ps)
        self.served = False

    def serve_running(self, *, chunk_limit: int = 0, decodes: bool = True) -> None:
        """See :meth:`Step.serve_running`; the same decisions, counted."""
        replica = self.replica
        if replica.resting and replica.lag and decodes:
            self._serve(chunk_limit=chunk_limit, decodes=True)
            if replica.resting:
                replica.commit_rested()
        else:
            self._serve(chunk_limit=chunk_limit, decodes=decodes)

    def _serve(self, *, chunk_limit: int, decodes: bool) -> None:
        replica = self.replica
        if replica.unsettled and decodes:
            if not self._serve_unsettled(chunk_limit):
                replica.walk(self.now_ps)
                super().serve_running(chunk_limit=chunk_limit)
            return
        if decodes and not replica.chunking and not replica.walking:
            # NOTE: _serve_counted() where no prefill goes on and blocks suffice, for performance reasons
            decoders, kv = replica.decoders, replica.kv
            crossing = replica.crossing[-replica.counter % self._block_size]
            if decoders <= self.budget and crossing <= kv.free:
                if crossing:
                    kv.take(crossing)
                    replica.table_blocks += crossing
                replica.counter += 1
                replica.context += decoders
                replica.computed_tokens += decoders
                self.budget -= decoders
                self.served = True
                return
            if decoders <= self.budget and self._fcfs:
                self._serve_short(crossing)
                decoders = replica.decoders
                replica.counter += 1
                replica.context += decoders
                replica.computed_tokens += decoders
                self.budget -= decoders  # victims take nothing from it
                self.served = True
                return
        if not decodes and not replica.chunking and not replica.walking:
            return
        if replica.walking or not decodes or not self._serve_counted(chunk_limit):
            replica.walk(self.now_ps)
            super().serve_running(chunk_limit=chunk_limit, decodes=decodes)

    def computed(self, request: Request) -> int:
        """See :meth:`Step.computed`."""
        return request.base + self.replica.counter if request.counted else request.computed

    def generated(self, request: Request) -> int:
        """See :meth:`Step.generated`."""
        # NOTE: with computed() inlined for performance reasons; schedulers ask it of everybody who runs
        computed = request.base + self.replica.counter if request.counted else request.computed
        peak, prompt = request.peak, request.prompt_tokens
        if computed < peak:
            computed = peak
        return computed + 1 - prompt + request.probe_tokens if computed >= prompt else 0

    def generated_by_all(self) -> list[int]:
        """See :meth:`Step.generated_by_all`."""
        # NOTE: generated() where it is simple, for performance reasons; schedulers ask it at every plan
        after, generated = self.replica.counter + 1, self.generated
        return [
            request.base + after - request.prompt_tokens + request.probe_tokens
            if request.counted and request.base + after > request.peak
            else generated(request)
            for request in self.replica.running
        ]

    def generated_by_client(self) -> dict[int, int]:
        """See :meth:`Step.generated_by_client`."""
        # NOTE: generated() where it is simple, for performance reasons
        after, generated = self.replica.counter + 1, self.generated
        sums: dict[int, int] = {}
        for request in self.replica.running:
            client, computed = request.client, request.base + after
            if request.counted and computed > request.peak:
                tokens = computed - request.prompt_tokens + request.probe_tokens
            else:
                tokens = generated(request)
            sums[client] = sums[client] + tokens if client in sums else tokens
        return sums

    def stays_out(self, request: Request) -> bool:
        """See :meth:`Step.stays_out`."""
        if not self._paged or self._host_decides or request.swapped:
            return False
        return self.refuses(request, self.now_ps, self.budget, self.replica.kv.free)

    def refuses(self, request: Request, now_ps: int, budget: int, free: int) -> bool:
        """The same of paged memory with *budget* tokens and *free* blocks left at *now_ps*, once the decodes have theirs."""
        # NOTE: Step._admit(), as far as it refuses for good
        if request._kin or request.awaits_kv or request.busy_until_ps > now_ps:
            return False
        replica, size, settings = self.replica, self._block_size, self.settings
        kv, limit, hit, known = replica.kv, settings.max_model_len, 0, request.known
        if replica.running:
            free -= replica.watermark_blocks
        whole, unheld = -(-(known if known < limit else limit) // size), kv.caching and kv.finds_unheld(request)
        if kv.caching and not unheld:
            hits, hit = kv.lookup(request)
            if hit:
                free -= kv.revived(hits)
        if known - hit * size <= budget:
            return whole - hit > free
        if settings.scheduler_reserve_full_isl and whole - hit > free:
            return True  # of what it would hit, what the decodes take is neither hit later nor taken from what is free
        if unheld:
            hit = kv.lookup(request)[1]
            if known - hit * size <= budget:
                return whole > free
        if not settings.enable_chunked_prefill:
            return True
        if hit:
            # what the decodes take first may be what the request would hit: with less of it cached, its next chunk needs as
            # many blocks, and more are free
            return False
        return -(-(budget if budget < limit else limit) // size) > free

    def answering(self, request: Request) -> bool:
        """See :meth:`Step.answering`."""
        return self.generated(request) > request.reasoning_tokens

    def remaining(self, request: Request) -> int:
        """See :meth:`Step.remaining`."""
        # NOTE: with generated() and predicted() inlined for performance reasons; asked of all who run at many plans
        computed = request.base + self.replica.counter if request.counted else request.computed
        peak, prompt, predicted = request.peak, request.prompt_tokens, request.predicted_tokens
        if computed < peak:
            computed = peak
        generated = computed + 1 - prompt + request.probe_tokens if computed >= prompt else 0
        if request.refine_after and generated >= request.refine_after:
            predicted = request.refined_tokens
        elif predicted < 0:
            predicted = self.settings.max_model_len - prompt
        return predicted - generated if predicted > generated else 1

    def remaining_of_all(self) -> list[int]:
        """See :meth:`Step.remaining_of_all`."""
        # NOTE: remaining() where it is simple, for performance reasons
        counter, remaining = self.replica.counter, self.remaining
        return [
            max(1, request.predicted_tokens + request.prompt_tokens - 1 - request.base - counter)
            if request.counted
            and request.predicted_tokens >= 0
            and not request.refine_after
            and not request.probe_tokens
            and request.base + counter >= request.peak
            else remaining(request)
            for request in self.replica.running
        ]

    def reasoning(self) -> list[tuple[Request, int]]:
        """See :meth:`Step.reasoning`."""
        # NOTE: generated() where it is simple, for performance reasons
        after, generated = self.replica.counter + 1, self.generated
        awake = [
            (
                request,
                request.base + after - request.prompt_tokens + request.probe_tokens
                if request.counted and request.base + after > request.peak
                else generated(request),
            )
            for request in self.replica.running
            if not request.paused
        ]
        return [each for each in awake if each[1] <= each[0].reasoning_tokens]

    def in_phase(self, *, answering: bool) -> list[Request]:
        """See :meth:`Step.in_phase`."""
        # NOTE: generated() where nobody was ever recomputed, for performance reasons: all who run are asked at every plan
        counter, found = self.replica.counter, []
        for request in self.replica.running:
            if request.counted and not request.probe_tokens:
                begun = request.base + counter >= request.prompt_tokens + request.reasoning_tokens
                if begun or not request.peak:
                    if begun == answering:
                        found.append(request)
                    continue
            if (self.generated(request) > request.reasoning_tokens) == answering:
                found.append(request)
        return found

    def blocks_needed(self, *, chunk_limit: int = 0) -> int:
        """See :meth:`Step.blocks_needed`."""
        replica = self.replica
        if replica.walking or replica.windows is not None:
            return super().blocks_needed(chunk_limit=chunk_limit)
        size = replica.kv.block_size
        need = replica.crossing[-replica.counter % size]
        left = self.budget - replica.decoders
        chunking = replica.chunking
        if replica.resumed:
            for request in chunking:
                if request.decoding:
                    held = request.computed - request.evicted
                    need += self._growth_at(request, held) if held % size == 0 else 0
                    left -= 1
            chunking = [request for request in chunking if not request.decoding]
        for request in sorted(chunking, key=by_order):
            if left > 0:
                new = min(self.left_to_compute(request), chunk_limit or left, left)
                need += replica.blocks_for(request, request.computed + new) - replica.blocks_of(request)
                left -= new
        return need

    def pause(self, request: Request) -> None:
        """See :meth:`Step.pause`."""
        super().pause(request)
        self.replica.park(request)

    def resume(self, request: Request) -> None:
        """See :meth:`Step.resume`."""
        super().resume(request)
        self.replica.unpark(request)

    def _decodes(self, request: Request) -> bool:
        return request.counted or request.decoding

    def _net(self, request: Request, new: int) -> int:
        """See :meth:`Step._net`."""
        replica = self.replica
        if not request.counted:
            return super()._net(request, new)
        windows, counter, size = replica.windows, replica.counter, self._block_size
        assert windows is not None
        computed = request.base + counter
        slid = request.slid_blocks if request in replica.unsettled else windows.passed_evenly(computed)
        flying = request.last_tokens if request.counted_from == counter else 1
        passed = max(slid, windows.outside(computed - (flying if replica.next_end_ps is not None else 0)))
        if computed % size:
            return -windows.groups * (passed - slid)
        return int(computed >= request.reserved * size) + windows.groups * (1 - passed + slid)

    def _serve_unsettled(self, chunk_limit: int) -> bool:
        """Serve by counts while the windows of some who decode still hold their prefills; False where only a walk is exact: who
        is served first takes what there is, before others give anything back."""
        replica = self.replica
        kv = replica.kv
        if replica.next_end_ps is None:
            return False
        moves = replica.sliding()
        kept = sum(more for _, _, more in moves if more > 0)
        short = replica.crossing[-replica.counter % kv.block_size] + kept > kv.free
        if short or not self._serve_counted(chunk_limit, kept=kept):
            return False
        replica.slide_on(moves)
        return True

    def _serve_counted(self, chunk_limit: int, *, kept: int = 0) -> bool:
        """Serve by counts, *kept* blocks left free; False, with nothing changed, where only a walk is exact."""
        replica = self.replica
        windows = replica.windows
        kv = replica.kv
        size = kv.block_size
        budget = self.budget - replica.decoders
        if budget < 0:
            return False
        crossing = replica.crossing[-replica.counter % size]
        chunking = replica.chunking
        chunks: list[tuple[Request, int, int]] = []
        victim: Request | None = None
        if crossing > kv.free or chunking:
            alone = not chunking or (len(chunking) == 1 and chunking[0] is next(reversed(replica.running)))
            short = crossing > kv.free
            if short and (self.settings.policy == "priority" or not alone):
                return False
            if short:
                self._serve_short(crossing)
                crossing = 0
                budget = self.budget - replica.decoders  # victims take nothing from it
            elif chunking:
                free, left = kv.free - crossing - kept, budget
                for request in chunking:
                    new = request.known - request.computed
                    if self._compression and request.computed + new > request.point:
                        new = request.point - request.computed
                    if 0 < chunk_limit < new:
                        new = chunk_limit
                    if new > left:
                        if not alone:
                            return False
                        new = left
                    if not alone and request._kin:
                        return False
                    if new:
                        if windows is None:
                            need = replica.blocks_for(request, request.computed + new) - replica.blocks_of(request)
                            free -= need
                        else:
                            need = self._net(request, new)
                            free -= max(0, need)
                        if free < 0:
                            if self.settings.policy == "priority" or not alone or windows is not None:
                                return False
                            victim = request  # the last in order is the one that needs: it preempts itself
                            break
                        chunks.append((request, new, need))
                    left -= new
                budget = left
        if crossing:
            kv.take(crossing)
            replica.table_blocks += crossing
        if victim is not None:
            self.preempt(victim)
        decoders = replica.decoders
        replica.counter += 1
        replica.context += decoders
        replica.computed_tokens += decoders
        self.served = True
        for request, new, need in chunks:
            if windows is not None:
                replica.slide(request, self.now_ps)
                request.last_tokens = new
            if need < 0:
                kv.shrink(request, -need)
            else:
                kv.extend(request, need)
            replica.table_blocks += need
            request.computed += new
            replica.computed_tokens += new
            kv.register(request, request.computed // size)
            if request.shared_blocks:
                replica.copies.grow(request, request.computed // size)
            self.work[request] = new
        self.budget = budget
        return True

    def _serve_short(self, crossing: int) -> None:
        """Blocks are short: the first of the requests that need one are served, then the last admitted go."""
        replica = self.replica
        kv = replica.kv
        while True:
            taken = min(crossing, kv.free)
            kv.take(taken)
            replica.table_blocks += taken
            crossing -= taken
            if not crossing:
                return
            victim = next(reversed(replica.running))
            if replica.paused:
                victim = next(request for request in reversed(replica.running) if not request.paused)
            if victim.counted and (victim.base - victim.evicted + replica.counter) % kv.block_size == 0:
                crossing -= victim.growth  # the last of those not yet served
            self.preempt(victim)
