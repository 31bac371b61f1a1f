"""Stall-free batching with chunked prefills, as Sarathi-Serve introduced it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sim.engine.settings import EngineSettings
from sim.engine.step import FOREVER, Step
from sim.policies.schedulers import scheduler


@scheduler("sarathi")
@dataclass(frozen=True)
class Sarathi:
    """Sarathi-Serve (Agrawal et al., OSDI 2024): every decode runs in every step, and prompts are computed in
    chunks that fill the step up to ``chunk_size`` tokens, so a long prompt never stalls an answer. First come
    first served; under memory pressure the last admitted is recomputed."""

    chunk_size: int = 512
    serves_all_when_nobody_waits: ClassVar[bool] = True
    serves_all_then_admits_heads: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, not {self.chunk_size}")

    def tokens_a_step(self, settings: EngineSettings) -> int:
        """How many a step has in all, unless decodes alone are more."""
        return self.chunk_size if settings.enable_chunked_prefill else settings.max_num_batched_tokens

    def schedule(self, step: Step) -> None:
        step.budget = min(step.budget, max(self.tokens_a_step(step.settings), len(step.running) + 1))
        step.serve_running()
        if step.preempted:
            return
        if step.waiting:
            step.admit_heads(overtaking=False)
        else:
            step.hold = FOREVER
