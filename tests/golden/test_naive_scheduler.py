"""A second scheduler, written from the rules alone and as plainly as they read, against the engine in both modes.

It shares no code with the engine: blocks are numbers, the free list is a list, a block's key is made of its tokens, nothing is
counted or cached. It covers what the recordings do not: settings in any combination, asynchronous scheduling with priority,
thresholds, a watermark or a shared prefix, engines that run idle, tiny pools and budgets. It meets the recordings, too.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from calibration.step_cost import StepCost
from sim.engine.settings import EngineSettings
from sim.validation.conformance import Replay, check_recording, compare
from sim.validation.recording import PS_PER_NS, REQUESTS, STEPS, Arrival, Recording, Row, find, load

HERE = Path(__file__).parent
ENDLESS = 5_000
"""Steps after which a case is left alone: under priority two prompts may preempt each other for ever."""


@dataclass(eq=False)
class Job:
    """One request; ``known`` counts prompt and sampled tokens, ``coming`` sampled ones that are still in flight."""

    arrival: Arrival
    parent: Job | None
    known: int
    computed: int = 0
    coming: int = 0
    in_batches: int = 0
    table: list[int] = field(default_factory=list)
    keyed: int = 0
    """Blocks of the table that have a key."""
    windows: list[int] = field(default_factory=list)
    passed: int = 0
    """Blocks of each group of windows that were given back."""
    flying: list[int] = field(default_factory=list)
    """Tokens of each batch that it is in."""
    running: bool = False
    figures: Counter[str] = field(default_factory=Counter)
    moments: dict[str, int] = field(default_factory=dict)

    @property
    def id(self) -> int:
        return self.arrival.id

    def token(self, at: int) -> tuple[Any, ...]:
        """What stands at place *at*: shared within a prefix, its own elsewhere."""
        if at < self.arrival.prefix_len:
            if self.parent is not None:
                return self.parent.token(at)
            if self.arrival.prefix_group is not None:
                return (self.arrival.prefix_group, at)
        return (self.id, at)


class Naive:
    """vLLM's V1 scheduler and block pool, rule by rule."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.free = list(range(1, settings.num_gpu_blocks))
        self.references = [0] * settings.num_gpu_blocks
        self.key: list[int | None] = [None] * settings.num_gpu_blocks
        self.cached: dict[int, list[int]] = {}
        self.chain: dict[Any, int] = {}
        self.running: list[Job] = []
        self.waiting: list[Job] = []

    # ---- blocks

    def blocks(self, tokens: int) -> int:
        return -(-min(tokens, self.settings.max_model_len) // self.settings.block_size)

    def of_windows(self, blocks: int, passed: int) -> int:
        return self.settings.sliding_groups * (blocks - passed) if self.settings.sliding_window else 0

    def slide(self, job: Job) -> None:
        """Blocks go back that no token to come reads, nor one that is not known to be computed."""
        settings = self.settings
        outside = (job.computed - sum(job.flying) - settings.sliding_window + 1) // settings.block_size
        if settings.sliding_window and outside > job.passed:
            gone = settings.sliding_groups * (outside - job.passed)
            self.free = job.windows[:gone] + self.free
            job.windows, job.passed = job.windows[gone:], outside

    def keys(self, job: Job, blocks: int) -> list[int]:
        """Each key stands for its block's tokens and the key before."""
        size, found, last = self.settings.block_size, [], -1
        for block in range(blocks):
            tokens = tuple(job.token(at) for at in range(block * size, (block + 1) * size))
            last = self.chain.setdefault((last, tokens), len(self.chain))
            found.append(last)
        return found

    def hits(self, job: Job) -> list[int]:
        found: list[int] = []
        if self.settings.enable_prefix_caching:
            for key in self.keys(job, (job.known - 1) // self.settings.block_size):
                if not self.cached.get(key):
                    break
                found.append(self.cached[key][0])  # the oldest that is still there
        return found

    def take(self, blocks: int) -> list[int]:
        taken = [self.free.pop(0) for _ in range(blocks)]
        for block in taken:
            key = self.key[block]
            if key is not None:
                self.cached[key].remove(block)
                self.key[block] = None
            self.references[block] = 1
        return taken

    def give_keys(self, job: Job, tokens: int) -> None:
        full = tokens // self.settings.block_size
        if self.settings.enable_prefix_caching and full > job.keyed:
            keys = self.keys(job, full)
            for at in range(job.keyed, full):
                self.key[job.table[at]] = keys[at]
                self.cached.setdefault(keys[at], []).append(job.table[at])
            job.keyed = full

    def give_back(self, job: Job) -> None:
        for block in job.table:
            self.references[block] -= 1
        freed = [block for block in reversed(job.table) if not self.references[block]]
        self.free = [block for block in freed if self.key[block] is None] + self.free
        self.free += [block for block in freed if self.key[block] is not None]
        self.free = job.windows + self.free
        job.table, job.keyed, job.windows, job.passed, job.running = [], 0, [], 0, False

    # ---- one call of schedule()

    def schedule(self) -> tuple[dict[Job, int], list[tuple[Job, int]], list[Job]]:
        """Who computes how many tokens, in scheduling order; who was admitted with how many cached; who was preempted."""
        settings = self.settings
        budget, present = settings.max_num_batched_tokens, len(self.running) + len(self.waiting)
        cap = settings.long_prefill_token_threshold if present > 1 else 0
        if cap and settings.long_prefill_token_threshold_adaptive:
            cap = max(cap, settings.max_num_batched_tokens // present)
        batch: dict[Job, int] = {}
        victims: list[Job] = []
        at = 0
        while at < len(self.running) and budget:
            job = self.running[at]
            last = job.arrival.prompt_tokens + job.arrival.decode_tokens
            new = job.known + job.coming - job.computed
            if job.coming and job.computed + 1 >= last:
                new = 0  # its last token is in flight
            new = min(new, cap or new, budget, settings.max_model_len - job.computed - 1)
            if new <= 0:
                at += 1
                continue
            self.slide(job)
            blocks = self.blocks(job.computed + new)
            need = max(0, blocks - len(job.table))
            windows = self.of_windows(blocks, job.passed) - len(job.windows)
            need += windows
            while need > len(self.free):
                victim = self.running[-1]
                if settings.policy == "priority":
                    victim = max(self.running, key=lambda each: (each.arrival.priority, each.arrival.arrived_ps))
                    budget += batch.pop(victim, 0)
                    at -= self.running.index(victim) < at
                self.running.remove(victim)
                self.give_back(victim)
                victim.computed = 0
                victim.figures["preemptions"] += 1
                self.waiting.insert(0, victim)
                victims.append(victim)
                if victim is job:
                    break
            if job.running:
                job.windows += self.take(windows)
                job.table += self.take(need - windows)
                self.give_keys(job, min(job.computed + new, job.known))
                batch[job] = new
                budget -= new
                at += 1
            elif settings.policy == "fcfs":
                break
        admitted = [] if victims else self.admit(batch, budget, cap)
        for job, new in batch.items():
            job.computed += new
            job.flying.append(new)
        return batch, admitted, victims

    def admit(self, batch: dict[Job, int], budget: int, cap: int) -> list[tuple[Job, int]]:
        settings, admitted = self.settings, []
        if settings.policy == "priority":
            self.waiting.sort(key=lambda each: (each.arrival.priority, each.arrival.arrived_ps, each.id))
        for job in [each for each in self.waiting if not each.in_batches]:
            if not budget or len(self.running) == settings.max_num_seqs:
                break
            hits = self.hits(job)
            cached = len(hits) * settings.block_size
            new = min(job.known - cached, cap or job.known)
            if new > budget and not settings.enable_chunked_prefill:
                break
            new = min(new, budget)
            spare = len(self.free) - sum(not self.references[block] for block in hits)
            if self.running:
                spare -= int(settings.watermark * settings.num_gpu_blocks)
            windows = self.of_windows(self.blocks(cached + new), 0)
            need = max(0, self.blocks(cached + new) - len(hits))
            flying = settings.max_num_batched_tokens * (2 if settings.async_scheduling else 1)
            most = self.blocks(settings.sliding_window - 1 + flying) + 1
            whole = self.blocks(job.known) - len(hits) + self.of_windows(min(self.blocks(job.known), most), 0)
            if need + windows > spare or (settings.scheduler_reserve_full_isl and whole > spare):
                break
            for block in hits:
                if not self.references[block]:
                    self.free.remove(block)
                self.references[block] += 1
            job.table, job.keyed, job.computed, job.running = hits + self.take(need), len(hits), cached, True
            job.windows = self.take(windows)
            self.give_keys(job, cached + new)
            self.waiting.remove(job)
            self.running.append(job)
            job.moments.setdefault("cached_tokens_first", cached)
            job.figures["cached_tokens_total"] += cached
            admitted.append((job, cached))
            batch[job] = new
            budget -= new
        return admitted

    # ---- its outputs

    def update(self, batch: dict[Job, bool], now: int) -> list[Job]:
        """Tokens arrive for those in *batch* that it promises one; return who is done."""
        done = []
        for job, sampled in batch.items():
            job.in_batches -= 1
            job.flying.pop(0)
            if not sampled:
                continue
            job.known += 1
            job.coming -= 1
            job.moments.setdefault("first_token_ns", now)
            if job.running and self.settings.async_scheduling:
                self.give_keys(job, job.computed - job.coming)
            if job.known >= min(job.arrival.prompt_tokens + job.arrival.decode_tokens, self.settings.max_model_len):
                if job.running:
                    self.running.remove(job)
                    self.give_back(job)
                else:
                    self.waiting.remove(job)  # it was preempted with its last token in flight
                job.moments["finish_ns"] = now
                done.append(job)
        return done


def naive(settings: EngineSettings, clock: tuple[int, int, int], arrivals: tuple[Arrival, ...]) -> Replay:
    """What :class:`Naive` makes of *arrivals*, as the engine's loop drives it: a batch or two in flight, and one that finds
    nothing more to schedule waits for the batch in flight, whoever comes meanwhile."""
    scheduler, jobs, rows = Naive(settings), [], []
    for arrival in arrivals:
        parent = None if arrival.parent is None else jobs[arrival.parent]
        jobs.append(Job(arrival, parent, arrival.prompt_tokens))
    coming, flying = deque(jobs), deque[tuple[int, dict[Job, bool], dict[str, Any]]]()
    now = gpu_free = fruitless = 0
    while coming or flying or scheduler.running or scheduler.waiting:
        while coming and coming[0].arrival.arrived_ps <= now * PS_PER_NS:
            scheduler.waiting.append(coming.popleft())
        batch, admitted, victims = scheduler.schedule()
        if batch:
            start = max(now, gpu_free)
            tokens, context = sum(batch.values()), sum(job.computed for job in batch)
            gpu_free = start + clock[0] + clock[1] * tokens + clock[2] * context
            row: dict[str, Any] = {
                "step": len(rows),
                "t_start_ns": start,
                "t_end_ns": gpu_free,
                "n_scheduled": len(batch),
                "n_tokens": tokens,
                "total_context": context,
                "n_running": len(scheduler.running),
                "n_waiting": len(scheduler.waiting),
                "free_after_schedule": len(scheduler.free),
                "admitted": " ".join(f"{job.id}@{cached}" for job, cached in admitted),
                "preempted": " ".join(map(str, sorted(job.id for job in victims))),
                "scheduled": " ".join(f"{job.id}:{new}" if new > 1 else str(job.id) for job, new in batch.items()),
                "t_scheduled_ns": now,
            }
            sampling = {job: job.computed == job.known + job.coming for job in batch}
            for job, new in batch.items():
                job.coming += sampling[job]
                job.in_batches += 1
                job.figures["scheduled_tokens"] += new
                job.figures["n_steps_scheduled"] += 1
                job.moments.setdefault("first_scheduled_ns", start)
            rows.append(row)
            flying.append((gpu_free, sampling, row))
            if len(rows) > ENDLESS:
                return Replay((), (), "endless")
            if settings.async_scheduling and len(flying) == 1:
                continue
        if flying:
            now, sampling, row = flying.popleft()
            row["finished"] = " ".join(str(job.id) for job in scheduler.update(sampling, now))
            row["free_after_update"] = len(scheduler.free)
        elif not (scheduler.running or scheduler.waiting):
            now = coming[0].arrival.arrived_ps // PS_PER_NS
        else:
            fruitless += 1
            if not victims or fruitless > ENDLESS:
                return Replay((), (), "stands still")
    return Replay(tuple({name: str(value) for name, value in row.items()} for row in rows), tuple(map(_figures, jobs)))


def _figures(job: Job) -> Row:
    values: dict[str, Any] = {
        "request_id": job.id,
        "arrived_at_ns": job.arrival.arrived_ps // PS_PER_NS,
        "num_prefill_tokens": job.arrival.prompt_tokens,
        "num_decode_tokens": job.arrival.decode_tokens,
        "num_preemptions": job.figures["preemptions"],
        **job.moments,
    }
    return {name: str(values.get(name, job.figures[name])) for name in REQUESTS}


def _recording(seed: int) -> tuple[Recording | None, Counter[str]]:
    """A random small case as if it had been recorded; None when it never ends."""
    rng, seen = Random(seed), Counter[str]()
    arrivals = _arrivals(rng)
    settings = _settings(rng, arrivals)
    c0, c1, c2 = rng.choice((1, 97, 5000, 50_011)), rng.choice((0, 1, 40, 403)), rng.choice((0, 1, 3, 53))
    made = naive(settings, (c0, c1, c2), arrivals)
    if made.remark:
        return None, Counter({made.remark: 1})
    c0, c1, c2 = c0 * PS_PER_NS, c1 * PS_PER_NS, c2 * PS_PER_NS
    cost = StepCost(host_ps=c0, linear_ps=(0,), linear_slope_ps=c1 + c2, kv_ps=c2, cached_ps=c2)
    columns = (*STEPS, "t_scheduled_ns") if settings.async_scheduling else STEPS
    steps = tuple({name: row[name] for name in columns} for row in made.steps)
    seen["preemptions"] = sum(int(row["num_preemptions"]) for row in made.requests)
    seen["cached tokens"] = sum(int(row["cached_tokens_total"]) for row in made.requests)
    seen["asynchronous"] = settings.async_scheduling
    seen["cut short"] = settings.max_model_len < 1 << 17
    return Recording(Path(f"case {seed}"), settings, cost, arrivals, steps, made.requests), seen


def _arrivals(rng: Random) -> tuple[Arrival, ...]:
    count, longest_prompt, longest_output = (
        rng.choice((2, 6, 15, 30)),
        rng.choice((6, 20, 60)),
        rng.choice((1, 3, 20, 60)),
    )
    family, gap, ties = (
        rng.choice(("own", "groups", "parents", "fan-out")),
        rng.choice((0, 500, 20_000, 300_000)),
        rng.random(),
    )
    made: list[Arrival] = []
    now = 0
    while len(made) < count:
        prompt, group, prefix, parent, copies = rng.randint(1, longest_prompt), None, 0, None, 1
        if rng.random() < 0.3:
            prompt = max(4, prompt // 4 * 4)
        if family == "fan-out":
            copies, group, prefix = rng.randint(1, 5), f"same {len(made)}", prompt
        elif family == "groups":
            group, prefix = f"group {rng.randrange(3)}", rng.randint(0, prompt)
        elif family == "parents" and made:
            parent = rng.randrange(max(0, len(made) - 6), len(made))
            prefix = rng.randint(1, made[parent].prompt_tokens + made[parent].decode_tokens)
            prompt = max(prompt, prefix)
        now += 0 if rng.random() < ties else rng.randint(0, 2 * gap)
        for _ in range(copies):
            output = 1 if rng.random() < 0.15 else rng.randint(1, longest_output)
            priority = rng.choice((0, 0, 1, 2, -1))
            made.append(Arrival(len(made), now * PS_PER_NS, prompt, output, priority, group, prefix, parent))
    return tuple(made[:count])


def _settings(rng: Random, arrivals: tuple[Arrival, ...]) -> EngineSettings:
    size = rng.choice((1, 2, 4, 8, 16))
    longest = max(each.prompt_tokens + each.decode_tokens for each in arrivals)
    limit = 1 << 17
    if rng.random() < 0.3:
        limit = rng.randint(max(each.prompt_tokens for each in arrivals) + 1, longest + 2)
    least = -(-(min(longest, limit) - 1) // size)
    budget, chunked = rng.choice((1, 2, 3, 8, 30, 100, 2048)), rng.random() < 0.75
    made = EngineSettings(
        num_gpu_blocks=1 + least + rng.choice((0, 0, 1, least, 3 * least, 20 * least)),
        block_size=size,
        max_num_seqs=rng.choice((1, 2, 4, 8, 64)),
        max_num_batched_tokens=budget if chunked else max(budget, longest),
        max_model_len=limit,
        enable_prefix_caching=rng.random() < 0.65,
        enable_chunked_prefill=chunked,
        long_prefill_token_threshold=rng.choice((0, 0, 1, 4, 17)),
        long_prefill_token_threshold_adaptive=rng.random() < 0.5,
        policy=rng.choice(("fcfs", "priority")),
        watermark=rng.choice((0.0, 0.05, 0.2, 0.5)),
        scheduler_reserve_full_isl=rng.random() < 0.6,
        async_scheduling=rng.random() < 0.6,
    )
    if made.enable_prefix_caching or rng.random() < 0.1:
        return made
    made = replace(
        made, sliding_window=rng.choice((1, size, 2 * size, 3 * size + 1, 40)), sliding_groups=rng.choice((1, 2, 5))
    )
    beside = made.sliding_groups * min(least, made.window_cap)
    return replace(made, num_gpu_blocks=made.num_gpu_blocks + beside + made.sliding_groups)


def _agree(seeds: range) -> Counter[str]:
    seen: Counter[str] = Counter()
    for seed in seeds:
        recording, what = _recording(seed)
        seen += what
        seen["windows"] += recording is not None and recording.settings.sliding_window > 0
        if recording is not None:
            seen["cases"] += 1
            for stepwise in (True, False):
                difference = check_recording(recording, stepwise=stepwise).difference
                assert difference is None, f"case {seed}: {recording.settings}\n{difference}"
    return seen


def test_the_engine_decides_as_the_naive_scheduler() -> None:
    seen = _agree(range(40))
    assert seen["cases"] > 35
    assert min(seen[name] for name in ("preemptions", "cached tokens", "asynchronous", "cut short", "windows")) > 5


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 3000, 500))
def test_the_engine_decides_as_the_naive_scheduler_in_thousands_of_cases(start: int) -> None:
    assert _agree(range(start, start + 500))["cases"] > 450


@pytest.mark.slow
@pytest.mark.parametrize("folder", find([HERE]), ids=lambda folder: folder.name)
def test_the_naive_scheduler_meets_the_recordings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is fit to judge: every row and column of the real scheduler's runs."""
    monkeypatch.setattr(f"{__name__}.ENDLESS", 1 << 30)
    recording = load(folder)
    cost = recording.cost
    clock = [part // PS_PER_NS for part in (cost.host_ps, cost.linear_slope_ps - cost.kv_ps, cost.kv_ps)]
    difference = compare(recording, naive(recording.settings, (clock[0], clock[1], clock[2]), recording.arrivals))
    assert difference is None, str(difference)
