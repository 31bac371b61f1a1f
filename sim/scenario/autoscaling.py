"""The ``autoscaling`` section of a pool: how many of its replicas are on, and what it takes to start one."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from sim import units
from sim.scenario.base import BytesPerSecond, Count, Picoseconds, PositivePicoseconds, Section
from sim.scenario.policy import Policy, PolicyRef

SECOND_PS = units.PS_PER_S


class Autoscaling(Section):
    """Asks an autoscaler at every interval, and does what it wants within limits.

    A replica that is ordered is paid for at once and is there after its cold start: its weights over
    ``load_bandwidth``, then ``engine_start``. One that is not wanted any more is drained first.
    """

    policy: PolicyRef = Field(
        default=Policy(name="target_kv_use"), description="how many are wanted; `thinkcap list autoscalers`"
    )
    min_replicas: Annotated[Count, Field(ge=0)] = Field(default=1, description="fewest that stay on")
    max_replicas: Annotated[Count, Field(ge=1, le=100_000)] = Field(description="most that are on")
    interval_ps: PositivePicoseconds = Field(
        default=15 * SECOND_PS, alias="interval", description="time between two looks at the pool"
    )
    cooldown_ps: Picoseconds = Field(
        default=300 * SECOND_PS,
        alias="cooldown",
        description="the pool shrinks only when for so long no growth was wanted",
    )
    load_bandwidth: BytesPerSecond = Field(
        default=2e9,
        description="from disk or network to the GPUs of one replica, all its weights together; "
        "an assumption: measure yours",
    )
    engine_start_ps: Picoseconds = Field(
        default=60 * SECOND_PS,
        alias="engine_start",
        description="machine, process, compilation, warm-up: all of a cold start but the weights; "
        "an assumption: measure yours",
    )

    @model_validator(mode="after")
    def _limits(self) -> Autoscaling:
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas is more than max_replicas")
        return self
