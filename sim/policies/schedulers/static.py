"""Static batching: a batch runs until its last request is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sim.engine.step import FOREVER, Step
from sim.policies.schedulers import scheduler


@scheduler("static")
@dataclass(frozen=True)
class Static:
    """Request-level batching as FasterTransformer and early Triton did it (the baseline of Orca, OSDI 2022):
    up to ``max_num_seqs`` waiting requests start together, and nobody joins before the last of them is done;
    whoever ends early leaves its place empty. Memory for ``max_tokens`` is reserved. Unlike there, an early
    end is returned to its client at once."""

    reservation: ClassVar[str] = "max_tokens"

    def schedule(self, step: Step) -> None:
        filling = step.memory.get("filling", True) or not step.running
        step.serve_running()
        if filling:
            step.admit_heads(overtaking=False)
            filling = step.budget <= 0 < step.seats  # the budget of this step alone stopped it
        step.memory["filling"] = filling
        step.hold = 1 if filling else FOREVER
        step.wake_on_arrival = filling
