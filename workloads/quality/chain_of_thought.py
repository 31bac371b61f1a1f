"""What reasoning step by step gains by kind of task and size of model: a prior for accuracy without reasoning.

Few-shot prompting of PaLM with and without a chain of thought (Wei et al. 2022, arXiv 2201.11903; the figures that the
article of the background quotes otherwise are theirs where the two differ: GSM8K 17.9 to 56.9 %, SVAMP 69.4 to
79.0 %). The gain is taken as a ratio of odds, so that it holds at other accuracies, and grows with the logarithm of
size from none at 62 to all at 540 billion parameters, as they report of prompted models. A model that was trained to
reason gains at any size: say no size for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Task = Literal["gsm8k", "svamp", "strategyqa", "date_understanding", "sports_understanding", "boolq"]


@dataclass(frozen=True)
class Gain:
    """Accuracy of PaLM 540B without and with a chain of thought, and the steps that the task takes."""

    standard: float
    chain_of_thought: float
    steps: str

    @property
    def odds_ratio(self) -> float:
        """By how much the odds of a right answer grow."""
        return _odds(self.chain_of_thought) / _odds(self.standard)


GAINS: Mapping[Task, Gain] = {
    "gsm8k": Gain(0.179, 0.569, "3-8"),
    "svamp": Gain(0.694, 0.790, "2-4"),
    "strategyqa": Gain(0.739, 0.778, "2-3"),
    "date_understanding": Gain(0.643, 0.773, "3-5"),
    "sports_understanding": Gain(0.914, 0.937, "1"),
    "boolq": Gain(0.880, 0.871, "1"),
}
TASKS: tuple[Task, ...] = get_args(Task)
NONE_BELOW, ALL_FROM = 62.0, 540.0
"""Billion parameters of a prompted model: no gain up to the first, all of it from the second on."""


def _odds(share: float) -> float:
    return share / (1 - share)


def reach(billion_parameters: float | None) -> float:
    """Share of the gain that a prompted model of that size has; None: trained to reason, all of it."""
    if billion_parameters is None:
        return 1.0
    share = math.log(billion_parameters / NONE_BELOW) / math.log(ALL_FROM / NONE_BELOW)
    return min(1.0, max(0.0, share))


def without_reasoning(accuracy: float, task: Task, billion_parameters: float | None = None) -> float:
    """Prior of the accuracy without reasoning of a model that reaches *accuracy* with it.

    >>> round(without_reasoning(0.569, "gsm8k"), 3)
    0.179
    """
    if not 0 < accuracy < 1:
        return accuracy
    odds = _odds(accuracy) * math.exp(-reach(billion_parameters) * math.log(GAINS[task].odds_ratio))
    return odds / (1 + odds)
