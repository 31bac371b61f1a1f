"""Iteration-level scheduling with memory reserved at admission, as Orca introduced it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sim.engine.step import FOREVER, Step
from sim.policies.schedulers import scheduler


@scheduler("orca")
@dataclass(frozen=True)
class Orca:
    """Orca (Yu et al., OSDI 2022): the batch is formed anew before every iteration, first come first served,
    and a request is admitted only where KV memory for its prompt and all its ``max_tokens`` can be set aside;
    so nobody is ever preempted, and memory lies idle that short answers do not use. A prompt longer than
    ``max_num_batched_tokens`` is computed in pieces, which Orca did not need to."""

    reservation: ClassVar[str] = "max_tokens"
    serves_all_when_nobody_waits: ClassVar[bool] = True

    def schedule(self, step: Step) -> None:
        step.serve_running()
        if step.waiting:
            step.admit_heads(overtaking=False)
        else:
            step.hold = FOREVER
