"""What probes save: the expected share of reasoning that an early exit keeps, and what was published of it.

A chain settles after a share of its length that is Beta distributed (``AnswerLaw.convergence``); probes come at fixed
intervals, see that it has settled with one chance each, and say so wrongly with another before. The rules are those of the
simulation; here they are summed up without drawing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from workloads.quality.convergence import convergence
from workloads.quality.published import BENCHMARKS
from workloads.quality.spec import AnswerLaw, beta_quantile


@dataclass(frozen=True)
class ExitRow:
    """One published saving of DEER on R1-Distill-Qwen-7B (digest of arXiv 2504.15895)."""

    benchmark: str
    kept: float
    """Tokens with early exit over tokens without."""
    natural_tokens: int
    """Length assumed here: of the same model where known, else of R1-Distill-Llama-8B or of the nearest benchmark."""
    accuracy: float
    """Of R1-Distill-Qwen-7B: DeepSeek's figure where there is one, else DEER's own without early exit."""
    worked_out: bool = True
    """The answer is worked out; False: one of four is chosen."""

    @property
    def convergence(self) -> float:
        """Mean share of a chain after which it has settled, as shipped; see `workloads.quality.published`."""
        known = BENCHMARKS.get(self.benchmark)
        return known.convergence if known is not None else convergence(self.accuracy)


DEER = (
    ExitRow("gsm8k", 0.618, 1_677, 0.896),
    ExitRow("math-500", 0.555, 4_223, 0.928),
    ExitRow("amc23", 0.655, 8_000, 0.788),
    ExitRow("aime-2024", 0.715, 15_536, 0.555),
    ExitRow("gpqa-diamond", 0.534, 8_000, 0.491, worked_out=False),
)


def kept_share(
    every_tokens: int,
    probe_tokens: int,
    hit: float,
    false_exit: float,
    natural_tokens: int,
    settles: float | None = None,
) -> float:
    """Expected tokens of a chain of *natural_tokens* with probes, those of the probes included, over its length.

    *settles* is the mean share after which it has settled; None: the default of the quality model.
    """
    law = AnswerLaw(accuracy=0.5) if settles is None else AnswerLaw(accuracy=0.5, convergence=settles)
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
