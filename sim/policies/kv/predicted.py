"""Memory for the predicted output, set aside at admission."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sim.engine.settings import EngineSettings
from sim.policies.kv import kv
from sim.policies.memory import HostLink, KvPolicy


@kv("predicted")
@dataclass(frozen=True)
class Predicted(KvPolicy):
    """Memory for the prompt and the output that the length predictor expects is set aside when a request
    enters, so that admission keeps clear of preemptions as far as predictions are right; beyond them blocks
    are taken as tokens come. Without a predictor it is ``static``. Without a prefix cache."""

    def apply(self, settings: EngineSettings, link: HostLink) -> EngineSettings:
        return replace(settings, reservation="predicted", enable_prefix_caching=False)
