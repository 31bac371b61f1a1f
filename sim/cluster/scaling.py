"""How many replicas of each pool are on: asks the autoscaler now and then, and does what it says within
limits.

A replica that is wanted is first taken from those that drain because they were not needed, then started, which takes
a cold start during which its GPUs are paid for. One that is not wanted any more is drained: waiting requests move,
running ones finish.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from sim.cluster.clock import TICK, Clock
from sim.cluster.dispatch import FIRST_FREE_TICK
from sim.cluster.fleet import Fleet
from sim.cluster.gateway import Gateway
from sim.policies.scaling import Autoscaler, PoolState

PS_PER_S = 1e12


@dataclass(frozen=True)
class Scaling:
    """Autoscaling of one pool; times in picoseconds."""

    pool: str
    autoscaler: Autoscaler
    minimum: int = 1
    maximum: int = 1
    interval_ps: int = 15_000_000_000_000
    cold_start_ps: int = 0
    cooldown_ps: int = 300_000_000_000_000
    """The pool shrinks only when no growth was wanted for so long."""

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= self.maximum or self.interval_ps < 1:
            raise ValueError(f"pool {self.pool}: 0 <= minimum <= maximum and interval_ps > 0 are needed")


def cold_start_ps(weight_bytes: float, bandwidth_bytes_per_s: float, engine_start_s: float) -> int:
    """From the order for a replica to its first request: weights over the link that they are loaded by (each
    GPU's own share, if each has its own link), and the start of the engine."""
    return round((weight_bytes / bandwidth_bytes_per_s + engine_start_s) * PS_PER_S)


class Controller:
    """Keeps one pool at the size that its autoscaler wants."""

    def __init__(self, clock: Clock, gateway: Gateway, fleet: Fleet, scaling: Scaling, number: int) -> None:
        self._clock = clock
        self._gateway = gateway
        self._fleet = fleet
        self._scaling = scaling
        self._members = [shell.info.index for shell in gateway.shells if shell.info.pool == scaling.pool]
        self._alarm = clock.alarm(TICK, FIRST_FREE_TICK + number, self._tick)
        self._grown_ps = 0
        self.decisions: list[tuple[int, int, int]] = []
        """(time, wanted, ready and starting before) of each change."""

    def start(self) -> None:
        """Set the first tick."""
        self._clock.set(self._alarm, self._scaling.interval_ps)

    def _state(self) -> PoolState:
        dispatch, fleet = self._gateway.dispatch, self._fleet
        live, shells = dispatch.live, dispatch.shells
        now_ps = live.now_ps = self._clock.now_ps
        on = [index for index in self._members if fleet.is_on(index)]
        ready = [index for index in on if shells[index].accepting]
        running = [index for index in on if shells[index].on]
        states = {index: live.state(index) for index in running}
        parked = dispatch.parked(self._scaling.pool)
        return PoolState(
            now_s=now_ps / PS_PER_S,
            ready=len(ready),
            starting=sum(fleet.is_starting(index) for index in on),
            outstanding=sum(dispatch.outstanding[index] for index in on) + parked,
            waiting=sum(states[index].waiting for index in running) + parked,
            tokens=sum(live.tokens(index) for index in running),
            kv_use=sum(states[index].kv_use for index in ready) / len(ready) if ready else 0.0,
        )

    def _tick(self) -> None:
        scaling, now_ps = self._scaling, self._clock.now_ps
        state = self._state()
        wanted = min(max(scaling.autoscaler.wanted(state), scaling.minimum), scaling.maximum)
        if wanted >= state.size:
            self._grown_ps = now_ps
        if wanted > state.size:
            self.decisions.append((now_ps, wanted, state.size))
            self._grow(wanted - state.size)
        elif wanted < state.size and now_ps - self._grown_ps >= scaling.cooldown_ps:
            self.decisions.append((now_ps, wanted, state.size))
            self._shrink(state.size - wanted)
        self._clock.set(self._alarm, now_ps + scaling.interval_ps)

    def _grow(self, count: int) -> None:
        fleet = self._fleet
        spare = [index for index in self._members if fleet.is_spare(index)]
        off = [index for index in self._members if not fleet.is_on(index)]
        for index in spare[:count]:
            fleet.start(index)
        for index in off[: max(0, count - len(spare))]:
            fleet.boot(index, self._scaling.cold_start_ps)

    def _shrink(self, count: int) -> None:
        fleet, outstanding = self._fleet, self._gateway.dispatch.outstanding
        starting = [index for index in reversed(self._members) if fleet.is_starting(index)]
        for index in starting[:count]:
            fleet.abandon(index)
        ready = [index for index in self._members if self._gateway.shells[index].accepting]
        ready.sort(key=lambda index: (outstanding[index], -index))
        for index in ready[: max(0, count - len(starting))]:
            fleet.drain(index, partial(_nothing, index), spare=True)


def _nothing(index: int) -> None:
    """A drained replica goes off, and that is all."""
