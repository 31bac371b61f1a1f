"""One scheduling pass of an engine: what a scheduler may do, and what each action does to the state.

A scheduler decides; the step carries out one decision at a time, checks it, and shows what is left. It reads:

    serve what runs, in order of admission (blocks short: preempt) → admit what waits → the engine runs the batch

The rules are vLLM's V1 scheduler's (v1/core/sched/scheduler.py of 0.33). Here every request is walked; ``fast_forward.py``
replaces the walk by counts where it can.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from sim.engine.request import Request
from sim.errors import PolicyError

if TYPE_CHECKING:
    from sim.engine.replica import Replica
    from sim.engine.settings import EngineSettings

FOREVER = 1 << 60


class Scheduler(Protocol):
    """Decides what each step computes, through the actions of :class:`Step`.

    A scheduler that plans ``serve_running()`` with ``hold = FOREVER`` whenever nobody waits and nothing is in prefill may say
    so once, by a class attribute ``serves_all_when_nobody_waits = True``: the fast mode then does not ask it in that case.
    """

    def schedule(self, step: Step) -> None:
        """Plan one step, and say by ``step.hold`` for how many steps the plan stays right if nothing changes."""
        ...


class Step:
    """The step being planned."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.settings: EngineSettings = replica.settings
        self.waiting = replica.waiting
        """Requests that wait: ``len``, iteration in the queue's order, ``head()``."""
        self.running = replica.running.keys()
        """Admitted requests in order of admission."""
        self.work: dict[Request, int] = {}
        self.preempted: list[Request] = []
        self.admitted: list[tuple[Request, int]] = []
        self.now_ps = 0
        self.budget = 0
        """Tokens that this step may still compute."""
        self.hold = 1
        """For how many steps the plan stays right if nothing arrives, ends or runs out; set by the scheduler."""
        self.wake_on_arrival = True
        """Whether an arrival may change the plan before ``hold`` is over; set by the scheduler."""

    def begin(self, now_ps: int) -> None:
        """Start a new pass at *now_ps*."""
        self.now_ps = now_ps
        self.budget = self.settings.max_num_batched_tokens
        self.hold = 1
        self.wake_on_arrival = True
        if self.work:
            self.work = {}
        if self.preempted:
            self.preempted = []
        if self.admitted:
            self.admitted = []

    # ------------------------------------------------------------------ what a scheduler sees

    @property
    def seats(self) -> int:
        """How many more requests may run."""
        return self.settings.max_num_seqs - len(self.replica.running)

    @property
    def free_blocks(self) -> int:
        """KV blocks without a reference."""
        return self.replica.kv.free

    # ------------------------------------------------------------------ what a scheduler does

    def serve_running(self, *, chunk_limit: int = 0) -> None:
        """Give every running request its next tokens, in order of admission, until the budget is used up.

        A decode gets one token, a prefill what is left of it up to *chunk_limit* (0: no limit). Where blocks are short the
        last admitted is preempted, or under the ``priority`` policy the one with the largest (priority, arrival).
        """
        replica, settings = self.replica, self.settings
        kv, block, priority = replica.kv, settings.block_size, settings.policy == "priority"
        order = [request for request in replica.running if not request.paused]
        at = 0
        while at < len(order) and self.budget > 0:
            request = order[at]
            new = request.known + request.in_flight - request.computed
            if request.draining or (request.in_flight and request.computed + 1 >= request.foreseen_end):
                new = 0  # its last token is surely in flight, or nobody wants more
            if 0 < chunk_limit < new:
                new = chunk_limit
            new = min(new, self.budget, settings.max_model_len - request.computed - 1)
            if new <= 0:
                at += 1
                continue
            need = replica.blocks_for(request, request.computed + new) - replica.blocks_of(request)
            while need > kv.free:
                if priority:
                    victim = max(order, key=lambda r: (r.priority, r.arrived_ps))
                    position = order.index(victim)
                    del order[position]
                    if position < at:
                        at -= 1
                else:
                    victim = order.pop()
                self.preempt(victim)
                if victim is request:
                    break
            if request.running:
                kv.extend(request, need)
                request.computed += new
                kv.register(request, (request.computed - request.in_flight) // block)
                self.work[request] = new
                self.budget -= new
                at += 1
            elif not priority:
                return

    def preempt(self, request: Request) -> None:
        """Take everything from *request*: its blocks go back, what it computed is lost, it waits again.

        What it was to compute in this step goes back to the budget.
        """
        replica = self.replica
        if not request.running:
            raise PolicyError(f"{replica.scheduler_name}: request {request.id} is not running and cannot be preempted")
        planned = self.work.pop(request, 0)
        self.budget += planned
        replica.evict(request, planned)
        replica.waiting.push_front(request)
        request.preemptions += 1
        self.preempted.append(request)

    def admit(self, request: Request, *, chunk_limit: int = 0) -> bool:
        """Admit a waiting *request* with what its prefill gets in this step; False when blocks or budget do not allow it.

        Gates as in vLLM: the blocks of all its known tokens (``scheduler_reserve_full_isl``), then those of this step, both
        plus the watermark while others run; cached blocks that nobody holds count as taken.
        """
        replica, settings = self.replica, self.settings
        kv, block = replica.kv, settings.block_size
        if request.running or len(replica.running) >= settings.max_num_seqs:
            raise PolicyError(f"{replica.scheduler_name}: no seat for request {request.id}, or it runs already")
        hits: Any = ()
        hit = revived = 0
        if settings.enable_prefix_caching:
            hits, hit = kv.lookup(request)
            if hit:
                revived = kv.revived(hits)
        cached = hit * block
        new = request.known - cached
        if 0 < chunk_limit < new:
            new = chunk_limit
        if new > self.budget:
            if not settings.enable_chunked_prefill:
                return False
            new = self.budget
        spare = kv.free - revived
        if replica.running:
            spare -= replica.watermark_blocks
        limit = settings.max_model_len
        if settings.scheduler_reserve_full_isl and -(-min(request.known, limit) // block) - hit > spare:
            return False
        need = max(0, -(-min(cached + new, limit) // block) - hit)
        if need > spare:
            return False
        replica.waiting.remove(request)
        kv.admit(request, hits, hit, need)
        request.computed = cached + new
        replica.seat(request, cached, hit + need)
        if settings.enable_prefix_caching:
            kv.register(request, request.computed // block)
        self.budget -= new
        self.work[request] = new
        self.admitted.append((request, cached))
        return True

    def candidates(self) -> Iterator[Request]:
        """Waiting requests in the queue's order, those left out whose last batch is still in flight."""
        return (request for request in self.waiting if request.busy_until_ps <= self.now_ps)

    def next_candidate(self) -> Request | None:
        """The first waiting request that can be looked at now."""
        if not self.waiting:
            return None
        head = self.waiting.head()
        if head.busy_until_ps <= self.now_ps:
            return head
        return next(self.candidates(), None)

    def stays_refused(self, request: Request) -> bool:
        """Whether a request refused now is refused at each later step, as long as the batch merely decodes.

        Need and free blocks fall together, so it is; unless a running request registers blocks that *request* would hit.
        """
        if not request._kin or request.pieces is None:
            return True
        return not any(piece.space.owner is not None and piece.space.owner.running for piece in request.pieces[:-1])
