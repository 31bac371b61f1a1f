"""The V1 scheduler of vLLM 0.33, decision for decision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from sim.engine.request import Request
from sim.engine.settings import EngineSettings
from sim.engine.step import FOREVER, Step
from sim.policies.schedulers import scheduler


@scheduler("vllm")
@dataclass(frozen=True)
class Vllm:
    """vLLM's V1 scheduler (v1/core/sched/scheduler.py, 0.33): running requests first in order of admission,
    then the waiting queue's head as long as it fits, nobody overtaking it. Under memory pressure the last
    admitted (``fcfs``) or the least urgent (``priority``) request is preempted by recomputation, and nothing
    is admitted in that step."""

    serves_all_when_nobody_waits: ClassVar[bool] = True
    serves_all_then_admits_heads: ClassVar[bool] = True

    def queue_order(self, settings: EngineSettings) -> Callable[[Request], Any] | None:
        """First come first served, or under the ``priority`` policy by (priority, arrival)."""
        return (lambda request: (request.priority, request.arrived_ps)) if settings.policy == "priority" else None

    def schedule(self, step: Step) -> None:
        settings = step.settings
        limit = settings.long_prefill_token_threshold
        if limit:
            present = len(step.running) + len(step.waiting)
            if present == 1:
                limit = 0
            elif settings.long_prefill_token_threshold_adaptive:
                limit = max(limit, settings.max_num_batched_tokens // present)
        step.serve_running(chunk_limit=limit)
        if step.preempted:
            return
        if step.waiting:
            overtaking = settings.policy == "priority" or settings.long_prefill_token_threshold_adaptive
            step.admit_heads(chunk_limit=limit, overtaking=overtaking)
        else:
            step.hold = FOREVER
