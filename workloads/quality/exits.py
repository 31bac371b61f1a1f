"""What probes save: the expected share of reasoning that an early exit keeps, and what was published.

A chain settles after a share of its length that is Beta distributed (``AnswerLaw.convergence``); probes come at fixed
intervals, see that it has settled with one chance each, and say so wrongly with another before. The rules are those of the
simulation; here they are summed up without drawing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from workloads.quality.spec import AnswerLaw, beta_quantile


@dataclass(frozen=True)
class ExitRow:
    """One published saving of DEER on R1-Distill-Qwen-7B (digest of arXiv 2504.15895)."""

    benchmark: str
    kept: float
    """Tokens with early exit over tokens without."""
    natural_tokens: int
    """Length assumed here: of the same model where known, else of R1-Distill-Llama-8B or of the nearest benchmark."""


DEER = (
    ExitRow("gsm8k", 0.618, 1_677),
    ExitRow("math-500", 0.555, 4_223),
    ExitRow("amc23", 0.655, 8_000),
    ExitRow("aime-2024", 0.715, 15_536),
    ExitRow("gpqa-diamond", 0.534, 8_000),
)


def kept_share(
    every_tokens: int,
    probe_tokens: int,
    hit: float,
    false_exit: float,
    natural_tokens: int,
    convergence: float | None = None,
) -> float:
    """Expected tokens of a chain of *natural_tokens* with probes, those of the probes included, over its length.

    *convergence* is the mean share after which it has settled; None: the default of the quality model.
    """
    law = AnswerLaw(accuracy=0.5) if convergence is None else AnswerLaw(accuracy=0.5, convergence=convergence)
    quantiles = (np.arange(400) + 0.5) / 400
    shares = beta_quantile(law.convergence, law.convergence_concentration, quantiles)
    last = max(natural_tokens - 1, 0) // every_tokens
    total = 0.0
    for share in shares.tolist():
        settled = max(1, math.ceil(share * natural_tokens / every_tokens))
        stays = 1.0
        for look in range(1, last + 1):
            chance = hit if look >= settled else false_exit
            total += stays * chance * look * (every_tokens + probe_tokens)
            stays *= 1 - chance
        total += stays * (natural_tokens + last * probe_tokens)
    return total / len(quantiles) / natural_tokens


def through_ends(every_tokens: int, probe_tokens: int, hit: float, false_exit: float) -> tuple[float, float]:
    """(share at 1,000 tokens, growth per e-fold of length) of a convergence that is linear in the logarithm of the length and
    goes through the savings of the shortest and the longest of `DEER` under these probes; the other rows are predicted.
    """
    from scipy.optimize import brentq

    ends = [min(DEER, key=lambda row: row.natural_tokens), max(DEER, key=lambda row: row.natural_tokens)]
    means = [
        brentq(
            lambda mean, row=row: (
                kept_share(every_tokens, probe_tokens, hit, false_exit, row.natural_tokens, mean) - row.kept
            ),
            0.05,
            0.98,
        )
        for row in ends
    ]
    growth = (means[1] - means[0]) / math.log(ends[1].natural_tokens / ends[0].natural_tokens)
    return means[0] - growth * math.log(ends[0].natural_tokens / 1000), growth
