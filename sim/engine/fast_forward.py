"""The fast mode: many decode steps at once, exactly.

Between two changes of a batch all decode steps are alike: the same requests, one token each. So decoding requests are not
walked but counted: one counter of decode steps for all, a request's computed tokens being ``base + counter``. A histogram of
``base`` modulo the block size says how many blocks a step takes; a heap on the counter says who stops next; ``k`` steps take
``k·a + b·k(k-1)/2`` integer picoseconds. Three kinds of steps:

    run      k pure decode steps in closed form
    mixed    decodes counted, only prefills, admissions and victims walked
    walked   request by request, as the oracle does it (priority preemption, decodes beyond the token budget)

What a run does is applied when it is over, since an arrival may cut it short: it then ends with the step under way.

What is planned when is in ``planning.py``, who is counted is kept by ``counted_batch.py``, runs are ``runs.py``, mixed steps
``mixed.py``, and what a scheduler does is carried out by ``counted_step.py``; ``pressure.py``, ``chunks.py`` and
``shortcuts.py`` do at once what happens most. Here is what comes from outside while many steps are under way.
"""

from __future__ import annotations

from sim.engine.planning import Planning
from sim.engine.replica import Snapshot
from sim.engine.request import Request


class FastForward(Planning):
    """A replica that advances many steps at once; see the module."""

    __slots__ = ()

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
            if self.resting or self._rested_ps > now_ps:
                request.in_flight = self._coming(request, [end for end in self._ends if end > now_ps], now_ps)
            else:
                request.in_flight = min(self.counter - request.counted_from, self.lag) + 1
            self._uncount(request)
            request.decoding = True
            if not self.resting:
                request.busy_until_ps = request.last_token_ps = self.gpu_free_ps
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
                flying = self._coming(request, coming, now_ps)
                self._uncount(request)
                request.known = request.computed + 1 - flying
            elif request in last:
                flying = sum(end <= last[request] for end in coming)
                request.known = request.end - min(flying, request.end - request.prompt_tokens + request.probe_tokens)
            elif (request.draining or request.paused) and request.decoding:
                coming_here = sum(end <= request.busy_until_ps for end in coming)
                request.known = request.computed + 1 - min(request.in_flight, coming_here)
            self._hide_future(request, now_ps)
        for request in self.waiting:
            self._forget_in_flight(request, now_ps)

    # ------------------------------------------------------------------ to be seen

    def snapshot(self, now_ps: int) -> Snapshot:
        """See :class:`Snapshot`; a run under way is looked into without ending it."""
        free, computed = self.kv.free, self.computed_tokens
        if self._run_steps:
            extra = min(self._planned_before(now_ps), self._run_steps) - self._run_applied
            free -= self._blocks_of_steps(extra)
            computed += extra * self.decoders
            if self._points and not self.compression and extra + self._run_applied == self._run_steps:
                blocks, tokens = self._looks_that_end(self.counter + extra)
                free += blocks
                computed -= tokens
        return Snapshot(
            running=len(self.running),
            waiting=len(self.waiting) + self._landing(),
            free_blocks=free,
            total_blocks=self.settings.usable_blocks,
            computed_tokens=computed,
            queued_tokens=sum(r.known - r.computed for r in self.chunking if not r.decoding)
            + sum(r.known for r in self.waiting)
            + (
                sum(r.known - r.computed for r in self.running if r.paused and not (r.decoding or r.draining))
                if self.paused
                else 0
            )
            + self._landing_tokens(),
        )

    def until_plan(self, seen: Snapshot) -> tuple[int, int, int]:
        """See :meth:`Replica.until_plan`: a run adds tokens, and at its end looks may give some back."""
        computed, free, steps = seen.computed_tokens, seen.free_blocks, self._run_steps
        if not steps:
            return computed, computed, free
        rest = steps - self._run_applied
        most = max(computed, self.computed_tokens + rest * self.decoders)
        if self._points and not self.compression:
            blocks, tokens = self._looks_that_end(self.counter + rest)
            if tokens or blocks:
                return (
                    min(computed, most - tokens),
                    most,
                    max(free, self.kv.free - self._blocks_of_steps(rest) + blocks),
                )
        return computed, most, free
