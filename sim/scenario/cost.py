"""The ``cost`` section: what a GPU-hour is worth where a pool does not say it itself."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sim.scenario.base import Section, UsdPerHour


class Cost(Section):
    """Prices that hold for all pools."""

    currency: Literal["USD"] = Field(default="USD", description="of every amount")
    price: UsdPerHour | None = Field(
        default=None, description="of a GPU of any pool without a price; default: the hardware's list price"
    )
