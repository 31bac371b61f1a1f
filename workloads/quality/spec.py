"""What the ``quality`` section of a scenario may say.

::

    quality:
      benchmark: math-500                     # which published figures hold, for all categories …
      categories: {proof: aime-2024}          # … or by category
      models:                                 # your own figures, by model and benchmark
        qwq-32b: {math-500: {accuracy: 0.906, concentration: 2.5}}
      pools: {standard: {reasoning_scale: 0}} # how long a pool's model talks, against the workload's lengths
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from workloads.laws import Strict
from workloads.quality.chain_of_thought import Task, without_reasoning
from workloads.quantities import Share

Name = Annotated[str, Field(min_length=1, max_length=200)]
FloatArray = npt.NDArray[np.float64]


class AnswerLaw(Strict):
    """How often one model is right on one benchmark, and how its wrong answers lie.

    The chance p of a right answer differs by query: Beta with mean *accuracy* and a + b = *concentration*
    (small: queries are either easy or hopeless; default: all queries alike). A wrong answer is one of
    *wrong_answers*, each as likely. A chain of thought settles on its answer after a share of its length
    that is Beta with mean *convergence*; cut before, the answer is right with probability *guess*.

    Longer or shorter thinking by choice (effort x times the natural length) moves the mean along
    ``limit - (limit - floor) exp(-saturation x)``, which goes through *accuracy* at x = 1. The default
    saturation is that of gpt-5's low, medium and high effort on Aider polyglot (81.3, 86.7, 88.0 % at 3,465,
    6,528 and 11,660 tokens), per length at medium effort.
    """

    accuracy: Share = Field(description="share of single answers that are right, at natural length")
    concentration: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="a + b of the Beta of difficulty; default: all queries are alike"
    )
    wrong_answers: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=4, description="alternatives that wrong answers scatter over"
    )
    guess: Share = Field(default=0.0, description="chance to be right when cut before the answer is settled")
    convergence: Share = Field(default=0.45, description="mean share of a chain after which it has settled")
    convergence_concentration: Annotated[float, Field(gt=0)] = Field(
        default=6.0, description="a + b of the Beta of that share"
    )
    floor: Share | None = Field(
        default=None, description="accuracy without any reasoning, for effort levels; default: the task's prior, else 0"
    )
    task: Task | None = Field(
        default=None, description="kind of task whose gain by a chain of thought is the prior of `floor`"
    )
    billion_parameters: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="size of a prompted model, for that prior; default: a model trained to reason"
    )
    saturation: Annotated[float, Field(gt=0)] = Field(
        default=3.0, description="how fast accuracy saturates with length, per natural length"
    )

    @property
    def without_reasoning(self) -> float:
        """Accuracy without any reasoning: as stated, else the prior of the task, else 0."""
        if self.floor is not None:
            return self.floor
        if self.task is None:
            return 0.0
        return without_reasoning(self.accuracy, self.task, self.billion_parameters)

    def mean(self, effort: float = 1.0) -> float:
        """Accuracy at *effort* times the natural length."""
        if effort == 1.0:
            return self.accuracy
        floor = self.without_reasoning
        gain = (self.accuracy - floor) / -math.expm1(-self.saturation)
        return min(1.0, max(0.0, floor - gain * math.expm1(-self.saturation * effort)))

    def chance(self, easiness: FloatArray, effort: float = 1.0) -> FloatArray:
        """Chance of a right answer for queries at the quantiles *easiness* of the difficulty."""
        mean = self.mean(effort)
        if self.concentration is None or not 0.0 < mean < 1.0:
            return np.full(np.shape(easiness), mean)
        return beta_quantile(mean, self.concentration, easiness)


def beta_quantile(mean: float, concentration: float, u: FloatArray) -> FloatArray:
    """Quantiles of the Beta with that mean and a + b."""
    if not 0.0 < mean < 1.0:
        return np.full(np.shape(u), mean)
    from scipy.special import betaincinv

    return np.asarray(betaincinv(mean * concentration, (1 - mean) * concentration, u), dtype=np.float64)


class Latent(Strict):
    """Reasoning in latent steps, which yield no token: each takes as long as a token, and stands for several.

    Continuous thoughts (Coconut, arXiv 2412.06769) keep a position in the KV cache each; recurrent ones are run at one and the
    same position.
    """

    tokens_per_step: Annotated[float, Field(ge=1)] = Field(
        description="reasoning tokens that a latent step stands for; 1: as many steps as tokens"
    )
    keeps_kv: bool = Field(
        default=True, description="each step takes a position in the KV cache; false: all steps share one"
    )

    def steps(self, reasoning_tokens: int) -> int:
        """Latent steps instead of so many tokens."""
        return math.ceil(reasoning_tokens / self.tokens_per_step)


class PoolLengths(Strict):
    """How long the model of a pool talks, against the lengths that the workload says."""

    reasoning_scale: Annotated[float, Field(ge=0)] = Field(
        default=1.0, description="factor on reasoning tokens; 0: it does not reason"
    )
    answer_scale: Annotated[float, Field(gt=0)] = Field(default=1.0, description="factor on answer tokens")
    latent: Latent | None = Field(
        default=None, description="it reasons in latent steps; say its accuracy under `models`; default: in tokens"
    )
    benchmark: Name | None = Field(default=None, description="figures for this pool; default: the section's")


class QualitySpec(Strict):
    """Whether answers are right; without this section nothing is said about it."""

    benchmark: Name | None = Field(
        default=None, description="whose figures hold for categories not named below; thinkcap quality list"
    )
    categories: dict[Name, Name] = Field(default_factory=dict, description="benchmark by category")
    models: dict[Name, dict[Name, AnswerLaw]] = Field(
        default_factory=dict, description="your own figures: by model (a name or `any`), then benchmark"
    )
    pools: dict[Name, PoolLengths] = Field(
        default_factory=dict, description="lengths of pools whose models talk more or less"
    )
    length_correlation: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0, description="correlation of a query's difficulty and its length (normal scores)"
    )
    value_of_correct: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="US dollars that a right answer is worth"
    )
    cost_of_wrong: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="US dollars that a wrong answer costs"
    )
