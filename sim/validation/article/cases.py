"""Cases to simulate, what they came to, and how two of them compare, with intervals over replications.

Replications of two cases share their random numbers, so differences and ratios are taken replication by replication.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sim.errors import InputError, Problem
from sim.metrics.intervals import interval
from sim.planning.point import source_of
from sim.planning.pooled import sample
from sim.planning.sweep import tasks_of
from sim.scenario.load import load
from workloads.source import BLOCK

if TYPE_CHECKING:
    import pandas as pd

    from sim.planning.point import Task
    from sim.planning.runs import Record, Runner
    from sim.scenario.model import Scenario

QUICK_QUERIES, QUICK_REPLICATIONS = 24, 2
"""What a shortened case measures."""


@dataclass(frozen=True)
class Case:
    """A shipped scenario with some keys changed."""

    name: str
    scenario: str
    changes: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """How to run it by hand."""
        return " ".join(["thinkcap run", self.scenario, *(f"--set {_quoted(change)}" for change in self.changes)])

    def load(self, *, quick: bool = False) -> Scenario:
        """The scenario; *quick*: few queries and replications, for a look."""
        changes = list(self.changes)
        if quick:
            changes = [change for change in changes if not change.startswith("measure.")]
            changes += [
                f"measure.queries={QUICK_QUERIES}",
                f"measure.replications={QUICK_REPLICATIONS}",
                "measure.warmup_queries=8",
            ]
        return load(self.scenario, changes)


def _quoted(change: str) -> str:
    return change if not set(change) & set(" {}[]'\"") else f"'{change}'"


@dataclass(frozen=True)
class Estimate:
    """A figure from all replications together, and of each one.

    *base* makes it a ratio: 0 where it is one, 1 where it is a change from 100 %. The interval of a ratio is that of its
    logarithm, so that the ratio turned round has the same one turned round, and none goes below nothing.
    """

    value: float
    each: tuple[float, ...]
    base: float | None = None

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """The 95 % interval, or nothing where there is one replication."""
        base, values = self.base, (self.value, *self.each)
        if base is None or not all(base + value > 0 for value in values):
            found = interval(self.value, self.each)
            return found if found is not None else (None, None)
        point, *each = (math.log(base + value) for value in values)
        found = interval(point, each)
        return (math.exp(found[0]) - base, math.exp(found[1]) - base) if found is not None else (None, None)


class Ran:
    """What all cases came to."""

    def __init__(self, cases: Sequence[Case], runner: Runner, *, quick: bool = False) -> None:
        batches: dict[str, list[Task]] = {}
        for case in cases:
            scenario = case.load(quick=quick)
            batches[case.name] = tasks_of(scenario, scenario.measure.replications)
        records = runner.run([task for batch in batches.values() for task in batch])
        self.scenarios = {name: batch[0].scenario for name, batch in batches.items()}
        self.tasks = batches
        self._store = runner.store
        self._records: dict[str, list[Record]] = {}
        self._frames: dict[str, list[pd.DataFrame]] = {}
        place = 0
        for name, batch in batches.items():
            mine = records[place : place + len(batch)]
            place += len(batch)
            failed = next((record for record in mine if record["state"] == "failed"), None)
            if failed is not None:
                raise InputError(Problem(failed["error"], source=name))
            self._records[name] = mine

    def summaries(self, case: str) -> list[Mapping[str, Any]]:
        """The summary of each replication."""
        return [record["summary"] for record in self._records[case]]

    def frames(self, case: str) -> list[pd.DataFrame]:
        """The measured queries of each replication."""
        if case not in self._frames:
            self._frames[case] = [self._store.frame(record["key"]) for record in self._records[case]]
        return self._frames[case]

    def figure(self, case: str, what: str) -> Estimate:
        """A figure of `FIGURES`, generated ``tokens`` a query, or ``tta_mean``, ``tta_p50``, ``tta_p99`` (seconds)."""
        if what in TIMES:
            return self._time(case, TIMES[what])
        if what == "tokens":
            frames = self.frames(case)
            sums = [(float(frame["output_tokens"].sum()), float(len(frame))) for frame in frames]
            return Estimate(_ratio(*map(math.fsum, zip(*sums, strict=True))), tuple(_ratio(*part) for part in sums))
        take = FIGURES[what]
        parts = [take(summary) for summary in self.summaries(case)]
        over, under = (math.fsum(part[side] for part in parts) for side in (0, 1))
        return Estimate(_ratio(over, under), tuple(_ratio(*part) for part in parts))

    def share(self, case: str) -> tuple[float, float, float]:
        """Accuracy of all replications together with Wilson's interval; for queries that are independent."""
        from sim.metrics.quality import wilson

        right, n = (sum(s["quality"][key] for s in self.summaries(case)) for key in ("correct", "n"))
        low, high = wilson(right, n)
        return right / n, low, high

    def ratio(self, case: str, base: str, what: str) -> Estimate:
        """*case* over *base*, paired by replication."""
        one, two = self.figure(case, what), self.figure(base, what)
        each = tuple(_ratio(a, b) for a, b in zip(one.each, two.each, strict=True))
        return Estimate(_ratio(one.value, two.value), each, base=0.0)

    def change(self, case: str, base: str, what: str) -> Estimate:
        """Relative change from *base* to *case*."""
        return relative(self.figure(case, what), self.figure(base, what))

    def difference(self, case: str, base: str, what: str) -> Estimate:
        """*case* minus *base*, paired by replication."""
        one, two = self.figure(case, what), self.figure(base, what)
        return Estimate(one.value - two.value, tuple(a - b for a, b in zip(one.each, two.each, strict=True)))

    def kinds(self, case: str) -> list[list[str]]:
        """The category of each measured query, by replication."""
        made = []
        for task, frame in zip(self.tasks[case], self.frames(case), strict=True):
            source = source_of(task)
            names = []
            for query in frame["query"]:
                block = source.block(int(query) // BLOCK)
                assert block is not None
                names.append(source.categories[int(block.category[int(query) - block.first])])
            made.append(names)
        return made

    def time_of(self, case: str, kind: str) -> Estimate:
        """Mean time to answer of the queries of one category, in seconds."""
        import pandas as pd

        mine = [
            frame[[name == kind for name in names]]
            for frame, names in zip(self.frames(case), self.kinds(case), strict=True)
        ]
        each = [float(sample(frame, "tta_s").mean().value) for frame in mine]
        return Estimate(float(sample(pd.concat(mine), "tta_s").mean().value), tuple(each))

    def _time(self, case: str, q: float | None) -> Estimate:
        import pandas as pd

        def of(frame: pd.DataFrame) -> float:
            found = sample(frame, "tta_s")
            return float((found.mean() if q is None else found.quantile(q)).value)

        frames = self.frames(case)
        return Estimate(of(pd.concat(frames, ignore_index=True)), tuple(of(frame) for frame in frames))


def relative(one: Estimate, base: Estimate) -> Estimate:
    """Relative change from *base* to *one*, paired by replication."""
    each = tuple(_ratio(a, b) - 1 for a, b in zip(one.each, base.each, strict=True))
    return Estimate(_ratio(one.value, base.value) - 1, each, base=1.0)


TIMES: Mapping[str, float | None] = {"tta_mean": None, "tta_p50": 0.5, "tta_p99": 0.99}

Parts = tuple[float, float]


def _busy_usd(summary: Mapping[str, Any]) -> float:
    """Dollars of the GPU time within steps: idle GPUs belong to whoever sized the pool."""
    paid, pools = summary["cost"]["total"], summary["gpu"]["pools"]
    hours = math.fsum(pool["gpu_hours"] for pool in pools.values())
    return math.fsum(paid * pool["gpu_hours"] / hours * pool["utilisation"] for pool in pools.values())


def _stat(metric: str, stat: str) -> Callable[[Mapping[str, Any]], Parts]:
    def take(summary: Mapping[str, Any]) -> Parts:
        value = summary["metrics"][metric][stat]
        return (math.nan if value is None else value), 1.0

    return take


def _resident(summary: Mapping[str, Any]) -> Parts:
    pools = summary["kv"]["pools"].values()
    tokens = math.fsum(pool["use_mean"] * pool["capacity_tokens"] for pool in pools)
    return tokens, math.fsum(pool["running_mean"] for pool in pools)


FIGURES: Mapping[str, Callable[[Mapping[str, Any]], Parts]] = {
    "throughput": lambda s: (s["throughput"]["output_tokens"], s["throughput"]["window_s"]),
    "queries_per_s": lambda s: (s["throughput"]["queries_completed"], s["throughput"]["window_s"]),
    "accuracy": lambda s: (s["quality"]["correct"] or 0, s["quality"]["n"]),
    "cost": lambda s: (s["cost"]["total"], s["cost"]["queries_completed"]),
    "busy_cost": lambda s: (_busy_usd(s), s["cost"]["queries_completed"]),
    "gpu_seconds": lambda s: (3600 * s["cost"]["gpu_hours"], s["cost"]["queries_completed"]),
    "recomputed": lambda s: (
        s["totals"]["recomputed_tokens"],
        s["totals"]["reasoning_tokens"] + s["totals"]["answer_tokens"],
    ),
    "memory_efficiency": lambda s: (s["kv"]["memory_efficiency"], 1.0),
    "running": lambda s: (math.fsum(pool["running_mean"] for pool in s["kv"]["pools"].values()), 1.0),
    "kv_per_request": _resident,
    "ttft_p95": _stat("ttft", "p95"),
    "tpot_p95": _stat("tpot", "p95"),
}
"""Figures as (over, under): replications are pooled by adding both."""


def _ratio(over: float, under: float) -> float:
    return over / under if under else math.nan
