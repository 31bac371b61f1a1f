"""What is left of the accuracy when only so many tokens of a chain are kept in the KV cache.

Of the right answers a share ``1 - exp(-(kept / scale)^shape)`` stays right, where ``scale`` grows with the length of the
chain to a power. The three figures of a method go through three published rows of R1-Distill-Llama-8B: two budgets on AIME
2024, whose mean chain has 15,536 tokens, and one on MATH-500, with 2,979. The other rows are predicted
(``tests/reasoning/test_kept_tokens.py`` says how well). The form of the law was chosen with all rows in view, and it never
exceeds 1: the gain by up to 8 % that R-KV reports above 1,536 tokens is not modelled. A chain of its own length faces
the law as if a benchmark had that mean length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

LLAMA_8B_TOKENS = {"aime-2024": 15_536, "math-500": 2_979}
"""Mean tokens an answer of R1-Distill-Llama-8B (R-KV README)."""


@dataclass(frozen=True)
class KeptRow:
    """One published accuracy under compression, beside that of the full cache."""

    method: str
    benchmark: str
    kept_tokens: int
    accuracy: float
    full: float
    source: str
    fitted: bool = False
    """The law goes through it."""

    @property
    def share(self) -> float:
        """Accuracy over that of the full cache."""
        return self.accuracy / self.full


_PAPER = "R-KV (arXiv 2505.24133), AIME 2024, via a rerun's notes"
_RERUN = "independent rerun, 1,920 samples"
_OTHER = "ReasonAlloc's comparison, via notes"

ROWS: tuple[KeptRow, ...] = (
    KeptRow("r-kv", "aime-2024", 256, 0.104, 0.504, _OTHER, fitted=True),
    KeptRow("r-kv", "aime-2024", 1024, 0.4526, 0.4979, _PAPER, fitted=True),
    KeptRow("r-kv", "math-500", 512, 0.765, 0.892, _OTHER, fitted=True),
    KeptRow("r-kv", "aime-2024", 1536, 0.5156, 0.4979, _PAPER),
    KeptRow("r-kv", "aime-2024", 2048, 0.5229, 0.4979, _PAPER),
    KeptRow("r-kv", "aime-2024", 2560, 0.5385, 0.4979, _PAPER),
    KeptRow("r-kv", "aime-2024", 1024, 0.4401, 0.4813, _RERUN),
    KeptRow("r-kv", "aime-2024", 1536, 0.4859, 0.4813, _RERUN),
    KeptRow("r-kv", "aime-2024", 2048, 0.4953, 0.4813, _RERUN),
    KeptRow("r-kv", "aime-2024", 2560, 0.5010, 0.4813, _RERUN),
    KeptRow("snapkv", "aime-2024", 1024, 0.1573, 0.4979, _PAPER, fitted=True),
    KeptRow("snapkv", "aime-2024", 2560, 0.3943, 0.4979, _PAPER, fitted=True),
    KeptRow("snapkv", "math-500", 512, 0.636, 0.892, _OTHER, fitted=True),
    KeptRow("snapkv", "aime-2024", 256, 0.013, 0.504, _OTHER),
    KeptRow("snapkv", "aime-2024", 1536, 0.2604, 0.4979, _PAPER),
    KeptRow("snapkv", "aime-2024", 2048, 0.3276, 0.4979, _PAPER),
    KeptRow("snapkv", "aime-2024", 1024, 0.1854, 0.4813, _RERUN),
    KeptRow("snapkv", "aime-2024", 1536, 0.2734, 0.4813, _RERUN),
    KeptRow("snapkv", "aime-2024", 2048, 0.3391, 0.4813, _RERUN),
    KeptRow("snapkv", "aime-2024", 2560, 0.3958, 0.4813, _RERUN),
)
"""R1-Distill-Llama-8B."""


@dataclass(frozen=True)
class KeptTokens:
    """The law of one method; see the module."""

    scale_tokens: float
    """Kept tokens at which 63 % of the right answers stay right, for a chain of 10,000 tokens."""
    length_exponent: float
    shape: float

    def share(self, kept_tokens: float, natural_tokens: float) -> float:
        """Share of right answers that stay right; 1 for a chain that is not longer than what is kept."""
        if natural_tokens <= kept_tokens:
            return 1.0
        scale = self.scale_tokens * (natural_tokens / 10_000) ** self.length_exponent
        return -math.expm1(-((kept_tokens / scale) ** self.shape))


def through(method: str) -> KeptTokens:
    """The law that goes through the fitted rows of *method*: two of AIME, then one of MATH-500."""
    low, high, other = (row for row in ROWS if row.method == method and row.fitted)
    lows, highs, others = (-math.log1p(-row.share) for row in (low, high, other))
    shape = math.log(highs / lows) / math.log(high.kept_tokens / low.kept_tokens)
    scale = low.kept_tokens / lows ** (1 / shape)
    lengths = [LLAMA_8B_TOKENS[row.benchmark] for row in (low, other)]
    shorter = other.kept_tokens / others ** (1 / shape)
    exponent = math.log(scale / shorter) / math.log(lengths[0] / lengths[1])
    return KeptTokens(scale / (lengths[0] / 10_000) ** exponent, exponent, shape)


R_KV = through("r-kv")
SNAPKV = through("snapkv")
