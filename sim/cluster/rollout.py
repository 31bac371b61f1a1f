"""Rollouts of reinforcement learning: which prompts are answered when, so that a trainer gets its batches.

A training step learns from *prompts* groups of answers. Version v of the weights starts when training of the step
before it is over and the weights are synchronised; groups may be started while fewer than (v + 1 + lag) x prompts
have been. With a lag of 0 that is synchronous: a step's groups start together, the slowest ends the generation, then
the GPUs wait for training. With more, generation goes on meanwhile, on weights that are older (as AReaL bounds it,
arXiv 2505.24298); running answers go on under new weights, which are taken over between two of their tokens.

Groups that pause at a segment's end (partial rollouts, Kimi k1.5, arXiv 2501.12599) go on in the next step, their
tokens read again, since the cache of older weights is worthless. A synchronous step then ends when every
group has ended or paused, and the trainer learns from those that ended.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from sim.cluster.clock import REACTION, TICK

if TYPE_CHECKING:
    from sim.cluster.driver import QueryRun
    from sim.cluster.gateway import Gateway

UPDATE = 1 << 60
"""Order of an update among ticks of one instant: after all others."""


@dataclass(frozen=True)
class RolloutSettings:
    """What the workload's ``arrivals`` say of rollouts; times in picoseconds."""

    prompts: int
    max_lag: int
    training_ps: int
    weight_sync_ps: int
    training_gpus: int


@dataclass(slots=True)
class Step:
    """One training step; times in picoseconds, -1: not yet."""

    start_ps: int
    """Its weights became current."""
    started: int = 0
    """Groups that were started under them."""
    resumed: int = 0
    """Groups that had paused and went on under them."""
    generated_ps: int = -1
    """The batch was complete, and training began."""
    trained: int = 0
    """Groups that the trainer learned from."""
    updated_ps: int = -1
    """The next weights became current."""
    lag_sum: int = 0
    """Versions that the trained groups were behind, all together."""
    lag_most: int = 0


class Rollout:
    """Of one run: starts groups, waits for them, trains."""

    def __init__(self, gateway: Gateway, settings: RolloutSettings) -> None:
        self._gateway = gateway
        self.settings = settings
        self.version = 0
        self.steps: list[Step] = []
        self._started = self._generating = 0
        self._begun: dict[int, int] = {}  # by query: version under which it was started
        self._ready: list[int] = []  # queries that ended and were not trained on yet, in their order
        self._paused: list[QueryRun] = []
        self._training = False

    def begin(self) -> None:
        """The run starts: the groups of the first step are started."""
        self.steps.append(Step(0))
        self._start()

    def pause(self, run: QueryRun) -> None:
        """A group waits for the next step."""
        self._paused.append(run)
        self._generating -= 1
        self._look()

    def ended(self, query: int) -> None:
        """A group has ended, in whatever way."""
        self._ready.append(query)
        self._generating -= 1
        self._look()

    def figures(self) -> dict[str, object]:
        """For the run's description; what the end of the run cut off is foretold, since nothing can change it."""
        settings = self.settings
        return {**asdict(settings), "steps": [asdict(step) for step in self.steps if step.generated_ps >= 0]}

    def _start(self) -> None:
        limit = (self.version + 1 + self.settings.max_lag) * self.settings.prompts
        step = self.steps[-1]
        while self._started < limit and (query := self._gateway.release()) is not None:
            self._begun[query] = self.version
            self._started += 1
            self._generating += 1
            step.started += 1

    def _look(self) -> None:
        """Has the trainer what it waits for?"""
        quiet = not self._generating
        enough = len(self._ready) >= self.settings.prompts and self.settings.max_lag > 0
        if self._training or not (quiet or enough) or not (self._ready or self._paused):
            return
        settings, step, now_ps = self.settings, self.steps[-1], self._gateway.clock.now_ps
        count = min(len(self._ready), settings.prompts) if settings.max_lag else len(self._ready)
        batch, self._ready = self._ready[:count], self._ready[count:]
        lags = [self.version - self._begun.pop(query) for query in batch]
        step.generated_ps, step.trained = now_ps, count
        step.lag_sum, step.lag_most = sum(lags), max(lags, default=0)
        # where no group has ended there is nothing to learn from, and the paused ones go on
        step.updated_ps = now_ps + (settings.training_ps + settings.weight_sync_ps if count else 0)
        self._training = True
        self._gateway.clock.at(step.updated_ps, TICK, UPDATE, self._update)

    def _update(self) -> None:
        """New weights are current."""
        self._training = False
        self.version += 1
        paused, self._paused = self._paused, []
        clock = self._gateway.clock
        self.steps.append(Step(clock.now_ps, resumed=len(paused)))
        self._generating += len(paused)
        for run in paused:
            clock.soon(REACTION, run.order, partial(run.resume))
        self._start()
        self._look()
