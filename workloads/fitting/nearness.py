"""Whether a fitted law is near enough to what was measured, and the law of quantiles for where none is.

What may differ is set by what a generator must keep (quantiles within 5 %, means within 2 %, the tokens of the
longest within 2 points, the tail index within 0.2), less the luck of a draw: a law itself is held to less than
half of that.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from workloads.fitting.em import Counted, find_atoms
from workloads.laws import Empirical, LawBase
from workloads.measures import hill

FloatArray = npt.NDArray[np.float64]

CHECKED = (0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99)
_MOST_DRAWN = 200_000
_KS = 0.015
_QUANTILE = 0.02
_MEAN = 0.0075
_TOP_SHARE = 0.0075
_HILL = 0.08
_LUCK = 0.2
"""How much of the luck of the sample a law need not follow."""


def follows(law: LawBase, values: FloatArray, *, floor: float = 1.0) -> bool:
    """Whether *law* is near enough to *values*: in the KS distance, in each quantile of ``CHECKED``, and in sums.

    Quantiles may differ by 2 % of themselves, by *floor*, or by a fifth of the standard error of a sample as
    large as *values* where that is more; a *floor* below 1 is for shares, whose sums say little.
    """
    ordered = np.sort(values)
    count = len(ordered)
    levels = (np.arange(400) + 0.5) / 400
    drawn = law.quantile(levels)
    below = np.searchsorted(ordered, drawn, side="right") / count
    above = np.searchsorted(ordered, drawn - 0.5 * floor, side="left") / count
    distance = np.maximum(above - levels, levels - below).max()
    if distance > max(_KS, _LUCK / np.sqrt(count)):
        return False
    at = np.array(CHECKED)
    # What a sample as large as this one shows: of few values the quantiles are whole ones, with leaps between them.
    size = min(count, _MOST_DRAWN)
    sample = law.quantile((np.arange(size) + 0.5) / size)
    real, made = np.quantile(ordered, at), np.quantile(sample, at)
    near = np.maximum(np.maximum(_QUANTILE * real, floor), _LUCK * quantile_errors(ordered, at))
    if not bool((np.abs(made - real) <= near).all()):
        return False
    return floor < 1.0 or _sums_follow(sample, ordered)


def quantile_errors(ordered: npt.NDArray[np.number], at: FloatArray) -> FloatArray:
    """Standard errors of the quantiles *at* of a sample, from the order statistics around them."""
    step = np.sqrt(at * (1 - at) / len(ordered))
    around = np.quantile(ordered, np.clip([at - step, at + step], 0.0, 1.0))
    return np.asarray((around[1] - around[0]) / 2)


def _sums_follow(drawn: FloatArray, ordered: FloatArray) -> bool:
    """Whether the mean, what the top 1 % and 10 % make of the sum, and the tail index are kept.

    Quantiles up to p99 say nothing of what a heavy tail adds; tokens are what a GPU pays for. What is *drawn* is a
    sample as large as *ordered*, as more of the tail was not seen.
    """
    count = len(drawn)
    mean = float(ordered.mean())
    if abs(float(drawn.mean()) - mean) > max(_MEAN * mean, 0.5):
        return False
    for share in (0.01, 0.10):
        real = ordered[-max(1, round(share * len(ordered))) :].sum() / max(ordered.sum(), 1e-9)
        made = drawn[-max(1, round(share * count)) :].sum() / max(drawn.sum(), 1e-9)
        if abs(made - real) > _TOP_SHARE:
            return False
    real, made = hill(ordered), hill(np.rint(drawn))
    # Capped lengths have no tail to speak of: an index above 10 need not be kept.
    return not (
        np.isfinite(real) and real < 10.0 and abs(made - real) > max(_HILL, _LUCK * real / np.sqrt(0.05 * count) / 4)
    )


def by_quantiles(values: FloatArray) -> Empirical:
    """A law of 100 quantiles or so, closer together towards the top, where most of the tokens are.

    Fewer than 200 values have fewer quantiles, so that most of them remain untold.
    """
    ordered = np.sort(values)
    count = len(ordered)
    top = 1.0 - 0.05 * 0.8 ** np.arange(1, 60)
    step = 2 if count >= 200 else 4
    checked = [0.001, 0.005, 0.02, *CHECKED]
    levels = np.unique(np.concatenate([[0.0], checked, np.arange(1, 96, step) / 100, top]))
    levels = np.append(levels[(1.0 - levels) * count >= 1.0], [1.0 - 0.5 / count, 1.0])
    # A value that many have, such as a limit, begins and ends with a step.
    atoms = find_atoms(Counted.of(ordered))[0]
    steps = np.concatenate([np.searchsorted(ordered, atoms), np.searchsorted(ordered, atoms, side="right")])
    levels = np.unique(np.concatenate([levels, (steps - 0.5) / count, (steps + 0.5) / count]).clip(0.0, 1.0))
    most, finest = (120, 0.001) if count >= 200 else (max(count * 2 // 3, 30), 0.5 / count)
    for _ in range(4):
        # Where the values leap, nothing may be drawn in between: halve the step of probability there.
        heights = np.maximum(_heights(ordered, levels), 1e-9)
        leaps = (np.diff(np.log(heights)) > 0.15) & (np.diff(levels) > finest) & (levels[1:] > 0.005)
        if len(levels) > most or not leaps.any():
            break
        levels = np.sort(np.append(levels, (levels[:-1] + levels[1:])[leaps] / 2))
    heights = _heights(ordered, levels)
    return Empirical(quantiles={round(u, 7): _round(v) for u, v in zip(levels.tolist(), heights.tolist(), strict=True)})


def _heights(ordered: FloatArray, levels: FloatArray) -> FloatArray:
    """Values at *levels* such that even draws, in the middles of as many parts, are the values themselves."""
    return np.asarray(np.quantile(ordered, levels, method="hazen"))


def _round(value: float) -> float:
    return float(f"{value:.4g}")
