"""How many replicas a candidate needs: bracketing and bisection on simulated answers, many candidates side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sim.planning.bench import Asked, Bench
from sim.planning.design import Bill, Candidate, Sizes, bill, by_arithmetic, with_rate
from sim.planning.point import NEUTRAL, Twist, content
from sim.planning.pooled import pooled
from sim.planning.search import drive_all, fewest_of_each

if TYPE_CHECKING:
    from sim.scenario.model import Scenario
    from sim.scenario.plan import Plan

SCREEN, HALVE = 1, 3
"""Replications of a first look, and of a second one or of a what-if."""

Say = Callable[[str], None]


@dataclass
class Sized:
    """A candidate with the replicas it needs, as known so far; None: none within the limits meets."""

    candidate: Candidate
    sizes: Sizes | None = None
    cost: Bill | None = None
    stage: str = ""
    reason: str = ""

    @property
    def usd(self) -> float:
        return self.cost.usd_per_hour if self.cost is not None else math.inf


def _no_more_than(known: int, guess: int, costs: Sequence[float]) -> Generator[Sizes, bool, Sizes | None]:
    """The fewest replicas of one pool of which *known* are enough."""
    if known == 1:
        return (1,)
    fewer = yield from fewest_of_each((1,), max(guess, 1), known - 1, costs)
    return fewer if fewer is not None else (known,)


@dataclass
class Sizer:
    """Sizes candidates at multiples of the traffic and under changed assumptions."""

    bench: Bench
    plan: Plan
    base: Scenario
    found: list[Sized]
    say: Say
    rate: float = 0.0
    """Queries a second of the plan."""
    _bills: dict[str, Bill] = field(default_factory=dict)

    def bill(self, scenario: Scenario) -> Bill:
        """What a configuration costs, whole nodes or not as the plan has it."""
        key = content(scenario)
        if key not in self._bills:
            self._bills[key] = bill(scenario, whole_nodes=self.plan.whole_nodes)
        return self._bills[key]

    def size(
        self,
        who: Sequence[Sized],
        *,
        exactly: int | None,
        twist: Twist = NEUTRAL,
        factor: float = 1.0,
        harder: bool | None = None,
    ) -> list[Sizes | None]:
        """The fewest replicas of each of *who*, all searched side by side.

        *harder* says that nothing that missed as things are can meet now (True), or that everything that met
        still does (False): one pool's search then begins where it ended before.
        """
        searches: list[Generator[Sizes, bool, Sizes | None]] = []
        for sized in who:
            scenario = sized.candidate.scenario
            assert scenario is not None
            scale = sized.candidate.scale
            counts = [scenario.pools[pool].replicas for pool in scale]
            common = math.gcd(*counts)
            weights = tuple(count // common for count in counts)
            guess = self._guess(sized, weights, factor)
            most = max(1, self.plan.max_replicas // max(weights))
            if self.plan.max_gpus is not None:
                most = min(most, self._within(sized.candidate, weights, most))
            costs = [bill(sized.candidate.sized((1,) * len(scale)), whole_nodes=False).usd_per_hour] * len(scale)
            known = sized.sizes[0] if sized.sizes is not None and len(scale) == 1 else None
            if known is None or harder is None:
                searches.append(fewest_of_each(weights, guess, most, costs))
            elif harder:
                searches.append(fewest_of_each(weights, max(guess, known), max(most, known), costs, least=known))
            else:
                searches.append(_no_more_than(known, min(guess, known - 1), costs))

        def test(batch: list[tuple[int, Sizes]]) -> list[bool]:
            wanted = [self.asked(who[number].candidate, sizes, twist=twist, factor=factor) for number, sizes in batch]
            return [judgement.meets for judgement in self.bench.judge(wanted, exactly=exactly)]

        return drive_all(searches, test)

    def _guess(self, sized: Sized, weights: Sizes, factor: float) -> int:
        if sized.sizes is not None:
            return max(1, math.ceil(factor * max(n / w for n, w in zip(sized.sizes, weights, strict=True))))
        scenario = sized.candidate.scenario
        assert scenario is not None
        return by_arithmetic(scenario, sized.candidate.scale[0], self.rate * factor)

    def _within(self, candidate: Candidate, weights: Sizes, most: int) -> int:
        assert self.plan.max_gpus is not None
        low, high = 1, most
        while low < high:
            middle = (low + high + 1) // 2
            sizes = tuple(middle * weight for weight in weights)
            if self.bill(candidate.sized(sizes)).paid_gpus <= self.plan.max_gpus:
                low = middle
            else:
                high = middle - 1
        return low

    def asked(
        self,
        candidate: Candidate,
        sizes: Sizes,
        *,
        twist: Twist = NEUTRAL,
        factor: float = 1.0,
    ) -> Asked:
        """A configuration of a candidate, at a multiple of the traffic, under an assumption."""
        scenario = candidate.sized(sizes)
        if factor != 1.0:
            scenario = with_rate(scenario, self.rate * factor)
        return Asked(scenario, twist, candidate.name, sizes, factor)

    def stage(self, who: Sequence[Sized], name: str, exactly: int | None) -> None:
        """Size *who* once more, and note what it costs."""
        for sized, sizes in zip(who, self.size(who, exactly=exactly), strict=True):
            sized.sizes, sized.stage = sizes, name
            if sizes is None:
                sized.reason = self._why_none(sized)
            elif too_wrong := self._too_wrong(sized, sizes):
                sized.sizes, sized.reason = None, too_wrong
            sized.cost = None if sized.sizes is None else self.bill(sized.candidate.sized(sized.sizes))

    def _too_wrong(self, sized: Sized, sizes: Sizes) -> str:
        """Why a candidate that meets the targets answers too little right, as simulated; empty where it does not."""
        scenario, least = sized.candidate.scenario, self.plan.min_accuracy
        if least is None or sized.candidate.accuracy is not None or scenario is None or scenario.quality is None:
            return ""
        records = self.bench.answer(self.asked(sized.candidate, sizes)).records
        accuracy = pooled(records, self.bench.runner.store).get("accuracy")
        if accuracy is None or accuracy >= least:
            return ""
        return f"{accuracy:.1%} of its answers are right, at least {least:.1%} is asked"

    def _why_none(self, sized: Sized) -> str:
        mine = [a for a in self.bench.answers.values() if a.asked.label == sized.candidate.name and a.asked.sizes]
        if not mine:
            return "no size within the limits meets the targets"
        largest_ = max(mine, key=lambda answer: sum(answer.asked.sizes))
        failed = next((r["error"] for r in largest_.records if r["state"] == "failed"), "")
        if failed:
            return f"failed: {failed}"
        judgement, n = largest_.judgement, "+".join(map(str, largest_.asked.sizes))
        if judgement.overloaded:
            return f"overloaded with {n} replicas, the most that the plan allows"
        target = judgement.deciding
        if judgement.state == "undecided":
            return f"undecided with {n} replicas, the most that the plan allows"
        return (
            f"with {n} replicas {target.share:.1%} keep to {target.metric} {target.target:g} s, "
            f"{target.asked:.1%} are asked"
        )
