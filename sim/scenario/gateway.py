"""The ``gateway`` section: what happens between clients and replicas besides routing."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sim import units
from sim.scenario.base import Count, PositivePicoseconds, Section, Share


class Backoff(Section):
    """How a client behaves that admission control turned away, or that waited in vain: it tries again, each time after
    a longer wait.
    """

    attempts: Annotated[Count, Field(ge=0, le=1000)] = Field(default=3, description="tries after the first")
    first_ps: PositivePicoseconds = Field(
        default=units.PS_PER_S, alias="first", description="mean wait before the first of them"
    )
    factor: float = Field(default=2.0, ge=1, description="by how much each wait is longer than the one before")
    jitter: Share = Field(
        default=0.5, description="a wait is drawn evenly from its mean times (1 - jitter) to (1 + jitter)"
    )
    after_timeouts: bool = Field(
        default=False,
        description="clients whose `timeout` has run out try again too: what was computed for them is cancelled, and "
        "each try has the same patience",
    )


class Gateway(Section):
    """Clients' patience, and how fresh the router's picture of the replicas is."""

    timeout_ps: PositivePicoseconds | None = Field(
        default=None, alias="timeout", description="clients give up on a query after this; default: never"
    )
    refresh_interval_ps: PositivePicoseconds | None = Field(
        default=None,
        alias="refresh_interval",
        description="the router sees the replicas as they were at the last refresh; default: as they are",
    )
    backoff: Backoff | None = Field(
        default=None,
        description="clients that admission control turned away (or that timed out) try again; default: they go",
    )
