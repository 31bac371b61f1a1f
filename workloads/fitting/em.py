"""Laws fitted to lengths and shares: mixtures by EM, with single values that stand out kept as atoms.

Mixtures are fitted by maximum likelihood on weighted values; how many components is chosen by the Bayesian
information criterion. Values are whole tokens: a lognormal component is never narrower than their grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from workloads.laws import Atom, BetaMixture, BetaPart, LognormalPart, Mixture

FloatArray = npt.NDArray[np.float64]

_ITERATIONS = 250
_BINS = 400
_TOLERANCE = 5e-7
_ATOM_SHARE = 0.01
_ATOM_EXCESS = 4.0
_ATOM_ROWS = 6.0


@dataclass(frozen=True)
class Counted:
    """Distinct values, rising, and the weight of each."""

    values: FloatArray
    weights: FloatArray

    @staticmethod
    def of(values: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Counted:
        """*values* grouped; *weights* default to one each."""
        raw = np.asarray(values, dtype=np.float64)
        distinct, place = np.unique(raw, return_inverse=True)
        each = None if weights is None else np.asarray(weights, dtype=np.float64)
        return Counted(distinct, np.bincount(place, each, len(distinct)).astype(np.float64))

    @property
    def total(self) -> float:
        return float(self.weights.sum())

    def without(self, atoms: FloatArray) -> Counted:
        keep = ~np.isin(self.values, atoms)
        return Counted(self.values[keep], self.weights[keep])


def find_atoms(data: Counted, *, share: float = _ATOM_SHARE) -> tuple[FloatArray, FloatArray]:
    """Values that carry at least *share* of all weight (and six rows) and far more than a smooth law would
    put there.

    Smooth is what the neighbourhood (a tenth to either side) carries per token, without the value itself.
    Returns the values and the excess weight of each, as a share of all.
    """
    total = data.total
    found, excess = [], []
    cumulated = np.concatenate([[0.0], np.cumsum(data.weights)])
    for i in np.flatnonzero(data.weights >= max(share * total, _ATOM_ROWS)).tolist():
        value = data.values[i]
        reach = max(2.0, 0.1 * value)
        low, high = np.searchsorted(data.values, [value - reach, value + reach + 1e-9])
        around = cumulated[high] - cumulated[low] - data.weights[i]
        smooth = around / (2.0 * reach)
        if data.weights[i] > _ATOM_EXCESS * max(smooth, 1e-12):
            found.append(value)
            excess.append((data.weights[i] - smooth) / total)
    return np.array(found), np.array(excess)


@dataclass(frozen=True)
class Lognormals:
    """A fitted mixture on log values: weights, means, sigmas, and its mean log-likelihood per unit of
    weight."""

    weight: FloatArray
    mu: FloatArray
    sigma: FloatArray
    score: float

    def cdf(self, values: FloatArray) -> FloatArray:
        with np.errstate(divide="ignore"):
            logs = np.log(values)[:, None]
        return np.asarray((self.weight * special.ndtr((logs - self.mu) / self.sigma)).sum(axis=1))


def _binned(data: Counted) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(mean log, weight, spread of the log inside) of up to 400 bins of equal width in the log."""
    logs = np.log(np.maximum(data.values, 0.5))
    # The grid of whole tokens blurs by up to half a token: no component may be narrower than that.
    variance = 1.0 / (np.maximum(data.values, 1.0) ** 2 * 12.0)
    if len(logs) <= _BINS:
        return logs, data.weights, np.sqrt(variance)
    place = ((logs - logs[0]) / (logs[-1] - logs[0]) * (_BINS - 1)).astype(np.int64)
    weight = np.bincount(place, data.weights, _BINS)
    full = weight > 0
    each = np.maximum(weight, 1e-300)
    mean = np.bincount(place, data.weights * logs, _BINS) / each
    square = np.bincount(place, data.weights * (logs**2 + variance), _BINS) / each - mean**2
    spread = np.sqrt(np.maximum(square[full], 0.0))
    return mean[full], np.asarray(weight[full], np.float64), spread


def _em_lognormals(logs: FloatArray, weights: FloatArray, blur: FloatArray, count: int, start: float) -> Lognormals:
    weights = weights / weights.sum()
    cumulated = np.cumsum(weights)
    cuts = np.linspace(0, 1, count + 1) ** start
    mu, sigma, weight = np.empty(count), np.empty(count), np.empty(count)
    for j in range(count):
        inside = (cumulated >= cuts[j] - 1e-12) & (cumulated <= cuts[j + 1] + 1e-12)
        if not inside.any() or weights[inside].sum() <= 0:
            inside = np.ones(len(logs), np.bool_)
        weight[j] = max(cuts[j + 1] - cuts[j], 1e-3)
        mu[j] = np.average(logs[inside], weights=weights[inside])
        sigma[j] = np.sqrt(np.average((logs[inside] - mu[j]) ** 2, weights=weights[inside])) + 0.05
    weight /= weight.sum()
    before = -np.inf
    score = before
    # Components run along the first axis, so that every reduction is over long contiguous rows.
    squares = blur**2
    for _ in range(_ITERATIONS):
        scaled = (logs - mu[:, None]) / sigma[:, None]
        density = (np.log(weight) - np.log(sigma))[:, None] - 0.5 * scaled * scaled
        top = density.max(axis=0)
        part = np.exp(density - top)
        whole = part.sum(axis=0)
        score = float(weights @ (np.log(whole) + top))
        part *= weights / whole
        weight = np.maximum(part.sum(axis=1), 1e-9)
        mu = part @ logs / weight
        spread = ((logs - mu[:, None]) ** 2 * part).sum(axis=1) + part @ squares
        sigma = np.sqrt(np.maximum(spread / weight, 4e-4))
        weight = weight / weight.sum()
        if score - before < _TOLERANCE:
            break
        before = score
    return Lognormals(weight, mu, sigma, score - 0.5 * np.log(2 * np.pi))


def fit_lognormals(data: Counted, *, most: int = 4, rows: float | None = None) -> Lognormals:
    """The mixture of up to *most* lognormals that the information criterion prefers; *rows* is the sample
    size."""
    rows = data.total if rows is None else rows
    best: Lognormals | None = None
    best_criterion = np.inf
    bins = _binned(data)
    for count in range(1, most + 1):
        if count > 1 and rows < 25 * count:
            break
        tries = [_em_lognormals(*bins, count, start) for start in ((1.0,) if count == 1 else (1.0, 0.3))]
        fitted = max(tries, key=lambda mixture: mixture.score)
        criterion = -2.0 * rows * fitted.score + (3 * count - 1) * np.log(max(rows, 2.0))
        if criterion >= best_criterion:
            break
        best, best_criterion = fitted, criterion
    assert best is not None
    return best


def fit_lengths(
    values: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    most: int = 4,
    cap: float | None = None,
    rows: float | None = None,
) -> Mixture:
    """A mixture of lognormals and atoms for token counts (at least 1), capped at *cap* or at the largest
    value."""
    data = Counted.of(np.maximum(np.asarray(values, dtype=np.float64), 1.0), weights)
    highest = float(data.values[-1]) if cap is None else cap
    if len(data.values) == 1:
        return Mixture(atoms=(Atom(weight=1.0, value=highest),))
    at, share = find_atoms(data)
    smooth = data.without(at)
    rest = max(1.0 - float(share.sum()), 0.0)
    components: tuple[LognormalPart, ...] = ()
    if len(smooth.values) >= 2 and rest > 1e-4:
        size = data.total if rows is None else rows
        fitted = fit_lognormals(smooth, most=most, rows=size * rest)
        components = tuple(
            LognormalPart(weight=_round(w * rest), median=_round(float(np.exp(m))), sigma=_round(s))
            for w, m, s in sorted(
                zip(fitted.weight.tolist(), fitted.mu.tolist(), fitted.sigma.tolist(), strict=True),
                key=lambda part: part[1],
            )
            if w * rest > 1e-5
        )
    atoms = tuple(Atom(weight=_round(w), value=v) for v, w in zip(at.tolist(), share.tolist(), strict=True))
    return Mixture(components=components, atoms=atoms, min=float(data.values[0]), max=highest)


def fit_shares(
    values: npt.ArrayLike, weights: npt.ArrayLike | None = None, *, most: int = 3, rows: float | None = None
) -> BetaMixture:
    """A mixture of Betas, with atoms (often none at all), for shares between 0 and 1."""
    data = Counted.of(np.clip(np.asarray(values, dtype=np.float64), 0.0, 1.0), weights)
    total = data.total
    ends = np.isin(data.values, [0.0, 1.0]) & (data.weights > 0.002 * total)
    heavy = (data.weights > 0.2 * total) | ends
    atoms = tuple(
        Atom(weight=_round(w / total), value=v)
        for v, w in zip(data.values[heavy].tolist(), data.weights[heavy].tolist(), strict=True)
    )
    smooth = Counted(data.values[~heavy], data.weights[~heavy])
    rest = smooth.total / total if len(smooth.values) else 0.0
    if len(smooth.values) < 2:
        middle = float(np.average(data.values, weights=data.weights))
        return BetaMixture(atoms=atoms or (Atom(weight=1.0, value=_round(middle)),))
    rows = (total if rows is None else rows) * rest
    best: list[tuple[float, float, float]] = []
    best_criterion = np.inf
    for count in range(1, most + 1):
        if count > 1 and rows < 25 * count:
            break
        parts, score = _em_betas(smooth, count)
        criterion = -2.0 * rows * score + (3 * count - 1) * np.log(max(rows, 2.0))
        if criterion < best_criterion:
            best, best_criterion = parts, criterion
    components = tuple(
        BetaPart(weight=_round(w * rest), a=_round(a), b=_round(b)) for w, a, b in sorted(best, key=lambda p: p[1])
    )
    return BetaMixture(components=components, atoms=atoms)


def _em_betas(data: Counted, count: int) -> tuple[list[tuple[float, float, float]], float]:
    """Components (weight, a, b) and the mean log-likelihood; each step matches mean and variance."""
    x, weights = np.clip(data.values, 1e-4, 1 - 1e-4), data.weights
    if len(x) > _BINS:
        place = np.minimum((x * _BINS).astype(np.int64), _BINS - 1)
        binned = np.bincount(place, weights, _BINS).astype(np.float64)
        x = (np.bincount(place, weights * x, _BINS) / np.maximum(binned, 1e-300))[binned > 0]
        weights = np.asarray(binned[binned > 0], np.float64)
    weights = weights / weights.sum()
    cumulated = np.cumsum(weights)
    part = np.zeros((len(x), count))
    for j in range(count):
        part[:, j] = (cumulated > j / count - 1e-12) & (cumulated <= (j + 1) / count + 1e-12)
    part += 0.05
    part /= part.sum(axis=1, keepdims=True)
    before = score = -np.inf
    log_x, log_rest = np.log(x)[:, None], np.log1p(-x)[:, None]
    weight = a = b = np.ones(count)
    for _ in range(_ITERATIONS):
        share = part * weights[:, None]
        weight = np.maximum(share.sum(axis=0), 1e-9)
        mean = (share * x[:, None]).sum(axis=0) / weight
        spread = (share * (x[:, None] - mean) ** 2).sum(axis=0) / weight
        spread = np.clip(spread, 1e-6, mean * (1 - mean) * 0.98)
        common = mean * (1 - mean) / spread - 1
        a, b = np.maximum(mean * common, 0.05), np.maximum((1 - mean) * common, 0.05)
        weight = weight / weight.sum()
        density = np.log(weight) + (a - 1) * log_x + (b - 1) * log_rest
        density = density - special.betaln(a, b)
        top = density.max(axis=1, keepdims=True)
        part = np.exp(density - top)
        whole = part.sum(axis=1, keepdims=True)
        score = float((weights * (np.log(whole[:, 0]) + top[:, 0])).sum())
        part = part / whole
        if score - before < _TOLERANCE:
            break
        before = score
    return list(zip(weight.tolist(), a.tolist(), b.tolist(), strict=True)), score


def _round(value: float) -> float:
    """Four significant digits: as much as any fit here is worth."""
    return float(f"{value:.4g}")
