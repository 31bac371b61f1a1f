"""Paged blocks, as vLLM keeps them."""

from __future__ import annotations

from dataclasses import dataclass

from sim.engine.settings import EngineSettings
from sim.policies.kv import kv
from sim.policies.memory import HostLink, KvPolicy


@kv("paged")
@dataclass(frozen=True)
class Paged(KvPolicy):
    """PagedAttention (Kwon et al., SOSP 2023): blocks are taken as tokens come, so at most a part of the last
    one is wasted; under pressure requests are preempted and recomputed. The default."""

    def apply(self, settings: EngineSettings, link: HostLink) -> EngineSettings:
        return settings
