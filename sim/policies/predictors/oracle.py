"""Knows every length."""

from __future__ import annotations

from dataclasses import dataclass

from sim.policies.predicting import Predict, Predictor, within_limit
from sim.policies.predictors import predictor
from sim.rng import Streams


@predictor("oracle")
@dataclass(frozen=True)
class Oracle(Predictor):
    """The true length of each output: what no predictor reaches, and the bound for what one could bring."""

    def begin(self, streams: Streams) -> Predict:
        return lambda request: within_limit(request, request.output_tokens)
