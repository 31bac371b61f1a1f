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
from workloads.measures import SCALES_S, client_cv, dispersion, window_for
from workloads.spec import Clients

FloatArray = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

_SIMULATED = 200_000
"""Arrivals that are drawn of a candidate; of longer traces the first windows stand for all."""
_LEAST_GAPS = 30
_NEAR_CV = 0.04
_NEAR_DISPERSION = 0.10
_LEVELS = 1
_LEAST = 0.05
"""Gaps and counts that vary less than this are as good as regular."""
"""Standard errors of a dispersion that do not count as a difference."""


@dataclass(frozen=True)
class Arrivals:
    """Keys of a member of a client mixture (rates, cvs, weibull, gaps), and how far off what they draw is."""

    keys: dict[str, Any]
    distance: float


def arrivals_of(times: FloatArray, window_s: float, count: int) -> Arrivals:
    """The plainest arrivals that follow *times* (s, rising, from 0), over *count* windows of *window_s*."""
    window = np.minimum((times / window_s).astype(np.int64), count - 1)
    sizes = np.bincount(window, minlength=count)
    rates = {"rates": [digits(rate, 6) for rate in (sizes / window_s).tolist()]}
    gaps = _Gaps.of(times, window, sizes)
    if gaps is None or len(gaps.standard) < _LEAST_GAPS:
        cv = 1.0 if gaps is None else gaps.cv
        return Arrivals({**rates, "cvs": [digits(cv, 4)]}, 0.0)
    shown = max(1, int(np.searchsorted(np.cumsum(sizes), _SIMULATED)) + 1)
    real = _Burstiness.of(times[window < shown], window_s * count)
    best: Arrivals | None = None
    for keys in _ways(gaps, count):
        drawn = _draw(rates | keys, window_s, min(shown, count))
        distance = real.distance(_Burstiness.of(drawn, window_s * count))
        if best is None or distance < best.distance:
            best = Arrivals(rates | keys, distance)
        if distance <= 1.0:
            break
    assert best is not None
    return best


@dataclass(frozen=True)
class _Gaps:
    """Gaps within windows: each over the mean of its window, the CV of each window, and their mean by requests."""

    standard: FloatArray
    cvs: FloatArray
    cv: float

    @staticmethod
    def of(times: FloatArray, window: Int64Array, sizes: Int64Array) -> _Gaps | None:
        gaps = np.diff(times)
        inside = window[1:] == window[:-1]
        gaps, where = gaps[inside], window[1:][inside]
        number = np.bincount(where, minlength=len(sizes))
        total = np.bincount(where, gaps, len(sizes))
        square = np.bincount(where, gaps**2, len(sizes))
        good = (number >= 3) & (total > 0)
        if not good.any():
            return None
        mean = total[good] / number[good]
        cvs = np.zeros(len(sizes))
        cvs[good] = np.sqrt(np.maximum(square[good] / number[good] - mean**2, 0.0)) / mean
        busy = good[where]
        standard = np.maximum(gaps[busy] / (total[where[busy]] / number[where[busy]]), 1e-9)
        cv = float(np.clip(np.average(cvs[good], weights=number[good]), 0.02, 50.0))
        return _Gaps(standard, cvs, cv)


def _ways(gaps: _Gaps, count: int) -> Iterator[dict[str, Any]]:
    """Laws of gaps, the plainest first."""
    ordered = np.sort(gaps.standard)
    steps = (np.arange(len(ordered)) + 0.5) / len(ordered)
    shape = gaps.cv**-2
    by_gamma = np.abs(special.gammainc(shape, ordered * shape) - steps).max()
    k = weibull_shape(min(gaps.cv, 40.0))
    by_weibull = np.abs(-np.expm1(-((ordered * special.gamma(1 + 1 / k)) ** k)) - steps).max()
    family = {"weibull": list(range(count))} if by_weibull < by_gamma else {}
    yield {"cvs": [digits(gaps.cv, 4)], **family}
    known = np.where(gaps.cvs > 0, np.clip(gaps.cvs, 0.02, 50.0), gaps.cv)
    if count > 1:
        yield {"cvs": [digits(cv, 3) for cv in known.tolist()], **family}
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
