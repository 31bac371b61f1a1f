"""The ``trace_cache`` section: answers and reasoning that are kept, for queries whose problem comes again."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sim import units
from sim.scenario.base import Count, Picoseconds, PositivePicoseconds, Section, Share


class TraceCache(Section):
    """A semantic cache in front of the replicas: every query is looked up, every completed one is kept.

    Problems come again as ``workload.recurrence`` (or a trace's ``prompt_id``) says; how often a look-up then
    finds something follows from the traffic and the capacity. What is used least recently goes first.
    """

    capacity: Annotated[Count, Field(ge=1)] = Field(default=10_000, description="traces that it holds")
    use: Literal["answer", "shorten"] = Field(
        default="answer", description="give the kept answer at once, or put the kept trace into the prompt"
    )
    lookup_ps: Picoseconds = Field(
        default=20 * units.PS_PER_S // 1000, alias="lookup", description="time that every look-up takes"
    )
    recall: Share = Field(
        default=0.95, description="chance that a look-up finds the trace of its problem if it is held"
    )
    false_hit: Share = Field(
        default=0.01, description="chance that a look-up that does not find its own returns another problem's"
    )
    keep_share: Share = Field(default=0.3, description="shorten: share of the reasoning that is left")
    trace_tokens: Annotated[Count, Field(ge=0)] = Field(
        default=500, description="shorten: tokens that the trace adds to the prompt"
    )
    expires_ps: PositivePicoseconds | None = Field(
        default=None, alias="expires", description="a trace is too old after this; default: never"
    )
