"""One engine: requests go in, time is told, requests come out.

The time line is the same for both modes: a batch (or a run of like batches) is planned, takes time, ends, and its outputs are
processed. With asynchronous scheduling two batches are in flight: batch m+1 is planned when the outputs of batch m-1 are
processed, while batch m runs. ``stepwise.Stepwise`` plans one step at a time and walks every request: the oracle.
``fast_forward.FastForward`` gives the same results at a cost that does not grow with tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from sim.engine.block_pool import BlockPool
from sim.engine.copies import Copies
from sim.engine.paged_kv import PagedKv
from sim.engine.request import KV_LANDED, KV_TO_COME, Request
from sim.engine.settings import EngineSettings
from sim.engine.step import Scheduler, Step
from sim.engine.step_log import StepLog
from sim.engine.waiting import ClientQueue, FcfsQueue, KeyQueue, WaitingQueue
from sim.engine.windows import Windows
from sim.errors import PolicyError
from sim.results.columns import Status

if TYPE_CHECKING:
    from calibration.step_cost import StepCost


FRUITLESS_STEPS = 2_000
"""Steps without any new token after which a scheduler is stopped."""


class NoProgress(PolicyError):
    """A scheduler keeps the engine busy, or idle, and nothing comes of it."""


class Sink(Protocol):
    """Where segments and stalls go; see ``sim/results/sinks.py``."""

    def write(self, row: bytes, /) -> object: ...
    def write_pattern(self, pattern: Any, /) -> object: ...
    def add(self, row: tuple[int, ...], takes: bytes = b"", at: int = 0) -> None: ...
    def add_reserved(self, row: tuple[int, ...], takes: bytes, at: int, unused: bytes, window: bytes) -> None: ...
    def join(self, joined: Sequence[tuple[int, int]]) -> None: ...
    def stall(self, request: int, at_ps: int, gap_ps: int) -> None: ...


class NoSink:
    """Forgets everything."""

    def write(self, row: bytes, /) -> None:
        """Drop *row*."""

    def write_pattern(self, pattern: Any, /) -> None:
        """Drop *pattern*."""

    def add(self, row: tuple[int, ...], takes: bytes = b"", at: int = 0) -> None:
        """Drop *row*."""

    def add_reserved(self, row: tuple[int, ...], takes: bytes, at: int, unused: bytes, window: bytes) -> None:
        """Drop *row*."""

    def join(self, joined: Sequence[tuple[int, int]]) -> None:
        """Drop who joined."""

    def stall(self, request: int, at_ps: int, gap_ps: int) -> None:
        """Drop the stall."""


class Snapshot(NamedTuple):
    """What a router or an autoscaler may see of a replica at one instant, as if it ran step by step."""

    running: int
    waiting: int
    free_blocks: int
    total_blocks: int
    computed_tokens: int
    """Tokens in the KV cache that belong to running requests, or are kept for other engines; shared ones once a
    holder."""
    queued_tokens: int
    """Prompt (and recomputed) tokens not yet computed, of waiting and running requests."""

    @property
    def kv_use(self) -> float:
        """Share of the KV pool with a reference."""
        return 1 - self.free_blocks / self.total_blocks


class Replica(ABC):
    """One engine with its scheduler, waiting queue and KV pool; make one with :func:`make_replica`.

    The shell calls ``submit`` and ``cancel`` as things happen, ``complete`` at ``next_end_ps``, and ``plan`` once the instant
    is quiet, if any of the others was called in it.
    """

    __slots__ = (
        "_admissions",
        "_block_size",
        "_cancels",
        "_ends",
        "_fruitless",
        "_holds_longest",
        "_max_model_len",
        "_processed_ps",
        "_step",
        "batches",
        "blocks_to_fill",
        "compression",
        "computed_tokens",
        "copies",
        "cost",
        "free_swap_blocks",
        "gpu_free_ps",
        "kv",
        "lag",
        "log",
        "memory",
        "next_end_ps",
        "paused",
        "reservations",
        "running",
        "scheduler",
        "scheduler_name",
        "settings",
        "sink",
        "standing",
        "table_blocks",
        "waiting",
        "watermark_blocks",
        "windows",
    )

    kv: PagedKv | BlockPool

    def __init__(
        self,
        settings: EngineSettings,
        cost: StepCost,
        scheduler: Scheduler,
        *,
        segments: Sink | None = None,
        log: StepLog | None = None,
    ) -> None:
        reserves = getattr(scheduler, "reservation", "none")
        if reserves != "none" and settings.reservation == "none":
            settings = replace(settings, reservation=reserves, enable_prefix_caching=False, host_blocks=0)
        self.settings = settings
        self._max_model_len = settings.max_model_len
        self._block_size = settings.block_size
        longest = -(-(settings.max_model_len - 1) // settings.block_size)
        self.windows = Windows(settings) if settings.sliding_window else None
        self._holds_longest = not settings.compression and longest * self._groups() <= settings.usable_blocks
        self.cost = cost
        self.scheduler = scheduler
        self.scheduler_name = type(scheduler).__name__
        self.sink: Sink = segments if segments is not None else NoSink()
        self.log = log
        self.compression = settings.compression
        self.lag = 1 if settings.async_scheduling else 0
        self.watermark_blocks = settings.watermark_blocks
        self.running: dict[Request, None] = {}
        order = getattr(scheduler, "queue_order", None)
        key = order(settings) if order is not None else None
        self.waiting: WaitingQueue
        if key is not None:
            self.waiting = KeyQueue(key)
        else:
            self.waiting = ClientQueue() if getattr(scheduler, "queues_by_client", False) else FcfsQueue()
        self.paused = 0
        self.copies = Copies()
        self._fruitless = 0
        self.memory: dict[Any, Any] = {}
        self.free_swap_blocks = settings.swap_blocks
        self.next_end_ps: int | None = None
        self.gpu_free_ps = 0
        self.batches = 0
        self.table_blocks = 0
        self.computed_tokens = 0
        self._admissions = 0
        self._ends: deque[int] = deque()
        self._processed_ps = -1
        """When the outputs of a batch were processed last."""
        self._cancels: list[Request] = []
        self.standing: dict[Request, tuple[int, int]] = {}
        """Requests that hold blocks and do not run, with their blocks and the tokens in them: KV that is to come from
        another engine, or is kept for one."""
        self.blocks_to_fill = 0
        """Blocks that were reserved for KV to come, beyond those that the prefix cache had."""
        self.reservations: list[tuple[Request, int]] = []
        """Requests whose blocks were reserved for KV to come, with how many have to be filled; for the shell to take."""
        self._step = self._new_step()

    # ------------------------------------------------------------------ the shell's side

    def never_fits(self, request: Request) -> str | None:
        """Why *request* can never be served by this replica, with the arithmetic; None when it can.

        Judged by what the client shows: the prompt and ``max_tokens``. The real engine would wait for ever here.
        """
        limit = self._max_model_len
        if self._holds_longest and request.prompt_tokens < limit:
            return None
        allowance = request.max_tokens
        if allowance >= 0 and request.prompt_tokens + allowance <= limit and request.prompt_tokens < limit:
            # NOTE: what the arithmetic below comes to for nearly all requests, for performance reasons
            blocks = -(-(request.prompt_tokens + allowance - 1) // self._block_size)
            if self._groups() * blocks <= self.kv.total:
                return None
        if request.prompt_tokens >= limit:
            return f"a prompt of {request.prompt_tokens:,} tokens leaves no room for output in max_model_len {limit:,}"
        tokens = min(request.prompt_tokens + self._allowance(request), limit) - 1
        blocks, size = -(-tokens // self.settings.block_size), self.settings.block_size
        compression = self.settings.compression
        if compression:
            blocks = -(-compression.peak(request.prompt_tokens, tokens) // size)
        if self.windows:
            blocks += self.windows.of_admission(request, blocks)
        if blocks > self.settings.usable_blocks:
            return (
                f"{tokens:,} tokens need {blocks:,} KV blocks of {size}, "
                f"more than the {self.settings.usable_blocks:,} of the pool"
            )
        return None

    def _groups(self) -> int:
        """Blocks that a request takes at the most for each block of its tokens."""
        return 1 + (self.windows.groups if self.windows is not None else 0)

    def _allowance(self, request: Request) -> int:
        limit = self.settings.max_model_len - request.prompt_tokens
        return limit if request.max_tokens < 0 else min(request.max_tokens, limit)

    def submit(self, request: Request, now_ps: int) -> None:
        """*request* joins the waiting queue."""
        request.owner = self
        prompt, foreseen = request.prompt_tokens, self._max_model_len
        if request.max_tokens >= 0 and prompt + request.max_tokens < foreseen:
            foreseen = prompt + request.max_tokens
        request.foreseen_end = foreseen
        natural = prompt + request.output_tokens
        request.truncated = natural > foreseen
        if self.compression:
            request.point = self.compression.first_point(prompt)
        request.end = foreseen if natural > foreseen else natural
        if request.looks is not None:
            self._foresee_looks(request)
        self.kv.enter(request)
        self.waiting.push(request)

    def _foresee_looks(self, request: Request) -> None:
        """How many of the looks of *request* fit below its limits, which count what lasts only, and where they end."""
        looks = request.looks
        assert looks is not None
        if self.settings.compression or self.settings.speculation:
            raise PolicyError(
                "tokens that are rolled back, with KV compression or speculative decoding, are not modelled"
            )
        prompt, foreseen, before = request.prompt_tokens, request.foreseen_end, looks.granted
        natural = prompt + request.output_tokens - before * looks.tokens
        if looks.count and looks.first + (looks.count - 1) * looks.every > natural - prompt:
            raise PolicyError(f"request {request.id} looks around after its end")
        looks.granted = looks.left = looks.fitting(foreseen - prompt)
        spent = looks.granted * looks.tokens
        request.output_tokens -= (before - looks.granted) * looks.tokens
        request.reasoning_tokens -= (before - looks.granted) * looks.tokens
        request.truncated = natural > foreseen
        request.end = min(foreseen, natural) + spent
        request.foreseen_end = foreseen + spent
        lasting = min(foreseen, natural)
        ends_looking = looks.granted and looks.first + (looks.granted - 1) * looks.every == lasting - prompt
        if ends_looking and lasting + looks.tokens >= self._max_model_len:
            request.foreseen_end = request.end  # what it looks at last fills the context
        request.point = prompt + looks.first + looks.tokens - 1 if looks.granted else 0

    def cancel(self, request: Request, now_ps: int, status: Status) -> bool:
        """End *request* with *status*; True when it ended at once, else ``complete`` returns it.

        With nothing in flight it ends at once. Otherwise nothing more is planned for it, though it may have been preempted
        meanwhile, and it ends when its last batch does: that is paid, and its tokens count. A request whose last token is in
        flight completes.
        """
        if request in self.standing and request.awaits_kv:
            self._give_up_reservation(request, now_ps)
            self._close(request, status, now_ps)
            return True
        if not request.running:
            if request.in_flight or request.last_token_ps > now_ps:
                if request.known + request.in_flight < request.end and request.cancelled is None:
                    request.cancelled = int(status)
                    self._interrupt(now_ps)
                    self._cancels.append(request)
                return False
            self.waiting.remove(request)
            self._forget_in_flight(request, now_ps)
            self._close(request, status, now_ps)
            return True
        request.cancelled = int(status)
        self._withdraw(request, now_ps)
        return request.finished_ps >= 0

    def use_cost(self, cost: StepCost, now_ps: int) -> None:
        """Steps planned from now on take what *cost* says: the GPU has become slower, or is itself again."""
        self._interrupt(now_ps)
        self.cost = cost

    # ------------------------------------------------------------------ KV from and for other engines

    def land(self, request: Request, now_ps: int) -> None:
        """The KV of *request*, whose blocks were reserved, has come: it can go on, before all that have not begun."""
        request.awaits_kv = KV_LANDED
        request.kv_arrived_ps = now_ps
        assert isinstance(self.waiting, FcfsQueue)
        self.waiting.push_behind(request, _has_landed)

    def let_go(self, request: Request, now_ps: int) -> None:
        """What was kept of *request*, which ended here, has been copied: its blocks go back."""
        self._interrupt(now_ps)
        blocks, tokens = self.stand_down(request)
        self.kv.release(request, blocks, tokens)

    def _give_up_reservation(self, request: Request, now_ps: int) -> None:
        """Nobody wants *request* any more, whose blocks are reserved."""
        if request.awaits_kv == KV_LANDED:
            self.waiting.remove(request)
        self.let_go(request, now_ps)
        request.awaits_kv = request.transferred_tokens = 0

    def requeue(self, request: Request) -> None:
        """A preempted *request* waits again, at the front, but behind those whose KV has come: their blocks would be
        lost to everybody."""
        if self.standing and isinstance(self.waiting, FcfsQueue):
            self.waiting.push_behind(request, _has_landed)
        else:
            self.waiting.push_front(request)

    def stand(self, request: Request, blocks: int, tokens: int) -> None:
        """*request* holds *blocks* with *tokens* in them, and does not run."""
        self.standing[request] = blocks, tokens
        if request.awaits_kv:
            self.blocks_to_fill += blocks - tokens // self.settings.block_size

    def stand_down(self, request: Request) -> tuple[int, int]:
        """The end of that; what it was."""
        blocks, tokens = self.standing.pop(request)
        if request.awaits_kv:
            self.blocks_to_fill -= blocks - tokens // self.settings.block_size
        return blocks, tokens

    @abstractmethod
    def _interrupt(self, now_ps: int) -> None:
        """From here on plans are made anew, since blocks come back."""

    # ------------------------------------------------------------------ time

    def complete(self, now_ps: int) -> list[Request]:
        """Process what ends at *now_ps*; return the requests that came to their end, in the order in which they did."""
        if self.next_end_ps != now_ps:
            raise ValueError(f"nothing ends at {now_ps}; next is {self.next_end_ps}")
        self._ends.popleft()
        self.next_end_ps = self._ends[0] if self._ends else None
        self._processed_ps = now_ps
        return self._process(now_ps)

    def plan(self, now_ps: int, quiet_until_ps: int = 0) -> int | None:
        """Plan until the pipeline is full or nothing can be scheduled; return when the next batch ends, None if idle.

        Nobody will call before *quiet_until_ps*: an engine may go on alone up to it, that moment left out, as long as no
        request comes to its end. What it returns then is the next moment at which it has to be called.

        With a batch in flight plans are made only when outputs were processed, even if the pipeline is not full: an engine
        that found nothing more to schedule waits for that batch, and sees only then who has come meanwhile
        (``EngineCore.step_with_batch_queue``).
        """
        if self._ends and self._processed_ps != now_ps:
            return self.next_end_ps
        while len(self._ends) <= self.lag and (self.running or self.waiting):
            if self._schedule(now_ps):
                self.next_end_ps = self._ends[0]
            elif not self._try_again():
                break
        return self.next_end_ps

    @abstractmethod
    def snapshot(self, now_ps: int) -> Snapshot:
        """What an outsider sees at *now_ps*, changing nothing."""

    def until_plan(self, seen: Snapshot) -> tuple[int, int, int]:
        """Fewest and most computed tokens and most free blocks that `snapshot` shows from *seen* on until the next plan, if
        nothing is submitted or cancelled. For whoever compares many replicas without looking into each, not for policies: it
        follows from true lengths."""
        return seen.computed_tokens, seen.computed_tokens, seen.free_blocks

    # ------------------------------------------------------------------ to be done by each mode

    @abstractmethod
    def _new_step(self) -> Step: ...

    @abstractmethod
    def _process(self, now_ps: int) -> list[Request]: ...

    @abstractmethod
    def _schedule(self, now_ps: int) -> bool: ...

    @abstractmethod
    def _withdraw(self, request: Request, now_ps: int) -> None:
        """Plan nothing more for a running *request*, unless its last token is in flight."""

    def _forget_in_flight(self, request: Request, now_ps: int) -> None:  # noqa: B027  # nothing to forget, step by step
        """A waiting request ends: a token of it that is still in flight never comes."""

    @abstractmethod
    def settle(self, now_ps: int) -> None:
        """The simulation ends at *now_ps*, all plans of that instant made: write into every open request what is known."""

    @abstractmethod
    def evict(self, request: Request, planned: int) -> None:
        """Take a running request's blocks and computed tokens, *planned* ones of this step among them."""

    # ------------------------------------------------------------------ shared by both modes

    def _try_again(self) -> bool:
        """Nothing was planned. Is that right, since something is in flight? Or did the scheduler only make room?"""
        if self._ends:
            return False
        if self.standing and not self._step.preempted:
            return False  # blocks come back when a copy has arrived
        self._fruitless += 1
        if self._step.preempted and self._fruitless < FRUITLESS_STEPS:
            return True
        raise NoProgress(
            f"scheduler {self.scheduler_name} plans nothing although nothing is in flight: {len(self.running)} requests run "
            f"({self.paused} of them paused), {len(self.waiting)} wait, {self.kv.free:,} of {self.kv.total:,} blocks are free"
        )

    def _check(self, step: Step, progress: bool) -> None:
        """Stop a policy that breaks a rule, or that computes the same tokens again and again.

        A step makes *progress* when any request in it computes a token that it never computed before.
        """
        if step.budget < 0:
            raise PolicyError(f"{self.scheduler_name} planned more than max_num_batched_tokens")
        if progress or any(request.computed > request.peak for request in step.work):
            self._fruitless = 0
        elif step.work:
            self._fruitless += 1
            if self._fruitless >= FRUITLESS_STEPS:
                raise NoProgress(
                    f"scheduler {self.scheduler_name}: {FRUITLESS_STEPS:,} steps in a row only computed again what "
                    f"preemptions had thrown away ({len(self.running)} requests run, {len(self.waiting)} wait, "
                    f"policy {self.settings.policy!r}, scheduler_reserve_full_isl "
                    f"{self.settings.scheduler_reserve_full_isl}); the real engine would go on for ever"
                )

    def blocks_for(self, request: Request, tokens: int) -> int:
        """Blocks that *request* takes once *tokens* of it are computed, before its cache is compressed again."""
        blocks = -(-(tokens - request.evicted) // self.settings.block_size)
        windows = self.windows
        if windows is not None:
            return max(blocks, request.reserved) + windows.groups * (blocks - request.slid_blocks)
        return blocks if blocks > request.reserved else request.reserved

    def blocks_of(self, request: Request) -> int:
        """Blocks that an admitted *request* holds."""
        return self.blocks_for(request, request.computed + request.ahead)

    def parts_of(self, request: Request, computed: int) -> tuple[int, int]:
        """Blocks of *request* with *computed* tokens that are reserved and not reached by them, and blocks of windows."""
        blocks = -(-computed // self.settings.block_size)
        windows = self.windows
        return max(0, request.reserved - blocks), windows.groups * (blocks - request.slid_blocks) if windows else 0

    def blocks_to_admit(self, request: Request, tokens: int) -> int:
        """Blocks that have to be free for a waiting *request* of *tokens* known, as ``scheduler_reserve_full_isl`` counts."""
        windows = self.windows
        if windows is None:
            return self.blocks_for(request, tokens)
        blocks = -(-tokens // self.settings.block_size)
        return max(blocks, request.reserved) + windows.of_admission(request, blocks)

    def slide(self, request: Request, now_ps: int) -> int:
        """Blocks that the windows of *request*, which is about to get slots, give back before; they are no longer its own."""
        windows = self.windows
        assert windows is not None
        passed = windows.passed(request, now_ps)
        blocks = windows.groups * (passed - request.slid_blocks)
        request.slid_blocks = passed
        return blocks

    def first_tokens(self, request: Request) -> int:
        """Tokens of a waiting *request* that need blocks before it can be compressed, or decode."""
        tokens = min(request.known, self._max_model_len)
        return min(tokens, request.point) if self.compression else tokens

    def compressible(self, due: Iterable[Request]) -> tuple[list[tuple[Request, int]], int]:
        """Those of *due*, in order of admission, that are compressed at the end of the step just planned, each with the tokens
        that it keeps, and the time that it takes. Where the copy finds no room, the point moves on by a token.
        """
        compression, size, kv = self.compression, self.settings.block_size, self.kv
        assert compression is not None
        free, work_ps = kv.free, 0
        chosen = []
        for request in sorted(due, key=lambda r: r.order):
            held = self._step.held(request)
            kept = compression.kept(held + request.evicted)
            blocks = -(-held // size)
            room = kv.releasable(request, blocks) - -(-kept // size)
            if free + room < 0:
                request.point += 1
                continue
            free += room
            work_ps += compression.work_ps(held, self.cost)
            chosen.append((request, kept))
        return chosen, work_ps

    def reservation(self, request: Request) -> int:
        """Blocks set aside for *request* when it is admitted."""
        kind = self.settings.reservation
        if kind == "none":
            return 0
        tokens = request.foreseen_end
        if request.looks is not None:
            tokens -= request.looks.left * request.looks.tokens
        if kind == "predicted" and request.predicted_tokens >= 0:
            tokens = min(tokens, max(request.prompt_tokens + request.predicted_tokens, request.known))
        return -(-(tokens - 1) // self.settings.block_size)

    def seat(self, request: Request, cached: int, blocks: int) -> None:
        """*request* takes the last place of the running order, with *blocks*; *cached* of its tokens are computed."""
        self._admissions += 1
        request.order = self._admissions
        request.running = True
        self.running[request] = None
        request.reused = cached
        request.cached_tokens += cached
        if request.cached_tokens_first < 0:
            request.cached_tokens_first = cached

    def _close(self, request: Request, status: int, now_ps: int) -> None:
        """The last words on a request that has left the engine."""
        request.status = status
        request.finished_ps = now_ps
        if request.space is not None:
            request.space.owner = None  # it registers nothing more; and no cycle is left for the collector
        if request.swapped:
            self.free_swap_blocks += -(-request.swapped // self.settings.block_size)
            request.swapped = 0
        if request.peak:
            self._end_tenure(request)

    def _swap_out(self, request: Request, planned: int) -> None:
        """A preempted request's blocks are copied to the host, where swapping is on and the host has room."""
        if not self.settings.swap_block_ps or planned or not request.computed:
            return
        blocks = -(-request.computed // self.settings.block_size)
        if blocks <= self.free_swap_blocks:
            self.free_swap_blocks -= blocks
            self._step.copied_ps += blocks * self.settings.swap_block_ps
            request.swapped = request.computed

    def swap_in(self, request: Request) -> None:
        """The blocks of *request* come back from the host."""
        blocks = -(-request.swapped // self.settings.block_size)
        self.free_swap_blocks += blocks
        self._step.copied_ps += blocks * self.settings.swap_block_ps
        request.reused = request.swapped
        request.swapped = 0

    def _end_look(self, request: Request, computed: int) -> int:
        """A look of *request*, of whose tokens *computed* are computed, is over: it stands where it stood before; return the
        blocks that are too many now. The caller takes the tokens out of what is computed.
        """
        looks = request.looks
        assert looks is not None
        tokens, reused, peak = looks.tokens, request.reused, request.peak
        again = (computed if computed < peak else peak) - reused
        if again > 0:
            request.recomputed_tokens += again
        before = computed - tokens
        request.reused, request.peak = before, before - 1  # it stands beyond its peak: there was progress
        request.end -= tokens
        request.foreseen_end -= tokens
        request.probe_tokens += tokens
        looks.left -= 1
        request.point = before + looks.every + tokens if looks.left else 0
        held = self.blocks_for(request, computed)
        if self.windows is not None:  # they stand where they stood, too
            size = self.settings.block_size
            fewer = -(-computed // size) + (-before // size)
            request.slid_blocks = max(self.windows.passed_evenly(before), request.slid_blocks - fewer)
            request.last_tokens = 1
        return held - self.blocks_for(request, before)

    def _landing(self) -> int:
        """Requests outside the queue whose KV is on its way."""
        return sum(request.awaits_kv == KV_TO_COME for request in self.standing) if self.standing else 0

    def _landing_tokens(self) -> int:
        """Their prompts, less what the prefix cache had of them."""
        if not self.standing:
            return 0
        return sum(
            request.known - tokens for request, (_, tokens) in self.standing.items() if request.awaits_kv == KV_TO_COME
        )

    def _unpause(self, request: Request) -> None:
        if request.paused:
            request.paused = False
            self.paused -= 1

    def _end_tenure(self, request: Request, planned: int = 0) -> None:
        """*request* gives its blocks up: what it computed below its former peak, it computed again.

        Of its computed tokens the last *planned* were never run.
        """
        peak, computed = request.peak, request.computed - planned
        again = min(peak, computed) - request.reused
        if again > 0:
            request.recomputed_tokens += again
        if computed > peak:
            request.peak = computed


def _has_landed(request: Request) -> bool:
    return request.awaits_kv == KV_LANDED


def make_replica(
    settings: EngineSettings,
    cost: StepCost,
    scheduler: Scheduler,
    *,
    stepwise: bool = False,
    segments: Sink | None = None,
    log: StepLog | None = None,
) -> Replica:
    """A replica in the fast mode, or *stepwise*: the oracle."""
    # NOTE: imported here, since both modes are built on this module
    from sim.engine.stepwise import Stepwise, Walked

    if stepwise:
        return Stepwise(settings, cost, scheduler, segments=segments, log=log)
    if settings.speculation or not settings.window_is_even:
        return Walked(settings, cost, scheduler, segments=segments, log=log)
    from sim.engine.fast_forward import FastForward

    return FastForward(settings, cost, scheduler, segments=segments, log=log)
