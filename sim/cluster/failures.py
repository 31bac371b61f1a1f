"""What goes wrong, and what is done on purpose: crashes, outages with notice, rolling restarts.

All of it ends in three verbs of `sim.cluster.fleet`: crash, drain, start. Times between failures and times to
repair are exponential, each replica with a stream of its own, so that another replica more shifts nobody's
failures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from sim.cluster.clock import FAILURE, Clock
from sim.rng import Streams

if TYPE_CHECKING:
    from calibration.step_cost import StepCost
    from sim.cluster.fleet import Fleet

    Costs = Callable[[int, float], StepCost]


@dataclass(frozen=True)
class Outage:
    """Replica *index* is gone from *at_ps* on for *for_ps* (None: for good).

    With *notice_ps* it takes no new requests so long before, as a spot instance that is about to be
    reclaimed.
    """

    index: int
    at_ps: int
    for_ps: int | None = None
    notice_ps: int = 0


@dataclass(frozen=True)
class RollingRestart:
    """From *at_ps* on every replica in turn is drained, is down for *down_ps*, and comes back before the
    next one goes.
    """

    at_ps: int
    down_ps: int


@dataclass(frozen=True)
class Slowdown:
    """Replica *index* is a straggler from *at_ps* on for *for_ps* (None: to the end): every step takes *factor* times as
    long. Where several overlap, their factors multiply."""

    index: int
    factor: float
    at_ps: int = 0
    for_ps: int | None = None

    def holds(self, now_ps: int) -> bool:
        """Whether it holds for steps planned at *now_ps*."""
        return self.at_ps <= now_ps and (self.for_ps is None or now_ps < self.at_ps + self.for_ps)


@dataclass(frozen=True)
class Failures:
    """All that befalls the replicas of a run."""

    outages: tuple[Outage, ...] = ()
    mtbf_ps: int | None = None
    """Mean time between crashes of a replica that is on; None: it does not crash by itself."""
    mttr_ps: int = 0
    """Mean time to repair after such a crash."""
    restart: RollingRestart | None = None
    slowdowns: tuple[Slowdown, ...] = ()
    max_retries: int = 3
    """How often a request that lost its replica is sent again before it fails for the client."""


class Mishaps:
    """Sets the alarms of *failures* on the replicas of *fleet*."""

    def __init__(
        self,
        clock: Clock,
        fleet: Fleet,
        failures: Failures,
        streams: Streams,
        costs: Costs | None = None,
    ) -> None:
        """*costs* says what the steps of a replica cost at a factor; needed where there are slow-downs."""
        assert costs is not None or not failures.slowdowns, "slow-downs need costs"
        self._costs = costs
        self._clock = clock
        self._fleet = fleet
        self._failures = failures
        self._streams = streams
        self._generators = [
            streams.generator("failures", index) for index in range(len(fleet)) if failures.mtbf_ps is not None
        ]

    def start(self) -> None:
        """Set the first alarms."""
        clock, fleet = self._clock, self._fleet
        for number, outage in enumerate(self._failures.outages):
            order = outage.index + (number + 1) * len(fleet)  # several may hit one replica at one instant
            if outage.notice_ps:
                at_ps = max(outage.at_ps - outage.notice_ps, clock.now_ps)
                clock.at(at_ps, FAILURE, -1 - order, partial(fleet.drain, outage.index, None))
            clock.at(outage.at_ps, FAILURE, order, partial(self._outage, outage, order))
        for index in range(len(self._generators)):
            self._next_crash(index)
        self._start_slowdowns()
        if self._failures.restart is not None:
            clock.at(self._failures.restart.at_ps, FAILURE, -1, partial(self._restart, 0))

    def _outage(self, outage: Outage, order: int) -> None:
        taken = self._fleet.is_on(outage.index)
        self._fleet.crash(outage.index)
        if outage.for_ps is not None and taken:
            back_ps = self._clock.now_ps + outage.for_ps
            self._clock.at(back_ps, FAILURE, order, partial(self._fleet.start, outage.index))

    # ------------------------------------------------------------------ stragglers

    def _start_slowdowns(self) -> None:
        clock, slowdowns = self._clock, self._failures.slowdowns
        if not slowdowns:
            return
        self._fleet.renewed = self._set_pace
        size = (2 * len(slowdowns) + len(self._failures.outages) + 2) * len(self._fleet)
        for number, slow in enumerate(slowdowns):
            order = size + 2 * number * len(self._fleet) + slow.index  # after crashes and repairs of the instant
            clock.at(slow.at_ps, FAILURE, order, partial(self._set_pace, slow.index))
            if slow.for_ps is not None:
                end_ps = slow.at_ps + slow.for_ps
                clock.at(end_ps, FAILURE, order + len(self._fleet), partial(self._set_pace, slow.index))

    def _set_pace(self, index: int) -> None:
        now_ps, factor = self._clock.now_ps, 1.0
        for slow in self._failures.slowdowns:
            if slow.index == index and slow.holds(now_ps):
                factor *= slow.factor
        assert self._costs is not None
        self._fleet.slow(index, self._costs(index, factor))

    # ------------------------------------------------------------------ by chance

    def _next_crash(self, index: int) -> None:
        mtbf_ps = self._failures.mtbf_ps
        assert mtbf_ps is not None
        delay_ps = max(1, round(self._generators[index].exponential(mtbf_ps)))
        self._clock.at(self._clock.now_ps + delay_ps, FAILURE, index, partial(self._crash, index))

    def _crash(self, index: int) -> None:
        if self._fleet.is_on(index):
            self._fleet.crash(index)
            repair_ps = max(1, round(self._generators[index].exponential(self._failures.mttr_ps or 1)))
            self._clock.at(self._clock.now_ps + repair_ps, FAILURE, index, partial(self._repaired, index))
        else:
            self._next_crash(index)

    def _repaired(self, index: int) -> None:
        self._fleet.start(index)
        self._next_crash(index)

    # ------------------------------------------------------------------ on purpose

    def _restart(self, index: int) -> None:
        fleet = self._fleet
        while index < len(fleet) and not (fleet.is_on(index) and self._stays(index)):
            index += 1
        if index < len(fleet):
            fleet.drain(index, partial(self._down, index))

    def _stays(self, index: int) -> bool:
        """It serves, and would go on: one that starts has a fresh engine, and one that drains is going anyway."""
        return not (self._fleet.is_starting(index) or self._fleet.is_draining(index))

    def _down(self, index: int) -> None:
        restart = self._failures.restart
        assert restart is not None
        losses = self._fleet.losses
        if losses and losses[-1] == (
            self._clock.now_ps,
            index,
        ):  # lost before it was empty: whoever repairs it starts it
            self._restart(index + 1)
            return
        self._clock.at(self._clock.now_ps + restart.down_ps, FAILURE, -1, partial(self._up, index))

    def _up(self, index: int) -> None:
        self._fleet.start(index)
        self._restart(index + 1)
