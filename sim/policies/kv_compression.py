"""What the policies share that compress a request's KV cache while it reasons; each has its own figures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sim.engine.compression import PPM, Compression
from sim.engine.settings import EngineSettings
from sim.policies.memory import HostLink, KvPolicy
from workloads.quality.kept_tokens import KeptTokens


@dataclass(frozen=True)
class CompressingKv(KvPolicy):
    """Whenever a request has computed *interval_tokens* more, its cache is cut down to *kept_tokens*, or to the share
    *kept_ratio* of all its tokens so far where that is more. Of these the last *recent_tokens* are kept whatever they are.
    A compression reads or writes the request's cache *passes* times and scores it by *recent_tokens* queries.

    Right answers become rarer by the law of kept tokens of the method; *lengthens* is by how much reasoning gets
    longer, which needs a ``quality`` section.
    """

    kept_tokens: int = 1024
    kept_ratio: float = 0.0
    recent_tokens: int = 8
    interval_tokens: int = 128
    passes: int = 3
    lengthens: float = 1.0

    law: ClassVar[KeptTokens]
    """What of the accuracy is left."""

    def __post_init__(self) -> None:
        if self.lengthens < 1:
            raise ValueError(f"lengthens must be at least 1, not {self.lengthens}")
        if not 0 <= self.kept_ratio <= 1:
            raise ValueError(f"kept_ratio must lie between 0 and 1, not {self.kept_ratio}")
        self.compression()

    def compression(self) -> Compression:
        """The engine's settings for it."""
        return Compression(
            kept_tokens=self.kept_tokens,
            interval_tokens=self.interval_tokens,
            ratio_ppm=round(self.kept_ratio * PPM),
            recent_tokens=self.recent_tokens,
            passes=self.passes,
        )

    def apply(self, settings: EngineSettings, link: HostLink) -> EngineSettings:
        """See :meth:`KvPolicy.apply`."""
        return replace(settings, compression=self.compression())

    def left_of_accuracy(self, natural_tokens: float) -> float:
        """Share of right answers that stays right when a chain of so many tokens is compressed."""
        return self.law.share(max(self.kept_tokens, self.kept_ratio * natural_tokens), natural_tokens)
