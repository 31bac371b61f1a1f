"""R-KV: what is important and not said before is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sim.policies.kv import kv
from sim.policies.kv_compression import CompressingKv
from workloads.quality.kept_tokens import R_KV, KeptTokens


@kv("r-kv")
@dataclass(frozen=True)
class RKv(CompressingKv):
    """R-KV (arXiv 2505.24133): every 128 tokens the cache is cut down to the tokens that score best by attention and by
    not repeating others. Its comparison of all pairs of keys is not charged beyond the passes. The default keeps 1,536
    tokens, where its authors found no loss on AIME with R1-Distill-Llama-8B."""

    kept_tokens: int = 1536
    law: ClassVar[KeptTokens] = R_KV
