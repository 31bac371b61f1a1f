"""The ``failures`` section: what goes wrong with replicas, and what is done on purpose."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from sim.scenario.base import Count, Name, Picoseconds, PositivePicoseconds, Section


class Outage(Section):
    """One replica is gone for a while, or for good; all that runs on it is lost and sent again elsewhere."""

    pool: Name = Field(description="pool of the replica")
    replica: Annotated[Count, Field(ge=0)] = Field(default=0, description="which one, counted from 0")
    at_ps: Picoseconds = Field(alias="at", description="when, from the start of the run")
    for_ps: PositivePicoseconds | None = Field(
        default=None, alias="lasts", description="how long until it is back; default: for good"
    )
    notice_ps: Picoseconds = Field(
        default=0,
        alias="notice",
        description="it takes no new requests so long before, as a spot instance that is about to be reclaimed",
    )


class Slowdown(Section):
    """One replica is a straggler for a while, or from then on: all its steps take longer."""

    pool: Name = Field(description="pool of the replica")
    replica: Annotated[Count, Field(ge=0)] = Field(default=0, description="which one, counted from 0")
    factor: Annotated[float, Field(gt=0, le=1000)] = Field(
        description="how many times as long each step takes: 1.3 for a GPU that throttles; overlapping ones multiply"
    )
    at_ps: Picoseconds = Field(default=0, alias="at", description="when it begins, from the start of the run")
    for_ps: PositivePicoseconds | None = Field(
        default=None, alias="lasts", description="how long; default: to the end of the run"
    )


class Restart(Section):
    """A rolling restart: every replica in turn is drained, is down, and is back before the next one goes."""

    at_ps: Picoseconds = Field(alias="at", description="when the first one goes")
    down_ps: PositivePicoseconds = Field(alias="down", description="how long each one is down")


class Failures(Section):
    """Crashes by chance or at given times, spot preemption with notice, rolling restarts, stragglers."""

    mtbf_ps: PositivePicoseconds | None = Field(
        default=None, alias="mtbf", description="mean time between crashes of a replica; default: none by chance"
    )
    mttr_ps: PositivePicoseconds | None = Field(
        default=None, alias="mttr", description="mean time until it is back after such a crash; required with mtbf"
    )
    outages: tuple[Outage, ...] = Field(default=(), strict=False, description="losses at given times")
    restart: Restart | None = Field(default=None, description="a rolling restart; default: none")
    slowdowns: tuple[Slowdown, ...] = Field(default=(), strict=False, description="stragglers")
    max_retries: Annotated[Count, Field(ge=0)] = Field(
        default=3, description="how often a request that lost its replica is sent again before it fails"
    )

    @model_validator(mode="after")
    def _both(self) -> Failures:
        if (self.mtbf_ps is None) != (self.mttr_ps is None):
            raise ValueError("give mtbf and mttr, or neither")
        return self

    @property
    def any(self) -> bool:
        """Something befalls a replica."""
        return self.mtbf_ps is not None or bool(self.outages or self.slowdowns) or self.restart is not None
