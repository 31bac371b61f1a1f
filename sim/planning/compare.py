"""Two or more configurations on the same queries: differences, paired query by query.

Scenarios of one seed and one workload draw the same arrivals and lengths (common random numbers), whatever
serves them; so differences are taken query by query, and their interval, over replications, is far narrower
than that of either figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.errors import InputError, Problem
from sim.metrics.intervals import interval
from sim.planning.pooled import STATS, pooled, sample
from sim.planning.precision import FIRST, Precision
from sim.planning.sweep import tasks_of

if TYPE_CHECKING:
    import pandas as pd

    from sim.planning.runs import Record, Runner
    from sim.scenario.model import Scenario


@dataclass(frozen=True)
class Difference:
    """Other minus first: its estimate, its interval over replications, and whether that excludes zero."""

    metric: str
    unit: str
    first: float
    other: float
    difference: float
    low: float | None
    high: float | None
    pairs: int
    """Queries that both answered; for shares and costs, queries of both."""

    @property
    def clear(self) -> bool:
        """The interval is at hand and does not hold zero."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def check_pairs(scenarios: Sequence[Scenario]) -> list[str]:
    """In words, why queries of *scenarios* could not be paired; empty when they can."""
    first = scenarios[0]
    why = []
    for other in scenarios[1:]:
        if other.seed != first.seed:
            why.append(f"{other.name} has seed {other.seed}, {first.name} has {first.seed}")
        if other.workload != first.workload:
            why.append(f"{other.name} and {first.name} have different workloads")
    return why


def compare(scenarios: Sequence[Scenario], runner: Runner, precision: Precision | None = None) -> dict[str, Any]:
    """Run *scenarios* (the first is what the others are compared with) and return figures and differences.

    With *precision* replications are added, the same number for all, until half of the interval of each difference
    in its metric is at most that part of the first scenario's figure.
    """
    replications = max(scenario.measure.replications for scenario in scenarios)
    if precision is None:
        return _compare(scenarios, runner, replications)
    replications = min(max(replications, FIRST), precision.most)
    while True:
        found = _compare(scenarios, runner, replications)
        width = max((_relative(each["figures"], precision.metric) for each in found["differences"]), default=0.0)
        if width <= precision.width or replications >= precision.most or math.isnan(width):
            return found | {"precision": None if math.isnan(width) else width}
        foreseen = math.ceil(replications * (width / precision.width) ** 2)
        replications = min(max(foreseen, replications + 1), 2 * replications, precision.most)


def _relative(figures: Sequence[Mapping[str, Any]], metric: str) -> float:
    """Half of the interval of the difference in *metric*, over the first scenario's figure; NaN where there is none."""
    said = "SLO attainment" if metric == "attainment" else metric.replace("_", " ")
    for figure in figures:
        if figure["metric"] == said and figure["low"] is not None and figure["first"] > 0:
            return float((figure["high"] - figure["low"]) / 2 / figure["first"])
    return math.nan


def _compare(scenarios: Sequence[Scenario], runner: Runner, replications: int) -> dict[str, Any]:
    batches = [tasks_of(scenario, replications) for scenario in scenarios]
    flat = runner.run([task for batch in batches for task in batch])
    records = [flat[place * replications : (place + 1) * replications] for place in range(len(scenarios))]
    for scenario, mine in zip(scenarios, records, strict=True):
        failed = next((record for record in mine if record["state"] == "failed"), None)
        if failed is not None:
            raise InputError(Problem(failed["error"], source=scenario.name))
    frames = [[runner.store.frame(record["key"]) for record in mine] for mine in records]
    unpaired = check_pairs(scenarios)
    return {
        "scenarios": [
            {"name": scenario.name, **pooled(mine, runner.store)}
            for scenario, mine in zip(scenarios, records, strict=True)
        ],
        "paired": not unpaired,
        "unpaired_because": unpaired,
        "replications": replications,
        "differences": [
            {
                "first": scenarios[0].name,
                "other": scenarios[place].name,
                "figures": [
                    {**vars(figure), "clear": figure.clear}
                    for figure in differences(frames[0], frames[place], records[0], records[place])
                ],
            }
            for place in range(1, len(scenarios))
        ],
    }


def differences(
    first: Sequence[pd.DataFrame],
    other: Sequence[pd.DataFrame],
    first_records: Sequence[Record],
    other_records: Sequence[Record],
) -> list[Difference]:
    """Every difference; a list entry of each argument is a replication."""
    pairs = [a.merge(b, on="query", suffixes=("_a", "_b")) for a, b in zip(first, other, strict=True)]
    count = sum(len(pair) for pair in pairs)
    made = []
    for metric in ("tta", "ttfo"):
        for stat, q in (("mean", None), *STATS.items()):
            each = [_times(pair, f"{metric}_s", q) for pair in pairs]
            import pandas as pd

            whole = _times(pd.concat(pairs, ignore_index=True), f"{metric}_s", q)
            both = sum(int((pair[f"{metric}_s_a"].notna() & pair[f"{metric}_s_b"].notna()).sum()) for pair in pairs)
            made.append(_difference(f"{stat} {metric}", "s", whole, each, both))
    each = [(float(pair["slo_met_a"].mean()), float(pair["slo_met_b"].mean())) for pair in pairs]
    sizes = np.array([len(pair) for pair in pairs], dtype=float)
    shares = [float(np.average([one[side] for one in each], weights=sizes)) for side in (0, 1)]
    made.append(_difference("SLO attainment", "", (shares[0], shares[1]), each, count))
    costs = [
        (a["summary"]["cost"]["cost_per_query"], b["summary"]["cost"]["cost_per_query"])
        for a, b in zip(first_records, other_records, strict=True)
    ]
    if all(value is not None for pair in costs for value in pair):
        mean = tuple(math.fsum(pair[side] for pair in costs) / len(costs) for side in (0, 1))
        made.append(_difference("cost a query", "USD", (mean[0], mean[1]), costs, count))
    return made


def _times(pair: pd.DataFrame, column: str, q: float | None) -> tuple[float, float]:
    """The statistic on both sides, over the queries that are in both windows; censored ones count as such."""
    sides = []
    for side in ("a", "b"):
        frame = pair[[f"{column}_{side}", f"status_{side}", f"waited_s_{side}"]]
        frame = frame.set_axis([column, "status", "waited_s"], axis=1)
        whole = sample(frame, column)
        sides.append((whole.mean() if q is None else whole.quantile(q)).value)
    return sides[0], sides[1]


def _difference(
    name: str, unit: str, whole: tuple[float, float], each: Sequence[tuple[float, float]], pairs: int
) -> Difference:
    estimate = whole[1] - whole[0]
    bounds = interval(estimate, [b - a for a, b in each])
    low, high = bounds if bounds is not None else (None, None)
    return Difference(name, unit, whole[0], whole[1], estimate, low, high, pairs)
