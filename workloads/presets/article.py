"""The five kinds of query of the article that the project grew from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workloads.presets import preset
from workloads.spec import WorkloadSpec

_NORMAL_95 = 1.6448536269514722

KINDS: dict[str, tuple[float, tuple[int, int], tuple[int, int]]] = {
    "simple_fact": (0.40, (50, 100), (200, 500)),
    "coding": (0.25, (200, 500), (2_000, 8_000)),
    "math_word": (0.20, (100, 200), (3_000, 15_000)),
    "competition_math": (0.10, (200, 500), (10_000, 50_000)),
    "proof": (0.05, (500, 1_000), (20_000, 100_000)),
}
"""Weight (assumed), and the article's ranges of generated tokens: a standard model, a reasoning model."""

PROMPT = 2_000


def spread_over(low: float, high: float) -> dict[str, Any]:
    """The lognormal whose middle 90 % is the range from *low* to *high*."""
    median = float(np.sqrt(low * high))
    return {
        "law": "lognormal",
        "median": round(median, 1),
        "sigma": float(np.log(high / low) / 2 / _NORMAL_95),
    }


@preset("article")
@dataclass(frozen=True)
class Article:
    """The article's five kinds of query: simple fact, coding, word problem, competition mathematics, proof.

    Its ranges of generated tokens are read as the middle 90 % of a lognormal. With ``mode: reasoning`` (the
    default) the answer is as long as a standard model's and the reasoning fills the range; with ``mode:
    standard`` there is the answer alone. Prompts have 2,000 tokens, as in its memory example. These are
    claims of the article, not measurements; production traffic is much shorter (see deepseek-r1-production).
    Assumed: how many of each kind (40, 25, 20, 10, 5 %), and Poisson arrivals at 1/s.
    """

    def parts(self, asked: WorkloadSpec, base: Path | None) -> Mapping[str, Any]:
        categories = {}
        for name, (weight, standard, reasoning) in KINDS.items():
            lengths: dict[str, Any] = {"prompt": PROMPT, "answer": spread_over(*standard)}
            if asked.mode != "standard":
                middle = float(np.sqrt(standard[0] * standard[1]))
                lengths["reasoning"] = spread_over(reasoning[0] - middle, reasoning[1] - middle)
            categories[name] = {"weight": weight, "lengths": lengths}
        return {"arrivals": "poisson", "rate": "1/s", "categories": categories}
