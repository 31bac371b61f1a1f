"""The ``gateway`` section: what happens between clients and replicas besides routing."""

from __future__ import annotations

from pydantic import Field

from sim.scenario.base import PositivePicoseconds, Section


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
