"""Every scheduler on the same queries, at several loads: figures a replication, differences paired by replication, winners.

The scenario is ``schedulers``; a load of 1 is the rate at which ``vllm`` completes queries when there is always work.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.metrics.fairness import jain
from sim.metrics.intervals import t_quantile
from sim.metrics.samples import measured, sample, waited_s
from sim.policies.schedulers import scheduler
from sim.results.columns import Status
from sim.results.results import Results
from sim.scenario.load import load
from sim.simulate import simulate

FloatArray = NDArray[np.float64]

LOADS = (0.6, 0.8, 0.95, 1.1)
BASE = "vllm"
"""The scheduler that the others are compared with."""
OPEN_LIMIT = 0.01
"""Share of open queries up to which evenness is judged, as if they had been answered at the end."""
SATURATING_RATE = 4.0
"""Queries a second with which there is always work."""


@dataclass(frozen=True)
class Metric:
    """What is compared: the key of its figures, its name, the unit shown, how many of it are one of what is kept."""

    key: str
    name: str
    unit: str
    factor: float
    decimals: int
    lower_is_better: bool = True


METRICS = (
    Metric("tta_p50", "median time to answer", "seconds", 1, 1),
    Metric("tta_p99", "99th percentile of the time to answer", "seconds", 1, 0),
    Metric("ttft_p90", "90th percentile of the time to first token", "seconds", 1, 2),
    Metric("tpot_p99", "99th percentile of the time per output token", "milliseconds", 1000, 1),
    Metric("attainment", "queries that meet both targets", "per cent", 100, 1, lower_is_better=False),
    Metric("jain", "evenness of slowdown over queries", "Jain's index of its inverse", 1, 3, lower_is_better=False),
    Metric("longest_wait", "longest wait for the first step", "seconds", 1, 0),
)

Runs = Mapping[tuple[float, str], Mapping[str, Any]]
"""Figures by (load, scheduler), each a list with a value a replication."""


class Difference(NamedTuple):
    """Mean over replications, and half of its 95 % interval (Student's t)."""

    mean: float
    half: float

    @property
    def clear(self) -> bool:
        """The interval leaves out zero."""
        return abs(self.mean) > self.half


def run(name: str, rate: float, replications: int) -> Results:
    """The scenario under scheduler *name* at *rate* queries a second."""
    return simulate(
        load(
            "schedulers",
            [
                f"workload.rate={rate:.4f}/s",
                f"pools.reasoning.engine.scheduler={name}",
                f"measure.replications={replications}",
            ],
        )
    )


def saturated_rate() -> float:
    """Queries a second that ``vllm`` completes when there is always work."""
    return float(run(BASE, SATURATING_RATE, 1).summary["throughput"]["queries_per_s"])


def figures(results: Results) -> dict[str, list[float]]:
    """Each metric, and counts beside, a value a replication; infinite where it lies beyond what was seen."""
    queries, requests = results.tables["queries"], results.tables["requests"]
    found: dict[str, list[float]] = {}

    def note(key: str, value: float) -> None:
        found.setdefault(key, []).append(float(value) if math.isfinite(value) else math.inf)

    for info in results.runs:
        for metric, quantiles in (("tta", (0.5, 0.9, 0.99)), ("ttft", (0.5, 0.9)), ("tpot", (0.5, 0.99))):
            values = sample(results, metric, runs=[info])
            for q in quantiles:
                note(f"{metric}_p{round(100 * q)}", values.quantile(q).value)
        mine = measured(queries, [info])
        done = mine & (queries["status"] == Status.COMPLETED)
        count, completed = int(mine.sum()), int(done.sum())
        waited = np.where(done, queries["slowdown"] * queries["alone_s"], waited_s(queries, results.runs))[mine]
        note("n", count)
        note("open", count - completed)
        note("attainment", float((queries["slo_met"][mine] > 0).mean()))
        note("jain", jain(queries["alone_s"][mine] / waited) if count - completed <= OPEN_LIMIT * count else math.inf)
        note("longest_wait", sample(results, "queue_time", runs=[info]).maximum().value)
        note("preemptions", float(requests["preemptions"][measured(requests, [info])].sum()))
    return found


def gather(
    replications: int,
    *,
    loads: Iterable[float] = LOADS,
    kept: Path | None = None,
    anew: Sequence[str] = (),
    told: Callable[[str], object] = lambda text: None,
) -> dict[tuple[float, str], dict[str, Any]]:
    """Figures of every scheduler at *loads*. *kept* is a file with a line a run: what stands there is not run again, unless
    its scheduler is in *anew*, and what is run is added.
    """
    lines = kept.read_text(encoding="utf-8").splitlines() if kept is not None and kept.exists() else []
    have = {(entry["load"], entry["name"]): entry for entry in map(json.loads, lines)}
    names = [BASE, *(name for name in scheduler.names() if name != BASE)]
    wanted = [(share, name) for name in names for share in loads]
    missing = [which for which in wanted if which not in have or which[1] in anew]
    rate = saturated_rate() if missing else math.nan
    for share, name in missing:
        have[share, name] = {
            "load": share,
            "name": name,
            "rate": rate,
            **figures(run(name, share * rate, replications)),
        }
        if kept is not None:
            kept.write_text("".join(json.dumps(entry) + "\n" for entry in have.values()), encoding="utf-8")
        told(f"{name} at {share:g}")
    return {which: have[which] for which in wanted}


def difference(one: Sequence[float] | FloatArray, other: Sequence[float] | FloatArray) -> Difference | None:
    """*one* less *other*, paired by replication; None where one lies beyond what was seen in some replication, or there is
    one replication only.
    """
    if len(one) < 2 or not (np.isfinite(one).all() and np.isfinite(other).all()):
        return None
    each = np.subtract(one, other)
    half = t_quantile(0.975, len(each) - 1) * float(each.std(ddof=1)) / math.sqrt(len(each))
    return Difference(float(each.mean()), half)


def winners(runs: Runs, metric: Metric, share: float) -> list[str]:
    """The best scheduler by *metric* at load *share*, then those whose difference from it may be zero, the nearest first;
    none that lies beyond what was seen in some replication. Empty when all do.
    """
    sign = 1 if metric.lower_is_better else -1
    means = {
        name: sign * float(np.mean(each[metric.key]))
        for (at, name), each in runs.items()
        if at == share and np.isfinite(each[metric.key]).all()
    }
    ranked = sorted(means, key=lambda name: means[name])
    alike = []
    for name in ranked[1:]:
        found = difference(runs[share, name][metric.key], runs[share, ranked[0]][metric.key])
        if found is not None and not found.clear:
            alike.append(name)
    return [*ranked[:1], *alike]


def same(runs: Runs, name: str) -> bool:
    """Whether scheduler *name* equals the base in every metric of every replication."""
    return all(
        each[metric.key] == runs[share, BASE][metric.key]
        for (share, other), each in runs.items()
        if other == name
        for metric in METRICS
    )
