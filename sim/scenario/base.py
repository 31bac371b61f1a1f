"""What all sections of a scenario have in common: strict, frozen, and quantities that carry their unit.

A section's fields are written in YAML by their alias and read in Python by a name that says the unit:
``warmup: 10 min`` is ``measure.warmup_ps``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
)

from sim import units

K = TypeVar("K")
V = TypeVar("V")


class Section(BaseModel):
    """Base of all sections: unknown keys, wrong types, NaN and infinity are refused; nothing changes."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, serialize_by_alias=True, defer_build=True
    )


class FrozenDict(dict[K, V]):
    """A dict that cannot be changed; it can be copied, compared and pickled like one."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("a scenario does not change after loading")

    __setitem__ = __delitem__ = clear = pop = popitem = setdefault = update = __ior__ = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)

    def __deepcopy__(self, memo: object) -> FrozenDict[K, V]:
        return self


freeze = AfterValidator(FrozenDict)
"""Validator that makes a mapping unchangeable."""


def _quantity(read: Callable[[Any], Any], write: Callable[[Any], str]) -> tuple[Any, ...]:
    return BeforeValidator(read), PlainSerializer(write, return_type=str, when_used="json")


def _whole(value: Any) -> Any:
    """``1e3`` is a whole number too; a boolean is none."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


Count = Annotated[int, BeforeValidator(_whole)]
"""A whole number."""
Picoseconds = Annotated[int, *_quantity(units.parse_ps, units.write_ps), Field(ge=0)]
"""A duration, at least zero: ``10 min``."""
PositivePicoseconds = Annotated[int, *_quantity(units.parse_ps, units.write_ps), Field(gt=0)]
"""A duration above zero."""
UsdPerHour = Annotated[float, *_quantity(units.parse_usd_per_hour, units.write_usd_per_hour), Field(ge=0)]
"""A price in US dollars an hour: ``2.50 USD/h``."""
GramsPerKwh = Annotated[float, *_quantity(units.parse_grams_per_kwh, units.write_grams_per_kwh), Field(ge=0)]
"""A carbon intensity: ``445 g/kWh``."""
BytesPerSecond = Annotated[float, *_quantity(units.parse_bytes_per_second, units.write_bytes_per_second), Field(gt=0)]
"""A bandwidth: ``50 GB/s``."""
ByteCount = Annotated[int, *_quantity(units.parse_bytes, units.write_bytes), Field(gt=0)]
"""A size: ``45 GB``."""
GibibyteCount = Annotated[int, *_quantity(units.parse_gibibytes, units.write_bytes), Field(gt=0)]
"""A size as vLLM's command line reads it: ``64`` (GiB), or with a unit, ``64 GB``."""
EngineCount = Annotated[
    int,
    BeforeValidator(units.parse_engine_count),
]
"""A whole number as vLLM's command line reads it: ``8192``, ``16k`` (16,000), ``16K`` (16,384)."""
Share = Annotated[
    float,
    BeforeValidator(units.parse_share),
    Field(ge=0, le=1),
]
"""A share of one: ``0.95`` or ``95 %``."""
Name = Annotated[str, Field(min_length=1, max_length=200)]
