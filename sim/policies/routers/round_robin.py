"""Each in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from sim.policies.routers import router
from sim.policies.routing import Choose, RoutedRequest, Router, View


@router("round_robin")
@dataclass(frozen=True)
class RoundRobin(Router):
    """The replicas in turn, whatever they are doing; requests for a single pool take turns of that pool."""

    def begin(self, rng: np.random.Generator) -> Choose:
        turns: dict[int, Iterator[int]] = {}
        known: Sequence[int] = ()
        turn: Iterator[int] = count()

        def choose(view: View, request: RoutedRequest) -> int:
            nonlocal known, turn
            candidates = view.candidates
            if candidates is not known:
                known = candidates
                turn = turns.setdefault(_group(view), count())
            return candidates[next(turn) % len(candidates)]

        return choose


def _group(view: View) -> int:
    """The pool of all candidates, -1 when there are several."""
    first, last = view.replicas[view.candidates[0]], view.replicas[view.candidates[-1]]
    return first.pool_index if first.pool_index == last.pool_index else -1
