"""Replications until a figure is known as precisely as was asked: more of them while its interval is too wide."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sim.errors import InputError, Problem, nearest
from sim.metrics.intervals import interval
from sim.planning.point import Task
from sim.planning.pooled import STATS, sample

if TYPE_CHECKING:
    from sim.planning.runs import Record, Runner
    from sim.scenario.model import Scenario

FIRST = 3
METRICS = (*(f"{name}_{metric}" for metric in ("tta", "ttfo") for name in STATS), "attainment")


@dataclass(frozen=True)
class Precision:
    """Half of the 95 % interval of *metric* over its estimate is to be at most *width*, with *most* replications."""

    width: float
    metric: str = "p99_tta"
    most: int = 50

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise InputError(
                Problem(
                    f"{self.metric!r} is no figure that can be waited for",
                    key="--precision-of",
                    expected=", ".join(METRICS),
                    nearest=nearest(self.metric, METRICS),
                )
            )
        if not 0 < self.width < 1:
            raise InputError(Problem(f"{self.width:g}", key="--precision", expected="a share, such as 5 %"))
        if self.most < 2:
            raise InputError(Problem(f"{self.most}", key="--most-replications", expected="at least 2"))


def deciding(scenario: Scenario) -> str:
    """The metric that decides over *scenario*: its first target's where that can be waited for, else p99 TTA."""
    for metric, percentile, _ in scenario.slo.targets():
        name = f"p{percentile:g}_{metric}"
        if name in METRICS:
            return name
    return "p99_tta"


def replicate(
    scenarios: Sequence[Scenario],
    runner: Runner,
    precision: Precision,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> list[list[Record]]:
    """Records of as many replications of each of *scenarios* as the precision needs, all side by side.

    After three, as many are run as the interval's width so far foresees (it shrinks with the root of their number),
    at most twice as many as there are. What fails, or has no figure because queries are still open, is not repeated.
    """
    counts = [min(max(FIRST, scenario.measure.replications), precision.most) for scenario in scenarios]
    found: list[list[Record]] = [[] for _ in scenarios]
    open_ = list(range(len(scenarios)))
    while open_:
        tasks = [Task(scenarios[place], number) for place in open_ for number in range(counts[place])]
        records = iter(runner.run(tasks))
        for place in open_:
            found[place] = [next(records) for _ in range(counts[place])]
        still = []
        for place in open_:
            width = relative_width(found[place], runner, precision.metric)
            if width is None or width <= precision.width or counts[place] >= precision.most:
                continue
            foreseen = math.ceil(counts[place] * (width / precision.width) ** 2)
            counts[place] = min(max(foreseen, counts[place] + 1), 2 * counts[place], precision.most)
            still.append(place)
        open_ = still
        if open_:
            say(f"{len(open_)} of {len(scenarios)} need more replications, up to {max(counts)}")
    return found


def relative_width(records: Sequence[Record], runner: Runner, metric: str) -> float | None:
    """Half of the interval of *metric* over *records*' replications, over its estimate; None where there is none."""
    import pandas as pd

    if any(record["state"] != "done" for record in records):
        return None
    frames = [runner.store.frame(record["key"]) for record in records]
    figure: Callable[[Any], float]
    if metric == "attainment":

        def figure(frame: Any) -> float:
            return float(frame["slo_met"].mean())
    else:
        name, _, column = metric.partition("_")

        def figure(frame: Any) -> float:
            return sample(frame, f"{column}_s").quantile(STATS[name]).value

    estimate = figure(pd.concat(frames, ignore_index=True))
    bounds = interval(estimate, [figure(frame) for frame in frames])
    if bounds is None or estimate <= 0:
        return None
    return (bounds[1] - bounds[0]) / 2 / estimate
