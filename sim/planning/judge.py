"""Are the targets met? Decided from replications, with the confidence that was asked for.

A target says that at least a share p of the queries is in time. Its share is measured in every replication. The
bounds of the true share are the wider of two: Student's t on the replications' shares, the replication being the
independent unit; and the exact binomial bound of Clopper and Pearson (Biometrika 26, 1934) on as many queries as all
of them are worth when queries of one run are alike (`sim.planning.evidence.design_effect`), which still knows something when no
query was late.

All targets *meet*: each lower bound is at or above its p (an intersection-union test: no correction needed), and the
runs were long enough to tell: with their warm-up they span at least `SPANS` times as many queries as are worth
one independent query, so that they have forgotten that they began empty; and where the traffic is steady the
backlog grows by at most `DRIFT` of the queries that arrive, at the confidence asked (neither is asked of traffic that ends
of itself, such as a trace, of which a run is all there is). One *misses*: its upper
bound is below p, corrected for the number of targets (Bonferroni). Otherwise undecided, and more and longer
replications are run; the error allowed is shared out equally among the looks, so that looking often does not raise it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sim.metrics.intervals import t_quantile
from sim.planning.evidence import INDEPENDENT, DesignEffect, design_effect, drift, upper

SPANS = 20
"""Independent spells that a replication must span, its warm-up counted, before it can show that a target is met."""
DRIFT = 0.05
"""Growth of the backlog, as a part of the arriving queries, that a window must be able to rule out."""
MANY = 100_000
"""Replications beyond which it is not said how many would be needed."""

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
    effect: DesignEffect = INDEPENDENT
    """Queries that are worth one independent query: how much alike those of one run are."""

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

    drift: float | None = None
    """Upper bound of the backlog's growth, as a part of the arriving queries; None: not judged."""
    needs_replications: int | None = None
    """Undecided: so many more replications, as long as these, would show that the targets are met if they are as the
    estimate has them; None: no number would, or none is missing."""
    needs_queries: int | None = None
    """Undecided: queries that a window must have at least, to be long enough."""

    @property
    def meets(self) -> bool:
        return self.state == "meets"

    @property
    def deciding(self) -> TargetShare:
        """The target with the least to spare."""
        return min(self.targets, key=lambda target: target.margin)

    @property
    def estimate_meets(self) -> bool:
        """Whether the targets are met by the estimates."""
        return bool(self.targets) and all(target.share >= target.asked - 1e-12 for target in self.targets)


def judge(records: Sequence[Mapping[str, Any]], *, confidence: float, looks: int = 1) -> Judgement:
    """Judge the finished *records* of one configuration's replications; *looks* is how often this may be asked
    with more of them."""
    finished = [record for record in records if record["state"] == "done"]
    if not finished:
        return Judgement("misses", False, False, (), 0, confidence, True)
    done = [record["summary"] for record in finished]
    evidence = [record["evidence"] for record in finished]
    alpha = (1 - confidence) / looks
    count = len(done[0]["slo"]["targets"])
    effects = [_effect(finished, index) for index in range(count)]
    targets = tuple(
        _pooled([summary["slo"]["targets"][index] for summary in done], effects[index], alpha, alpha / max(count, 1))
        for index in range(count)
    )
    overloaded = 2 * sum(summary["verdict"] == "overloaded" for summary in done) > len(done)
    saturated = 2 * sum(summary["verdict"] != "stable" for summary in done) > len(done)
    growth = upper(drift(evidence), 1 - confidence) if all(each["steady"] for each in evidence) else None
    wanted = _queries_wanted(evidence, growth, targets)
    state: State = "undecided"
    if overloaded or any(target.high < target.asked for target in targets):
        state = "misses"
    elif wanted is None and all(target.low >= target.asked for target in targets):
        state = "meets"
    more = _more(done, targets, alpha) if state == "undecided" else None
    return Judgement(
        state,
        overloaded,
        saturated,
        targets,
        len(done),
        confidence,
        state != "undecided",
        drift=growth,
        needs_replications=more,
        needs_queries=wanted if state == "undecided" else None,
    )


def settle(judgement: Judgement) -> Judgement:
    """An undecided judgement decided by its estimates; marked as not certain."""
    if judgement.state != "undecided":
        return judgement
    return replace(judgement, state="meets" if judgement.estimate_meets else "misses", certain=False)


def _effect(finished: Sequence[Mapping[str, Any]], index: int) -> DesignEffect:
    """The design effect of a target. Of tokens no more than the queries are known, and those of one are taken for one."""
    known: list[Mapping[str, Any] | None] = [record["evidence"]["targets"][index] for record in finished]
    if any(each is None for each in known):
        tokens = sum(int(record["summary"]["slo"]["targets"][index]["n"]) for record in finished)
        queries = sum(int(record["evidence"]["queries"]) for record in finished)
        return DesignEffect(max(1.0, tokens / max(queries, 1)))
    return design_effect(known)


def _queries_wanted(
    evidence: Sequence[Mapping[str, Any]], growth: float | None, targets: Sequence[TargetShare]
) -> int | None:
    """Queries that a window must have for its run to be long enough; None where it is, or where none could be longer."""
    if all(each["ends"] for each in evidence):
        return None
    queries = min(each["queries"] for each in evidence)
    before = min(each["queries_before"] for each in evidence)
    worst = max((target.effect.value for target in targets), default=1.0)
    wanted = math.ceil(SPANS * worst) - before
    if growth is not None and growth > DRIFT:
        # a bound that noise keeps up shrinks at least with the length; a backlog that grows stays
        wanted = max(wanted, math.ceil(queries * min(max(growth / DRIFT, 1.25), 8.0)))
    return wanted if wanted > queries else None


def _more(done: Sequence[Mapping[str, Any]], targets: Sequence[TargetShare], alpha: float) -> int | None:
    """Replications beyond those *done* after which every lower bound would reach what is asked, were all shares as
    estimated."""
    count = len(done)

    def shown(replications: int) -> bool:
        for index, target in enumerate(targets):
            shares = [_share(summary["slo"]["targets"][index]) for summary in done]
            if target.share <= target.asked or not target.n:
                return False
            scale = replications / count
            low = _binomial_low(target.share, target.effect.worth(target.n * scale, alpha), alpha)
            if count > 1:
                low = min(low, target.share - _spread(shares) * _t(alpha, replications) / math.sqrt(replications))
            if low < target.asked:
                return False
        return True

    if shown(count) or not shown(MANY):
        return None
    low, high = count, MANY
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if shown(middle) else (middle, high)
    return high - count


def _share(entry: Mapping[str, Any]) -> float:
    return 0.0 if entry["share"] is None else float(entry["share"])


def _pooled(entries: Sequence[Mapping[str, Any]], effect: DesignEffect, below: float, above: float) -> TargetShare:
    shares = [_share(entry) for entry in entries]
    sizes = [int(entry["n"]) for entry in entries]
    n = sum(sizes)
    share = math.fsum(s * k for s, k in zip(shares, sizes, strict=True)) / n if n else 0.0
    low, high = bounds(shares, sizes, share, below, above, effect)
    first = entries[0]
    return TargetShare(
        first["metric"], first["percentile"], first["target"], first["category"], share, low, high, n, effect
    )


def bounds(
    shares: Sequence[float],
    sizes: Sequence[int],
    share: float,
    below: float,
    above: float,
    effect: DesignEffect = INDEPENDENT,
) -> tuple[float, float]:
    """One-sided bounds of the true share: it lies under the first with probability *below* at most, over the
    second with probability *above* at most. *effect* says how many queries are worth one independent query."""
    n = sum(sizes)
    if n == 0:
        return 0.0, 1.0
    low = _binomial_low(share, effect.worth(n, below), below)
    high = 1 - _binomial_low(1 - share, effect.worth(n, above), above)
    count = len(shares)
    if count > 1:
        error = _spread(shares) / math.sqrt(count)
        low = min(low, share - _t(below, count) * error)
        high = max(high, share + _t(above, count) * error)
    return max(low, 0.0), min(high, 1.0)


def _binomial_low(share: float, n: float, error: float) -> float:
    """Lower bound of Clopper and Pearson after a *share* of *n*, which need not be whole."""
    from scipy.special import betaincinv

    hits = min(max(share * n, 0.0), n)
    return float(betaincinv(hits, n - hits + 1, error)) if hits > 0 else 0.0


def _spread(shares: Sequence[float]) -> float:
    """Standard deviation between replications."""
    mean = math.fsum(shares) / len(shares)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in shares) / (len(shares) - 1))


def _t(error: float, count: int) -> float:
    return t_quantile(1 - error, count - 1)
