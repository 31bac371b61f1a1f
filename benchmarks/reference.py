"""The floor that the engine is measured against: one exact loop, and nothing around it.

What vLLM's scheduler decides, synchronously, under all of its own settings (both policies, chunked prefill or not,
thresholds, watermark, the whole prefix cache, recompute preemption), with decode steps in closed form; and for
every request its times and counts. No SimPy, no tables, no other policies, one engine. The pool is the engine's
own (`sim.engine.paged_kv`): without a pool that is exact there is nothing to compare with. The recordings and the
equality test in ``tests/engine_`` keep it honest.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import isqrt
from typing import Any

from calibration.step_cost import StepCost
from sim.engine.paged_kv import Hit, PagedKv
from sim.engine.settings import EngineSettings


@dataclass(frozen=True)
class Load:
    """Requests in order of arrival: one entry each, -1 for none; without prefixes or priorities when these lists are
    empty."""

    arrived_ps: list[int]
    prompt_tokens: list[int]
    output_tokens: list[int]
    prefix_group: list[int] = field(default_factory=list)
    prefix_len: list[int] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)
    priority: list[int] = field(default_factory=list)


class Job:
    """One request in the loop, and what became of it."""

    __slots__ = (
        "_kin", "arrived_ps", "base", "cached_tokens", "computed", "counted", "counted_from", "finished_ps",
        "first_scheduled_ps", "first_token_ps", "known", "last", "looks", "number", "order", "owner", "parent", "pieces", "point",
        "preemptions", "prefix_group", "prefix_len", "priority", "running", "scheduled_tokens", "shared_blocks", "space", "steps",
        "tenure",
    )  # fmt: skip

    def __init__(self, number: int, arrived_ps: int, prompt: int, end: int, pool: object) -> None:
        self.number = number
        self.arrived_ps = arrived_ps
        self.known = prompt
        self.last = end - 1  # computed tokens at the end
        self.computed = self.base = self.counted_from = self.order = self.priority = 0
        self.counted = self.running = self._kin = False
        self.owner = pool
        self.parent: Job | None = None
        self.prefix_group: int | None = None
        self.prefix_len = self.shared_blocks = self.point = 0
        self.looks: Any = None
        self.space: Any = None
        self.pieces: Any = None
        self.tenure: Any = None
        self.first_scheduled_ps = self.first_token_ps = self.finished_ps = -1
        self.preemptions = self.cached_tokens = self.scheduled_tokens = self.steps = 0


@dataclass(frozen=True)
class Floor:
    """What the loop found."""

    jobs: list[Job]
    preemptions: int
    steps: int


def reference(load: Load, cost: StepCost, settings: EngineSettings) -> Floor:
    """What becomes of every request; each must fit in the pool."""
    return _Loop(load, cost, settings).run()


class _Loop:
    """The state between two steps. Decodes are counted: one counter of steps for all, a job's computed tokens being its
    ``base`` and the counter."""

    def __init__(self, load: Load, cost: StepCost, settings: EngineSettings) -> None:
        self.cost, self.settings = cost, settings
        self.size, self.budget = settings.block_size, settings.max_num_batched_tokens
        self.seats, self.longest = settings.max_num_seqs, settings.max_model_len
        self.caching, self.by_priority = settings.enable_prefix_caching, settings.policy == "priority"
        self.watermark = settings.watermark_blocks
        self.threshold = settings.long_prefill_token_threshold
        self.adaptive = bool(self.threshold and settings.long_prefill_token_threshold_adaptive)
        self.pool = PagedKv(settings.usable_blocks, self.size, caching=self.caching, committed=self.committed)
        self.arrived, pool = load.arrived_ps, self.pool
        self.jobs = [
            Job(number, moment, prompt, min(prompt + output, self.longest), pool)
            for number, (moment, prompt, output) in enumerate(
                zip(load.arrived_ps, load.prompt_tokens, load.output_tokens, strict=True)
            )
        ]
        for job, group, length, parent in zip(self.jobs, load.prefix_group, load.prefix_len, load.parent, strict=False):
            job.prefix_group = group if group >= 0 else None
            job.prefix_len = length
            job.parent = self.jobs[parent] if parent >= 0 else None
        for job, priority in zip(self.jobs, load.priority, strict=False):
            job.priority = priority
        self.queue: deque[Job] = deque()  # who waits, first come, first served …
        self.ranked: list[tuple[int, int, int, Job]] = []  # … or by priority
        self.waiting: deque[Job] | list[tuple[int, int, int, Job]] = self.ranked if self.by_priority else self.queue
        self.running: dict[Job, None] = {}
        self.chunks: list[Job] = []  # prefills that are not complete, in running order
        self.stops: list[tuple[int, int, Job]] = []
        self.crossing = [0] * self.size
        self.kv_ps = cost.kv_ps
        self.fixed = [cost.decode_ps(decodes, 0) for decodes in range(self.seats + 1)]
        self.counter = self.decodes = self.context = 0
        self.now = self.at = self.done = self.admissions = self.steps = self.preemptions = 0
        self.blocked = False

    def committed(self, job: Any) -> int:
        """Computed tokens of *job*."""
        return int(job.base + self.counter if job.counted else job.computed)

    # ------------------------------------------------------------------ jobs

    def head(self) -> Job:
        """Who is next to be admitted."""
        return self.ranked[0][3] if self.by_priority else self.queue[0]

    def wait(self, job: Job, *, preempted: bool) -> None:
        """*job* joins the queue."""
        if self.by_priority:
            heappush(self.ranked, (job.priority, job.arrived_ps, job.number, job))
        elif preempted:
            self.queue.appendleft(job)
        else:
            self.queue.append(job)

    def arrive(self) -> None:
        """Those who have come by now."""
        arrived, count = self.arrived, len(self.arrived)
        while self.at < count and arrived[self.at] <= self.now:
            job = self.jobs[self.at]
            self.pool.enter(job)  # type: ignore[arg-type]
            self.wait(job, preempted=False)
            self.at += 1
            if self.adaptive or (self.by_priority and self.head() is job):
                self.blocked = False

    def count(self, job: Job) -> None:
        """*job* decodes from now on."""
        tokens = job.computed
        job.counted = True
        job.counted_from = self.counter
        job.base = tokens - self.counter
        self.crossing[job.base % self.size] += 1
        self.decodes += 1
        self.context += tokens
        heappush(self.stops, (self.counter + job.last - tokens, job.order, job))

    def uncount(self, job: Job) -> int:
        """*job* leaves the counted batch; return its computed tokens."""
        job.computed = tokens = job.base + self.counter
        yielded = self.counter - job.counted_from
        job.scheduled_tokens += yielded
        job.steps += yielded
        job.counted = False
        job.known = tokens + 1
        self.crossing[job.base % self.size] -= 1
        self.decodes -= 1
        self.context -= tokens
        return tokens

    def preempt(self, job: Job) -> None:
        """*job*, which is not counted, gives up its blocks and waits again."""
        self.preemptions += 1
        job.preemptions += 1
        self.pool.release(job, -(-job.computed // self.size), job.computed)  # type: ignore[arg-type]
        job.running = False
        job.computed = 0
        del self.running[job]
        self.wait(job, preempted=True)

    def end(self, job: Job) -> None:
        """The last token of *job* has come."""
        self.pool.release(job, -(-job.computed // self.size), job.computed)  # type: ignore[arg-type]
        job.running = False
        if job.space is not None:
            job.space.owner = None
        del self.running[job]
        job.finished_ps = self.now
        self.done += 1
        self.blocked = False

    # ------------------------------------------------------------------ time

    def run(self) -> Floor:
        """Serve all."""
        arrived, count, running, waiting, seats = self.arrived, len(self.jobs), self.running, self.waiting, self.seats
        while self.done < count:
            if not running and not waiting and arrived[self.at] > self.now:
                self.now = arrived[self.at]
            if self.at < count and arrived[self.at] <= self.now:
                self.arrive()
            settled = not waiting or self.blocked or len(running) >= seats
            if self.decodes and settled and not self.chunks and self.decodes <= self.budget and self.decode_on():
                continue
            if not self.step():
                self.walk()
        return Floor(self.jobs, self.preemptions, self.steps)

    def decode_on(self) -> bool:
        """A run of pure decode steps; False when not even one is possible."""
        decodes, counter, size, crossing, stops = self.decodes, self.counter, self.size, self.crossing, self.stops
        while True:
            stop, order, job = stops[0]
            if job.counted and job.order == order:
                break
            heappop(stops)
        steps = stop - counter
        first = self.fixed[decodes] + self.kv_ps * self.context
        growth = self.kv_ps * decodes
        watches = not self.waiting or self.by_priority or self.adaptive
        if watches and self.at < len(self.arrived) and len(self.running) < self.seats:
            gap = self.arrived[self.at] - self.now
            if steps * first + growth * (steps * (steps - 1) // 2) > gap:
                if growth:
                    g = 2 * first - growth
                    steps = (isqrt(g * g + 8 * growth * gap) - g) // (2 * growth)
                    while steps * first + growth * (steps * (steps - 1) // 2) < gap:
                        steps += 1
                else:
                    steps = -(-gap // first)
        free = self.pool.free
        if decodes * (steps // size + 1) > free:
            rounds = free // decodes
            rest, fits = free - rounds * decodes, rounds * size
            while True:
                rest -= crossing[(-counter - fits) % size]
                if rest < 0:
                    break
                fits += 1
            steps = min(steps, fits)
        if not steps:
            return False
        rounds, rest = divmod(steps, size)
        blocks = rounds * decodes
        for j in range(rest):
            blocks += crossing[(-counter - j) % size]
        if blocks:
            self.pool.take(blocks)
        self.now += steps * first + growth * (steps * (steps - 1) // 2)
        self.counter = counter = counter + steps
        self.context += decodes * steps
        self.steps += steps
        if counter == stop:
            self.close([])
        return True

    def close(self, ending: list[tuple[int, Job]]) -> None:
        """A step is over: *ending* end, and those of the batch whose last step it was, in running order."""
        stops = self.stops
        while stops and stops[0][0] <= self.counter:
            _, order, job = heappop(stops)
            if job.counted and job.order == order:
                self.uncount(job)
                ending.append((order, job))
        if len(ending) > 1:
            ending.sort()
        for _, job in ending:
            self.end(job)

    # ------------------------------------------------------------------ one step

    def limit(self) -> int:
        """Tokens of one prefill that a step may have; 0: any number."""
        asking = len(self.running) + len(self.waiting)
        if not self.threshold or asking <= 1:
            return 0
        return max(self.threshold, self.budget // asking) if self.adaptive else self.threshold

    def admit(self, left: int, limit: int) -> list[tuple[Job, int]]:
        """Take in whom budget, seats and blocks have room for: them and their tokens."""
        admitted: list[tuple[Job, int]] = []
        pool, size, settings, running, waiting = self.pool, self.size, self.settings, self.running, self.waiting
        while waiting and left and len(running) < self.seats:
            job: Any = self.head()
            hits: list[Hit] = []
            hit = revived = 0
            if self.caching:
                hits, hit = pool.lookup(job)
                if hit:
                    revived = pool.revived(hits)
            new = job.known - hit * size
            if 0 < limit < new:
                new = limit
            if new > left:
                if not settings.enable_chunked_prefill:
                    break
                new = left
            room = pool.free - revived - (self.watermark if running else 0)
            if settings.scheduler_reserve_full_isl and -(-min(job.known, self.longest) // size) - hit > room:
                break
            tokens = hit * size + new
            need = -(-tokens // size) - hit
            if need > room:
                break
            if self.by_priority:
                heappop(self.ranked)
            else:
                self.queue.popleft()
            pool.admit(job, hits, hit, need)
            job.computed = tokens
            left -= new
            self.admissions += 1
            job.order = self.admissions
            job.running = True
            running[job] = None
            job.cached_tokens += hit * size
            if job.first_scheduled_ps < 0:
                job.first_scheduled_ps = self.now
            if self.caching:
                pool.register(job, tokens // size)
            admitted.append((job, new))
        return admitted

    def step(self) -> bool:
        """One step with prefills, admissions or victims, decodes counted; False when it must be walked."""
        chunks, left = self.chunks, self.budget - self.decodes
        chunk: Any = chunks[0] if chunks else None
        if left < 0 or len(chunks) > 1 or (chunk is not None and chunk is not next(reversed(self.running))):
            return False
        pool, size, limit = self.pool, self.size, self.limit() if self.threshold else 0
        need = self.crossing[-self.counter % size]
        new = more = 0
        if chunk is not None:
            new = min(chunk.known - chunk.computed, left)
            if 0 < limit < new:
                new = limit
            more = -(-(chunk.computed + new) // size) - -(-chunk.computed // size)
        preempting = need + more > pool.free
        if preempting and self.by_priority:
            return False
        if need > pool.free:
            self.make_room(need)
        elif need:
            pool.take(need)
        self.counter += 1
        decodes, context = self.decodes, self.context
        self.context = context + decodes
        work: list[tuple[Job, int]] = []
        if self.chunks and new:
            if preempting:
                self.preempt(chunk)
                self.chunks = []
            else:
                pool.take(more)
                chunk.computed += new
                if self.caching:
                    pool.register(chunk, chunk.computed // size)
                work.append((chunk, new))
        self.blocked = False
        if self.waiting and not preempting:
            admitted = self.admit(left - new, limit)
            self.blocked = not admitted and not self.chunks and not self.kin_runs()
            work += admitted
        self.pass_time(work, decodes, context)
        ending: list[tuple[int, Job]] = []
        if new:
            self.chunks = []
        for job, _ in work:
            if job.computed < job.known:
                self.chunks.append(job)
                continue
            if job.first_token_ps < 0:
                job.first_token_ps = self.now
            if job.computed >= job.last:
                ending.append((job.order, job))
            else:
                self.count(job)
        self.close(ending)
        return True

    def make_room(self, need: int) -> None:
        """Preempt from the back until the decodes that cross a block border have found *need* blocks."""
        pool = self.pool
        while True:
            taken = min(need, pool.free)
            pool.take(taken)
            need -= taken
            if not need:
                return
            victim = next(reversed(self.running))
            if victim.counted:
                need -= self.uncount(victim) % self.size == 0  # the victim itself was about to cross
            else:
                self.chunks = []
            self.preempt(victim)

    def kin_runs(self) -> bool:
        """Whether blocks that the head of the queue shares may yet be registered by somebody who runs."""
        head: Any = self.head()
        if not self.caching or not head._kin:
            return False
        return any(piece.space.owner is not None and piece.space.owner.running for piece in head.pieces[:-1])

    def pass_time(self, work: list[tuple[Job, int]], decodes: int, context: int) -> None:
        """The step of *decodes* that read *context* tokens, and of the prefills (or single tokens) in *work*."""
        self.steps += 1
        if not work:
            self.now += self.fixed[decodes] + self.kv_ps * context
            return
        tokens = chunks = pairs = cached = 0
        for job, new in work:
            before = job.computed - new
            job.scheduled_tokens += new
            job.steps += 1
            if new == 1:
                decodes += 1
                context += before
            else:
                chunks += 1
                tokens += new
                pairs += new * (new + 2 * before)
                cached += before
        self.now += self.cost.step_ps(
            decodes=decodes, context=context, chunks=chunks, chunk_tokens=tokens, pairs=pairs, cached=cached
        )

    def walk(self) -> None:
        """One step, job by job, as vLLM does it."""
        pool, size, limit, left = self.pool, self.size, self.limit(), self.budget
        for job in self.running:
            if job.counted:
                self.uncount(job)
        order, at, preempting = list(self.running), 0, False
        work: dict[Job, int] = {}
        while at < len(order) and left:
            job = order[at]
            new = job.known - job.computed
            if 0 < limit < new:
                new = limit
            new = min(new, left, self.longest - 1 - job.computed)
            if not new:
                at += 1
                continue
            need = -(-(job.computed + new) // size) - -(-job.computed // size)
            fits = True
            while need > pool.free and fits:
                preempting = True
                if self.by_priority:
                    victim = max(order, key=lambda other: (other.priority, other.arrived_ps))
                    place = order.index(victim)
                    del order[place]
                    at -= place < at
                    left += work.pop(victim, 0)
                else:
                    victim = order.pop()
                self.preempt(victim)
                fits = victim is not job
            if not fits:
                if self.by_priority:
                    continue
                break
            pool.take(need)
            job.computed += new
            if self.caching:
                pool.register(job, job.computed // size)  # type: ignore[arg-type]
            work[job] = new
            left -= new
            at += 1
        self.counter += 1
        if not preempting:
            work |= self.admit(left, limit)
        self.blocked = False
        self.pass_time(list(work.items()), 0, 0)
        for job in work:
            if job.computed == job.known:
                if job.first_token_ps < 0:
                    job.first_token_ps = self.now
                if job.computed >= job.last:
                    self.end(job)
        self.stops.clear()
        self.chunks = []
        for job in self.running:
            # who has been sampled decodes, whether or not the budget reached it in this step
            if job in work and job.computed == job.known:
                job.known += 1
            if job.computed + 1 == job.known and job.first_token_ps >= 0:
                self.count(job)
            else:
                self.chunks.append(job)
