"""Memory for the longest possible output, set aside at admission."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sim.engine.settings import EngineSettings
from sim.policies.kv import kv
from sim.policies.memory import HostLink, KvPolicy


@kv("static")
@dataclass(frozen=True)
class Static(KvPolicy):
    """What PagedAttention replaced (FasterTransformer, Orca): memory for the prompt and all ``max_tokens`` is
    set aside when a request enters. Nobody is preempted; what short answers do not use is wasted. Without a
    prefix cache."""

    def apply(self, settings: EngineSettings, link: HostLink) -> EngineSettings:
        return replace(settings, reservation="max_tokens", enable_prefix_caching=False)
