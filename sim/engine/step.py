"""One scheduling pass of an engine: what a scheduler may do, and what each action does to the state.

A scheduler decides; the step carries out one decision at a time, checks it, and shows what is left. It reads:

    serve what runs, in order of admission (blocks short: preempt) → admit what waits → the engine runs the batch

The rules are vLLM's V1 scheduler's (v1/core/sched/scheduler.py of 0.33). Here every request is walked; ``fast_forward.py``
replaces the walk by counts where it can.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from sim.engine.request import KV_TO_COME, NO_KV_TO_COME, Request
from sim.engine.waiting import ClientQueue
from sim.errors import PolicyError

if TYPE_CHECKING:
    from sim.engine.replica import Replica
    from sim.engine.settings import EngineSettings

FOREVER = 1 << 60
NEVER_PS = FOREVER << 40


class Scheduler(Protocol):
    """Decides what each step computes, through the actions of :class:`Step`.

    A scheduler that plans ``serve_running()`` with ``hold = FOREVER`` whenever nobody waits and nothing is in prefill may say
    so once, by a class attribute ``serves_all_when_nobody_waits = True``: the fast mode then does not ask it in that case.
    One that then serves all who run and admits the head of the queue as long as it fits (``serve_running`` and
    ``admit_heads``, with the chunk limit of the settings), nobody in a step that preempts, sets
    ``serves_all_then_admits_heads = True``: it is not asked either when a first request comes while all decode, when blocks are
    short for the next decodes, or when the head does not fit. Where blocks are short it leaves the choice to
    ``serve_running``, or says by ``who_yields(step)`` whom it preempts next, before anybody is served, until the others'
    blocks suffice or one is left. If it ever preempts for somebody who waits,
    ``displaces(step, head)`` says whether it may do so for the head of the queue, who does not fit: once it says no it has to
    stay so for as long as all merely decode, or else ``displaces_after(step, head)`` says for how many steps. ``wake_at_ps``
    stays as set last, where it is not asked. If its steps have fewer tokens than ``max_num_batched_tokens``,
    ``tokens_a_step(settings)`` says how many; decodes alone may be more.
    One that has to reserve memory says how by a class attribute ``reservation``, as ``EngineSettings`` has it.
    One that looks at the first waiting request of each client sets ``queues_by_client = True`` and reads ``Step.firsts()``; see
    :class:`AdmitsFirsts`, too.
    """

    def schedule(self, step: Step) -> None:
        """Plan one step, and say by ``step.hold`` for how many steps the plan stays right if nothing changes."""
        ...


class AdmitsFirsts(Scheduler, Protocol):
    """A scheduler that ``queues_by_client``, serves all who run, and then admits the first of one client after another until one
    does not fit, nobody in a step that preempts, without a chunk limit. Who is next depends on what was admitted and computed and
    on who came back to the queue, not on when it was asked. It sets ``serves_all_then_admits_firsts = True``, and is asked for
    less than whole plans where all decode.
    """

    def say_who_is_next(self, step: Step) -> int:
        """A step is planned in which all that run decode, which is not done yet: set ``step.next_client`` and
        ``step.next_until``; return for how many steps that client stays next while all merely decode, 0 when nobody can be looked
        at now.
        """
        ...

    def note_admission(self, step: Step, request: Request) -> None:
        """*request*, the only one that waits, is about to be admitted unasked; all who run have been served."""
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
        """Tokens planned so far for requests that were looked at one by one: decodes may be counted instead."""
        self.preempted: list[Request] = []
        self.admitted: list[tuple[Request, int]] = []
        self.memory = replica.memory
        """The scheduler's own notes on this replica, kept from step to step."""
        self.now_ps = 0
        self.copied_ps = 0
        self.budget = 0
        """Tokens that this step may still compute."""
        self.hold = 1
        """For how many steps the plan stays right if nothing arrives, ends or runs out; set by the scheduler."""
        self.wake_on_arrival = True
        """Whether an arrival may change the plan before ``hold`` is over; set by the scheduler. A client that comes back to a
        queue by clients always may."""
        self.wake_on_new_head = False
        """Where an arrival may change the plan: whether only one that becomes the head of the queue does; set by the
        scheduler."""
        self.wake_on_phase = False
        """Whether a request's change from reasoning to answering may change the plan; set by the scheduler."""
        self.next_client = self.next_until = -1
        """The client whose first is next, and the `number` of the step up to which it stays so whoever is preempted or ends, as
        long as nobody is admitted and no client comes back; set by a scheduler that :class:`AdmitsFirsts`."""
        self.wake_at_ps = NEVER_PS
        """A moment from which on the plan may change by itself; set by the scheduler."""
        settings = self.settings
        self._max_num_seqs = settings.max_num_seqs
        self._block_size = settings.block_size
        self._fcfs = settings.policy != "priority"
        self._budget = settings.max_num_batched_tokens
        self._caching = settings.enable_prefix_caching
        self._compression = settings.compression
        self._speculation = settings.speculation
        self._host_decides = settings.host_blocks > 0 and not (
            settings.scheduler_reserve_full_isl and settings.enable_chunked_prefill
        )
        self._paged = settings.reservation == "none" and not (
            settings.sliding_window or settings.swap_block_ps or settings.compression
        )

        self._refuses_unheld = self._paged and settings.scheduler_reserve_full_isl and not settings.host_blocks
        """Whether the blocks of all that is known of a request decide, before what the prefix cache has of it."""

    def begin(self, now_ps: int) -> None:
        """Start a new pass at *now_ps*."""
        self.now_ps = now_ps
        self.budget = self._budget
        self.hold = 1
        self.wake_on_arrival = True
        self.wake_on_new_head = self.wake_on_phase = False
        self.wake_at_ps = NEVER_PS
        self.next_until = -1
        self.copied_ps = 0
        if self.work:
            self.work = {}
        if self.preempted:
            self.preempted = []
        if self.admitted:
            self.admitted = []

    # ------------------------------------------------------------------ what a scheduler sees

    @property
    def seats(self) -> int:
        """How many more requests may run; paused ones take no seat."""
        replica = self.replica
        return self._max_num_seqs - len(replica.running) + replica.paused

    @property
    def free_blocks(self) -> int:
        """KV blocks without a reference."""
        return self.replica.kv.free

    def computed(self, request: Request) -> int:
        """Tokens of *request* that are computed, as planned so far."""
        return request.computed

    def held(self, request: Request) -> int:
        """Tokens of *request* in the KV cache, as planned so far: those computed, unless its cache is compressed."""
        return self.computed(request) - request.evicted

    def left_to_compute(self, request: Request) -> int:
        """Known tokens of *request* to be computed, up to the next compression of its cache."""
        until = request.known
        if self._compression and request.point < until:
            until = request.point
        return until - request.computed

    def generated(self, request: Request) -> int:
        """Output tokens of *request* so far, one in flight included."""
        return max(0, max(request.peak, self.computed(request)) + 1 - request.prompt_tokens) + request.probe_tokens

    def generated_by_all(self) -> list[int]:
        """`generated` of all who run, in order of admission."""
        return [self.generated(request) for request in self.running]

    def generated_by_client(self) -> dict[int, int]:
        """`generated` of all who run, summed up by client."""
        sums: dict[int, int] = {}
        for request in self.running:
            sums[request.client] = sums.get(request.client, 0) + self.generated(request)
        return sums

    def predicted(self, request: Request) -> int:
        """Output tokens that the predictor expects of *request* in all, by what it has generated so far; without a
        predictor its ``max_tokens``, and without that what ``max_model_len`` allows.
        """
        if request.refine_after and self.generated(request) >= request.refine_after:
            return request.refined_tokens
        if request.predicted_tokens >= 0:
            return request.predicted_tokens
        return self.settings.max_model_len - request.prompt_tokens

    def remaining(self, request: Request) -> int:
        """Output tokens that are still expected of *request*; at least one."""
        return max(1, self.predicted(request) - self.generated(request))

    def remaining_of_all(self) -> list[int]:
        """`remaining` of all who run, in order of admission."""
        return [self.remaining(request) for request in self.running]

    def cached_tokens(self, request: Request) -> int:
        """Tokens that a waiting *request* would find in the prefix cache now."""
        if not self._caching:
            return 0
        return int(self.replica.kv.lookup(request)[1]) * self._block_size

    @property
    def number(self) -> int:
        """Steps that this engine has planned before this one."""
        return self.replica.batches

    def answering(self, request: Request) -> bool:
        """Whether *request* has begun its answer: the engine has seen the end of its reasoning."""
        return self.generated(request) > request.reasoning_tokens

    def in_phase(self, *, answering: bool) -> list[Request]:
        """Running requests that have begun their answer, or those that have not, in order of admission."""
        return [request for request in self.running if self.answering(request) == answering]

    def reasoning(self) -> list[tuple[Request, int]]:
        """Running requests that do not pause and have not begun their answer, with their `generated`, in order of admission."""
        awake = [(request, self.generated(request)) for request in self.running if not request.paused]
        return [(request, tokens) for request, tokens in awake if tokens <= request.reasoning_tokens]

    def blocks_needed(self, *, chunk_limit: int = 0) -> int:
        """KV blocks that ``serve_running`` will take, if they are there: compare with ``free_blocks`` and preempt before."""
        replica, size = self.replica, self.settings.block_size
        running = [request for request in replica.running if not (request.paused or request.draining)]
        if replica.windows is not None:
            return self._needed_with_windows(chunk_limit)
        need = left = 0
        left = self.budget
        for request in running:
            if request.decoding and not self._foreseen(request):
                if self._speculation:
                    drafted = self._drafted(request, left)
                    more = replica.blocks_for(request, request.computed + 1 + drafted) - replica.blocks_of(request)
                    need += max(0, more)
                    left -= 1 + drafted
                    continue
                held = request.computed - request.evicted
                need += self._growth_at(request, held) if held % size == 0 else 0
                left -= 1
        for request in running:
            if not request.decoding and left > 0:
                new = min(self.left_to_compute(request), chunk_limit or left, left)
                need += replica.blocks_for(request, request.computed + new) - replica.blocks_of(request)
                left -= new
        return need

    def _needed_with_windows(self, chunk_limit: int) -> int:
        """The same where windows give blocks back: enough in whatever order the requests are served."""
        need, left = 0, self.budget
        awake = [request for request in self.running if not (request.paused or request.draining)]
        for request in awake:
            if self._decodes(request) and not self._foreseen(request):
                need += max(0, self._net(request, 1))
                left -= 1
        for request in awake:
            if left > 0 and not self._decodes(request):
                new = min(self.left_to_compute(request), chunk_limit or left, left)
                need += max(0, self._net(request, new))
                left -= new
        return need

    def _decodes(self, request: Request) -> bool:
        return request.decoding

    def _net(self, request: Request, new: int) -> int:
        """Blocks that *request* takes for *new* tokens, less those that its windows give back before."""
        replica = self.replica
        windows = replica.windows
        assert windows is not None
        more = replica.blocks_for(request, request.computed + new) - replica.blocks_of(request)
        return more - windows.groups * (windows.passed(request, self.now_ps) - request.slid_blocks)

    def _drafted(self, request: Request, budget: int) -> int:
        """Tokens of the draft that a decode of *request* verifies when *budget* tokens are left."""
        assert self._speculation is not None
        most = min(budget - 1, request.foreseen_end - request.computed - 2)
        return max(0, min(self._speculation.draft_tokens, most))

    def _foreseen(self, request: Request) -> bool:
        return request.in_flight > 0 and request.computed + 1 >= request.foreseen_end

    def _growth_at(self, request: Request, held: int) -> int:
        """Blocks that a decode with *held* tokens, a multiple of the block size, takes in its next step."""
        blocks = held // self.settings.block_size
        return int(blocks >= request.reserved)

    # ------------------------------------------------------------------ what a scheduler does

    def pause(self, request: Request) -> None:
        """Keep *request* and its blocks, but give it nothing until it is resumed; it takes no seat meanwhile."""
        if not request.running or request.paused or request in self.work:
            raise PolicyError(f"{self.replica.scheduler_name}: request {request.id} cannot be paused now")
        request.paused = True
        self.replica.paused += 1

    def resume(self, request: Request) -> None:
        """Let a paused *request* run again, from this step's ``serve_running`` on."""
        if not request.paused or request.busy_until_ps > self.now_ps:
            raise PolicyError(f"{self.replica.scheduler_name}: request {request.id} cannot be resumed now")
        if self.seats <= 0:
            raise PolicyError(f"{self.replica.scheduler_name}: no seat to resume request {request.id}")
        request.paused = False
        self.replica.paused -= 1

    def serve_running(self, *, chunk_limit: int = 0, decodes: bool = True) -> None:
        """Give every running request its next tokens, in order of admission, until the budget is used up; without
        *decodes* only those whose prefill is not complete.

        A decode gets one token, a prefill what is left of it up to *chunk_limit* (0: no limit). Where blocks are short the
        last admitted is preempted, or under the ``priority`` policy the one with the largest (priority, arrival).
        """
        replica, settings = self.replica, self.settings
        kv, block, priority = replica.kv, settings.block_size, settings.policy == "priority"
        order = [request for request in replica.running if not request.paused and (decodes or not request.decoding)]
        at = 0
        while at < len(order) and self.budget > 0:
            request = order[at]
            new = request.known + request.in_flight - request.computed
            if request.draining or (request.in_flight and request.computed + 1 >= request.foreseen_end):
                new = 0  # its last token is surely in flight, or nobody wants more
            if self._compression and request.computed + new > request.point:
                new = request.point - request.computed
            if 0 < chunk_limit < new:
                new = chunk_limit
            new = min(new, self.budget, settings.max_model_len - request.computed - 1)
            if new <= 0:
                at += 1
                continue
            drafted = self._drafted(request, self.budget) if self._speculation and request.decoding else 0
            if replica.windows is not None:
                kv.shrink(request, replica.slide(request, self.now_ps))
                request.last_tokens = new
            need = replica.blocks_for(request, request.computed + new + drafted) - replica.blocks_of(request)
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
                kv.extend(request, max(0, need))
                if drafted:
                    self._verify(request, drafted)
                    new = 1 + drafted
                else:
                    request.computed += new
                    request.ahead = max(0, request.ahead - new)
                kv.register(request, min(request.computed - request.in_flight, request.known) // block)
                if request.shared_blocks:
                    replica.copies.grow(request, request.computed // block)
                self.work[request] = new
                self.budget -= new
                at += 1
            elif not priority:
                return

    def _verify(self, request: Request, drafted: int) -> None:
        """*request* computes its token and a draft of *drafted* more, of which those before the first wrong one stay."""
        assert self._speculation is not None
        burst = 1 + min(drafted, self._speculation.accepted(request), request.end - request.known - 1)
        slots = max(request.computed + request.ahead, request.computed + 1 + drafted)
        request.computed += burst
        request.ahead = slots - request.computed
        request.burst, request.drafted = burst, drafted

    def preempt(self, request: Request) -> None:
        """Take everything from *request*: its blocks go back, what it computed is lost, it waits again.

        What it was to compute in this step goes back to the budget.
        """
        replica = self.replica
        if not request.running:
            raise PolicyError(f"{replica.scheduler_name}: request {request.id} is not running and cannot be preempted")
        planned = self.work.pop(request, 0)
        self.budget += planned
        replica.evict(request, request.burst if planned and request.drafted else planned)
        replica.requeue(request)
        request.preemptions += 1
        self.preempted.append(request)

    def admit(self, request: Request, *, chunk_limit: int = 0) -> bool:
        """Admit a waiting *request* with what its prefill gets in this step; False when blocks or budget do not allow it.

        Gates as in vLLM: the blocks of all its known tokens (``scheduler_reserve_full_isl``), then those of this step, both
        plus the watermark while others run; cached blocks that nobody holds count as taken.
        """
        if request.running or self.seats <= 0:
            raise PolicyError(f"{self.replica.scheduler_name}: no seat for request {request.id}, or it runs already")
        return self._admit(request, chunk_limit)

    def _admit(self, request: Request, chunk_limit: int) -> bool:
        replica, settings, block = self.replica, self.settings, self._block_size
        kv = replica.kv
        if request.awaits_kv:
            return self._reserve(request) if request.awaits_kv == KV_TO_COME else self._go_on(request)
        hits: Any = ()
        hit = revived = loaded = 0
        caching = self._caching
        if caching and not request.swapped:
            if self._refuses_unheld and kv.finds_unheld(request):
                # NOTE: what a look at the cache comes to then, for performance reasons
                known, limit = request.known, settings.max_model_len
                need = -(-(known if known < limit else limit) // block)
                if need > kv.free - (replica.watermark_blocks if replica.running else 0):
                    return False
            hits, hit = kv.lookup(request)
            if hit:
                revived = kv.revived(hits)
            if kv.host is not None:
                loaded = kv.host.found(request, hit, (request.known - 1) // block)
        cached = (hit + loaded) * block + request.swapped
        known = request.known
        new = known - cached
        limit = settings.max_model_len
        if self._compression:
            limit = min(limit, request.point)
            new = min(new, request.point - cached)
        if 0 < chunk_limit < new:
            new = chunk_limit
        budget = self.budget
        if new > budget:
            if not settings.enable_chunked_prefill:
                return False
            new = budget
        spare = kv.free - revived
        if replica.watermark_blocks and replica.running:
            spare -= replica.watermark_blocks
        if not self._paged:
            request.reserved = replica.reservation(request)
            if replica.windows is not None:
                request.slid_blocks = replica.windows.outside(cached)
            whole = replica.blocks_to_admit(request, min(known, limit)) - hit
            need = max(0, replica.blocks_for(request, min(cached + new, limit)) - hit)
            if need > spare or (settings.scheduler_reserve_full_isl and whole > spare):
                request.reserved = request.slid_blocks = 0
                return False
            request.last_tokens = new
        else:
            tokens = known if known < limit else limit
            if -(-tokens // block) - hit > spare and settings.scheduler_reserve_full_isl:
                return False
            tokens = cached + new
            need = -(-(tokens if tokens < limit else limit) // block) - hit
            if need < 0:
                need = 0
            if need > spare:
                return False
        self.waiting.remove(request)
        if loaded:
            assert kv.host is not None
            kv.host.touch(request, hit, hit + loaded)
            request.host_tokens += loaded * block
            self.copied_ps += loaded * settings.host_block_ps
        kv.admit(request, hits, hit, need)
        request.computed = cached + new
        replica.seat(request, (hit + loaded) * block, hit + need)
        if request.swapped:
            replica.swap_in(request)
        if caching:
            kv.register(request, request.computed // block)
        if request.shared_blocks:
            replica.copies.begin(request, hit, request.computed // block)
        self.budget = budget - new
        self.work[request] = new
        self.admitted.append((request, (hit + loaded) * block))
        return True

    def admit_heads(self, *, chunk_limit: int = 0, overtaking: bool = True) -> None:
        """Admit the head of the queue as long as it fits, nobody passing it, and set ``hold``, ``wake_on_arrival`` and
        ``wake_on_new_head``.

        With *overtaking* somebody who comes later may stand before a head that was refused.
        """
        waiting, replica, most = self.waiting, self.replica, self._max_num_seqs
        while self.budget > 0 and len(replica.running) - replica.paused < most:
            if not waiting:
                self.hold = FOREVER
                return
            request = waiting.head()
            if request.busy_until_ps > self.now_ps:
                other = next(self.candidates(), None)
                if other is None:
                    self.hold = FOREVER
                    return
                request = other
            if not self._admit(request, chunk_limit):
                if not (request._kin or self._host_decides) or self.stays_refused(request):
                    self.hold = FOREVER
                    self.wake_on_arrival = overtaking
                    self.wake_on_new_head = not chunk_limit  # that may depend on how many there are
                return
        self.hold = FOREVER
        self.wake_on_arrival = False

    def _reserve(self, request: Request) -> bool:
        """Take the blocks of a prompt whose KV comes from another engine; it takes neither seat nor budget, and waits
        outside the queue until it has come. Only what the prefix cache lacks is transferred.
        """
        replica, settings = self.replica, self.settings
        kv = replica.kv
        hits: Any = ()
        hit = 0
        if self._caching:
            hits, hit = kv.lookup(request)
        spare = kv.free - (kv.revived(hits) if hit else 0)
        if replica.running:
            spare -= replica.watermark_blocks
        request.reserved = replica.reservation(request)
        if replica.windows is not None:
            request.slid_blocks = replica.windows.outside(request.known - 1)
        need = max(0, replica.blocks_for(request, min(request.known, settings.max_model_len)) - hit)
        if need > spare:
            request.reserved = request.slid_blocks = 0
            return False
        replica.waiting.remove(request)
        kv.admit(request, hits, hit, need)
        replica.stand(request, hit + need, hit * settings.block_size)
        request.transferred_tokens = request.known - 1 - hit * settings.block_size
        replica.reservations.append((request, need))
        return True

    def _go_on(self, request: Request) -> bool:
        """Admit a *request* whose KV has come: its last prompt token is computed here and yields the first token."""
        replica = self.replica
        if self.budget < 1:
            return False
        replica.waiting.remove(request)
        blocks, tokens = replica.stand_down(request)
        request.awaits_kv = NO_KV_TO_COME
        request.computed = request.known
        request.last_tokens = 1
        replica.seat(request, request.known - 1, blocks)
        request.cached_tokens -= request.transferred_tokens
        request.cached_tokens_first -= request.transferred_tokens
        if self._caching:
            replica.kv.register(request, request.computed // self.settings.block_size)
        if request.shared_blocks:
            size = self.settings.block_size
            replica.copies.begin(request, tokens // size, request.computed // size)
        self.budget -= 1
        self.work[request] = 1
        self.admitted.append((request, request.cached_tokens_first))
        return True

    def candidates(self) -> Iterator[Request]:
        """Waiting requests in the queue's order, those left out whose last batch is still in flight."""
        now_ps = self.now_ps
        return (request for request in self.waiting if request.busy_until_ps <= now_ps)

    def firsts(self) -> dict[int, Request]:
        """The first waiting request of each client that can be looked at now; for a scheduler that ``queues_by_client``."""
        assert isinstance(self.waiting, ClientQueue), "this scheduler does not say that it queues_by_client"
        return self.waiting.firsts(self.now_ps)

    def first_of(self, client: int) -> Request | None:
        """The first waiting request of *client* that can be looked at now, as `firsts` has it."""
        assert isinstance(self.waiting, ClientQueue), "this scheduler does not say that it queues_by_client"
        return self.waiting.first_of(client, self.now_ps)

    def next_candidate(self) -> Request | None:
        """The first waiting request that can be looked at now."""
        if not self.waiting:
            return None
        head = self.waiting.head()
        if head.busy_until_ps <= self.now_ps:
            return head
        return next(self.candidates(), None)

    def stays_out(self, request: Request) -> bool:
        """Whether a waiting *request* would be refused now, and is at each later step as long as the batch merely decodes. False
        may mean that it cannot be said.
        """
        return False

    def stays_refused(self, request: Request) -> bool:
        """Whether a request refused now is refused at each later step, as long as the batch merely decodes.

        Need and free blocks fall together, so it is; unless a running request registers blocks that *request* would hit.
        """
        if self._host_decides:
            return False  # what goes to the host, or is dropped there, changes what is left to compute
        if not request._kin or request.pieces is None:
            return True
        return not any(piece.space.owner is not None and piece.space.owner.running for piece in request.pieces[:-1])
