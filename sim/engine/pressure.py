"""What an engine does when blocks are short, in one go: the last admitted make room, and the queue stays out.

Both are what the general path does, call by call, written out without what cannot be the case then: all decode, no prefill is
under way, and the scheduler has said that it serves all and then admits heads.
"""

# NOTE: the whole module is there for performance reasons; whatever differs from the general path is a mistake here

from __future__ import annotations

from sim.engine.runs import Runs
from sim.results.sinks import pack_segment


class Pressure(Runs):
    """A replica that takes the short way where it may."""

    __slots__ = ()

    def _hold_out(self, now_ps: int) -> bool:
        """All decode, and no prefill is under way: make room where blocks are short, else decode on where the head of the queue
        does not fit. False, with nothing changed, where neither is so or more may happen.
        """
        decodes = self.decoders
        if not 0 < decodes <= self._budget or self.standing or self._points:
            return False
        crossing = self.crossing[-self.counter % self._block_size]
        if crossing > self.kv.free:
            return self._last_goes and self._make_room(now_ps, crossing)
        if self._stays_out(now_ps, crossing):
            self._fruitless = 0
            self._decode_on(now_ps, waiting=len(self.waiting), wake=not self._last_goes)
            return True
        return False

    def _stays_out(self, planned_ps: int, crossing: int) -> bool:
        """Whether a step planned at *planned_ps* refuses the head of the queue, and so does each later one while all merely
        decode; *crossing* blocks go to the decodes before.
        """
        # NOTE: Step.admit_heads() and _admit(), as far as they refuse
        waiting, running, settings = self.waiting, self.running, self.settings
        if not waiting:
            return False
        if len(running) >= self._full_step:
            return False
        budget = self._full_step - self.decoders
        if len(running) >= settings.max_num_seqs or not budget:
            return True
        head = waiting.head()
        if head._kin or head.awaits_kv or head.busy_until_ps > planned_ps:
            return False
        kv, size, limit = self.kv, self._block_size, settings.max_model_len
        spare, hit = kv.free - crossing - self.watermark_blocks, 0
        if kv.caching:
            hits, hit = kv.lookup(head)
            if hit:
                spare -= kv.revived(hits)
        known, cached = head.known, hit * size
        if known - cached > budget:
            if not settings.enable_chunked_prefill:
                return True
            if hit:
                # what the decodes take first may be what the head would hit: with less of it cached, its next chunk needs as
                # many blocks, and more are free
                return False
            if settings.scheduler_reserve_full_isl and -(-(known if known < limit else limit) // size) - hit > spare:
                return True
            known = cached + budget
        return -(-(known if known < limit else limit) // size) - hit > spare

    def _make_room(self, now_ps: int, crossing: int) -> bool:
        """The next step needs *crossing* blocks, and fewer are free: the last admitted go, and nobody is admitted in that step.
        Then all decode, if the head of the queue stays out.
        """
        # NOTE: CountedStep._serve_short(), evict(), _uncount(), _start_run() and _close_run() in one. Somebody stays: whoever
        # runs alone fits, and the last admitted holds at least one block that nobody admitted before it does.
        running, kv, size, lag, counts = self.running, self.kv, self._block_size, self.lag, self.crossing
        counter, gpu_free_ps = self.counter, self.gpu_free_ps
        if len(running) < 2 or self._pending or self._cancels:
            return False
        table, computed, context = self.table_blocks, self.computed_tokens, self.context
        step = self._step
        step.now_ps = now_ps
        step.preempted = preempted = []
        step.copied_ps = self._fruitless = 0
        while True:
            free = kv.free
            taken = crossing if crossing < free else free
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
            self.waiting.push_front(victim)
            victim.preemptions += 1
            preempted.append(victim)
        self.counter = counter = counter + 1
        decodes = self.decoders
        self.table_blocks = table
        self.context = context + decodes
        self.computed_tokens = computed = computed + decodes
        # ---- the step
        start = now_ps if now_ps > gpu_free_ps else gpu_free_ps
        costs, kv_ps = self._decode_ps, self._kv_ps
        first = (costs[decodes] if decodes < len(costs) else self.cost.decode_ps(decodes, 0)) + kv_ps * context
        growth = kv_ps * decodes
        self.gpu_free_ps = end = start + first
        ends = self._ends
        ends.append(end)
        self.batches += 1
        dropped, marks, waited = 0, self._marks, len(self.waiting)
        if self._stops[0][0] <= counter or (marks and marks[0][0] <= counter):
            dropped = self._settle(start, first, growth, 1)
        held = kv.total - kv.free
        unused, window = self._no_parts
        self._write_row(
            pack_segment(start, 1, first, growth, decodes, 0, dropped, context, 0, 0, 0, 0, held, held,
                         computed - (table - held) * size, len(running), waited, len(preempted), kv.free - kv._unhashed, unused,
                         window, self.copies.duplicates, 0, 0)
        )  # fmt: skip
        # ---- and the run that follows, unless something comes before it is planned
        planned_ps = ends[0]
        crossing = counts[-counter % size]
        if (
            len(ends) > lag
            and self.decoders > 0
            and not self._pending
            and crossing <= kv.free
            and self._stays_out(planned_ps, crossing)
        ):
            self._before = tuple(ends)
            self._decode_on(planned_ps, waiting=waited, wake=False)
        return True
