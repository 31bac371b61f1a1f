"""Which laws lengths, shares and pauses can follow, and how a latent normal becomes a draw from one.

Every law is a monotone map from a standard normal z to a value: ``from_normal(z)`` is its quantile function
at ``Phi(z)``. Whoever draws decides how the z of prompts, samples and fields hang together; the law only
shapes them, so its marginal holds whatever the correlation, and a changed law leaves the luck of each query
alone.

In YAML a law is a map with a ``law`` key, or a bare number for a constant::

    prompt: {law: lognormal, median: 300, sigma: 0.8, min: 16, max: 4000}

``min`` and ``max`` clip: what lies beyond is set to the bound, as a cap on output does. Lengths are rounded
to whole tokens by whoever draws them.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveFloat, model_validator
from scipy import special

from workloads.quantities import Amount, PositiveAmount, Share

FloatArray = npt.NDArray[np.float64]


class Strict(BaseModel):
    """Base of all sections: unknown keys, NaN and infinity are refused, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


class LawBase(Strict):
    """A distribution of positive numbers; ``min`` and ``max`` clip what is drawn."""

    min: Amount | None = Field(default=None, description="draws below are set to this")
    max: PositiveAmount | None = Field(default=None, description="draws above are set to this (a cap)")

    @model_validator(mode="after")
    def _ordered(self) -> LawBase:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self

    def raw(self, z: FloatArray) -> FloatArray:
        """Quantiles at Phi(*z*) before ``min`` and ``max``."""
        raise NotImplementedError

    def from_normal(self, z: FloatArray) -> FloatArray:
        """Quantiles at Phi(*z*), clipped to ``min`` and ``max``."""
        # Beyond 37 the tail's probability is zero in floats; nothing drawn comes near it.
        values = self.raw(np.clip(np.asarray(z, dtype=np.float64), -37.0, 37.0))
        if self.min is not None or self.max is not None:
            values = np.clip(values, self.min, self.max)
        return values

    def quantile(self, u: npt.ArrayLike) -> FloatArray:
        """Quantiles at the probabilities *u* in (0, 1)."""
        return self.from_normal(np.asarray(special.ndtri(np.asarray(u, dtype=np.float64))))

    def average(self) -> float:
        """Mean of what is drawn, by the midpoint rule over 200,000 quantiles; 0.5 % for capped laws."""
        return float(self.quantile((np.arange(200_000) + 0.5) / 200_000).mean())

    def log_sigma(self) -> float:
        """Standard deviation of the logarithm (of values raised to at least 1); 0 for a constant."""
        middles = self.quantile((np.arange(5000) + 0.5) / 5000)
        return float(np.log(np.maximum(middles, 1.0)).std())


class Constant(LawBase):
    """Always *value*."""

    law: Literal["constant"] = "constant"
    value: Amount

    def raw(self, z: FloatArray) -> FloatArray:
        return np.full(z.shape, self.value)


class Lognormal(LawBase):
    """exp(N(log median, sigma)); or by *mean* and *cv* (standard deviation over mean)."""

    law: Literal["lognormal"] = "lognormal"
    median: PositiveAmount | None = None
    sigma: float | None = Field(default=None, ge=0, le=10)
    mean: PositiveAmount | None = None
    cv: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _one_way(self) -> Lognormal:
        given = {name for name in ("median", "sigma", "mean", "cv") if getattr(self, name) is not None}
        if given not in ({"median", "sigma"}, {"mean", "cv"}, {"mean", "sigma"}):
            raise ValueError("give median and sigma, mean and sigma, or mean and cv")
        return self

    @cached_property
    def _mu_sigma(self) -> tuple[float, float]:
        sigma = self.sigma if self.sigma is not None else float(np.sqrt(np.log1p((self.cv or 0.0) ** 2)))
        if self.median is not None:
            return float(np.log(self.median)), sigma
        assert self.mean is not None
        return float(np.log(self.mean)) - sigma**2 / 2, sigma

    def raw(self, z: FloatArray) -> FloatArray:
        mu, sigma = self._mu_sigma
        return np.asarray(np.exp(mu + sigma * z))


class Weibull(LawBase):
    """Survival exp(-(x / scale) ** shape)."""

    law: Literal["weibull"] = "weibull"
    scale: PositiveAmount
    shape: PositiveFloat

    def raw(self, z: FloatArray) -> FloatArray:
        return np.asarray(self.scale * (-special.log_ndtr(-z)) ** (1.0 / self.shape))


class Gamma(LawBase):
    """Gamma distribution of the given *mean* and *cv* (standard deviation over mean)."""

    law: Literal["gamma"] = "gamma"
    mean: PositiveAmount
    cv: PositiveFloat

    def raw(self, z: FloatArray) -> FloatArray:
        shape = self.cv**-2
        low = special.gammaincinv(shape, special.ndtr(np.minimum(z, 0.0)))
        high = special.gammainccinv(shape, special.ndtr(-np.maximum(z, 0.0)))
        return np.asarray(np.where(z < 0, low, high) * (self.mean / shape))


class Pareto(LawBase):
    """Survival (scale / x) ** alpha from *scale* on; the mean is infinite for alpha <= 1, unless capped."""

    law: Literal["pareto"] = "pareto"
    scale: PositiveAmount
    alpha: PositiveFloat

    def raw(self, z: FloatArray) -> FloatArray:
        return np.asarray(self.scale * np.exp(np.minimum(-special.log_ndtr(-z) / self.alpha, 600.0)))


class Uniform(LawBase):
    """Evenly between *low* and *high*."""

    law: Literal["uniform"] = "uniform"
    low: Amount
    high: Amount

    @model_validator(mode="after")
    def _low_first(self) -> Uniform:
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}")
        return self

    def raw(self, z: FloatArray) -> FloatArray:
        return np.asarray(self.low + (self.high - self.low) * special.ndtr(z))


class LognormalPart(Strict):
    """One component of a mixture of lognormals."""

    weight: PositiveFloat
    median: PositiveAmount
    sigma: Annotated[float, Field(gt=0, le=10)]


class Atom(Strict):
    """A single value that carries probability: a client's own cap, a fixed prompt."""

    weight: PositiveFloat
    value: Amount


class Mixture(LawBase):
    """Mixture of lognormals, with probability *atoms* on single values; weights are relative.

    Two lognormals are the best simple law for reasoning lengths (KS 0.013-0.046 on production and benchmark
    DeepSeek-R1 outputs, where a single lognormal gives 0.06-0.10).
    """

    law: Literal["mixture"] = "mixture"
    components: tuple[LognormalPart, ...] = ()
    atoms: tuple[Atom, ...] = ()

    @model_validator(mode="after")
    def _something(self) -> Mixture:
        if not self.components and not self.atoms:
            raise ValueError("a mixture needs at least one component or atom")
        return self

    @cached_property
    def table(self) -> tuple[FloatArray, FloatArray]:
        """(z, value) knots of the quantile function, both rising; values are interpolated on a log scale."""
        return lognormal_mixture_table(
            tuple((part.weight, float(np.log(part.median)), part.sigma) for part in self.components),
            tuple((atom.weight, atom.value) for atom in self.atoms),
        )

    def raw(self, z: FloatArray) -> FloatArray:
        knots, log_values = self.table
        return np.asarray(np.exp(np.interp(z, knots, log_values)))


@lru_cache(maxsize=2048)  # every replication builds the laws of its scenario anew
def lognormal_mixture_table(
    components: tuple[tuple[float, float, float], ...], atoms: tuple[tuple[float, float], ...], *, points: int = 500
) -> tuple[FloatArray, FloatArray]:
    """Knots (z, log value) of the quantile function of a mixture of lognormals (weight, mu, sigma) and atoms (weight,
    value); not to be written to.

    Both tails are kept exact by taking z from the smaller of the distribution and the survival function.
    """
    total = sum(part[0] for part in components) + sum(atom[0] for atom in atoms)
    logs: list[FloatArray] = [mu + sigma * np.linspace(-8.5, 8.5, points) for _, mu, sigma in components]
    at = sorted((float(np.log(max(value, 1e-300))), weight) for weight, value in atoms)
    # An atom enters twice: just before and just after its jump, at the same value.
    grid = np.concatenate([*logs, np.array([log for log, _ in at for _ in (0, 1)])])
    after = np.concatenate([np.zeros(sum(map(len, logs)), int), np.tile([0, 1], len(at))])
    order = np.lexsort((after, grid))
    grid, after = grid[order], after[order]
    below = np.zeros_like(grid)
    above = np.zeros_like(grid)
    for weight, mu, sigma in components:
        standard = (grid - mu) / sigma
        below += weight * special.ndtr(standard)
        above += weight * special.ndtr(-standard)
    for log, weight in at:
        passed = (grid > log) | ((grid == log) & (after == 1))
        below += np.where(passed, weight, 0.0)
        above += np.where(passed, 0.0, weight)
    below, above = below / total, above / total
    with np.errstate(divide="ignore"):
        knots = np.where(below < 0.5, special.ndtri(below), -special.ndtri(above))
    knots = np.clip(knots, -40.0, 40.0)
    return np.maximum.accumulate(knots), grid


class Spliced(LawBase):
    """A *body* below *tail_from* and a Pareto tail of index *alpha* above it.

    *tail_share* is the probability of the tail; by default what the body itself leaves above *tail_from*.
    """

    law: Literal["spliced"] = "spliced"
    body: Annotated[Lognormal | Weibull | Mixture | Gamma, Field(discriminator="law")]
    tail_from: PositiveAmount
    alpha: PositiveFloat
    tail_share: Annotated[float, Field(gt=0, lt=1)] | None = None

    @cached_property
    def _body_end(self) -> float:
        """Probability of the body below tail_from, by bisection on its quantile function."""
        low, high = -40.0, 40.0
        for _ in range(80):
            middle = (low + high) / 2
            if float(self.body.from_normal(np.array([middle]))[0]) < self.tail_from:
                low = middle
            else:
                high = middle
        return float(special.ndtr(low))

    def raw(self, z: FloatArray) -> FloatArray:
        tail = self.tail_share if self.tail_share is not None else 1.0 - self._body_end
        survival = special.ndtr(-z)
        inside = special.ndtri(np.clip(special.ndtr(z) / (1.0 - tail), 0.0, 1.0) * self._body_end)
        body = np.minimum(self.body.from_normal(inside), self.tail_from)
        with np.errstate(divide="ignore"):
            beyond = np.minimum(np.log(tail) - np.log(survival), 600.0 * self.alpha)
        return np.where(survival < tail, self.tail_from * np.exp(beyond / self.alpha), body)


class Empirical(LawBase):
    """What was measured: *values*, equally likely, or *quantiles* (probability: value), lines between."""

    law: Literal["empirical"] = "empirical"
    values: tuple[Annotated[float, Field(ge=0)], ...] | None = None
    quantiles: dict[Share, Annotated[float, Field(ge=0)]] | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Empirical:
        if (self.values is None) == (self.quantiles is None):
            raise ValueError("give values or quantiles")
        if not (self.values or self.quantiles):
            raise ValueError("an empirical law needs at least one value")
        if self.quantiles is not None:
            levels = sorted(self.quantiles)
            heights = [self.quantiles[level] for level in levels]
            if heights != sorted(heights):
                raise ValueError("quantiles must rise with their probability")
        return self

    @cached_property
    def _sorted(self) -> tuple[FloatArray, FloatArray]:
        if self.values is not None:
            return np.empty(0), np.sort(np.array(self.values, dtype=np.float64))
        assert self.quantiles is not None
        levels = sorted(self.quantiles)
        return np.array(levels), np.array([self.quantiles[level] for level in levels])

    def raw(self, z: FloatArray) -> FloatArray:
        levels, heights = self._sorted
        u = special.ndtr(z)
        if len(levels):
            return np.asarray(np.interp(u, levels, heights))
        return np.asarray(heights[np.minimum((u * len(heights)).astype(np.int64), len(heights) - 1)])


class BetaPart(Strict):
    """One component of a mixture of Betas."""

    weight: PositiveFloat
    a: PositiveFloat
    b: PositiveFloat


class BetaMixture(LawBase):
    """Mixture of Beta distributions on (0, 1), with *atoms*: how much of an output is reasoning.

    The share is bimodal in production (modes at 0.37 and 0.95), and two Betas fit it with KS 0.013.
    """

    law: Literal["beta"] = "beta"
    components: tuple[BetaPart, ...] = ()
    atoms: tuple[Atom, ...] = ()

    @model_validator(mode="after")
    def _something(self) -> BetaMixture:
        if not self.components and not self.atoms:
            raise ValueError("a mixture needs at least one component or atom")
        if any(atom.value > 1 for atom in self.atoms):
            raise ValueError("an atom of a share lies between 0 and 1")
        return self

    @cached_property
    def table(self) -> tuple[FloatArray, FloatArray]:
        """(z, value) knots of the quantile function, both rising."""
        return beta_mixture_table(
            tuple((part.weight, part.a, part.b) for part in self.components),
            tuple((atom.weight, atom.value) for atom in self.atoms),
        )

    def raw(self, z: FloatArray) -> FloatArray:
        knots, values = self.table
        return np.asarray(np.interp(z, knots, values))


@lru_cache(maxsize=2048)
def beta_mixture_table(
    components: tuple[tuple[float, float, float], ...], atoms: tuple[tuple[float, float], ...]
) -> tuple[FloatArray, FloatArray]:
    """Knots (z, value) of the quantile function of a mixture of Betas (weight, a, b) and atoms (weight, value); not to be
    written to.
    """
    # Knots follow each component in the log odds: log odds of a Beta have these two moments.
    steps = np.linspace(-10.0, 10.0, 161)
    values = np.concatenate([[0.0, 1.0], *(special.expit(_log_odds(a, b, steps)) for _, a, b in components)])
    at = np.array(sorted(value for _, value in atoms for _ in (0, 1)))
    after = np.concatenate([np.zeros(len(values), int), np.tile([0, 1], len(atoms))])
    grid = np.concatenate([values, at])
    order = np.lexsort((after, grid))
    grid, after = grid[order], after[order]
    total = sum(part[0] for part in components) + sum(atom[0] for atom in atoms)
    below, above = np.zeros_like(grid), np.zeros_like(grid)
    for weight, a, b in components:
        below += weight * special.betainc(a, b, grid)
        above += weight * special.betaincc(a, b, grid)
    for weight, value in atoms:
        passed = (grid > value) | ((grid == value) & (after == 1))
        below += np.where(passed, weight, 0.0)
        above += np.where(passed, 0.0, weight)
    below, above = below / total, above / total
    knots = np.where(below < 0.5, special.ndtri(below), -special.ndtri(above))
    return np.maximum.accumulate(np.clip(knots, -40.0, 40.0)), grid


def _log_odds(a: float, b: float, steps: FloatArray) -> FloatArray:
    """Mean log odds of a Beta plus *steps* standard deviations of them."""
    mean = special.digamma(a) - special.digamma(b)
    spread = np.sqrt(special.polygamma(1, a) + special.polygamma(1, b))
    return np.asarray(mean + spread * steps)


def _short_law(value: Any) -> Any:
    """A bare number is a constant; a map without ``law`` is left to fail with the list of laws."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"law": "constant", "value": value}
    return value


Law = Annotated[
    Annotated[
        Constant | Lognormal | Weibull | Gamma | Pareto | Uniform | Mixture | Spliced | Empirical | BetaMixture,
        Field(discriminator="law"),
    ],
    BeforeValidator(_short_law),
]
"""Any law, by its ``law`` key; a bare number is a constant."""
