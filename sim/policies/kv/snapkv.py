"""SnapKV, applied while decoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sim.policies.kv import kv
from sim.policies.kv_compression import CompressingKv
from workloads.quality.kept_tokens import SNAPKV, KeptTokens


@kv("snapkv")
@dataclass(frozen=True)
class SnapKv(CompressingKv):
    """SnapKV (arXiv 2404.14469), for prompts in the original, applied while decoding as the authors of R-KV measured
    it: every 128 tokens the tokens are kept that the last ones attend to most."""

    kept_tokens: int = 2560
    law: ClassVar[KeptTokens] = SNAPKV
