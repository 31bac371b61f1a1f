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
        self._down_until: dict[int, int | None] = {}
        """Of each replica that is down, the end of the longest thing that keeps it so; None: it never comes back."""

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
        back_ps = self._take(outage.index, outage.for_ps)
        if back_ps is not None:
            self._clock.at(back_ps, FAILURE, order, partial(self._back, outage.index))

    def _take(self, index: int, for_ps: int | None) -> int | None:
        """Replica *index* is lost for *for_ps* (None: for good), or down for so long at least if it is down; return when
        somebody must see whether it comes back, if ever. One that nobody wants, or that is off for that, stays off."""
        fleet, down_until = self._fleet, self._down_until
        if fleet.is_on(index):
            wanted = not fleet.is_spare(index)
            fleet.crash(index)
            down_until.pop(index, None)
            if not wanted:
                return None
        elif index not in down_until:
            return None
        return self._keep_down(index, for_ps)

    def _keep_down(self, index: int, for_ps: int | None) -> int | None:
        down_until = self._down_until
        end_ps = None if for_ps is None else self._clock.now_ps + for_ps
        before_ps = down_until.get(index, 0)
        down_until[index] = None if end_ps is None or before_ps is None else max(end_ps, before_ps)
        return end_ps

    def _back(self, index: int) -> None:
        """Something that kept replica *index* down is over: it is there again, unless something else keeps it down."""
        now_ps = self._clock.now_ps
        until_ps = self._down_until.get(index, 0)
        if until_ps is None or until_ps > now_ps:
            return
        self._down_until.pop(index, None)
        if self._fleet.is_on(index):
            return  # an autoscaler has put another machine there
        self._fleet.start(index)
        if any(
            outage.index == index and outage.at_ps - outage.notice_ps <= now_ps < outage.at_ps
            for outage in self._failures.outages
        ):
            self._fleet.drain(index, None)  # its notice came while it was down

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
            repair_ps = max(1, round(self._generators[index].exponential(self._failures.mttr_ps or 1)))
            back_ps = self._take(index, repair_ps)
            if back_ps is not None:
                self._clock.at(back_ps, FAILURE, index, partial(self._repaired, index))
                return
        self._next_crash(index)

    def _repaired(self, index: int) -> None:
        self._back(index)
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
        up_ps = self._keep_down(index, restart.down_ps)
        assert up_ps is not None
        self._clock.at(up_ps, FAILURE, -1, partial(self._up, index))

    def _up(self, index: int) -> None:
        self._back(index)
        self._restart(index + 1)
