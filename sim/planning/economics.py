"""Money in training against money in answering: which model to train for how many queries, and from which volume
on a dearer training pays.

Formulas and their sources:

* training takes 6 N D floating-point operations for N parameters (those that a token uses) and D tokens, answering
  2 N a token (Kaplan et al. 2020, arXiv 2001.08361, section 2.1); attention is left out;
* the loss of a dense model trained on D tokens is E + A / N^alpha + B / D^beta (Hoffmann et al. 2022,
  arXiv 2203.15556, approach 3);
* the best split spends the least on 6 N D + 2 N D_inference at an equal loss (Sardana et al. 2024,
  arXiv 2401.00448).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sim.errors import InputError, Problem

TRAINING_FLOPS = 6.0
INFERENCE_FLOPS = 2.0
"""Floating-point operations a parameter and token."""
IRREDUCIBLE, A, B, ALPHA, BETA = 1.69, 406.4, 410.7, 0.34, 0.28
"""Hoffmann et al., approach 3: fitted on models of 70 M to 16 B parameters."""
FITTED_UP_TO = 16e9
HOUR_S = 3600.0


@dataclass(frozen=True)
class Prices:
    """What an operation costs: *peak_flops* of a GPU at *usd_per_gpu_hour*, and the shares of the peak reached.

    Training reaches 0.38 to 0.43 (Llama 3 405B, arXiv 2407.21783, table 4). Decoding is bound by memory and reaches
    far less: its share is best taken from a run, as US dollars a million tokens (`utilization_of`).
    """

    peak_flops: float
    usd_per_gpu_hour: float
    training_utilization: float = 0.4
    inference_utilization: float = 0.1

    def __post_init__(self) -> None:
        for name in ("training_utilization", "inference_utilization"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(Problem(f"{name} is {getattr(self, name):g}", expected="above 0, at most 1"))
        if self.peak_flops <= 0 or self.usd_per_gpu_hour < 0:
            raise InputError(Problem("a GPU needs a peak above 0 and a price of at least 0"))

    def training_usd(self, flops: float) -> float:
        """US dollars of *flops* of training."""
        return flops / (self.peak_flops * self.training_utilization) / HOUR_S * self.usd_per_gpu_hour

    def inference_usd(self, flops: float) -> float:
        """US dollars of *flops* of answering."""
        return flops / (self.peak_flops * self.inference_utilization) / HOUR_S * self.usd_per_gpu_hour

    def utilization_of(self, usd_per_million_tokens: float, parameters: float) -> float:
        """Share of the peak at which tokens of a model of *parameters* cost so much."""
        ideal = INFERENCE_FLOPS * parameters * 1e6 / self.peak_flops / HOUR_S * self.usd_per_gpu_hour
        return ideal / usd_per_million_tokens


def loss(parameters: float, tokens: float) -> float:
    """Loss of a dense model after so many tokens of training, nats a token.

    >>> round(loss(70e9, 1.4e12), 3)
    1.937
    """
    return float(IRREDUCIBLE + A / parameters**ALPHA + B / tokens**BETA)


def tokens_to_reach(target: float, parameters: float) -> float:
    """Training tokens after which a model of *parameters* has the loss *target*; infinite: it never has."""
    left = target - IRREDUCIBLE - A / parameters**ALPHA
    return math.inf if left <= 0 else float((B / left) ** (1 / BETA))


@dataclass(frozen=True)
class Split:
    """One model of the wanted loss, and what it costs over its life."""

    parameters: float
    training_tokens: float
    inference_tokens: float
    training_flops: float
    inference_flops: float
    training_usd: float
    inference_usd: float

    @property
    def total_usd(self) -> float:
        """Training and answering together."""
        return self.training_usd + self.inference_usd


def life(parameters: float, training_tokens: float, inference_tokens: float, prices: Prices) -> Split:
    """A model's costs when it is trained on, and then answers with, so many tokens."""
    training = TRAINING_FLOPS * parameters * training_tokens
    inference = INFERENCE_FLOPS * parameters * inference_tokens
    return Split(
        parameters,
        training_tokens,
        inference_tokens,
        training,
        inference,
        prices.training_usd(training),
        prices.inference_usd(inference),
    )


def moved(split: Split, inference_tokens: float, prices: Prices) -> Split:
    """The same model, asked for another number of tokens."""
    return life(split.parameters, split.training_tokens, inference_tokens, prices)


def compute_optimal_tokens(parameters: float) -> float:
    """Training tokens that suit a model of *parameters* best when only training counts: where the marginal
    loss of an operation is the same spent on size and on data, alpha A / N^alpha = beta B / D^beta.
    """
    return float((BETA * B * parameters**ALPHA / (ALPHA * A)) ** (1 / BETA))


def best_split(target: float, inference_tokens: float, prices: Prices) -> Split:
    """The cheapest model of loss *target* that answers with *inference_tokens* over its life.

    With none it is the compute-optimal one of Hoffmann et al.; the more are to come, the smaller and the longer
    trained it is. Raise an InputError when no model reaches the loss.
    """
    if target <= IRREDUCIBLE:
        raise InputError(Problem(f"a loss of {target:g}", expected=f"above {IRREDUCIBLE}, which no model gets below"))
    from scipy.optimize import minimize_scalar

    smallest = (A / (target - IRREDUCIBLE)) ** (1 / ALPHA)  # with endless training

    def cost(log_excess: float) -> float:
        parameters = smallest * (1 + math.exp(log_excess))
        usd = life(parameters, tokens_to_reach(target, parameters), inference_tokens, prices).total_usd
        return math.log(usd) if usd > 0 else 0.0

    found = minimize_scalar(cost, bounds=(math.log(1e-3), math.log(1e4)), method="bounded", options={"xatol": 1e-9})
    parameters = smallest * (1 + math.exp(float(found.x)))
    return life(parameters, tokens_to_reach(target, parameters), inference_tokens, prices)


@dataclass(frozen=True)
class Choice:
    """A model that could be deployed: what it cost to make, what a query costs, how often it is right."""

    name: str
    training_usd: float
    usd_per_query: float
    accuracy: float | None = None

    def usd(self, queries: float) -> float:
        """All that is paid for *queries*."""
        return self.training_usd + queries * self.usd_per_query

    def per_query(self, queries: float) -> float:
        """US dollars a query, training amortised over *queries*."""
        return self.usd(queries) / queries

    def per_correct(self, queries: float) -> float | None:
        """The same of a right answer; None where accuracy is not known or 0."""
        return self.per_query(queries) / self.accuracy if self.accuracy else None

    def worth(self, queries: float, *, value: float, wrong: float) -> float | None:
        """US dollars gained over *queries*, a right answer being worth *value* and a wrong one costing *wrong*."""
        if self.accuracy is None:
            return None
        return queries * (value * self.accuracy - wrong * (1 - self.accuracy)) - self.usd(queries)


def break_even(one: Choice, other: Choice, *, value: float = 0.0, wrong: float = 0.0) -> float | None:
    """Queries at which *one* and *other* come to the same; None: at no volume.

    What is compared is cost, or gain where answers have a value: then a model that is more often right earns back
    its training by that, too.
    """
    extra = one.training_usd - other.training_usd
    saved = _margin(one, value, wrong) - _margin(other, value, wrong)
    if extra == 0 or saved == 0 or extra / saved < 0:
        return None
    return extra / saved


def pays_from(choice: Choice, *, value: float, wrong: float) -> float | None:
    """Queries from which *choice* has earned back its training; None: never."""
    margin = _margin(choice, value, wrong)
    return choice.training_usd / margin if margin > 0 else None


def cheapest(choices: Sequence[Choice], queries: float, *, value: float = 0.0, wrong: float = 0.0) -> Choice:
    """The one to take at that volume; the first of equals."""
    return max(choices, key=lambda each: queries * _margin(each, value, wrong) - each.training_usd)


def _margin(choice: Choice, value: float, wrong: float) -> float:
    """What a query brings, its own cost taken off."""
    if not (value or wrong):
        return -choice.usd_per_query
    if choice.accuracy is None:
        raise InputError(
            Problem(f"{choice.name} has no accuracy", expected="accuracy=…, since answers have a value or a cost")
        )
    return value * choice.accuracy - wrong * (1 - choice.accuracy) - choice.usd_per_query
