"""Preempted requests keep their blocks in host memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sim.engine.settings import EngineSettings
from sim.policies.kv import kv
from sim.policies.memory import COPY_EFFICIENCY, HostLink, KvPolicy


@kv("swap")
@dataclass(frozen=True)
class Swap(KvPolicy):
    """Preemption by swapping, as vLLM V0 had it: a preempted request's blocks are copied to the host over
    each GPU's own link and come back when it does, instead of being computed again. ``space_bytes`` is host
    memory a GPU; where it is full, preemption recomputes. Copies lengthen the step that they belong to (no
    overlap with compute). ``efficiency`` is the share of the link's bandwidth that copies of single blocks
    reach, ``link_bytes_per_s`` a bandwidth instead of the hardware's own (0: that)."""

    space_bytes: int = 64 * 2**30
    efficiency: float = COPY_EFFICIENCY
    link_bytes_per_s: float = 0.0

    def __post_init__(self) -> None:
        if self.space_bytes < 0 or not 0 < self.efficiency <= 1 or self.link_bytes_per_s < 0:
            raise ValueError("space_bytes and link_bytes_per_s must be at least 0, efficiency above 0 and at most 1")

    def apply(self, settings: EngineSettings, link: HostLink) -> EngineSettings:
        if self.link_bytes_per_s:
            link = replace(link, bytes_per_s=self.link_bytes_per_s)
        return replace(
            settings, swap_block_ps=link.block_ps(self.efficiency), swap_blocks=link.blocks(self.space_bytes)
        )
