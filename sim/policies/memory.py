"""What a KV policy decides: how an engine's settings use its KV memory, and the host's."""

from __future__ import annotations

from dataclasses import dataclass

from sim.engine.settings import EngineSettings

COPY_EFFICIENCY = 0.8
"""Share of the link's bandwidth that copies of single blocks reach."""


@dataclass(frozen=True)
class HostLink:
    """The way between one GPU and its host; every GPU of a replica has its own and moves its own share."""

    bytes_per_s: float
    """One way, as the hardware's sheet says."""
    block_bytes: float
    """Of one KV block on one GPU."""

    def block_ps(self, efficiency: float) -> int:
        """Time to copy one block at that share of the sheet's bandwidth."""
        return max(1, round(self.block_bytes / (self.bytes_per_s * efficiency) * 1e12))

    def blocks(self, space_bytes: int) -> int:
        """Blocks that *space_bytes* of host memory a GPU hold."""
        return int(space_bytes // self.block_bytes)


class KvPolicy:
    """Base of the KV policies: a subclass fills in `apply`."""

    lengthens: float = 1.0
    """Factor on the reasoning tokens of every generation."""

    def apply(self, settings: EngineSettings, link: HostLink) -> EngineSettings:
        """*settings* with this policy's way to keep KV memory."""
        raise NotImplementedError

    def left_of_accuracy(self, natural_tokens: float) -> float:
        """Share of right answers that stays right for a chain of *natural_tokens*; 1 unless KV is thrown away."""
        return 1.0
