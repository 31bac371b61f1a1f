"""A long prompt that goes on beside the decodes, in one go: its chunk takes all that they leave of a step.

It is what the general path does, call by call, written out without what cannot be the case then: nobody can be admitted in
such a step, and the scheduler has said that it serves all and then admits heads.
"""

# NOTE: the whole module is there for performance reasons; whatever differs from the general path is a mistake here

from __future__ import annotations

from sim.engine.pressure import Pressure
from sim.results.sinks import pack_segment


class Chunks(Pressure):
    """A replica that takes the short way where it may."""

    __slots__ = ()

    def _chunk_on(self, now_ps: int) -> bool:
        """The last admitted is the only one whose prompt is not complete, and will not be after the chunk that the decodes
        leave it: one step. False, with nothing changed, where that is not so or more may happen.
        """
        # NOTE: CountedStep._serve_counted() and _schedule_mixed() in one
        chunking, decodes, running, full_step = self.chunking, self.decoders, self.running, self._full_step
        request, room = chunking[0], full_step - decodes
        computed = request.computed
        if (
            len(chunking) > 1
            or not decodes
            or room < 2
            or len(running) >= full_step
            or request.known - computed <= room
            or request is not next(reversed(running))
            or request.decoding
            or now_ps >= self._step.wake_at_ps
            or (self._admits_firsts and self._somebody_came_back())
            or self.standing
            or self._points
        ):
            return False
        kv, size, counter = self.kv, self._block_size, self.counter
        upto = computed + room
        taken = self.crossing[-counter % size] - (-upto // size) + (-computed // size)
        if taken > kv.free or (self._displaces is not None and self.waiting and not self._keeps_place(now_ps)):
            return False
        kv.take(taken)
        self.table_blocks = table = self.table_blocks + taken
        self.counter = counter = counter + 1
        context = self.context
        self.context = context + decodes
        self.computed_tokens = live = self.computed_tokens + decodes + room
        request.computed = upto
        if kv.caching:
            kv.register(request, upto // size)
        if request.shared_blocks:
            self.copies.grow(request, upto // size)
        step = self._step
        step.now_ps = now_ps
        if step.preempted:
            step.preempted = []
        step.copied_ps = self._fruitless = 0
        start = now_ps if now_ps > self.gpu_free_ps else self.gpu_free_ps
        pairs = room * (room + 2 * computed)
        span = self.cost.step_ps(
            decodes=decodes, context=context, chunks=1, chunk_tokens=room, pairs=pairs, cached=computed
        )
        self.gpu_free_ps = end = start + span
        self._ends.append(end)
        self.batches += 1
        dropped, marks = 0, self._marks
        if self._stops[0][0] <= counter or (marks and marks[0][0] <= counter):
            dropped = self._settle(start, span, 0, 1)
        held = kv.total - kv.free
        unused, window = self._no_parts
        self._write_row(
            pack_segment(start, 1, span, 0, decodes, 0, dropped, context, 1, room, pairs, computed, held, held,
                         live - (table - held) * size, len(running), len(self.waiting), 0, kv.free - kv._unhashed, unused,
                         window, self.copies.duplicates, 0, 0)
        )  # fmt: skip
        request.scheduled_tokens += room
        request.steps += 1
        request.busy_until_ps = end
        return True
