"""Asks the simulator whether configurations meet their targets, many at once, and keeps every answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sim.planning.judge import Judgement, judge, settle
from sim.planning.point import NEUTRAL, Task, Twist, content

if TYPE_CHECKING:
    from sim.planning.runs import Record, Runner
    from sim.scenario.model import Scenario

FIRST_LOOK = 3


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
    """Judges configurations with up to *most* replications, at *confidence*."""

    runner: Runner
    confidence: float
    most: int
    answers: dict[tuple[str, Twist], Answer] = field(default_factory=dict)
    """Every configuration ever asked for, with its latest judgement."""

    def looks(self, most: int) -> list[int]:
        """After how many replications a configuration is judged: 3, 6, 12 … up to *most*."""
        found, count = [], min(FIRST_LOOK, most)
        while count < most:
            found.append(count)
            count *= 2
        return [*found, most]

    def judge(self, wanted: Sequence[Asked], *, most: int | None = None, exactly: int | None = None) -> list[Judgement]:
        """Judge configurations side by side: more replications for those that are undecided, up to *most*. With
        *exactly* so many are run, unless the first alone is clear, and the estimate decides."""
        looks = sorted({1, exactly}) if exactly is not None else self.looks(most or self.most)
        judged: dict[int, Judgement] = {}
        for count in looks:
            open_ = [number for number in range(len(wanted)) if number not in judged]
            if not open_:
                break
            tasks = [
                Task(wanted[number].scenario, replication, wanted[number].twist)
                for number in open_
                for replication in range(count)
            ]
            records = self.runner.run(tasks)
            for place, number in enumerate(open_):
                mine = records[place * count : (place + 1) * count]
                found = judge(mine, confidence=self.confidence, looks=len(looks))
                if count == looks[-1] or _clear(found):
                    judged[number] = settle(found) if exactly is not None else found
                    self._keep(wanted[number], judged[number], mine)
        return [judged[number] for number in range(len(wanted))]

    def answer(self, asked: Asked) -> Answer:
        """What was found of a configuration that was judged before."""
        return self.answers[content(asked.scenario), asked.twist]

    def _keep(self, asked: Asked, judgement: Judgement, records: list[Record]) -> None:
        key = content(asked.scenario), asked.twist
        known = self.answers.get(key)
        if known is None or known.judgement.replications <= judgement.replications:
            self.answers[key] = Answer(asked, judgement, records)

    def error_of(self, asked: Asked) -> str:
        """Why points of it failed; empty when none did."""
        failed: list[dict[str, Any]] = [r for r in self.answer(asked).records if r["state"] == "failed"]
        return str(failed[0]["error"]) if failed else ""


def _clear(found: Judgement) -> bool:
    """Whether more replications are not needed. That the backlog grew in one of one says little: the slope of a short
    window is noise, so this alone does not end a look."""
    if found.state == "misses" and found.replications == 1:
        return any(target.high < target.asked for target in found.targets)
    return found.state != "undecided"
