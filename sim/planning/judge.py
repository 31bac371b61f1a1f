"""Are the targets met? Decided from replications, with the confidence that was asked for.

A target says that at least a share p of the queries is in time. Its share is measured in every replication. The
bounds of the true share are the wider of two: Student's t on the replications' shares, which knows that
queries of one run are alike; and the exact binomial bound of Clopper and Pearson (Biometrika 26, 1934) on all
queries together, which still knows something when every replication says 100 %.

All targets *meet*: each lower bound is at or above its p (an intersection-union test: no correction needed). One
*misses*: its upper bound is below p, corrected for the number of targets (Bonferroni). Otherwise undecided, and
more replications are run; the error allowed is shared out equally among the looks, so that looking often does
not raise it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sim.metrics.intervals import t_quantile

State = Literal["meets", "misses", "undecided"]


@dataclass(frozen=True)
class TargetShare:
    """One target over all replications."""

    metric: str
    percentile: float
    target: float
    category: str | None
    share: float
    low: float
    high: float
    n: int

    @property
    def asked(self) -> float:
        """The share that must be in time."""
        return self.percentile / 100

    @property
    def margin(self) -> float:
        """Share in time beyond what is asked, as a part of what may be late; negative: missed."""
        return (self.share - self.asked) / max(1 - self.asked, 1e-9)


@dataclass(frozen=True)
class Judgement:
    """What replications of one configuration say of its targets."""

    state: State
    overloaded: bool
    """The backlog grows in most replications: the configuration cannot sustain the load at all."""
    saturated: bool
    targets: tuple[TargetShare, ...]
    replications: int
    confidence: float
    certain: bool
    """False: decided by the estimate alone, because the replications ran out or a single one was asked for."""

    @property
    def meets(self) -> bool:
        return self.state == "meets"

    @property
    def deciding(self) -> TargetShare:
        """The target with the least to spare."""
        return min(self.targets, key=lambda target: target.margin)


def judge(records: Sequence[Mapping[str, Any]], *, confidence: float, looks: int = 1) -> Judgement:
    """Judge the finished *records* of one configuration's replications; *looks* is how often this may be asked
    with more of them."""
    done = [record["summary"] for record in records if record["state"] == "done"]
    if not done:
        return Judgement("misses", False, False, (), 0, confidence, True)
    alpha = (1 - confidence) / looks
    count = len(done[0]["slo"]["targets"])
    targets = tuple(
        _pooled([summary["slo"]["targets"][index] for summary in done], alpha, alpha / max(count, 1))
        for index in range(count)
    )
    overloaded = 2 * sum(summary["verdict"] == "overloaded" for summary in done) > len(done)
    saturated = 2 * sum(summary["verdict"] != "stable" for summary in done) > len(done)
    state: State = "undecided"
    if overloaded or any(target.high < target.asked for target in targets):
        state = "misses"
    elif all(target.low >= target.asked for target in targets):
        state = "meets"
    return Judgement(state, overloaded, saturated, targets, len(done), confidence, state != "undecided")


def settle(judgement: Judgement) -> Judgement:
    """An undecided judgement decided by its estimates; marked as not certain."""
    if judgement.state != "undecided":
        return judgement
    meets = all(target.share >= target.asked - 1e-12 for target in judgement.targets)
    return Judgement(
        "meets" if meets else "misses",
        judgement.overloaded,
        judgement.saturated,
        judgement.targets,
        judgement.replications,
        judgement.confidence,
        False,
    )


def _pooled(entries: Sequence[Mapping[str, Any]], below: float, above: float) -> TargetShare:
    shares = [0.0 if entry["share"] is None else float(entry["share"]) for entry in entries]
    sizes = [int(entry["n"]) for entry in entries]
    n = sum(sizes)
    share = math.fsum(s * k for s, k in zip(shares, sizes, strict=True)) / n if n else 0.0
    low, high = bounds(shares, sizes, share, below, above)
    first = entries[0]
    return TargetShare(first["metric"], first["percentile"], first["target"], first["category"], share, low, high, n)


def bounds(
    shares: Sequence[float], sizes: Sequence[int], share: float, below: float, above: float
) -> tuple[float, float]:
    """One-sided bounds of the true share: it lies under the first with probability *below* at most, over the
    second with probability *above* at most."""
    from scipy.special import betaincinv

    n = sum(sizes)
    if n == 0:
        return 0.0, 1.0
    hits = min(max(share * n, 0.0), float(n))
    low = float(betaincinv(hits, n - hits + 1, below)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, n - hits, 1 - above)) if hits < n else 1.0
    count = len(shares)
    if count > 1:
        mean = math.fsum(shares) / count
        error = math.sqrt(math.fsum((value - mean) ** 2 for value in shares) / (count - 1) / count)
        low = min(low, share - t_quantile(1 - below, count - 1) * error)
        high = max(high, share + t_quantile(1 - above, count - 1) * error)
    return max(low, 0.0), min(high, 1.0)
