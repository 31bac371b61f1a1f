"""Which replicas are on: crash, drain, start, and for how long each one's GPUs were paid for.

A replica is *on* and takes requests, is *draining* (on, but takes none), or is *off*. A crash loses
everything: requests on it are sent again elsewhere, without their KV. A drain loses nothing: requests that
still wait for their first step go elsewhere, the others finish, and the GPUs are paid for until then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from sim.cluster.clock import FAILURE, Alarm, Clock
from sim.cluster.shell import Engine, Shell

if TYPE_CHECKING:
    from calibration.step_cost import StepCost
    from sim.cluster.gateway import Gateway

Drained = Callable[[], None]


class Fleet:
    """The replicas of a run and their coming and going.

    *makers* build a fresh engine for each replica; an engine that was lost is never used again. *off* lists
    the replicas that are off at the beginning.
    """

    def __init__(
        self,
        clock: Clock,
        gateway: Gateway,
        shells: Sequence[Shell],
        makers: Sequence[Callable[[], Engine]],
        off: Sequence[int] = (),
    ) -> None:
        self._clock = clock
        self._gateway = gateway
        self._shells = shells
        self._makers = makers
        self._on_since: list[int | None] = [0] * len(shells)
        self._intervals: list[list[tuple[int, int]]] = [[] for _ in shells]
        self._draining: dict[int, Drained | None] = {}
        self._spare: set[int] = set()
        self._starting: dict[int, Alarm] = {}
        self.renewed: Callable[[int], None] | None = None
        """Told of each replica that has a fresh engine."""
        self.lost: Callable[[int, int], None] | None = None
        """Told of each replica that is lost or switched off, and when."""
        self.crashes = 0
        self.losses: list[tuple[int, int]] = []
        """(time, replica) of each crash."""
        self.boots: list[tuple[int, int, int]] = []
        """(replica, ordered, ready or given up) of each cold start."""
        for index in off:
            self._on_since[index] = None
            shells[index].on = shells[index].accepting = False
        gateway.dispatch.emptied = self._emptied

    def __len__(self) -> int:
        return len(self._shells)

    def is_on(self, index: int) -> bool:
        """Its GPUs are paid for, draining or not."""
        return self._on_since[index] is not None

    def is_draining(self, index: int) -> bool:
        """It finishes what it has and takes nothing new."""
        return index in self._draining

    def is_spare(self, index: int) -> bool:
        """It drains because nobody needs it: it may be taken back, unlike one that is about to be lost or restarted."""
        return index in self._spare

    def is_starting(self, index: int) -> bool:
        """It was ordered and is not there yet."""
        return index in self._starting

    def on_ps(self, index: int, start_ps: int, end_ps: int) -> int:
        """How long replica *index* was on between two times."""
        intervals = list(self._intervals[index])
        since_ps = self._on_since[index]
        if since_ps is not None:
            intervals.append((since_ps, end_ps))
        return sum(max(0, min(end, end_ps) - max(start, start_ps)) for start, end in intervals)

    def changes(self) -> list[tuple[int, int, int]]:
        """(time, replica, +1 or -1) whenever one went on or off, in order of time; who came back and was taken off in one
        instant did neither."""
        found = []
        for index, intervals in enumerate(self._intervals):
            for start, end in intervals:
                if end > start:
                    found += [(start, index, 1), (end, index, -1)]
            since_ps = self._on_since[index]
            if since_ps is not None:
                found.append((since_ps, index, 1))
        return sorted(found)

    # ------------------------------------------------------------------ the three verbs

    def crash(self, index: int) -> None:
        """Replica *index* is lost with all that was on it; nothing happens when it is off."""
        if index in self._starting:
            self.abandon(index)
            return
        if not self.is_on(index):
            return
        self.crashes += 1
        self.losses.append((self._clock.now_ps, index))
        then = self._draining.get(index)
        self._off(index)
        self._gateway.retries.lost(index)
        self._gateway.dispatch.membership_changed()
        if then is not None:
            then()  # who waits for its end need not wait any longer

    def drain(self, index: int, then: Drained | None, *, spare: bool = False) -> None:
        """Replica *index* takes nothing new, and goes off when it is empty or lost; *then* is called at that moment.

        With *then* None it stays on when empty, and merely takes nothing. A *spare* one is not needed, and may be
        taken back as long as it drains.
        """
        shell = self._shells[index]
        if index in self._starting:
            self.abandon(index)
        if not self.is_on(index):
            return
        self._spare.discard(index)
        if then is None and self._draining.get(index) is not None:
            return  # it drains already, and somebody waits for its end
        self._draining[index] = then
        if spare:
            self._spare.add(index)
        shell.accepting = False
        self._gateway.dispatch.membership_changed()
        self._gateway.retries.move_waiting(index)
        if not self._gateway.dispatch.outstanding[index]:
            self._emptied(index)

    def start(self, index: int) -> None:
        """Replica *index* is on again, empty; one that drains takes requests again."""
        shell = self._shells[index]
        self._draining.pop(index, None)
        self._spare.discard(index)
        if index in self._starting:
            return
        if not self.is_on(index):
            self._on_since[index] = self._clock.now_ps
            self._renew(index)
        shell.accepting = True
        self._gateway.dispatch.membership_changed()

    def boot(self, index: int, delay_ps: int) -> None:
        """Order replica *index*: paid for from now on, there after *delay_ps*."""
        if self.is_on(index):
            return
        self._on_since[index] = self._clock.now_ps
        at_ps = self._clock.now_ps + delay_ps
        self._starting[index] = self._clock.at(at_ps, FAILURE, index, partial(self._booted, index))

    def abandon(self, index: int) -> None:
        """Replica *index*, which is starting, is not wanted any more."""
        alarm = self._starting.pop(index, None)
        if alarm is not None:
            self._clock.unset(alarm)
            self._booted_after(index)
            self._close(index)

    def _booted(self, index: int) -> None:
        if self._starting.pop(index, None) is not None:
            self._booted_after(index)
            self._renew(index)
            self._shells[index].accepting = True
            self._gateway.dispatch.membership_changed()

    def _renew(self, index: int) -> None:
        self._shells[index].renew(self._makers[index]())
        if self.renewed is not None:
            self.renewed(index)

    def slow(self, index: int, cost: StepCost) -> None:
        """Replica *index* computes at *cost* from now on."""
        self._shells[index].use_cost(cost)

    def _booted_after(self, index: int) -> None:
        since_ps = self._on_since[index]
        assert since_ps is not None
        self.boots.append((index, since_ps, self._clock.now_ps))

    def finish(self) -> None:
        """The run is over: cold starts under way end here."""
        for index in sorted(self._starting):
            self._booted_after(index)

    def _close(self, index: int) -> None:
        since_ps = self._on_since[index]
        assert since_ps is not None
        self._intervals[index].append((since_ps, self._clock.now_ps))
        self._on_since[index] = None

    def _off(self, index: int) -> None:
        self._close(index)
        self._draining.pop(index, None)
        self._spare.discard(index)
        self._shells[index].lose()
        if self.lost is not None:
            self.lost(index, self._clock.now_ps)

    def _emptied(self, index: int) -> None:
        then = self._draining.get(index)
        if then is not None:
            self._off(index)
            self._gateway.retries.lost(index)  # only what was cancelled and still had a step to end
            then()
