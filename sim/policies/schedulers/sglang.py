"""SGLang's own loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Literal

from sim.engine.request import Request
from sim.engine.settings import EngineSettings
from sim.engine.step import FOREVER, Step
from sim.policies.schedulers import scheduler

LPM_LIMIT = 128
"""Waiting requests beyond which the queue is no longer sorted by prefix."""
CLIP_TOKENS = 4096
"""Output of a request that its estimate covers at the most."""
RETRACT_STEPS = 20
"""Decode steps for which a retraction makes room."""


@scheduler("sglang")
@dataclass(frozen=True)
class Sglang:
    """SGLang (Zheng et al., NeurIPS 2024; python/sglang/srt/managers/scheduler.py): prefills and decodes
    never share a batch, and prefills go first. Waiting requests are taken longest cached prefix first
    (``lpm``; first come first served beyond 128 of them), as long as their prompts and a share of all outputs
    to come, ``new_token_ratio``, fit in memory; the share starts at 0.7 and decays to 0.7 · 0.14 over 600
    decode steps. Once one does not fit, none is tried until somebody leaves. When a decode finds no memory,
    requests with the fewest output tokens are retracted, and the share is set to what was seen. Not modelled:
    the delay of requests that would share an uncached prefix; a request alone on the engine enters even if
    its estimate does not fit."""

    order: Literal["lpm", "fcfs"] = "lpm"
    new_token_ratio: float = 0.7
    min_ratio_factor: float = 0.14
    decay_steps: int = 600
    serves_all_when_nobody_waits: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (0 <= self.new_token_ratio <= 1 and 0 <= self.min_ratio_factor <= 1):
            raise ValueError("new_token_ratio and min_ratio_factor must be from 0 to 1")
        if self.decay_steps < 1:
            raise ValueError(f"decay_steps must be at least 1, not {self.decay_steps}")

    def queue_order(self, settings: EngineSettings) -> Callable[[Request], Any]:
        """By arrival; a retracted request goes to the back."""
        return lambda request: max(request.arrived_ps, request.yielded_ps)

    def schedule(self, step: Step) -> None:
        notes = step.memory
        running = step.running
        if not running:
            notes.update(ratio=self.new_token_ratio, since=step.number, prefills=0, full=False)
        least = self.new_token_ratio * self.min_ratio_factor
        decay = (self.new_token_ratio - least) / self.decay_steps
        decodes = step.number - notes["since"] - notes["prefills"]
        if len(running) < notes.get("size", 0):
            notes["full"] = False
        self._prefill(step, max(least, notes["ratio"] - decay * decodes))
        if step.work:
            notes["prefills"] += 1
        else:
            self._decode(step)
        notes["size"] = len(running)

    def _prefill(self, step: Step, ratio: float) -> None:
        notes = step.memory
        step.serve_running(decodes=False)
        if notes["full"] or not step.waiting:
            return
        size, held = step.settings.block_size, len(step.running)
        room, ahead, counted = step.free_blocks * size, CLIP_TOKENS * held, False
        for request, cached in self._queue(step):
            if step.seats <= 0:
                notes["full"] = True
                return
            if step.budget <= 0:
                return
            if step.admitted:
                cached = step.cached_tokens(request)  # who went before may have brought some, or thrown some out
            limit = request.foreseen_end - request.prompt_tokens
            whole = request.known - cached + min(limit - step.generated(request), CLIP_TOKENS)
            if not counted and whole >= room - ratio * ahead:
                ahead, counted = _ahead(step, held), True  # only now does it matter how much it is
            if (whole >= room - ratio * ahead and step.running) or not step.admit(request):
                notes["full"] = bool(step.running)
                return
            room -= whole + size

    def _queue(self, step: Step) -> Iterable[tuple[Request, int]]:
        """Who waits, with the tokens cached, by place in the queue; with ``lpm`` the longest cached prefix goes first."""
        if not step.settings.enable_prefix_caching:
            return ((request, 0) for request in step.candidates())
        if self.order == "lpm" and len(step.waiting) <= LPM_LIMIT:
            found = [(request, step.cached_tokens(request)) for request in step.candidates()]
            found.sort(key=lambda entry: -entry[1])
            return found
        return ((request, step.cached_tokens(request)) for request in step.candidates())

    def _decode(self, step: Step) -> None:
        if step.blocks_needed() > step.free_blocks:
            self._retract(step)
        step.serve_running()
        waits = bool(step.waiting) and not step.memory["full"]
        step.hold = 1 if waits or step.preempted else FOREVER
        step.wake_on_arrival = not step.memory["full"]

    def _retract(self, step: Step) -> None:
        notes, size = step.memory, step.settings.block_size
        stay = sorted(step.running, key=lambda r: (-step.generated(r), r.prompt_tokens, r.order))
        while len(stay) > 1 and step.free_blocks * size < len(stay) * RETRACT_STEPS:
            victim = stay.pop()
            victim.yielded_ps = step.now_ps
            step.preempt(victim)
        done = sum(step.generated(request) for request in stay)
        allowed = sum(request.foreseen_end - request.prompt_tokens for request in stay)
        ratio = min(1.0, (done + RETRACT_STEPS * len(stay)) / (allowed + 1))
        notes.update(ratio=ratio, since=step.number, prefills=0, full=False)


def _ahead(step: Step, first: int) -> int:
    """Output tokens that the *first* of those who run still have to come, as far as estimates look."""
    generated = islice(step.generated_by_all(), first)
    left = (
        request.foreseen_end - request.prompt_tokens - done
        for request, done in zip(step.running, generated, strict=False)
    )
    return sum(tokens if tokens < CLIP_TOKENS else CLIP_TOKENS for tokens in left)
