"""How a uniform flow of time is bent into one whose rate changes: levels of the day, spikes, ramps, random
states.

Arrivals are first placed in operational time, in which traffic has its mean rate, and then moved to where the
cumulated factor reaches that time. Bending moves arrivals closer or apart without redrawing any: bursts stay
bursts, and a busy hour is the quiet hour played faster.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from sim.rng import Streams
from workloads.arrival_spec import Mmpp, Profile

FloatArray = npt.NDArray[np.float64]

Pieces = tuple[FloatArray, FloatArray, FloatArray]
"""Pieces of a factor over time: duration in s, factor at its start, factor at its end (linear between)."""

_RAMP_PARTS = 32
"""A ramp that crosses other changes is cut into so many straight parts, each exact at both ends."""


class BentClock:
    """The map from operational seconds to seconds for a factor given as pieces, one chunk after another.

    *chunk(i)* returns the i-th run of pieces; it is asked for as far as needed, in order, and must go on
    for ever.
    """

    def __init__(self, chunk: Callable[[int], Pieces]) -> None:
        self._chunk = chunk
        self._chunks = 0
        self._starts: list[FloatArray] = []
        self._areas: list[FloatArray] = []
        self._from: list[FloatArray] = []
        self._slope: list[FloatArray] = []
        self._time = 0.0
        self._area = 0.0
        self._joined: tuple[FloatArray, FloatArray, FloatArray, FloatArray] | None = None

    def _extend(self) -> None:
        duration, first, last = self._chunk(self._chunks)
        self._chunks += 1
        area = duration * (first + last) / 2
        self._starts.append(self._time + np.concatenate([[0.0], np.cumsum(duration)[:-1]]))
        self._areas.append(self._area + np.concatenate([[0.0], np.cumsum(area)[:-1]]))
        self._from.append(first)
        self._slope.append((last - first) / duration)
        self._time += float(duration.sum())
        self._area += float(area.sum())
        self._joined = None

    def seconds(self, operational_s: FloatArray) -> FloatArray:
        """When the cumulated factor reaches *operational_s* (rising or not)."""
        end = float(operational_s.max(initial=0.0))
        while self._area <= end:
            self._extend()
        if self._joined is None:
            self._joined = (
                np.concatenate(self._starts),
                np.concatenate(self._areas),
                np.concatenate(self._from),
                np.concatenate(self._slope),
            )
        starts, areas, first, slope = self._joined
        piece = np.searchsorted(areas, operational_s, side="right") - 1
        rest = operational_s - areas[piece]
        # Solve first * x + slope * x**2 / 2 = rest in the form that stays exact as the slope goes to zero.
        root = np.sqrt(np.maximum(first[piece] ** 2 + 2.0 * slope[piece] * rest, 0.0))
        with np.errstate(divide="ignore", invalid="ignore"):
            inside = np.where(rest > 0, 2.0 * rest / (first[piece] + root), 0.0)
        return np.asarray(starts[piece] + inside)


def profile_clock(profile: Profile) -> BentClock:
    """The clock of a *profile*: its levels (scaled to a mean of one) times its spikes and ramps."""
    levels = np.asarray(profile.levels) / np.mean(profile.levels)
    part = profile.period / len(levels)

    def factor(times: FloatArray, side: float) -> FloatArray:
        # Steps take their value from just after (side > 0) or just before (side < 0) the edge.
        near = times + side * 1e-9 * part
        result = levels[np.floor(near / part).astype(np.int64) % len(levels)]
        for spike in profile.spikes:
            inside = (near >= spike.at) & (near < spike.at + spike.lasts)
            result = np.where(inside, result * spike.factor, result)
        for ramp in profile.ramps:
            share = np.clip((times - ramp.begins) / (ramp.ends - ramp.begins), 0.0, 1.0)
            result = result * (ramp.start + (ramp.end - ramp.start) * share)
        return np.asarray(result)

    def chunk(index: int) -> Pieces:
        low, high = index * profile.period, (index + 1) * profile.period
        edges = [low + part * i for i in range(len(levels) + 1)]
        for spike in profile.spikes:
            edges += [spike.at, spike.at + spike.lasts]
        for ramp in profile.ramps:
            edges += np.linspace(ramp.begins, ramp.ends, _RAMP_PARTS + 1).tolist()
        cuts = np.unique([edge for edge in edges if low <= edge <= high])
        cuts = cuts[np.concatenate([[True], np.diff(cuts) > 1e-6 * part])]
        return np.diff(cuts), factor(cuts[:-1], 1.0), factor(cuts[1:], -1.0)

    return BentClock(chunk)


def mmpp_clock(process: Mmpp, streams: Streams) -> BentClock:
    """The clock of a Markov-modulated process: its states in turn, each exponentially long, from a random
    one on."""
    lasts = np.array([state.lasts for state in process.states])
    levels = np.array([state.level for state in process.states])
    levels = levels * lasts.sum() / (levels * lasts).sum()
    draw = float(streams.uniforms("arrivals.first_state", 0)[()])
    first = int(np.searchsorted(np.cumsum(lasts) / lasts.sum(), draw))

    def chunk(index: int) -> Pieces:
        turns = np.arange(index * 1024, (index + 1) * 1024)
        state = (first + turns) % len(lasts)
        duration = -np.log(streams.uniforms("arrivals.state", turns)) * lasts[state]
        return duration, levels[state], levels[state]

    return BentClock(chunk)
