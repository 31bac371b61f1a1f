"""Takes long for short and short for long."""

from __future__ import annotations

from dataclasses import dataclass

from sim.policies.predicting import Predict, Predictor, within_limit
from sim.policies.predictors import predictor
from sim.rng import Streams


@predictor("always_wrong")
@dataclass(frozen=True)
class AlwaysWrong(Predictor):
    """The order turned round: a length as far above ``middle_tokens`` as the truth is below, as a factor.
    What a scheduler that trusts predictions does when it should not."""

    middle_tokens: int = 1000

    def __post_init__(self) -> None:
        if self.middle_tokens < 1:
            raise ValueError(f"middle_tokens must be at least 1, not {self.middle_tokens}")

    def begin(self, streams: Streams) -> Predict:
        square = self.middle_tokens**2
        return lambda request: within_limit(request, square / max(1, request.output_tokens))
