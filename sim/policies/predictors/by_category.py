"""The mean of the category, given or learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sim.engine.request import Request
from sim.policies.predicting import Predict, Predictor, within_limit
from sim.policies.predictors import predictor
from sim.results.columns import Status
from sim.rng import Streams


@predictor("by_category")
@dataclass(frozen=True)
class ByCategory(Predictor):
    """The mean output of the category's requests that this run has completed so far, which is what an
    operator can measure; before the first, ``default_tokens``. ``tokens`` says it by category number instead
    (0 is the first category of the workload) for those that it names."""

    default_tokens: int = 1000
    tokens: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min((self.default_tokens, *self.tokens.values())) < 1:
            raise ValueError("default_tokens and the tokens of each category must be at least 1")

    def begin(self, streams: Streams) -> Predict:
        sums: dict[int, list[int]] = {}
        pending: list[Request] = []

        def learn() -> None:
            still = []
            for request in pending:
                if request.status == Status.UNFINISHED:
                    still.append(request)
                elif request.status == Status.COMPLETED:
                    entry = sums.setdefault(request.category, [0, 0])
                    entry[0] += request.generated
                    entry[1] += 1
            pending[:] = still

        def predict(request: Request) -> int:
            given = self.tokens.get(request.category)
            if given is not None:
                return within_limit(request, given)
            learn()
            pending.append(request)
            total, count = sums.get(request.category, (self.default_tokens, 1))
            return within_limit(request, total / count)

        return predict
