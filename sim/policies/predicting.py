"""What a length predictor is asked, and what it may use.

A predictor stands for a model that looks at a prompt. It alone may look at a request's true length, to be
wrong by a stated measure; what it says is all that schedulers and routers see. Its draws belong to (query,
sample): two configurations face the same predictions."""

from __future__ import annotations

from collections.abc import Callable
from math import exp

from sim.engine.request import Request
from sim.rng import QueryDraws, Streams

Predict = Callable[[Request], int]


class Predictor:
    """Base of the predictors: a subclass fills in `begin`."""

    def begin(self, streams: Streams) -> Predict:
        """How to predict during one run: output tokens of a request, from 1 to its ``max_tokens``."""
        raise NotImplementedError


def within_limit(request: Request, tokens: float) -> int:
    """*tokens* as a prediction that can come true."""
    most = request.max_tokens if request.max_tokens > 0 else 1 << 40
    return max(1, min(round(tokens), most))


class Errors:
    """Lognormal factors of median 1 by (query, sample), drawn in blocks; *name* is the random stream."""

    def __init__(self, streams: Streams, name: str) -> None:
        self._draws, self._name = QueryDraws(streams.normals), name

    def factor(self, request: Request, sigma: float) -> float:
        """The factor by which the prediction of *request* is off, of log standard deviation *sigma*."""
        if not sigma:
            return 1.0
        return exp(min(sigma * self._draws.of(self._name, max(request.query, 0), request.sample), 100.0))
