"""The ``slo`` section: what must be reached, such as ``tta: {p99: 120 s}``: 99 % of queries within 120 s."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from sim import units
from sim.scenario.base import FrozenDict, Name, PositivePicoseconds, Section, freeze

_PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d{1,3})?)")


def _percentile(key: str) -> str:
    if not _PERCENTILE.fullmatch(key) or float(key[1:]) <= 0:
        raise units.UnitError(f"{key!r} is not a percentile", expected="one of p50, p90, p95, p99, p99.9 …")
    return key


Percentile = Annotated[str, AfterValidator(_percentile)]
"""``p99``: the share of queries, in percent, that must meet the target."""


def _ratio(value: Any) -> Any:
    if isinstance(value, str):
        raise units.UnitError(f"{value!r} is not a ratio", expected="a number without a unit, such as 5")
    return value


Ratio = Annotated[
    float,
    BeforeValidator(_ratio),
    Field(gt=0),
    PlainSerializer(float, when_used="json"),
]
Times = Annotated[dict[Percentile, PositivePicoseconds], Field(min_length=1), freeze]


class Targets(Section):
    """Targets by metric; each maps percentiles to the longest time allowed."""

    tta: Times | None = Field(default=None, description="arrival of a query to its complete answer")
    ttft: Times | None = Field(default=None, description="arrival to the first token")
    ttfo: Times | None = Field(default=None, description="arrival to the first answer token")
    tpot: Times | None = Field(default=None, description="mean time a token after the first")
    itl: Times | None = Field(default=None, description="gaps between tokens, judged over all of them")
    e2e: Times | None = Field(default=None, description="arrival of a request to its last token")
    queue_time: Times | None = Field(default=None, description="waiting before the first schedule")
    slowdown: Annotated[dict[Percentile, Ratio], Field(min_length=1), freeze] | None = Field(
        default=None, description="tta over the tta of the same query alone"
    )

    def targets(self) -> list[tuple[str, float, float]]:
        """(metric, percentile, target) of each; targets in seconds, that of slowdown as it is."""
        found = []
        for metric in Targets.model_fields:
            for percentile, target in (getattr(self, metric) or {}).items():
                value = target if metric == "slowdown" else target / units.PS_PER_S
                found.append((metric, float(percentile[1:]), value))
        return found


class Slo(Targets):
    """Targets of all queries, and further ones of single categories."""

    categories: Annotated[dict[Name, Targets], freeze] = Field(
        default_factory=FrozenDict, description="targets that replace those of all queries, by category"
    )
