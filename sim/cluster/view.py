"""What routers and autoscalers see of the cluster: the present, or a picture refreshed now and then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sim.policies.routing import ReplicaInfo, View

if TYPE_CHECKING:
    from sim.cluster.shell import Shell


class LiveView:
    """The cluster as it is at ``now_ps``; the gateway moves ``now_ps`` and ``candidates``."""

    __slots__ = (
        "_expected",
        "_shells",
        "candidates",
        "categories",
        "now_ps",
        "outstanding",
        "replicas",
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
        self.outstanding: Sequence[int] = outstanding
        self.categories = categories
        self.candidates: Sequence[int] = ()
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

        Between two plans of a replica its tokens only grow, so what they were is a lower bound of what they
        are: only replicas whose bound is below the best found are looked into, which keeps the cost from
        growing with the fleet.
        """
        if self._expected is not None:
            return min(candidates, key=lambda index: self._load(index, weights))
        shells = self._shells
        best: tuple[float, int, int] | None = None
        bounded: list[tuple[float, int]] = []
        for index in candidates:
            bound = shells[index].tokens_bound
            if bound < 0:
                load = self._load(index, weights)
                if best is None or load < best:
                    best = load
            else:
                bounded.append((bound if weights is None else bound * weights[index], index))
        return _least(best, bounded, lambda index: self._load(index, weights))

    def least_used(self, candidates: Sequence[int]) -> int:
        """Of *candidates* the one with the smallest share of its KV pool in use.

        Between two plans of a replica blocks are only taken, so the share that was seen is a lower bound too.
        """
        shells = self._shells
        best: tuple[float, int, int] | None = None
        bounded: list[tuple[float, int]] = []
        for index in candidates:
            bound = shells[index].kv_bound
            if bound < 0:
                use = self._use(index)
                if best is None or use < best:
                    best = use
            else:
                bounded.append((bound, index))
        return _least(best, bounded, self._use)

    def _load(self, index: int, weights: Sequence[float] | None) -> tuple[float, int, int]:
        tokens = self._shells[index].tokens_bound = self.tokens(index)
        load = tokens if weights is None else tokens * weights[index]
        return load, self.outstanding[index], index

    def _use(self, index: int) -> tuple[float, int, int]:
        use = self._shells[index].kv_bound = self.state(index).kv_use
        return use, self.outstanding[index], index

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
        return min(candidates, key=lambda index: self._load(index, weights))

    def least_used(self, candidates: Sequence[int]) -> int:
        return min(candidates, key=lambda index: (self.state(index).kv_use, self.outstanding[index], index))


def _least(
    best: tuple[float, int, int] | None,
    bounded: list[tuple[float, int]],
    look: Callable[[int], tuple[float, int, int]],
) -> int:
    """The replica with the least of *best* and what *look* says of those *bounded* from below."""
    bounded.sort()
    for least, index in bounded:
        if best is not None and least > best[0]:
            break
        found = look(index)
        if best is None or found < best:
            best = found
    assert best is not None
    return best[2]


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

    def among(self, candidates: Sequence[int]) -> View:
        return _Among(self._view, candidates)
