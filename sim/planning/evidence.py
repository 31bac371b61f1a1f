"""What a replication tells of its targets beside the share in time: how late queries cling together, and whether the
backlog still moves.

Queries of one run are alike: whoever comes into a full system is late together with its neighbours. How many
queries are worth one independent query is the *design effect* (Kish, Survey Sampling, 1965): the variance of
the share late, over that of as many independent queries. Late queries are rare, and often there is none to learn
from; queries beyond a part of the limit are not rare, and cling together by the same busy spells. So each target
keeps how many queries of each of `PARTS` equal parts of the window took longer than the limit times each of `LIMITS`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from sim.results.results import Results
    from workloads.spec import WorkloadSpec

FloatArray = npt.NDArray[np.float64]

LIMITS = tuple(2.0 ** (-step / 4) for step in range(13))
"""Parts of the limit, from all of it to an eighth."""
PARTS = 32
"""Equal parts of the window, by queries; a power of two, so that neighbours can be put together."""
FEWEST, MOST = 10, 0.7
"""A limit tells how queries cling together when at least so many queries and at most that share of them exceed it."""
Evidence = Mapping[str, Any]


def evidence(results: Results) -> dict[str, Any]:
    """JSON data of a run of one replication: for each target how many queries of each part exceeded each limit (None
    for a target over tokens), and the number of queries in the system over equal times of the window."""
    from sim.metrics.samples import window_s
    from sim.metrics.slo import PER_QUERY, outcomes
    from sim.metrics.verdict import in_window

    run = results.runs[0]
    targets: list[dict[str, Any] | None] = []
    for target in run.slo:
        if target.metric not in PER_QUERY:
            targets.append(None)
            continue
        values, _ = outcomes(results, target, [run])
        targets.append(exceeded(values / target.target_s))
    queries = results.tables["queries"]
    before = int((queries["arrived_s"] * 1e12 < run.window_start_ps).sum())
    open_loop = run.closed_loop is None and window_s(run) > 0
    return {
        "targets": targets,
        "in_system": in_window(queries, run).tolist() if open_loop else [],
        "window_s": window_s(run),
        "queries": int(queries["in_window"].sum()),
        "queries_before": before,
    }


def ends(workload: WorkloadSpec) -> bool:
    """Whether the traffic ends of itself: then a run of it is all there is, and none could be longer."""
    return workload.trace is not None or workload.queries is not None


def steady(workload: WorkloadSpec) -> bool:
    """Whether the traffic keeps to one rate: no trace, no profile, no day of clients."""
    if workload.trace is not None or workload.profile == "day":
        return False
    if getattr(workload.arrivals, "profile", None) is not None:
        return False
    of_clients = workload.arrivals is None and (workload.clients is not None or workload.preset is not None)
    return not of_clients or workload.rate is not None or workload.profile == "steady"


def exceeded(relative: FloatArray) -> dict[str, Any]:
    """Of queries in the order of their arrival, with what each took over its limit: how many there are in each part of
    the window, and how many of them exceed each of `LIMITS`."""
    parts = PARTS
    while parts > 1 and len(relative) < 4 * parts:
        parts //= 2
    edges = np.arange(parts + 1) * len(relative) // parts
    counts = [np.diff(np.concatenate([[0], np.cumsum(relative > limit)])[edges]).tolist() for limit in LIMITS]
    return {"sizes": np.diff(edges).tolist(), "exceeding": counts}


@dataclass(frozen=True)
class DesignEffect:
    """How many queries are worth one independent query, and how well that is known."""

    value: float = 1.0
    freedom: int | None = None
    """Degrees of freedom that it is estimated with; None: it is given."""

    def worth(self, queries: float, error: float) -> float:
        """Independent queries that *queries* are worth in a bound of probability *error*: n/D, less what not knowing D
        well costs, (t(n - 1)/t(freedom))² (Korn and Graubard, Survey Methodology 24, 1998)."""
        from sim.metrics.intervals import t_quantile

        if queries <= 0:
            return 0.0
        scale = 1.0
        if self.freedom is not None and queries > 2:
            scale = (t_quantile(1 - error, round(queries) - 1) / t_quantile(1 - error, self.freedom)) ** 2
        return queries / self.value * min(scale, 1.0)


INDEPENDENT = DesignEffect()
"""Every query counts."""


def design_effect(replications: Sequence[Evidence | None]) -> DesignEffect:
    """The largest overdispersion (Pearson's X² over its degrees of freedom) of the share beyond any of `LIMITS`, over parts
    of any length from a 32nd of the window to all of it, within and between replications; at least 1."""
    known = [each for each in replications if each is not None and sum(each["sizes"])]
    if not known or len({len(each["sizes"]) for each in known}) > 1:
        return INDEPENDENT
    sizes = np.array([each["sizes"] for each in known], dtype=np.float64)
    exceeding = np.array([each["exceeding"] for each in known], dtype=np.float64).transpose(1, 0, 2)
    total, worst = float(sizes.sum()), INDEPENDENT
    for counts in exceeding:
        share = float(counts.sum()) / total
        if counts.sum() < FEWEST or share > MOST:
            continue
        parts = sizes.shape[1]
        while parts >= 1:
            n = sizes.reshape(len(known), parts, -1).sum(axis=2)
            beyond = counts.reshape(len(known), parts, -1).sum(axis=2)
            if n.size >= 3 and n.min() > 0:
                squares = float((n * (beyond / n - share) ** 2).sum())
                value = squares / (n.size - 1) / (share * (1 - share))
                if value > worst.value:
                    worst = DesignEffect(value, n.size - 1)
            parts //= 2
    return worst


def drift(replications: Sequence[Evidence]) -> list[float]:
    """Of each replication, by how much the backlog grows over the window, as a part of the queries that arrive in it:
    the difference of its later and its earlier half, over half of the window."""
    found = []
    for each in replications:
        series = np.asarray(each["in_system"], dtype=np.float64)
        if len(series) < 2 or not each["queries"]:
            continue
        half = len(series) // 2
        found.append(float(series[half:].mean() - series[:half].mean()) * 2 / each["queries"])
    return found


def upper(values: Sequence[float], error: float) -> float:
    """One-sided bound by Student's t: the mean lies above it with probability *error*; infinite for fewer than two."""
    from sim.metrics.intervals import t_quantile

    if len(values) < 2:
        return math.inf
    mean = math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return mean + t_quantile(1 - error, len(values) - 1) * deviation / math.sqrt(len(values))
