"""Steps with prefills: the decodes are counted, only prefills are walked."""

from __future__ import annotations

from sim.engine.counted_step import CountedStep, by_order
from sim.engine.runs import Runs
from sim.results.sinks import pack_segment


class Mixed(Runs):
    """A replica that plans one step with prefills."""

    __slots__ = ()

    def _schedule_mixed(self, step: CountedStep) -> None:
        """One step with prefills, or with decodes of one token that were prefills: these are walked."""
        now_ps, work, batches, kv = step.now_ps, step.work, self.batches, self.kv
        counted = context = 0
        if step.served:
            counted = self.decoders
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
        if counted and self.resting:
            fresh += self._end_rest(end)
        held = kv.total - kv.free
        unused, window = self._no_parts if self._paged else self._parts()
        if self.log is not None:
            self._log_step(step, start, end, context + cached + decodes + chunk_tokens, counted)
        self.batches = batches + 1
        dropped, marks, counter = 0, self._marks, self.counter
        if counted and (
            self._stops[0][0] <= counter
            or (marks and marks[0][0] <= counter)
            or (self._borders and self._borders[0][0] <= counter)
        ):
            dropped = self._settle(start, span, 0, 1)
        self._write_row(
            pack_segment(start, 1, span, 0 if chunks else self._kv_ps * decodes, decodes, fresh, dropped, context,
             chunks, chunk_tokens, pairs, cached, held, held,
             self.computed_tokens - (self.table_blocks - held) * self._block_size,
             len(self.running), len(self.waiting), len(step.preempted), kv.free - kv._unhashed, unused,
             window, self.copies.duplicates, 0, 0)
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
                if known - request.prompt_tokens + request.probe_tokens == request.reasoning_tokens:
                    request.first_answer_ps = end
                self._count(request, end)
                if self.resting:
                    request.last_token_ps, request.last_batch = end, batches
            else:
                chunking.append(request)
        if self.chunking:
            kept = [request for request in self.chunking if request not in work]
            if kept:
                chunking = sorted(kept + chunking, key=by_order)
        self.chunking = chunking
        if self._points and not self.compression:
            self._ended_looks()
