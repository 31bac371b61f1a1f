"""The ``measure`` section: which queries count, and how often everything is repeated."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from sim.scenario.base import Count, Picoseconds, PositivePicoseconds, Section
from sim.units import PS_PER_S

HOUR_PS = 3600 * PS_PER_S
DAY_PS = 24 * HOUR_PS
LONGEST_PS = 100 * DAY_PS
"""What a run may cover: result tables keep picoseconds in 64 bits, which are 106 days."""


class Measure(Section):
    """Queries that arrive after the warm-up and within the window are measured.

    Arrivals go on after the window until every measured query has ended or ``max_drain`` has passed.
    """

    warmup_ps: Picoseconds = Field(default=0, alias="warmup", description="time before the window")
    warmup_queries: Annotated[Count, Field(ge=0)] | None = Field(
        default=None, description="queries before the window, instead of a time"
    )
    duration_ps: PositivePicoseconds | None = Field(
        default=None, alias="duration", description="length of the window; default: to the last query"
    )
    queries: Annotated[Count, Field(ge=1)] | None = Field(
        default=None, description="queries in the window, instead of a length"
    )
    max_drain_ps: Picoseconds = Field(
        default=HOUR_PS, alias="max_drain", description="longest wait for measured queries after the window"
    )
    replications: Annotated[Count, Field(ge=1, le=10_000)] = Field(
        default=1, description="runs with other random numbers; intervals need several"
    )

    @model_validator(mode="after")
    def _one_way(self) -> Measure:
        problems = []
        if self.duration_ps is not None and self.queries is not None:
            problems.append("give duration or queries, not both")
        if self.warmup_queries is not None and self.warmup_ps:
            problems.append("give warmup or warmup_queries, not both")
        if self.warmup_ps + (self.duration_ps or 0) + self.max_drain_ps > LONGEST_PS:
            problems.append(f"warmup, duration and max_drain are more than {LONGEST_PS // DAY_PS} days together")
        if problems:
            raise ValueError("; ".join(problems))
        return self
