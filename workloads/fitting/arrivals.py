"""When one client asks: its rate by window, and the plainest law of gaps that keeps how bunched it is.

Candidates are drawn and measured as the trace is: the spread of gaps within a window, and how far counts over 1 s
to 10 min vary. The first one that is near enough in both is taken, or else the nearest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from sim.rng import Streams
from workloads.arrivals import PS, weibull_shape
from workloads.clients import ClientArrivals
from workloads.fitting.nearness import by_quantiles
from workloads.fitting.plain import digits, plain
from workloads.measures import client_cv, dispersion
from workloads.portrait import SCALES_S, window_for
from workloads.spec import Clients

FloatArray = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

SHOWN = 200_000
"""Arrivals that laws of gaps are judged by; of longer traces the first windows stand for all."""
_LEAST_GAPS = 30
_NEAR_CV = 0.04
_NEAR_DISPERSION = 0.10
_LEVELS = 1
"""Standard errors of a dispersion that do not count as a difference."""
_LEAST = 0.05
"""Gaps and counts that vary less than this are as good as regular."""


@dataclass(frozen=True)
class Seen:
    """When the queries of one group came: *times* (s, rising, from 0) of the first ones, and of each window of
    *window_s* how many there were (*sizes*) and the CV of their gaps (*cvs*; NaN where fewer than three)."""

    window_s: float
    times: FloatArray
    sizes: Int64Array
    cvs: FloatArray

    @property
    def shown(self) -> int:
        """Number of windows that ``times`` covers."""
        return max(1, int(np.searchsorted(np.cumsum(self.sizes), len(self.times), side="right")))


@dataclass(frozen=True)
class Arrivals:
    """Keys of a member of a client mixture (rates, cvs, weibull, gaps), and how far off what they draw is."""

    keys: dict[str, Any]
    distance: float


def arrivals_of(seen: Seen) -> Arrivals:
    """The plainest arrivals that follow what was *seen*."""
    count, window_s = len(seen.sizes), seen.window_s
    rates = {"rates": [digits(rate, 6) for rate in (seen.sizes / window_s).tolist()]}
    known = np.isfinite(seen.cvs) & (seen.cvs > 0)
    if not known.any():
        return Arrivals({**rates, "cvs": [1.0]}, 0.0)
    cv = float(np.clip(np.average(seen.cvs[known], weights=seen.sizes[known] - 1), 0.02, 50.0))
    standard = _standard_gaps(seen)
    if len(standard) < _LEAST_GAPS:
        return Arrivals({**rates, "cvs": [digits(cv, 4)]}, 0.0)
    real = _Burstiness.of(seen.times, window_s * count)
    best: Arrivals | None = None
    for keys in _ways(standard, seen.cvs, cv):
        drawn = _draw(rates | keys, window_s, seen.shown)
        distance = real.distance(_Burstiness.of(drawn, window_s * count))
        if best is None or distance < best.distance:
            best = Arrivals(rates | keys, distance)
        if distance <= 1.0:
            break
    assert best is not None
    return best


def _standard_gaps(seen: Seen) -> FloatArray:
    """Gaps within windows of three and more, each over the mean of its window."""
    window = (seen.times / seen.window_s).astype(np.int64)
    gaps = np.diff(seen.times)
    inside = window[1:] == window[:-1]
    gaps, where = gaps[inside], window[1:][inside]
    number = np.bincount(where)
    total = np.bincount(where, gaps)
    busy = ((number >= 3) & (total > 0))[where]
    return np.asarray(np.maximum(gaps[busy] / (total[where[busy]] / number[where[busy]]), 1e-9))


def _ways(standard: FloatArray, cvs: FloatArray, cv: float) -> Iterator[dict[str, Any]]:
    """Laws of gaps, the plainest first."""
    count = len(cvs)
    ordered = np.sort(standard)
    steps = (np.arange(len(ordered)) + 0.5) / len(ordered)
    shape = cv**-2
    by_gamma = np.abs(special.gammainc(shape, ordered * shape) - steps).max()
    k = weibull_shape(min(cv, 40.0))
    by_weibull = np.abs(-np.expm1(-((ordered * special.gamma(1 + 1 / k)) ** k)) - steps).max()
    family = {"weibull": list(range(count))} if by_weibull < by_gamma else {}
    yield {"cvs": [digits(cv, 4)], **family}
    known = np.where(np.isfinite(cvs) & (cvs > 0), np.clip(np.nan_to_num(cvs, nan=cv), 0.02, 50.0), cv)
    if count > 1:
        yield {"cvs": [digits(value, 3) for value in known.tolist()], **family}
    yield {"gaps": plain(by_quantiles(ordered))}


def _draw(keys: dict[str, Any], window_s: float, count: int) -> FloatArray:
    """Arrivals of the first *count* windows of a client with these *keys*."""
    member = {**keys, "lengths": {"prompt": 1, "answer": 1}}
    clients = Clients.model_validate({"window": f"{window_s!r} s", "members": {"one": member}})
    process = ClientArrivals(clients, rate=None, steady=False, streams=Streams(0))
    return np.concatenate([process.window(index)[0] for index in range(count)]) / PS


@dataclass(frozen=True)
class _Burstiness:
    """What is compared: the CV of gaps in a window, and dispersions of counts with their relative standard errors."""

    cv: float
    dispersions: FloatArray
    errors: FloatArray

    @staticmethod
    def of(times: FloatArray, seconds: float) -> _Burstiness:
        if len(times) < 2:
            return _Burstiness(float("nan"), np.full(len(SCALES_S), np.nan), np.ones(len(SCALES_S)))
        cv = client_cv(times, np.zeros(len(times), np.uint16), window_for(seconds))
        found = np.array([dispersion(times, scale) for scale in SCALES_S])
        intervals = np.maximum((times[-1] - times[0]) / np.array(SCALES_S), 1.0)
        return _Burstiness(cv, found, np.sqrt(2.0 / intervals))

    def distance(self, drawn: _Burstiness) -> float:
        """How far off *drawn* is at worst; up to 1 is near enough."""
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = abs(np.log(max(drawn.cv, _LEAST) / max(self.cv, _LEAST))) / _NEAR_CV
            least = np.maximum(self.dispersions, _LEAST), np.maximum(drawn.dispersions, _LEAST)
            off = np.abs(np.log(least[1] / least[0]))
        # The spread of gaps comes first: beyond what is near it weighs as the square.
        spread = max(spread, spread**2)
        off = off / (_NEAR_DISPERSION + _LEVELS * self.errors)
        known = [float(value) for value in [spread, *off] if np.isfinite(value)]
        return max(known, default=0.0)
