"""The floor that the engine is measured against: one exact loop, and nothing around it.

First come first served as vLLM does it, synchronous, chunked prefill, paged KV, recompute preemption, and
the prefix cache for prompts that nobody shares (a preempted request finds its own blocks again). No classes,
no tables, no policies, no settings beyond those; state lives in local variables. The equality test in
``tests/engine_`` keeps it honest.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush
from math import isqrt

from calibration.step_cost import StepCost


@dataclass(frozen=True)
class Load:
    """Requests in order of arrival: one entry each."""

    arrived_ps: list[int]
    prompt_tokens: list[int]
    output_tokens: list[int]


@dataclass(frozen=True)
class Floor:
    """What the loop found."""

    finished_ps: list[int]
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
    """Finish time of every request. *max_num_seqs* must not exceed *budget*, and each request must fit in
    the pool."""
    if max_num_seqs > budget:
        raise ValueError("max_num_seqs must not exceed the token budget")
    arrived, prompts = load.arrived_ps, load.prompt_tokens
    count, size = len(arrived), block_size
    last = [p + o - 1 for p, o in zip(prompts, load.output_tokens, strict=True)]  # computed tokens at the end
    known = prompts[:]
    base = [0] * count
    computed = [0] * count
    order = [-1] * count  # number of the admission while it decodes
    cached: list[list[int] | None] = [None] * count
    finished = [0] * count
    host, kv, half_pair, per_cached = cost.host_ps, cost.kv_ps, cost.half_pair_ps, cost.cached_ps
    seq, mixed, linear = cost.seq_ps, cost.mixed_ps, cost.linear
    fixed = [host + linear(n) + seq * n for n in range(max_num_seqs + 1)]  # a decode step without its context
    waiting: deque[int] = deque()
    running: dict[int, int] = {}
    stops: list[tuple[int, int, int]] = []
    queue: deque[list[int]] = deque()
    crossing = [0] * size
    free = plain = num_gpu_blocks - 1
    counter = decoders = context = admissions = now = done = at = steps = preemptions = 0
    chunk = -1  # the one request whose prefill is not complete: always the last admitted
    blocked = False
    while done < count:
        if at < count and arrived[at] <= now:
            waiting.append(at)
            at += 1
            while at < count and arrived[at] <= now:
                waiting.append(at)
                at += 1
        if not running and not waiting:
            now = arrived[at]
            continue
        # ---- a run of pure decode steps
        if chunk < 0 and decoders and (blocked or not waiting or len(running) >= max_num_seqs):
            while True:
                stop, number, request = stops[0]
                if order[request] == number:
                    break
                heappop(stops)
            k = stop - counter
            first = fixed[decoders] + kv * context
            growth = kv * decoders
            span = k * first + growth * (k * (k - 1) // 2)
            if not waiting and at < count and len(running) < max_num_seqs and now + span > arrived[at]:
                d = arrived[at] - now
                if growth:
                    g = 2 * first - growth
                    k = (isqrt(g * g + 8 * growth * d) - g) // (2 * growth)
                    while k * first + growth * (k * (k - 1) // 2) < d:
                        k += 1
                else:
                    k = -(-d // first)
            if decoders * (k // size + 1) > free:
                rounds = free // decoders
                rest, fits = free - rounds * decoders, rounds * size
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
                free -= blocks
                plain -= blocks
                if plain < 0:
                    plain = _evict(queue, plain)
                now += k * first + growth * (k * (k - 1) // 2)
                counter += k
                context += decoders * k
                steps += k
            counting = k > 0
        else:
            counting = False
        work: list[tuple[int, int]] = []
        # ---- one step with prefills, admissions or victims
        if not counting:
            preempting = False
            left = budget - decoders
            need = crossing[-counter % size]
            if need > free:
                preempting = True
                while True:
                    taken = need if need < free else free
                    free -= taken
                    plain -= taken
                    if plain < 0:
                        plain = _evict(queue, plain)
                    need -= taken
                    if not need:
                        break
                    victim, number = running.popitem()
                    preemptions += 1
                    if victim == chunk:
                        tokens = computed[victim]
                        chunk = -1
                    else:
                        tokens = base[victim] + counter
                        known[victim] = tokens + 1
                        need -= tokens % size == 0
                        crossing[base[victim] % size] -= 1
                        decoders -= 1
                        context -= tokens
                        order[victim] = -1
                    full, held = tokens // size, -(-tokens // size)
                    free += held
                    if caching:
                        plain += held - full
                        cached[victim] = extent = [full]
                        queue.append(extent)
                    else:
                        plain += held
                    waiting.appendleft(victim)
            else:
                free -= need
                plain -= need
                if plain < 0:
                    plain = _evict(queue, plain)
            if chunk >= 0 and left:
                tokens = computed[chunk]
                new = min(known[chunk] - tokens, left)
                need = -(-(tokens + new) // size) - -(-tokens // size)
                if need > free:
                    preempting = True
                    preemptions += 1
                    del running[chunk]
                    full, held = tokens // size, -(-tokens // size)
                    free += held
                    if caching:
                        plain += held - full
                        cached[chunk] = extent = [full]
                        queue.append(extent)
                    else:
                        plain += held
                    waiting.appendleft(chunk)
                    chunk = -1
                else:
                    free -= need
                    plain -= need
                    if plain < 0:
                        plain = _evict(queue, plain)
                    computed[chunk] = tokens + new
                    left -= new
                    work.append((chunk, new))
            stepping, total = decoders, context
            counter += 1
            context += stepping
            if not preempting:
                blocked = False
                while waiting and left and len(running) < max_num_seqs:
                    request = waiting[0]
                    n = known[request]
                    if -(-n // size) > free:
                        blocked = chunk < 0 and not work
                        break
                    waiting.popleft()
                    hit = 0
                    if caching:
                        held_extent = cached[request]
                        if held_extent is not None:
                            hit = held_extent[0]
                            held_extent[0] = 0
                            cached[request] = None
                    new = n - hit * size
                    if new > left:
                        new = left
                    tokens = hit * size + new
                    held = -(-tokens // size)
                    free -= held
                    plain -= held - hit
                    if plain < 0:
                        plain = _evict(queue, plain)
                    left -= new
                    admissions += 1
                    running[request] = admissions
                    computed[request] = tokens
                    work.append((request, new))
            # ---- what it takes
            if work:
                tokens = ones = pairs = under = 0
                for request, new in work:
                    before = computed[request] - new
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
        ending: list[tuple[int, int, int]] = []
        chunk = -1
        for request, _ in work:
            tokens = computed[request]
            if tokens < known[request]:
                chunk = request
            elif tokens >= last[request]:
                ending.append((running[request], request, tokens))
            else:
                number = running[request]
                order[request] = number
                base[request] = tokens - counter
                crossing[base[request] % size] += 1
                decoders += 1
                context += tokens
                heappush(stops, (counter + last[request] - tokens, number, request))
        while stops and stops[0][0] <= counter:
            _, number, request = heappop(stops)
            if order[request] == number:
                tokens = base[request] + counter
                crossing[base[request] % size] -= 1
                decoders -= 1
                context -= tokens
                order[request] = -1
                ending.append((number, request, tokens))
        if ending:
            blocked = False
            if len(ending) > 1:
                ending.sort()
            for _, request, tokens in ending:
                del running[request]
                finished[request] = now
                done += 1
                full, held = tokens // size, -(-tokens // size)
                free += held
                if caching and full:
                    plain += held - full
                    queue.append([full])
                else:
                    plain += held
    return Floor(finished, preemptions, steps)


def _evict(queue: deque[list[int]], plain: int) -> int:
    """Take -*plain* blocks out of the prefix cache: the oldest extent first, its tail before its head."""
    while plain < 0:
        extent = queue[0]
        if extent[0] + plain > 0:
            extent[0] += plain
            break
        plain += extent[0]
        extent[0] = 0
        queue.popleft()
    return 0
