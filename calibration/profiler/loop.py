"""A serving loop in real time: requests join and leave a batch as their lengths have it, and each step is
timed.

It stands for an engine: first come, first served, at most ``seats`` requests at once, decodes first and
prefill chunks in what is left of the token budget. What runs a step is behind :class:`Executor`: a torch
decoder, or a synthetic device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Job:
    """A request that waits from the start: *prompt* tokens in, *output* tokens out."""

    prompt: int
    output: int


@dataclass(frozen=True)
class Work:
    """What one sequence does in a step: *new* tokens after *cached* ones; *job* is its number."""

    job: int
    cached: int
    new: int
    samples: bool
    """Whether a token comes out: decodes, and the chunk that ends a prompt."""


class Executor(Protocol):
    """Runs steps and says how long they took."""

    outside_s: float
    """What of the last step's seconds was not the device's step: its input, tokens to the host."""

    def begin(self, job: int, tokens: int) -> None:
        """*job* joins and will hold at most *tokens* tokens."""
        ...

    def execute(self, work: Sequence[Work]) -> float:
        """Run one step; its seconds, from having the work to having the tokens."""
        ...

    def end(self, job: int) -> None:
        """*job* has left."""
        ...


@dataclass(frozen=True)
class Timed:
    """A step as it was: its composition and its seconds."""

    decodes: int
    context: int
    chunks: int
    chunk_tokens: int
    pairs: int
    """Sum of n² + 2nc over the chunks, as a StepCost takes it."""
    cached: int
    seconds: float
    outside_s: float = 0.0
    """What of them was not the device's step."""


@dataclass
class LoopRun:
    """What a loop did: times of each job from the start, in seconds, and every step."""

    first_s: list[float]
    finished_s: list[float]
    steps: list[Timed] = field(default_factory=list)
    first_step: list[int] = field(default_factory=list)
    """The step, by number, that gave each job its first token."""
    last_step: list[int] = field(default_factory=list)
    """The same of its last token."""

    @property
    def makespan_s(self) -> float:
        """When the last job was done."""
        return max(self.finished_s)


def serve(jobs: Sequence[Job], executor: Executor, *, seats: int, budget: int) -> LoopRun:
    """Serve *jobs*, all there from the start, with at most *seats* at once and *budget* tokens a step."""
    run = LoopRun([-1.0] * len(jobs), [-1.0] * len(jobs), [], [-1] * len(jobs), [-1] * len(jobs))
    waiting = deque(range(len(jobs)))
    running: dict[int, int] = {}
    """Tokens computed, by job, in the order of admission."""
    made = [0] * len(jobs)
    now = 0.0
    while waiting or running:
        left = budget
        work: list[Work] = []
        while waiting and len(running) < seats:
            job = waiting.popleft()
            running[job] = 0
            executor.begin(job, jobs[job].prompt + jobs[job].output)
        for job, computed in running.items():
            new = min(left, 1 if made[job] else jobs[job].prompt - computed)
            if new > 0:
                samples = computed + new >= jobs[job].prompt
                work.append(Work(job, computed, new, samples))
                left -= new
        # Decodes stand first in a step, whoever was admitted first.
        work.sort(key=lambda item: item.new > 1)
        seconds = executor.execute(work)
        now += seconds
        run.steps.append(_timed(work, seconds, executor.outside_s))
        for item in work:
            running[item.job] += item.new
            if item.samples:
                made[item.job] += 1
                if made[item.job] == 1:
                    run.first_s[item.job] = now
                    run.first_step[item.job] = len(run.steps) - 1
                if made[item.job] == jobs[item.job].output:
                    run.finished_s[item.job] = now
                    run.last_step[item.job] = len(run.steps) - 1
                    del running[item.job]
                    executor.end(item.job)
    return run


def _timed(work: Sequence[Work], seconds: float, outside_s: float) -> Timed:
    chunks = [item for item in work if item.new > 1]
    decodes = [item for item in work if item.new == 1]
    return Timed(
        decodes=len(decodes),
        context=sum(item.cached for item in decodes),
        chunks=len(chunks),
        chunk_tokens=sum(item.new for item in chunks),
        pairs=sum(item.new * (item.new + 2 * item.cached) for item in chunks),
        cached=sum(item.cached for item in chunks),
        seconds=seconds,
        outside_s=outside_s,
    )
