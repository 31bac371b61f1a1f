"""Shortest predicted job first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from sim.engine.request import Request
from sim.engine.settings import EngineSettings
from sim.engine.step import FOREVER, Step
from sim.policies.batching import make_room_by
from sim.policies.schedulers import scheduler


def _expected(request: Request, settings: EngineSettings) -> int:
    tokens = request.predicted_tokens
    return tokens if tokens >= 0 else settings.max_model_len - request.prompt_tokens


@scheduler("sjf")
@dataclass(frozen=True)
class Sjf:
    """Shortest job first by predicted output (SSJF: Qiu et al., AIOps 2024, there with a BERT predictor): the
    waiting request with the fewest expected output tokens enters first, running ones stay. Under memory
    pressure the one with the most expected tokens is recomputed. Long requests may starve."""

    serves_all_when_nobody_waits: ClassVar[bool] = True
    serves_all_then_admits_heads: ClassVar[bool] = True

    def queue_order(self, settings: EngineSettings) -> Callable[[Request], Any]:
        """Fewest predicted output tokens first."""
        return lambda request: (_expected(request, settings), request.arrived_ps)

    def who_yields(self, step: Step) -> Request:
        """The one with the most predicted output tokens, of those the last admitted."""
        settings = step.settings
        return max(reversed(step.running), key=lambda request: _expected(request, settings))

    def schedule(self, step: Step) -> None:
        make_room_by(step, self.who_yields)
        step.serve_running()
        if step.preempted:
            return
        if step.waiting:
            step.admit_heads()
        else:
            step.hold = FOREVER
