"""When queries arrive: one process a class, each giving the arrivals of a block from the state before it.

A process is a pure function of its state: ``step(state, first, count)`` gives the arrivals of queries
``first`` to ``first + count - 1`` and the state after them, so blocks can be made again in any order. The
gap before query i is drawn at coordinate i: another rate stretches the same gaps, it does not redraw them.
Times are summed as integers (picoseconds), so that no cut into blocks can move an arrival.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import special

from sim.errors import ThinkcapError
from sim.rng import Streams
from workloads import arrival_spec as s
from workloads.clock import BentClock, mmpp_clock, profile_clock

FloatArray = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

PS = 10**12
LONGEST_S = 100 * 86_400.0
"""How long a workload may last: int64 holds 106 days of picoseconds."""
_LAST_PS = round(LONGEST_S) * PS


@dataclass(frozen=True)
class Chunk:
    """Arrivals of consecutive queries; *client* is set by processes that decide whose query it is."""

    arrived_ps: Int64Array
    client: npt.NDArray[np.int32] | None = None


class Process(Protocol):
    """A source of arrivals; ``start`` is the state before query 0."""

    total: int | None
    closed_loop: int | None

    def start(self) -> Any: ...

    def step(self, state: Any, first: int, count: int) -> tuple[Chunk, Any]: ...


class TooLate(ThinkcapError, OverflowError):
    """An arrival lies further from the start than result tables can say."""


def to_ps(seconds: FloatArray) -> Int64Array:
    """Seconds as integer picoseconds, rounded once; raise TooLate beyond 100 days."""
    if len(seconds) and float(seconds.max()) * PS > _LAST_PS:
        raise TooLate(
            f"the traffic reaches {float(seconds.max()):.3g} s, more than 100 days: take a higher rate or fewer queries"
        )
    return np.rint(seconds * PS).astype(np.int64)


def weibull_shape(cv: float) -> float:
    """Shape of the Weibull law with coefficient of variation *cv*, by bisection; within 1e-9."""
    low, high = 0.05, 60.0

    def spread(shape: float) -> float:
        one, two = math.lgamma(1 + 1 / shape), math.lgamma(1 + 2 / shape)
        return math.sqrt(math.expm1(two - 2 * one))

    for _ in range(100):
        middle = (low + high) / 2
        if spread(middle) > cv:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _unit_gaps(process: s.Open, u: FloatArray) -> FloatArray:
    """Gaps of mean one at the quantiles *u*."""
    if isinstance(process, s.GammaArrivals):
        shape = process.cv**-2
        return np.asarray(special.gammaincinv(shape, u) / shape)
    if isinstance(process, s.WeibullArrivals):
        shape = weibull_shape(process.cv)
        return np.asarray((-np.log1p(-u)) ** (1 / shape) / math.gamma(1 + 1 / shape))
    if isinstance(process, s.ConstantArrivals):
        return np.ones_like(u)
    return np.asarray(-np.log1p(-u))


class Renewal:
    """Independent gaps (Poisson, Gamma, Weibull, constant), their time bent by states and by the profile."""

    closed_loop: int | None = None
    total: int | None = None

    def __init__(self, process: s.Open, rate: float, streams: Streams) -> None:
        self._process = process
        self._gap_ps = PS / rate
        self._streams = streams
        self._clocks: list[BentClock] = []
        if isinstance(process, s.Mmpp):
            self._clocks.append(mmpp_clock(process, streams))
        if process.profile is not None:
            self._clocks.append(profile_clock(process.profile))

    def start(self) -> int:
        return 0

    def step(self, state: int, first: int, count: int) -> tuple[Chunk, int]:
        gaps = _unit_gaps(self._process, self._streams.uniforms("arrivals", np.arange(first, first + count)))
        if float(gaps.sum()) * self._gap_ps + state > _LAST_PS:
            raise TooLate(f"query {first + count:,} arrives later than 100 days from the start")
        times = state + np.cumsum(np.rint(gaps * self._gap_ps).astype(np.int64))
        return Chunk(_bend(times, self._clocks)), int(times[-1])


class HawkesProcess:
    """Self-exciting arrivals with an exponential kernel, simulated exactly event by event.

    Method: Dassios and Zhao, "Exact simulation of Hawkes process with exponentially decaying intensity",
    ECP 2013. The state is (time, excess of the intensity over its base); it starts at the mean excess.
    """

    closed_loop: int | None = None
    total: int | None = None

    def __init__(self, process: s.Hawkes, rate: float, streams: Streams) -> None:
        self._base = rate * (1.0 - process.branching)
        self._excess = rate * process.branching
        self._decay = 1.0 / process.decay
        self._jump = process.branching * self._decay
        self._streams = streams
        self._clocks = [profile_clock(process.profile)] if process.profile is not None else []

    def start(self) -> tuple[int, float]:
        return 0, self._excess

    def step(self, state: tuple[int, float], first: int, count: int) -> tuple[Chunk, tuple[int, float]]:
        now, excess = state
        ids = np.arange(first, first + count)
        excited = np.log(self._streams.uniforms("arrivals", ids, 0, 1)).tolist()
        plain = (-np.log(self._streams.uniforms("arrivals", ids)) / self._base).tolist()
        decay, jump, log, exp = self._decay, self._jump, math.log, math.exp
        times = np.empty(count, np.int64)
        for i in range(count):
            gap = plain[i]
            if excess > 0.0:
                defect = 1.0 + decay * excited[i] / excess
                if defect > 0.0:
                    gap = min(gap, -log(defect) / decay)
            gap_ps = round(gap * PS)
            now += gap_ps
            times[i] = now
            excess = excess * exp(-decay * gap) + jump
        return Chunk(_bend(times, self._clocks)), (now, excess)


class BurstProcess:
    """Everyone at once, and again every so often."""

    closed_loop: int | None = None

    def __init__(self, process: s.Burst) -> None:
        self._process = process
        self.total: int | None = process.size if process.every is None else None

    def start(self) -> None:
        return None

    def step(self, state: None, first: int, count: int) -> tuple[Chunk, None]:
        rounds = np.arange(first, first + count) // self._process.size
        every_ps = round((self._process.every or 0.0) * PS)
        return Chunk(round(self._process.at * PS) + rounds * every_ps), None


class ClosedLoop:
    """A fixed number of users: what arrives is the pause before each asks again."""

    total: int | None = None

    def __init__(self, process: s.Closed, streams: Streams) -> None:
        self.closed_loop: int | None = process.in_flight
        self._law = process.think_time
        self._streams = streams

    def start(self) -> None:
        return None

    def step(self, state: None, first: int, count: int) -> tuple[Chunk, None]:
        z = self._streams.normals("think_time", np.arange(first, first + count))
        return Chunk(to_ps(self._law.from_normal(z))), None


class RolloutSteps:
    """Queries of a trainer, which comes for them when it can: there are no pauses between."""

    total: int | None = None

    def __init__(self, process: s.RolloutArrivals) -> None:
        self.closed_loop: int | None = process.prompts * (1 + process.max_lag)

    def start(self) -> None:
        return None

    def step(self, state: None, first: int, count: int) -> tuple[Chunk, None]:
        return Chunk(np.zeros(count, np.int64)), None


def _bend(times: Int64Array, clocks: list[BentClock]) -> Int64Array:
    if not clocks:
        return times
    seconds = times / PS
    for clock in clocks:
        seconds = clock.seconds(seconds)
    # Two arrivals a rounding error apart may swap; order is part of the contract.
    return np.maximum.accumulate(to_ps(seconds))


def make_process(arrivals: s.Arrivals, rate: float | None, streams: Streams) -> Process:
    """The process that *arrivals* describes, at *rate* queries per second where it has one."""
    if isinstance(arrivals, s.Closed):
        return ClosedLoop(arrivals, streams)
    if isinstance(arrivals, s.RolloutArrivals):
        return RolloutSteps(arrivals)
    if isinstance(arrivals, s.Burst):
        return BurstProcess(arrivals)
    assert rate is not None, "the spec asks for a rate"
    if isinstance(arrivals, s.Hawkes):
        return HawkesProcess(arrivals, rate, streams)
    return Renewal(arrivals, rate, streams)
