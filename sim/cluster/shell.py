"""One replica in the cluster: its engine, the alarm that says when its step ends, and whether it takes
requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import TYPE_CHECKING, Any, Protocol

from sim.cluster.clock import COMPLETION, Clock
from sim.cluster.view import Bounds
from sim.engine.request import Request
from sim.policies.routing import ReplicaInfo
from sim.results.columns import Status

if TYPE_CHECKING:
    from calibration.step_cost import StepCost


class Engine(Protocol):
    """What the cluster asks of a replica's engine (`sim.engine`)."""

    def never_fits(self, request: Request) -> str | None: ...
    def submit(self, request: Request, now_ps: int) -> None: ...
    def cancel(self, request: Request, now_ps: int, status: Status) -> bool: ...
    def complete(self, now_ps: int) -> list[Request]: ...
    def plan(self, now_ps: int, quiet_until_ps: int = 0) -> int | None: ...
    def snapshot(self, now_ps: int) -> Any: ...
    def until_plan(self, seen: Any) -> tuple[int, int, int]: ...
    def settle(self, now_ps: int) -> None: ...
    def use_cost(self, cost: StepCost, now_ps: int) -> None: ...
    def land(self, request: Request, now_ps: int) -> None: ...
    def let_go(self, request: Request, now_ps: int) -> None: ...
    @property
    def waiting(self) -> Sized: ...
    @property
    def reservations(self) -> list[tuple[Request, int]]: ...


class Shell:
    """Stands between the clock and one engine.

    Within an instant: `complete` when its step ends, then `submit` and `cancel` as they come, and one `plan`
    at the end if anything of this happened. ``accepting`` says whether the router may choose it.
    """

    __slots__ = (
        "_clock",
        "_ended",
        "_touch",
        "_touched",
        "accepting",
        "alarm",
        "bounds",
        "engine",
        "info",
        "looked",
        "on",
        "order",
    )

    def __init__(self, clock: Clock, engine: Engine, info: ReplicaInfo, ended: Callable[[Request], None]) -> None:
        self._clock = clock
        self.engine = engine
        self.info = info
        self.order = info.index
        self.on = True
        self.accepting = True
        self.looked = False  # a router has looked inside, and what it then knew has its place in …
        self.bounds = Bounds(info.index + 1)  # … which all shells share with the routers' view
        self._ended = ended
        self._touched = False
        self._touch = clock.touch
        self.alarm = clock.alarm(COMPLETION, info.index, self._complete)

    def touch(self) -> None:
        """Plan when the instant is quiet; what is inside may be less from now on."""
        if self.looked:
            self.forget_look()
        if not self._touched:
            self._touched = True
            self._touch(self)

    def forget_look(self) -> None:
        """What a router saw of the inside holds no more."""
        self.looked = False
        self.bounds.forget(self.info.index)

    def submit(self, request: Request) -> None:
        """Give *request* to the engine."""
        info = self.info
        request.pool = info.pool_index
        request.replica = info.replica
        self.engine.submit(request, self._clock.now_ps)
        if self.looked:
            self.forget_look()
        if not self._touched:
            self._touched = True
            self._touch(self)

    def cancel(self, request: Request, status: Status) -> bool:
        """Take *request* back: True when it ended at once, else it comes back when its last step has
        ended.
        """
        self.touch()
        return self.engine.cancel(request, self._clock.now_ps, status)

    def stop(self) -> None:
        """The run is over: the engine books what it has done until now."""
        if self.on:
            self.engine.settle(self._clock.now_ps)

    def use_cost(self, cost: StepCost) -> None:
        """The GPUs of this replica have become slower, or are themselves again."""
        if self.on:
            self.touch()
            self.engine.use_cost(cost, self._clock.now_ps)

    def lose(self) -> None:
        """The replica is gone, and what its engine was doing ends here."""
        self.engine.settle(self._clock.now_ps)
        self._clock.unset(self.alarm)
        self.on = self.accepting = False
        if self.looked:
            self.forget_look()

    def renew(self, engine: Engine) -> None:
        """The replica is back, with an empty engine."""
        self.engine = engine
        self.on = True
        if self.looked:
            self.forget_look()

    def plan(self, now_ps: int, quiet_until_ps: int) -> int | None:
        """What the engine does next; return when that ends."""
        self._touched = False
        if self.looked:
            self.forget_look()
        return self.engine.plan(now_ps, quiet_until_ps) if self.on else None

    def _complete(self) -> None:
        if not self.on:
            return
        clock = self._clock
        ended = self.engine.complete(clock.now_ps)
        if self.looked:
            self.forget_look()
        if not self._touched:
            self._touched = True
            self._touch(self)
        for request in ended:
            self._ended(request)
