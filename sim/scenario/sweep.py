"""The ``sweep`` section: what `thinkcap sweep` varies where its command line says nothing.

It says nothing about a single run: `thinkcap run` simulates the scenario as it stands.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from sim.scenario.base import FrozenDict, Name, Section, freeze

Values = Annotated[list[Any], Field(min_length=1)]


class Sweep(Section):
    """Keys and the values they take, every combination of them."""

    over: Annotated[dict[Name, Values], freeze] = Field(
        default_factory=FrozenDict, description="keys of the scenario (pools.NAME.model) and the values they take"
    )
    candidates: Annotated[dict[Name, dict[Name, Any]], freeze] = Field(
        default_factory=FrozenDict,
        description="named sets of keys that change together; every one with every value of `over`",
    )

    @model_validator(mode="after")
    def _something(self) -> Sweep:
        if not self.over and not self.candidates:
            raise ValueError("give over, candidates or both")
        return self
