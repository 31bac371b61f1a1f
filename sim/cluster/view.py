"""What routers and autoscalers see of the cluster: the present, or a picture refreshed now and then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from operator import mul
from typing import TYPE_CHECKING, Any

from sim.policies.routing import ReplicaInfo, RoutedRequest, View

if TYPE_CHECKING:
    from sim.cluster.shell import Shell


Classifier = Callable[[int, float, float, float], bool]
"""Whether a query looks hard: its number, the share of hard ones, sensitivity and specificity."""


class Bounds:
    """Between which figures the inside of each replica lies until it plans again, is given a request or has one taken back.

    ``fewest`` and ``most`` outstanding tokens, and the least share of KV in ``use``, by replica; unknown again as soon as any of
    this happens, which its shell says.
    """

    __slots__ = ("fewest", "most", "use")

    def __init__(self, replicas: int) -> None:
        self.fewest: list[float] = [-1] * replicas
        self.most: list[float] = [inf] * replicas
        self.use: list[float] = [-1] * replicas

    def forget(self, index: int) -> None:
        """Nothing is known of replica *index*."""
        self.fewest[index] = self.use[index] = -1
        self.most[index] = inf


class LiveView:
    """The cluster as it is at ``now_ps``; the gateway moves ``now_ps`` and ``candidates``."""

    __slots__ = (
        "_expected",
        "_shells",
        "bounds",
        "candidates",
        "categories",
        "classifier",
        "now_ps",
        "outstanding",
        "replicas",
        "token_ps",
    )

    def __init__(
        self,
        shells: Sequence[Shell],
        outstanding: list[int],
        categories: Sequence[str],
        expected: list[int] | None = None,
    ) -> None:
        """*expected* holds, by replica, prompt and predicted tokens of its live requests; None: no
        predictor.
        """
        self._shells = shells
        self._expected: Sequence[int] | None = expected
        self.replicas: Sequence[ReplicaInfo] = tuple(shell.info for shell in shells)
        self.token_ps: Sequence[float] = tuple(shell.info.token_ps for shell in shells)
        self.bounds = Bounds(len(shells))
        self.outstanding: Sequence[int] = outstanding
        self.categories = categories
        self.candidates: Sequence[int] = ()
        self.classifier: Classifier | None = None
        self.now_ps = 0

    def state(self, index: int) -> Any:
        """The inside of replica *index* after its last step."""
        return self._shells[index].engine.snapshot(self.now_ps)

    def tokens(self, index: int) -> int:
        """Outstanding tokens of replica *index*."""
        state = self.state(index)
        queued: int = state.queued_tokens
        known: int = queued + state.computed_tokens
        if self._expected is None:
            return known
        return queued + max(0, self._expected[index] - known)

    def least_loaded(self, candidates: Sequence[int], weights: Sequence[float] | None = None) -> int:
        """Of *candidates* the one with the least outstanding tokens, each replica's times its weight.

        What is known of a replica bounds its tokens from below until it plans again: only replicas whose bound is below
        the best found are looked into, and the bounds are gone through at the speed of C, which keeps the cost from
        growing with the fleet.
        """
        return self._least(candidates, _weighted(self.bounds.fewest, candidates, weights), self._load, weights)

    def least_used(self, candidates: Sequence[int]) -> int:
        """Of *candidates* the one with the smallest share of its KV pool in use, found in the same way."""
        return self._least(candidates, _weighted(self.bounds.use, candidates, None), self._use, None)

    def _least(
        self,
        candidates: Sequence[int],
        pending: list[float],
        look: Callable[[int], float],
        weights: Sequence[float] | None,
    ) -> int:
        outstanding = self.outstanding
        best: tuple[float, int, int] | None = None
        while True:
            bound = min(pending)
            if best is not None and bound >= best[0]:
                break
            place = pending.index(bound)
            pending[place] = inf
            index = candidates[place]
            value = look(index)
            found = (value if weights is None else value * weights[index], outstanding[index], index)
            if best is None or found < best:
                best = found
        if bound == best[0]:  # of those that may be as good, the first one that is
            alike = (candidates[place] for place, other in enumerate(pending) if other == bound)
            for count, index in sorted((outstanding[index], index) for index in alike):
                if (count, index) > best[1:]:
                    break
                value = look(index)
                if best[0] == (value if weights is None else value * weights[index]):
                    return index
        return best[2]

    def most_loaded(
        self, candidates: Sequence[int], weights: Sequence[float], limit: Callable[[int], float]
    ) -> int | None:
        """Of *candidates* whose tokens times their weight are within their limit, the one with the most."""
        pending = _weighted(self.bounds.most, candidates, weights)
        fewest = self.bounds.fewest
        best: tuple[float, int] | None = None
        for _ in candidates:
            bound = max(pending)
            place = pending.index(bound)
            index = candidates[place]
            if best is not None and (bound < best[0] or (bound == best[0] and index > -best[1])):
                break  # of those with one bound the first comes first
            pending[place] = -inf
            allowed = limit(index)
            if fewest[index] * weights[index] > allowed:
                continue  # it is above its limit for sure
            load = self._load(index) * weights[index]
            if load <= allowed and (best is None or (load, -index) > best):
                best = load, -index
        return None if best is None else -best[1]

    def _load(self, index: int) -> int:
        shell = self._shells[index]
        state = shell.engine.snapshot(self.now_ps)
        queued, computed = state.queued_tokens, state.computed_tokens
        fewest, most, _ = shell.engine.until_plan(state)
        bounds = self.bounds
        shell.looked = True
        if self._expected is None:
            bounds.fewest[index], bounds.most[index] = queued + fewest, queued + most
            return int(queued + computed)
        expected = self._expected[index] - queued
        bounds.fewest[index], bounds.most[index] = queued + max(0, expected - most), queued + max(0, expected - fewest)
        return int(queued + max(0, expected - computed))

    def _use(self, index: int) -> float:
        shell = self._shells[index]
        state = shell.engine.snapshot(self.now_ps)
        _, _, free = shell.engine.until_plan(state)
        shell.looked = True
        self.bounds.use[index] = 1 - free / state.total_blocks
        return float(state.kv_use)

    def looks_hard(self, request: RoutedRequest, hard_share: float, sensitivity: float, specificity: float) -> bool:
        """See `View.looks_hard`."""
        assert self.classifier is not None, "how hard queries are takes a quality model"
        return self.classifier(request.query, hard_share, sensitivity, specificity)

    def among(self, candidates: Sequence[int]) -> View:
        """The same view with fewer candidates."""
        return _Among(self, candidates)


class StaleView(LiveView):
    """The cluster as it was at the last `refresh`."""

    __slots__ = ("_live", "_live_expected", "_states", "_with_states")

    def __init__(
        self,
        shells: Sequence[Shell],
        outstanding: list[int],
        categories: Sequence[str],
        expected: list[int] | None,
        with_states: bool,
    ) -> None:
        super().__init__(shells, list(outstanding), categories)
        self._live = outstanding
        self._live_expected = expected
        self._with_states = with_states
        self._states: list[Any] = []
        self.refresh(0)

    def refresh(self, now_ps: int) -> None:
        """Take a new picture."""
        self.outstanding = tuple(self._live)
        if self._with_states:
            self._expected = None if self._live_expected is None else tuple(self._live_expected)
            self._states = [shell.engine.snapshot(now_ps) for shell in self._shells]

    def state(self, index: int) -> Any:
        return self._states[index]

    def least_loaded(self, candidates: Sequence[int], weights: Sequence[float] | None = None) -> int:
        def load(index: int) -> tuple[float, int, int]:
            tokens = self.tokens(index)
            return tokens if weights is None else tokens * weights[index], self.outstanding[index], index

        return min(candidates, key=load)

    def least_used(self, candidates: Sequence[int]) -> int:
        return min(candidates, key=lambda index: (self.state(index).kv_use, self.outstanding[index], index))

    def most_loaded(
        self, candidates: Sequence[int], weights: Sequence[float], limit: Callable[[int], float]
    ) -> int | None:
        loads = [(self.tokens(index) * weights[index], -index) for index in candidates]
        able = [load for load in loads if load[0] <= limit(-load[1])]
        return -max(able)[1] if able else None


def _weighted(bounds: list[float], candidates: Sequence[int], weights: Sequence[float] | None) -> list[float]:
    """Of each of *candidates* its bound, times its weight."""
    if len(candidates) != len(bounds):
        if weights is not None:
            weights = [weights[index] for index in candidates]
        bounds = [bounds[index] for index in candidates]
    elif weights is None:
        return bounds.copy()
    return bounds if weights is None else list(map(mul, bounds, weights))


class _Among:
    """A view with other candidates; everything else is asked of *view*."""

    __slots__ = ("_view", "candidates")

    def __init__(self, view: LiveView, candidates: Sequence[int]) -> None:
        self._view = view
        self.candidates = candidates

    @property
    def now_ps(self) -> int:
        return self._view.now_ps

    @property
    def replicas(self) -> Sequence[ReplicaInfo]:
        return self._view.replicas

    @property
    def token_ps(self) -> Sequence[float]:
        return self._view.token_ps

    @property
    def outstanding(self) -> Sequence[int]:
        return self._view.outstanding

    @property
    def categories(self) -> Sequence[str]:
        return self._view.categories

    def state(self, index: int) -> Any:
        return self._view.state(index)

    def tokens(self, index: int) -> int:
        return self._view.tokens(index)

    def least_loaded(self, candidates: Sequence[int], weights: Sequence[float] | None = None) -> int:
        return self._view.least_loaded(candidates, weights)

    def least_used(self, candidates: Sequence[int]) -> int:
        return self._view.least_used(candidates)

    def most_loaded(
        self, candidates: Sequence[int], weights: Sequence[float], limit: Callable[[int], float]
    ) -> int | None:
        return self._view.most_loaded(candidates, weights, limit)

    def looks_hard(self, request: RoutedRequest, hard_share: float, sensitivity: float, specificity: float) -> bool:
        return self._view.looks_hard(request, hard_share, sensitivity, specificity)

    def among(self, candidates: Sequence[int]) -> View:
        return _Among(self._view, candidates)
