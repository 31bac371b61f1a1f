"""Which replica a request goes to: who can be asked, what the router sees, and what becomes of a request
that nobody can take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from sim.cluster.clock import ARRIVAL, FAILURE, TICK, Clock
from sim.cluster.shell import Shell
from sim.cluster.view import Classifier, LiveView, StaleView
from sim.engine.request import Request
from sim.errors import PolicyError
from sim.policies.overload import Admission
from sim.policies.routing import Choose, Router
from sim.results.columns import Status
from sim.rng import Streams

if TYPE_CHECKING:
    from sim.cluster.handover import Handover

SAMPLE_BITS = 24
"""Samples of one query keep their order within an instant up to this many bits."""
CLOSE, DRAIN, REFRESH, FIRST_FREE_TICK = range(4)
"""Order of the control ticks of one instant; autoscalers follow."""


class Predictor(Protocol):
    """Guesses the output of a request from what is visible of it."""

    def __call__(self, request: Request) -> int: ...


class Refused(Protocol):
    """Told of a request that is turned away; *for_good* when it can never fit."""

    def __call__(self, request: Request, why: str, *, for_good: bool) -> None: ...


def place(request: Request) -> int:
    """Order of *request* among the arrivals of an instant: query, then sample."""
    return request.query << SAMPLE_BITS | request.sample


class Dispatcher:
    """Knows the replicas and what each has outstanding, and routes.

    ``outstanding`` counts by replica the requests sent and not ended, ``live`` is the view of the present,
    and ``emptied``, when set, is told of each replica that has nothing outstanding any more.
    """

    def __init__(
        self,
        clock: Clock,
        router: Router,
        *,
        streams: Streams,
        categories: Sequence[str],
        refused: Refused,
        admission: Admission | None = None,
        predicting: bool = False,
        refresh_ps: int | None = None,
        classifier: Classifier | None = None,
    ) -> None:
        self._classifier = classifier
        self.clock = clock
        self.router = router
        self.emptied: Callable[[int], None] | None = None
        self.handover: Handover | None = None
        """Takes requests from prefill to decode pools, where there are any."""
        self._refused = refused
        self._categories = categories
        self._choose = router.begin(streams.generator("router"))
        self._admission = admission
        self._refuses = admission.begin(streams.generator("admission")) if admission is not None else None
        self._predicting = predicting
        self._refresh_ps = refresh_ps
        self._parked: list[tuple[Request, str | None]] = []

    def start(self, shells: Sequence[Shell]) -> None:
        """Take charge of *shells*."""
        self.shells = shells
        self.outstanding = [0] * len(shells)
        self._expected = [0] * len(shells) if self._predicting else None
        self._first: dict[int, int] = {}
        for shell in shells:
            self._first.setdefault(shell.info.pool_index, shell.info.index)
        self.live = LiveView(shells, self.outstanding, self._categories, self._expected)
        for shell in shells:
            shell.bounds = self.live.bounds
        self.live.classifier = self._classifier
        self._view = self.live
        if self._refresh_ps is not None:
            needs = {self.router.needs(), self._admission.sees if self._admission else "nothing"}
            inside = "snapshots" in needs
            stale = StaleView(shells, self.outstanding, self._categories, self._expected, inside)
            stale.classifier = self._classifier
            self._view = stale
            if needs != {"nothing"}:
                self._refresh_alarm = self.clock.alarm(TICK, REFRESH, partial(self._refresh, stale))
                self.clock.set(self._refresh_alarm, self._refresh_ps)
        self.membership_changed()

    def _refresh(self, view: StaleView) -> None:
        now_ps = self.clock.now_ps
        view.refresh(now_ps)
        self.clock.set(self._refresh_alarm, now_ps + (self._refresh_ps or 0))

    # ------------------------------------------------------------------ who is there

    def membership_changed(self) -> None:
        """Some replica began or stopped to take requests: who can be chosen is found anew, who waits here
        is routed.
        """
        by_pool: dict[str | None, list[int]] = {None: []}
        for shell in self.shells:
            members = by_pool.setdefault(shell.info.pool, [])
            if shell.accepting:
                members.append(shell.info.index)
                if shell.info.role in ("generate", "prefill"):
                    by_pool[None].append(shell.info.index)
        self._candidates = {pool: tuple(indices) for pool, indices in by_pool.items()}
        self._members = {pool: frozenset(indices) for pool, indices in by_pool.items()}
        makers = [shell.info for shell in self.shells if shell.accepting and shell.info.role in ("generate", "decode")]
        self._makers = tuple(info.index for info in makers)
        self._seats = sum(info.max_num_seqs for info in makers)
        only = self._candidates[None]
        plain = len(self.shells) == 1 and len(only) == 1 and self._refuses is None
        self._only = only[0] if plain else -1
        if self.handover is not None:
            self.handover.membership_changed()
        parked, self._parked = self._parked, []
        for request, pool in parked:
            if request.status != Status.UNFINISHED:
                continue  # its client has gone
            if self._candidates[pool]:
                self.clock.soon(ARRIVAL, place(request), partial(self._send_parked, request, pool))
            else:
                self._parked.append((request, pool))

    @property
    def candidates(self) -> tuple[int, ...]:
        """Replicas that take queries now."""
        return self._candidates[None]

    @property
    def admits(self) -> bool:
        """Whether anybody may be turned away by admission control."""
        return self._refuses is not None

    def take_over(self, choose: Choose) -> Choose:
        """From now on *choose* chooses; return who did until now."""
        before, self._choose = self._choose, choose
        return before

    def _send_parked(self, request: Request, pool: str | None) -> None:
        if request.status == Status.UNFINISHED:  # its client may have gone earlier in this instant
            self.send(request, pool, fresh=False)

    def load(self) -> float:
        """Requests outstanding over seats, of all replicas that generate and take requests."""
        outstanding = self.outstanding
        return sum([outstanding[index] for index in self._makers]) / self._seats if self._seats else 0.0

    def parked(self, pool: str) -> int:
        """Requests that wait here for a replica of *pool*, or of any."""
        return sum(wanted in (None, pool) and request.status == Status.UNFINISHED for request, wanted in self._parked)

    def index_of(self, request: Request) -> int:
        """The replica that *request* is on, counted over the cluster."""
        return self._first[request.pool] + request.replica

    # ------------------------------------------------------------------ routing

    def send(self, request: Request, pool: str | None = None, home: int = -1, *, fresh: bool = True) -> int:
        """Route *request* to a replica of *pool* (None: any that generates); return which, or -1.

        With *home* it goes there, if that replica still takes requests. Without any replica to go to it waits
        here. A request that fits on none of them is rejected, and a *fresh* one may be turned away by
        admission control.
        """
        index = self._only
        if index < 0 or pool is not None:
            candidates = self._candidates.get(pool)
            if not candidates:
                if candidates is None:
                    raise PolicyError(f"a strategy asked for pool {pool!r}, which does not exist")
                self._parked.append((request, pool))
                request.pool = request.replica = -1
                return -1
            if home >= 0 and self.shells[home].accepting:
                index = home
            else:
                view = self._view
                view.now_ps = self.clock.now_ps
                view.candidates = candidates
                if fresh and self._refuses is not None:
                    refusal = self._refuses(view, request)
                    if refusal is not None:
                        self._refused(request, refusal, for_good=False)
                        return -1
                index = self._choose(view, request)
                if index not in self._members[pool]:
                    self.wrong(index, candidates)
            if self.handover is not None and self.shells[index].info.role == "prefill":
                refusal = self.handover.begin(request, index)
                if refusal is not None:
                    self._refused(request, refusal, for_good=True)
                    return -1
                return index
        why = self.shells[index].engine.never_fits(request)
        if why is not None:
            index = self._where_it_fits(request, pool, why)
            if index < 0:
                return -1
        self.outstanding[index] += 1
        if self._expected is not None:
            self._expected[index] += request.prompt_tokens + request.predicted_tokens
        self.shells[index].submit(request)
        request.parent = None  # its engine has taken what it needs; a chain of turns must not live for ever
        return index

    def _where_it_fits(self, request: Request, pool: str | None, why: str) -> int:
        candidates = self._candidates[pool]
        fits = tuple(i for i in candidates if self.shells[i].engine.never_fits(request) is None)
        if not fits:
            self._refused(request, why, for_good=True)
            return -1
        view = self._view
        view.now_ps = self.clock.now_ps
        view.candidates = fits
        index = self._choose(view, request)
        if index not in fits:
            self.wrong(index, fits)
        return index

    def send_leg(self, request: Request, index: int) -> None:
        """Give *request* to replica *index*, which was chosen before."""
        self.outstanding[index] += 1
        if self._expected is not None:
            self._expected[index] += request.prompt_tokens + request.predicted_tokens
        self.shells[index].submit(request)
        request.parent = None

    def view_of(self, candidates: Sequence[int]) -> LiveView:
        """What the router sees now, with *candidates* to choose from."""
        view = self._view
        view.now_ps = self.clock.now_ps
        view.candidates = candidates
        return view

    def wrong(self, index: int, candidates: Sequence[int]) -> None:
        """Raise a PolicyError: the router chose *index*, which is none of *candidates*."""
        name = type(self.router).__name__
        raise PolicyError(f"router {name} chose replica {index}, which is not one of {list(candidates)}")

    def forget(self, request: Request) -> None:
        """*request* is no longer outstanding on its replica."""
        index = self._first[request.pool] + request.replica
        self.outstanding[index] -= 1
        if self._expected is not None:
            self._expected[index] -= request.prompt_tokens + request.predicted_tokens
        if self.emptied is not None and not self.outstanding[index]:
            self.clock.soon(FAILURE, index, partial(self._report_empty, index))

    def _report_empty(self, index: int) -> None:
        if self.emptied is not None and not self.outstanding[index]:
            self.emptied(index)
