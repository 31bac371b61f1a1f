"""How numbers with a unit enter a workload: ``30 s``, ``4/s``; a bare number is refused."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def _seconds(value: Any) -> float:
    from sim.units import parse_seconds

    return parse_seconds(value)


def _per_second(value: Any) -> float:
    from sim.units import parse_per_second

    return parse_per_second(value)


Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0)]
"""A duration in seconds, written with its unit."""

PositiveSeconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]
"""A duration above zero in seconds, written with its unit."""

PerSecond = Annotated[float, BeforeValidator(_per_second), Field(gt=0)]
"""A rate in 1/s, written with its unit."""


def seconds_law(value: Any) -> Any:
    """A law over durations: its amounts carry a unit (``{law: lognormal, median: 30 s, sigma: 1}``)."""
    if not isinstance(value, dict):
        return (
            {"law": "constant", "value": _seconds(value)} if isinstance(value, str | int | float) else value
        )
    amounts = ("value", "median", "mean", "scale", "low", "high", "min", "max", "tail_from")
    return {
        key: _seconds(amount) if key in amounts and isinstance(amount, str | int | float) else amount
        for key, amount in value.items()
    }
