"""Right up to a lognormal factor."""

from __future__ import annotations

from dataclasses import dataclass

from sim.policies.predicting import Errors, Predict, Predictor, within_limit
from sim.policies.predictors import predictor
from sim.rng import Streams


@predictor("lognormal_error")
@dataclass(frozen=True)
class LognormalError(Predictor):
    """The true length times a lognormal factor of median 1 and log standard deviation ``sigma``. About 0.3 is
    the floor for whoever sees the prompt alone (other answers of a reasoning model to the same prompt,
    leave-one-out: median error 14 to 19 %, rank correlation 0.96), 0.7 a small trained model (rank
    correlation about 0.7 to 0.8, SSJF's BERT on chat), 1.0 little more than the type of the question."""

    sigma: float = 0.3

    def __post_init__(self) -> None:
        if self.sigma < 0:
            raise ValueError(f"sigma must be at least 0, not {self.sigma}")

    def begin(self, streams: Streams) -> Predict:
        errors = Errors(streams, "predictor")
        return lambda request: within_limit(request, request.output_tokens * errors.factor(request, self.sigma))
