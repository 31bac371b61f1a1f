"""The ``plan`` section: what may be chosen, and how sure the answer must be; read by `thinkcap plan` alone.

It says nothing about a single run: `thinkcap run` simulates the scenario as it stands.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from sim.scenario.base import Count, FrozenDict, Name, Section, Share, freeze

Values = Annotated[list[Any], Field(min_length=1)]


class Plan(Section):
    """Alternatives, limits and confidence of a capacity plan."""

    alternatives: Annotated[dict[Name, Values], freeze] = Field(
        default_factory=FrozenDict,
        description="keys of the scenario (pools.NAME.hardware) and the values they may take; every combination",
    )
    candidates: Annotated[dict[Name, dict[Name, Any]], freeze] = Field(
        default_factory=FrozenDict,
        description="named sets of keys that change together; combined with the alternatives",
    )
    scale: list[Name] | None = Field(
        default=None, description="pools whose replicas are searched; default: all of the candidate"
    )
    max_replicas: Annotated[Count, Field(ge=1, le=100_000)] = Field(
        default=64, description="replicas of a pool at most"
    )
    max_gpus: Annotated[Count, Field(ge=1)] | None = Field(
        default=None, description="GPUs of a plan at most, whole nodes counted"
    )
    confidence: Annotated[Share, Field(ge=0.5, lt=1)] = Field(
        default=0.95, description="with which the recommendation meets its targets"
    )
    replications: Annotated[Count, Field(ge=2, le=1000)] = Field(
        default=12, description="of a deciding point at most; fewer when it is clear earlier"
    )
    lengthen: Annotated[Count, Field(ge=1, le=1000)] = Field(
        default=8, description="windows of a deciding point at most so many times as long as `measure` states"
    )
    whole_nodes: bool = Field(default=True, description="pay for all GPUs of a node, used or not")
    survive: Literal["nothing", "replica", "node"] = Field(
        default="nothing", description="what may be lost with the targets still met"
    )
    headroom: list[Annotated[float, Field(gt=1, le=100)]] = Field(
        default=[1.2, 1.5, 2.0], description="multiples of the traffic that the plan is tried at"
    )
    accuracy: Annotated[dict[Name, Share], freeze] = Field(
        default_factory=FrozenDict, description="share of right answers, by model or by candidate"
    )
    min_accuracy: Share | None = Field(default=None, description="what is less accurate is left out")
    api_price_per_million_output_tokens: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="US dollars that an API asks, for the break-even"
    )
    sensitivity: bool = Field(default=True, description="try which assumptions would change the decision")
