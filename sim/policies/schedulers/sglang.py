"""SGLang's own loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

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

    def queue_order(self, settings: EngineSettings) -> Callable[[Request], Any]:
        """By arrival; a retracted request goes to the back."""
        return lambda request: max(request.arrived_ps, request.yielded_ps)

    def schedule(self, step: Step) -> None:
        notes = step.memory
        running = step.running
        if not running:
            notes.update(ratio=self.new_token_ratio, steps=0, full=False, decoding=False)
        least = self.new_token_ratio * self.min_ratio_factor
        decay = (self.new_token_ratio - least) / self.decay_steps
        if notes["decoding"]:
            steps = notes["steps"] + step.number - notes["number"]
            notes["steps"] = steps
        else:
            steps = notes["steps"]
        notes["number"] = step.number
        if len(running) < notes.get("size", 0):
            notes["full"] = False
        self._prefill(step, max(least, notes["ratio"] - decay * steps))
        notes["decoding"] = not step.work
        if not step.work:
            self._decode(step)
        notes["size"] = len(running)

    def _prefill(self, step: Step, ratio: float) -> None:
        notes = step.memory
        step.serve_running(decodes=False)
        if notes["full"] or not step.waiting:
            return
        size = step.settings.block_size
        room = step.free_blocks * size - ratio * sum(self._to_come(step, request) for request in step.running)
        for request in self._queue(step):
            if step.seats <= 0:
                notes["full"] = True
                return
            if step.budget <= 0:
                return
            ahead = self._to_come(step, request)
            whole = request.known - step.cached_tokens(request) + ahead
            alone = not step.running
            if (whole >= room and not alone) or not step.admit(request):
                notes["full"] = bool(step.running)
                return
            room -= whole + size

    def _to_come(self, step: Step, request: Request) -> int:
        limit = request.foreseen_end - request.prompt_tokens
        return min(limit - step.generated(request), CLIP_TOKENS)

    def _queue(self, step: Step) -> Iterable[Request]:
        """By place in the queue; with ``lpm`` the longest cached prefix goes first."""
        if self.order == "fcfs" or not step.settings.enable_prefix_caching:
            return step.candidates()
        waiting = list(islice(step.candidates(), LPM_LIMIT + 1))
        if len(waiting) > LPM_LIMIT:
            return step.candidates()
        cached = {request: step.cached_tokens(request) for request in waiting}
        return sorted(waiting, key=lambda request: -cached[request])

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
        notes.update(ratio=min(1.0, (done + RETRACT_STEPS * len(stay)) / (allowed + 1)), steps=0, full=False)
