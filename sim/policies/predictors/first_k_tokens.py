"""Sees better once an answer has begun."""

from __future__ import annotations

from dataclasses import dataclass

from sim.engine.request import Request
from sim.policies.predicting import Errors, Predict, Predictor, within_limit
from sim.policies.predictors import predictor
from sim.rng import Streams


@predictor("first_k_tokens")
@dataclass(frozen=True)
class FirstKTokens(Predictor):
    """A prediction from the prompt, off by a lognormal factor of ``sigma``, that is replaced by one of
    ``sigma_after`` once ``tokens`` have been generated, as probes of a model's hidden states do (TRAIL,
    Shahout et al., 2024). The later one is at least ``tokens``: so much is known then."""

    tokens: int = 128
    sigma: float = 1.0
    sigma_after: float = 0.3

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.sigma < 0 or self.sigma_after < 0:
            raise ValueError("tokens must be at least 1, sigma and sigma_after at least 0")

    def begin(self, streams: Streams) -> Predict:
        before, after = Errors(streams, "predictor"), Errors(streams, "predictor, later")

        def predict(request: Request) -> int:
            later = request.output_tokens * after.factor(request, self.sigma_after)
            request.refine_after = self.tokens
            request.refined_tokens = within_limit(request, max(later, self.tokens))
            return within_limit(request, request.output_tokens * before.factor(request, self.sigma))

        return predict
