"""H2O: heavy hitters and recent tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sim.policies.kv import kv
from sim.policies.kv_compression import CompressingKv
from workloads.quality.kept_tokens import SNAPKV, KeptTokens


@kv("h2o")
@dataclass(frozen=True)
class H2O(CompressingKv):
    """H2O (arXiv 2306.14048): half of what is kept are the tokens that were attended to most so far, half the most recent
    ones. The paper evicts a token at each step; here it is done 16 at a time. Its scores are sums that decoding keeps
    anyway, so that only the copy is paid. No figures for reasoning models were at hand: its accuracy is assumed
    to be SnapKV's."""

    kept_tokens: int = 2560
    recent_tokens: int = 1280
    interval_tokens: int = 16
    passes: int = 2
    law: ClassVar[KeptTokens] = SNAPKV
