"""Asks the simulator whether configurations meet their targets, many at once, and keeps every answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sim.planning.evidence import ends
from sim.planning.judge import Judgement, judge, settle
from sim.planning.point import NEUTRAL, Task, Twist, content

if TYPE_CHECKING:
    from sim.planning.runs import Record, Runner
    from sim.scenario.model import Scenario

FIRST_LOOK = 3


@dataclass(frozen=True)
class Look:
    """So many replications, their windows so many times as long as the scenario states."""

    replications: int
    length: int = 1


@dataclass(frozen=True)
class Asked:
    """A configuration under an assumption."""

    scenario: Scenario
    twist: Twist = NEUTRAL
    label: str = ""
    sizes: tuple[int, ...] = ()
    rate_factor: float = 1.0


@dataclass
class Answer:
    """What was found of it, so far."""

    asked: Asked
    judgement: Judgement
    records: list[Record]


@dataclass
class Bench:
    """Judges configurations with up to *most* replications, windows up to *lengthen* times as long as stated, at
    *confidence*."""

    runner: Runner
    confidence: float
    most: int
    lengthen: int = 8
    answers: dict[tuple[str, Twist], Answer] = field(default_factory=dict)
    """Every configuration ever asked for, with its latest judgement."""

    def looks(self, most: int) -> list[Look]:
        """With how many replications a configuration is judged, and how long each: 3, 6, 12 … up to *most*, each time
        twice as long; then longer and longer, while that is all that is missing."""
        found, count, length = [], min(FIRST_LOOK, most), 1
        while count < most:
            found.append(Look(count, length))
            count, length = count * 2, min(length * 2, self.lengthen)
        found.append(Look(most, length))
        while length < self.lengthen:
            length = min(length * 2, self.lengthen)
            found.append(Look(most, length))
        return found

    def judge(self, wanted: Sequence[Asked], *, most: int | None = None, exactly: int | None = None) -> list[Judgement]:
        """Judge configurations side by side: more and longer replications for those that are undecided. With
        *exactly* so many are run, unless the first alone is clear, and the estimate decides; what is known with
        certainty is not asked again."""
        looks = [Look(count, 1) for count in sorted({1, exactly})] if exactly else self.looks(most or self.most)
        judged: dict[int, Judgement] = {}
        if exactly:
            for number, asked in enumerate(wanted):
                known = self.answers.get((content(asked.scenario), asked.twist))
                if known is not None and known.judgement.certain and known.judgement.replications >= exactly:
                    judged[number] = known.judgement
        for look in looks:
            open_ = [number for number in range(len(wanted)) if number not in judged]
            if not open_:
                break
            longer = {number: lengthened(wanted[number].scenario, look.length) for number in open_}
            tasks = [
                Task(longer[number], replication, wanted[number].twist)
                for number in open_
                for replication in range(look.replications)
            ]
            records = self.runner.run(tasks)
            for place, number in enumerate(open_):
                mine = records[place * look.replications : (place + 1) * look.replications]
                found = judge(mine, confidence=self.confidence, looks=len(looks))
                last = look == looks[-1] or (look.replications == looks[-1].replications and not found.estimate_meets)
                if last or _clear(found):
                    judged[number] = settle(found) if exactly else found
                    self._keep(wanted[number], judged[number], mine)
        return [judged[number] for number in range(len(wanted))]

    def answer(self, asked: Asked) -> Answer:
        """What was found of a configuration that was judged before."""
        return self.answers[content(asked.scenario), asked.twist]

    def _keep(self, asked: Asked, judgement: Judgement, records: list[Record]) -> None:
        key = content(asked.scenario), asked.twist
        known = self.answers.get(key)
        if known is None or queries_of(known.judgement) <= queries_of(judgement):
            self.answers[key] = Answer(asked, judgement, records)

    def error_of(self, asked: Asked) -> str:
        """Why points of it failed; empty when none did."""
        failed: list[dict[str, Any]] = [r for r in self.answer(asked).records if r["state"] == "failed"]
        return str(failed[0]["error"]) if failed else ""


def queries_of(judgement: Judgement) -> int:
    """Measured queries that a judgement is founded on, those of all targets."""
    return sum(target.n for target in judgement.targets)


def lengthened(scenario: Scenario, length: int) -> Scenario:
    """*scenario* with a window of so many times its length, by queries or time as stated; as it is where no length is
    stated, or where the traffic ends of itself."""
    measure, traffic = scenario.measure, scenario.workload
    if length == 1 or ends(traffic):
        return scenario
    if measure.queries is not None:
        change: dict[str, int] = {"queries": measure.queries * length}
    elif measure.duration_ps is not None:
        change = {"duration_ps": measure.duration_ps * length}
    else:
        return scenario
    return scenario.model_copy(update={"measure": measure.model_copy(update=change)})


def _clear(found: Judgement) -> bool:
    """Whether more replications are not needed. That the backlog grew in one of one says little: the slope of a short
    window is noise, so this alone does not end a look."""
    if found.state == "misses" and found.replications == 1:
        return any(target.high < target.asked for target in found.targets)
    return found.state != "undecided"
