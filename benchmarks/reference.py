"""The floor that the engine is measured against: one exact loop, and nothing around it.

First come first served as vLLM does it, synchronous, chunked prefill, recompute preemption, paged KV with the
whole prefix cache (shared prefixes, prompts that go on from an earlier request, least recently used blocks
evicted first), and for every request its times and counts. No SimPy, no tables, no policies, no settings beyond
those; the state of the loop lives in local variables. The pool is the engine's own (`sim.engine.paged_kv`):
without a pool that is exact there is nothing to compare with. The equality test in ``tests/engine_`` keeps
it honest.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import isqrt
from typing import Any

from calibration.step_cost import StepCost
from sim.engine.paged_kv import Hit, PagedKv


@dataclass(frozen=True)
class Load:
    """Requests in order of arrival: one entry each, -1 for none; without prefixes when these lists are empty."""

    arrived_ps: list[int]
    prompt_tokens: list[int]
    output_tokens: list[int]
    prefix_group: list[int] = field(default_factory=list)
    prefix_len: list[int] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)


class Job:
    """One request in the loop, and what became of it."""

    __slots__ = (
        "_kin", "arrived_ps", "base", "cached_tokens", "computed", "counted", "counted_from", "finished_ps",
        "first_scheduled_ps", "first_token_ps", "known", "last", "looks", "order", "owner", "parent", "pieces", "point",
        "preemptions", "prefix_group", "prefix_len", "running", "scheduled_tokens", "shared_blocks", "space", "steps", "tenure",
    )  # fmt: skip

    def __init__(self, arrived_ps: int, prompt: int, output: int, pool: object) -> None:
        self.arrived_ps = arrived_ps
        self.known = prompt
        self.last = prompt + output - 1  # computed tokens at the end
        self.computed = self.base = self.counted_from = self.order = 0
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


def reference(
    load: Load,
    cost: StepCost,
    *,
    num_gpu_blocks: int,
    block_size: int,
    max_num_seqs: int,
    budget: int,
    caching: bool,
) -> Floor:
    """What becomes of every request. *max_num_seqs* must not exceed *budget*, and each request must fit in the
    pool."""
    if max_num_seqs > budget:
        raise ValueError("max_num_seqs must not exceed the token budget")
    size = block_size
    arrived = load.arrived_ps
    count = len(arrived)

    def committed(job: Any) -> int:
        return int(job.base + counter if job.counted else job.computed)

    pool = PagedKv(num_gpu_blocks - 1, size, caching=caching, committed=committed)
    take, lookup, register, release = pool.take, pool.lookup, pool.register, pool.release
    shape = zip(arrived, load.prompt_tokens, load.output_tokens, strict=True)
    jobs = [Job(moment, prompt, output, pool) for moment, prompt, output in shape]
    for job, group, length, parent in zip(jobs, load.prefix_group, load.prefix_len, load.parent, strict=False):
        job.prefix_group = group if group >= 0 else None
        job.prefix_len = length
        job.parent = jobs[parent] if parent >= 0 else None
    host, kv, half_pair, per_cached = cost.host_ps, cost.kv_ps, cost.half_pair_ps, cost.cached_ps
    seq, mixed, linear = cost.seq_ps, cost.mixed_ps, cost.linear
    fixed = [host + linear(n) + seq * n for n in range(max_num_seqs + 1)]  # a decode step without its context
    waiting: deque[Any] = deque()
    running: dict[Any, None] = {}
    stops: list[tuple[int, int, Any]] = []
    crossing = [0] * size
    counter = decoders = context = admissions = now = done = at = steps = preemptions = 0
    chunk: Any = None  # the one request whose prefill is not complete: always the last admitted
    blocked = False

    def uncount(job: Any) -> int:
        """*job* leaves the counted batch; return its computed tokens."""
        nonlocal decoders, context
        tokens = job.base + counter
        yielded = counter - job.counted_from
        job.scheduled_tokens += yielded
        job.steps += yielded
        job.counted = False
        job.computed = tokens
        crossing[job.base % size] -= 1
        decoders -= 1
        context -= tokens
        return int(tokens)

    def preempt(job: Any) -> None:
        nonlocal preemptions
        preemptions += 1
        job.preemptions += 1
        release(job, -(-job.computed // size), job.computed)
        job.running = False
        job.computed = 0
        del running[job]
        waiting.appendleft(job)

    while done < count:
        while at < count and arrived[at] <= now:
            pool.enter(jobs[at])  # type: ignore[arg-type]
            waiting.append(jobs[at])
            at += 1
        if not running and not waiting:
            now = arrived[at]
            continue
        # ---- a run of pure decode steps
        if chunk is None and decoders and (blocked or not waiting or len(running) >= max_num_seqs):
            while True:
                stop, number, job = stops[0]
                if job.counted and job.order == number:
                    break
                heappop(stops)
            k = stop - counter
            first = fixed[decoders] + kv * context
            growth = kv * decoders
            if not waiting and at < count and len(running) < max_num_seqs:
                gap = arrived[at] - now
                if k * first + growth * (k * (k - 1) // 2) > gap:
                    if growth:
                        g = 2 * first - growth
                        k = (isqrt(g * g + 8 * growth * gap) - g) // (2 * growth)
                        while k * first + growth * (k * (k - 1) // 2) < gap:
                            k += 1
                    else:
                        k = -(-gap // first)
            if decoders * (k // size + 1) > pool.free:
                rounds = pool.free // decoders
                rest, fits = pool.free - rounds * decoders, rounds * size
                while True:
                    rest -= crossing[(-counter - fits) % size]
                    if rest < 0:
                        break
                    fits += 1
                if fits < k:
                    k = fits
            if k:
                rounds, rest = divmod(k, size)
                blocks = rounds * decoders
                for j in range(rest):
                    blocks += crossing[(-counter - j) % size]
                if blocks:
                    take(blocks)
                now += k * first + growth * (k * (k - 1) // 2)
                counter += k
                context += decoders * k
                steps += k
            counting = k > 0
        else:
            counting = False
        work: list[tuple[Any, int]] = []
        # ---- one step with prefills, admissions or victims
        if not counting:
            preempting = False
            left = budget - decoders
            need = crossing[-counter % size]
            if need > pool.free:
                preempting = True
                while True:
                    taken = min(need, pool.free)
                    take(taken)
                    need -= taken
                    if not need:
                        break
                    victim = next(reversed(running))
                    if victim is chunk:
                        chunk = None
                    else:
                        tokens = uncount(victim)
                        victim.known = tokens + 1
                        need -= tokens % size == 0
                    preempt(victim)
            elif need:
                take(need)
            if chunk is not None and left:
                tokens = chunk.computed
                new = min(chunk.known - tokens, left)
                need = -(-(tokens + new) // size) - -(-tokens // size)
                if need > pool.free:
                    preempting = True
                    preempt(chunk)
                    chunk = None
                else:
                    take(need)
                    chunk.computed = tokens + new
                    left -= new
                    work.append((chunk, new))
            stepping, total = decoders, context
            counter += 1
            context += stepping
            if work and caching:
                register(chunk, chunk.computed // size)
            if not preempting:
                blocked = False
                while waiting and left and len(running) < max_num_seqs:
                    job = waiting[0]
                    hits: list[Hit] = []
                    hit = revived = 0
                    if caching:
                        hits, hit = lookup(job)
                        if hit:
                            revived = pool.revived(hits)
                    n = job.known
                    if -(-n // size) - hit > pool.free - revived:
                        blocked = chunk is None and not work
                        if blocked and job._kin:
                            blocked = not any(
                                piece.space.owner is not None and piece.space.owner.running for piece in job.pieces[:-1]
                            )
                        break
                    waiting.popleft()
                    new = min(n - hit * size, left)
                    job.computed = tokens = hit * size + new
                    pool.admit(job, hits, hit, -(-tokens // size) - hit)
                    left -= new
                    admissions += 1
                    job.order = admissions
                    job.running = True
                    running[job] = None
                    job.cached_tokens += hit * size
                    if job.first_scheduled_ps < 0:
                        job.first_scheduled_ps = now
                    if caching:
                        register(job, tokens // size)
                    work.append((job, new))
            # ---- what it takes
            if work:
                tokens = ones = pairs = under = 0
                for job, new in work:
                    before = job.computed - new
                    job.scheduled_tokens += new
                    job.steps += 1
                    tokens += new
                    if new == 1:
                        ones += 1
                        total += before
                    else:
                        pairs += new * (new + 2 * before)
                        under += before
                span = host + linear(stepping + tokens) + seq * (stepping + len(work)) + kv * total
                if ones < len(work):
                    span += half_pair * pairs + per_cached * under + mixed * (stepping + ones)
            else:
                span = fixed[stepping] + kv * total
            now += span
            steps += 1
        # ---- outputs
        ending: list[tuple[int, Any]] = []
        chunk = None
        for job, _ in work:
            tokens = job.computed
            if tokens < job.known:
                chunk = job
                continue
            if job.first_token_ps < 0:
                job.first_token_ps = now
            if tokens >= job.last:
                ending.append((job.order, job))
            else:
                job.counted = True
                job.counted_from = counter
                job.base = tokens - counter
                crossing[job.base % size] += 1
                decoders += 1
                context += tokens
                heappush(stops, (counter + job.last - tokens, job.order, job))
        while stops and stops[0][0] <= counter:
            _, number, job = heappop(stops)
            if job.counted and job.order == number:
                uncount(job)
                ending.append((number, job))
        if ending:
            blocked = False
            if len(ending) > 1:
                ending.sort()
            for _, job in ending:
                release(job, -(-job.computed // size), job.computed)
                job.running = False
                if job.space is not None:
                    job.space.owner = None
                del running[job]
                job.finished_ps = now
                done += 1
    return Floor(jobs, preemptions, steps)
