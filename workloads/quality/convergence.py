"""After which share of its length does a chain of thought settle on its answer? A law of how hard the problems are.

EvalScope measured the share of DeepSeek-R1's reasoning that comes before the first correct answer on MATH-500, and how often
R1-Distill-Qwen-7B is right there, both by level (``LEVELS``). A straight line in log-odds, of that share over the error of this
model, goes through the lowest and the highest level; with the model's accuracy on another benchmark it predicts where chains
settle there. It says something of problems, not of models: QwQ-32B's share grows by the same 18 points between these levels,
from 31 to 49 %, though it is hardly more often wrong on the highest.

Nothing of it is fitted to the savings of early exits, which it predicts (`workloads.quality.exits`). Multiple choice is outside:
one of four answers can be right long before it is worked out.
"""

from __future__ import annotations

import math
from typing import NamedTuple

REFERENCE = "r1-distill-qwen-7b"
"""Whose accuracy measures how hard problems are."""


class Level(NamedTuple):
    """A level of MATH-500."""

    accuracy: float
    """Of R1-Distill-Qwen-7B; EvalScope, Evaluating the thinking efficiency of models."""
    share: float
    """Of DeepSeek-R1's reasoning before the first correct answer; the same page."""


LEVELS = (Level(0.9535, 0.36), Level(0.8557, 0.54))
"""Levels 1 and 5; the shares of those between are published as a figure only."""
MATH_500 = 0.45
"""Of the whole benchmark: the middle of its levels."""


def convergence(reference_accuracy: float) -> float:
    """Mean share of a chain after which it has settled, on problems of which `REFERENCE` solves that share.

    >>> round(convergence(0.9535), 2), round(convergence(0.8557), 2), round(convergence(0.555), 2)
    (0.36, 0.54, 0.75)
    """
    if not 0.0 < reference_accuracy < 1.0:
        raise ValueError(f"an accuracy lies between 0 and 1, got {reference_accuracy}")
    easy, hard = LEVELS
    slope = (_odds(hard.share) - _odds(easy.share)) / (_odds(easy.accuracy) - _odds(hard.accuracy))
    return 1.0 / (1.0 + math.exp(-(_odds(easy.share) + slope * (_odds(easy.accuracy) - _odds(reference_accuracy)))))


def _odds(share: float) -> float:
    return math.log(share / (1.0 - share))
