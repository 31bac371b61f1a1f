"""What the ``arrivals`` of a workload may say: when queries come, and how that changes over time."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, field_validator, model_validator

from workloads.laws import Constant, Law, Strict
from workloads.quantities import PositiveSeconds, Seconds, seconds_law, write_seconds_law

SecondsLaw = Annotated[Law, BeforeValidator(seconds_law), write_seconds_law]


class Spike(Strict):
    """Traffic times *factor* from *at* on, for as long as it *lasts*."""

    at: Seconds
    lasts: PositiveSeconds
    factor: float = Field(ge=0)


class Ramp(Strict):
    """Traffic grows in a straight line from factor *start* to factor *end* between two times, and stays
    there."""

    begins: Seconds = 0.0
    ends: PositiveSeconds
    start: float = Field(default=1.0, ge=0)
    end: float = Field(ge=0)

    @model_validator(mode="after")
    def _forward(self) -> Ramp:
        if self.ends <= self.begins:
            raise ValueError("a ramp ends after it begins")
        return self


class Profile(Strict):
    """How the rate changes over time: factors on ``rate``.

    *levels* split *period* into equal parts and repeat; they are scaled to a mean of one, so that ``rate``
    stays the mean. *spikes* and *ramps* multiply on top and do change the mean.
    """

    levels: tuple[Annotated[float, Field(ge=0)], ...] = (1.0,)
    period: PositiveSeconds = 86_400.0
    spikes: tuple[Spike, ...] = ()
    ramps: tuple[Ramp, ...] = ()

    @field_validator("levels")
    @classmethod
    def _some_traffic(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if not levels or sum(levels) <= 0:
            raise ValueError("at least one level must be above zero")
        return levels


class Open(Strict):
    """Base of arrivals that do not wait for answers; a *profile* bends their time, which keeps their
    burstiness."""

    profile: Profile | None = None


class Poisson(Open):
    """Independent arrivals: gaps are exponential."""

    process: Literal["poisson"] = "poisson"


class GammaArrivals(Open):
    """Gaps are Gamma with the given *cv*: above 1 bursty, below 1 regular."""

    process: Literal["gamma"] = "gamma"
    cv: Annotated[float, Field(gt=0, le=50)]


class WeibullArrivals(Open):
    """Gaps are Weibull with the given *cv*."""

    process: Literal["weibull"] = "weibull"
    cv: Annotated[float, Field(gt=0, le=50)]


class ConstantArrivals(Open):
    """One query every 1/rate."""

    process: Literal["constant"] = "constant"


class Burst(Strict):
    """*size* queries at the same instant, once, or again *every* so often."""

    process: Literal["burst"] = "burst"
    size: PositiveInt
    at: Seconds = 0.0
    every: PositiveSeconds | None = None


class State(Strict):
    """One state of an MMPP: its *level* of traffic relative to the others, and how long it lasts in the
    mean."""

    level: float = Field(ge=0)
    lasts: PositiveSeconds


class Mmpp(Open):
    """Markov-modulated Poisson process: goes round its *states*, each exponentially long; ``rate`` is the
    mean."""

    process: Literal["mmpp"] = "mmpp"
    states: Annotated[tuple[State, ...], Field(min_length=2)]

    @field_validator("states")
    @classmethod
    def _some_traffic(cls, states: tuple[State, ...]) -> tuple[State, ...]:
        if sum(state.level for state in states) <= 0:
            raise ValueError("at least one state needs a level above zero")
        return states


class Hawkes(Open):
    """Self-exciting arrivals: each query brings *branching* more in the mean, exponentially soon
    (*decay*)."""

    process: Literal["hawkes"] = "hawkes"
    branching: Annotated[float, Field(ge=0, lt=1)]
    decay: PositiveSeconds


class Closed(Strict):
    """*in_flight* users; each asks again *think_time* after its answer."""

    process: Literal["closed"] = "closed"
    in_flight: PositiveInt
    think_time: SecondsLaw = Constant(value=0.0)


class RolloutArrivals(Strict):
    """Training steps of reinforcement learning: each learns from *prompts* queries, which the strategy ``group``
    turns into several answers each.

    *max_lag* 0 is synchronous: the prompts of a step start together, then the GPUs wait for *training* and
    *weight_sync*. Above 0 generation goes on meanwhile, so many versions of the weights ahead at most.
    *training_gpus* are those of a trainer of its own, for the GPU-hours of a step.
    """

    process: Literal["rollout"] = "rollout"
    prompts: PositiveInt
    max_lag: Annotated[int, Field(ge=0, le=1000)] = 0
    training: Seconds
    weight_sync: Seconds = 0.0
    training_gpus: Annotated[int, Field(ge=0)] = 0


def _short_process(value: Any) -> Any:
    return {"process": value} if isinstance(value, str) else value


Arrivals = Annotated[
    Annotated[
        Poisson | GammaArrivals | WeibullArrivals | ConstantArrivals | Burst | Mmpp | Hawkes | Closed | RolloutArrivals,
        Field(discriminator="process"),
    ],
    BeforeValidator(_short_process),
]
"""Any arrival process by its ``process`` key, or by its name alone where it has no options."""
