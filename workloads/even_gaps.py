"""Gaps of a window spread evenly over their law, and the Weibull law whose gaps then show a given spread.

So many independent Weibull gaps as a window holds show much less than the law's own coefficient of variation where
that is large (a law of CV 15 shows 8 in a few thousand gaps, and another 8 in the next window). Drawn evenly, they
show one number, from which the law is found.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

_LEAST_SHAPE, _MOST_SHAPE = 0.06, 20.0
_SHAPES = np.geomspace(_LEAST_SHAPE, _MOST_SHAPE, 240)
_NODES = 1500
GOLDEN = 0.6180339887498949
"""Steps of this size around a circle leave no large gap on it."""


def levels(count: int, offset: float) -> FloatArray:
    """*count* probabilities, one in each of as many equal parts, *offset* (0 to 1) into it."""
    return (np.arange(count) + min(max(offset, 1e-9), 1 - 1e-9)) / count


def shown_shape(cv: float, count: int) -> float:
    """Shape of the Weibull law of which *count* evenly drawn gaps show *cv*, or come nearest to it."""
    spread = _shown(count if count < 32 else round(2.0 ** (round(np.log2(count) * 8) / 8)))
    # Spreads fall as shapes rise; what lies beyond what so many gaps can show is the end of the table.
    return float(np.exp(np.interp(-cv, -spread, np.log(_SHAPES))))


@cache
def _shown(count: int) -> FloatArray:
    """CV of *count* evenly drawn gaps for each shape of ``_SHAPES``, in the mean over the offset."""
    # Single levels at the top, where gaps are long, and wider and wider bins of them below.
    edges = np.unique(np.round(np.geomspace(1, count + 1, min(_NODES, count + 1))).astype(np.int64)) - 1
    weight = np.diff(edges)
    squares = np.zeros(len(_SHAPES))
    for offset in (0.125, 0.375, 0.625, 0.875):
        survival = (edges[:-1] + (weight - 1) / 2 + 1 - offset) / count
        gaps = np.exp(np.log(-np.log(np.clip(survival, 1e-300, 1 - 1e-12)))[None, :] / _SHAPES[:, None])
        mean = gaps @ weight / count
        squares += np.sqrt(np.maximum(gaps**2 @ weight / count / mean**2 - 1.0, 0.0)) / 4
    return np.minimum.accumulate(squares)


def weibull(levels_: FloatArray, shape: float) -> FloatArray:
    """Weibull quantiles of scale one."""
    return np.asarray((-np.log1p(-levels_)) ** (1.0 / shape))
