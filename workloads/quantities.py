"""How numbers with a unit enter and leave a workload: ``30 s``, ``4/s``; a bare number is refused."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer

from sim.units import (
    parse_per_second,
    parse_seconds,
    parse_share,
    parse_tokens,
    write_per_second,
    write_seconds,
)

_as_seconds = PlainSerializer(write_seconds, return_type=str)

Seconds = Annotated[float, BeforeValidator(parse_seconds), Field(ge=0), _as_seconds]
"""A duration in seconds, written with its unit."""

PositiveSeconds = Annotated[float, BeforeValidator(parse_seconds), Field(gt=0), _as_seconds]
"""A duration above zero in seconds, written with its unit."""

PerSecond = Annotated[
    float, BeforeValidator(parse_per_second), Field(gt=0), PlainSerializer(write_per_second, return_type=str)
]
"""A rate in 1/s, written with its unit."""

Share = Annotated[float, BeforeValidator(parse_share), Field(ge=0, le=1)]
"""A share of one: ``0.95`` or ``95 %``."""

TokenCount = Annotated[int, BeforeValidator(parse_tokens), Field(ge=1)]
"""A whole number of tokens: ``16000`` or ``16K tokens``; a bare ``16K`` is refused with both readings."""


def _amount(value: Any) -> Any:
    return parse_tokens(value) if isinstance(value, str) else value


Amount = Annotated[float, BeforeValidator(_amount), Field(ge=0)]
"""A number of tokens (or, in a law over durations, of seconds), zero allowed."""

PositiveAmount = Annotated[float, BeforeValidator(_amount), Field(gt=0)]
"""A number of tokens (or, in a law over durations, of seconds)."""

_AMOUNTS = ("value", "median", "mean", "scale", "low", "high", "min", "max", "tail_from")


def seconds_law(value: Any) -> Any:
    """A law over durations as written: its amounts carry a unit (``{law: lognormal, median: 30 s, sigma:
    1}``)."""
    if isinstance(value, str | int | float):
        return {"law": "constant", "value": parse_seconds(value)}
    if not isinstance(value, dict):
        return value
    return {
        key: parse_seconds(amount)
        if key in _AMOUNTS and isinstance(amount, str | int | float)
        else [seconds_law(part) for part in amount]
        if key in ("components", "atoms") and isinstance(amount, list | tuple)
        else seconds_law(amount)
        if key == "body"
        else amount
        for key, amount in value.items()
    }


def _write(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: write_seconds(item) if key in _AMOUNTS and isinstance(item, int | float) else _write(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_write(item) for item in value]
    return value


write_seconds_law = PlainSerializer(lambda law: _write(law.model_dump(exclude_none=True)), return_type=dict)
"""The same law with its amounts written in seconds."""
