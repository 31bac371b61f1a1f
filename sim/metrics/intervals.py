"""Confidence intervals over replications: Student's t on the figures of independent replications."""

from __future__ import annotations

import math
from collections.abc import Sequence

CONFIDENCE = 0.95


def interval(point: float, replicated: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Two-sided interval around *point*, the estimate from all replications together; None below two finite
    figures.

    Half its width is t · s/√R, with s the standard deviation of the R *replicated* figures. *point* comes
    from the raw values of all replications, so that a quantile is never an average of quantiles.
    """
    values = [value for value in replicated if math.isfinite(value)]
    if len(values) < 2 or len(values) < len(replicated) or not math.isfinite(point):
        return None
    count = len(values)
    mean = math.fsum(values) / count
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = t_quantile(0.5 + confidence / 2, count - 1) * deviation / math.sqrt(count)
    return point - half, point + half


def t_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's t with *freedom* degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, probability))
