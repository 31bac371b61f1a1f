"""What a router is asked, what it may see, and what it answers.

A router picks one replica for a request. It sees the request's visible figures, a *view* of the cluster, and
nothing else: no true length, no time to come. Its class says by ``sees`` what it reads of the replicas:

``nothing``    only which replicas are there; such a router is *state-independent*
``counts``     how many requests are outstanding at each
``snapshots``  the inside of each replica, as it was after its last step

With a refresh interval in the gateway both counts and snapshots are as old as the last refresh.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np

Sees = Literal["nothing", "counts", "snapshots"]


class RoutedRequest(Protocol):
    """What a router may know of a request."""

    @property
    def id(self) -> int: ...
    @property
    def query(self) -> int: ...
    @property
    def sample(self) -> int: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def max_tokens(self) -> int:
        """The client's visible limit, -1 when it gave none."""
        ...

    @property
    def priority(self) -> int: ...
    @property
    def category(self) -> int: ...
    @property
    def client(self) -> int: ...
    @property
    def session(self) -> int:
        """-1 outside a session."""
        ...

    @property
    def prefix_group(self) -> Any:
        """Key of the prompt's shared beginning, None when it shares none."""
        ...

    @property
    def prefix_len(self) -> int: ...
    @property
    def predicted_tokens(self) -> int:
        """Output tokens that the length predictor expects; ``max_tokens`` without one."""
        ...

    @property
    def deadline_ps(self) -> int:
        """Latest moment that meets the time-to-answer target; a far future without one."""
        ...


class ReplicaState(Protocol):
    """The inside of a replica after its last step, as its metrics endpoint would tell."""

    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def free_blocks(self) -> int: ...
    @property
    def kv_use(self) -> float: ...
    @property
    def computed_tokens(self) -> int: ...
    @property
    def queued_tokens(self) -> int: ...


@dataclass(frozen=True)
class ReplicaInfo:
    """What never changes about a replica; *index* counts over the cluster, *replica* within its *pool*."""

    index: int
    pool: str
    pool_index: int
    replica: int
    role: str = "generate"
    model: str = ""
    hardware: str = ""
    gpus: int = 1
    price_usd_per_hour: float = 0.0
    """Of the whole replica."""
    max_num_seqs: int = 1
    kv_tokens: int = 0
    token_ps: float = 1.0
    """Time a decode token at a full batch, as its calibration says: how fast the replica is."""


class View(Protocol):
    """The cluster as a router sees it. Reading is free of side effects; nothing in it may be changed."""

    @property
    def now_ps(self) -> int: ...
    @property
    def replicas(self) -> Sequence[ReplicaInfo]:
        """Every replica of the cluster by index, present or not."""
        ...

    @property
    def token_ps(self) -> Sequence[float]:
        """Time a decode token at a full batch takes, of every replica."""
        ...

    @property
    def candidates(self) -> Sequence[int]:
        """Replicas to choose among, ascending: those that take requests now and serve what is asked for."""
        ...

    @property
    def outstanding(self) -> Sequence[int]:
        """Requests sent to each replica and not ended, by index."""
        ...

    @property
    def categories(self) -> Sequence[str]:
        """Names of the category codes."""
        ...

    def state(self, index: int) -> ReplicaState:
        """The inside of replica *index*."""
        ...

    def tokens(self, index: int) -> int:
        """Outstanding tokens of replica *index*: prompt tokens not yet computed, and the output that the
        predictor still expects; without a predictor, the computed tokens of its live requests.
        """
        ...

    def least_loaded(self, candidates: Sequence[int], weights: Sequence[float] | None = None) -> int:
        """Of *candidates* the one with the least `tokens`, each replica's times its weight; on a tie the one
        with fewer requests, then the first. Looks into as few replicas as it can."""
        ...

    def least_used(self, candidates: Sequence[int]) -> int:
        """Of *candidates* the one with the smallest share of its KV pool in use; on a tie the one with fewer
        requests, then the first. Looks into as few replicas as it can."""
        ...

    def most_loaded(
        self, candidates: Sequence[int], weights: Sequence[float], limit: Callable[[int], float]
    ) -> int | None:
        """Of those *candidates* whose `tokens`, times their weight, are within their limit, the one with the most; on a tie
        the first; None when there is none. *weights* are by replica. Looks into as few as it can."""
        ...

    def looks_hard(self, request: RoutedRequest, hard_share: float, sensitivity: float, specificity: float) -> bool:
        """Whether a classifier takes the query of *request* for one of the hardest *hard_share*: it finds the hard ones with
        probability *sensitivity*, the others with *specificity*. Its draw is the query's own. Needs a quality model."""
        ...

    def among(self, candidates: Sequence[int]) -> View:
        """The same view with fewer candidates, for a router that asks another."""
        ...


Choose = Callable[[View, RoutedRequest], int]


class Router:
    """Base of the routers: a subclass fills in `choose`, and `begin` when it remembers anything."""

    sees: ClassVar[Sees] = "nothing"
    per_request: ClassVar[bool] = False
    """True: each request of a query is routed by itself; False: they follow the query's first one."""
    judges: ClassVar[bool] = False
    """Whether it asks how hard queries are, which takes a quality model."""

    def needs(self) -> Sees:
        """What this router reads of the replicas."""
        return self.sees

    def named_pools(self) -> Sequence[str]:
        """Pools that it names in its options: they must be there and take queries."""
        return ()

    def choose(self, view: View, request: RoutedRequest) -> int:
        """The index of one of ``view.candidates``, which is never empty."""
        raise NotImplementedError

    def begin(self, rng: np.random.Generator) -> Choose:
        """How to choose during one run, with the router's own *rng*; what is returned holds what is
        remembered.
        """
        return self.choose


def draws(rng: np.random.Generator, block: int = 1024) -> Iterator[float]:
    """Uniform numbers in [0, 1) one by one, drawn in blocks (a single draw costs a microsecond)."""
    while True:
        yield from rng.random(block).tolist()


def wait_ps(view: View, index: int) -> float:
    """Time in which replica *index* works off its outstanding tokens at a full batch."""
    return view.tokens(index) * view.token_ps[index]


def shortest_wait_ps(view: View) -> float:
    """The shortest of all candidates' waits."""
    return wait_ps(view, view.least_loaded(view.candidates, view.token_ps))


class Affinity(Router):
    """Base of routers that send requests of one *key* to one replica, with a guard against overloading it.

    The fields ``guard`` and ``slack`` are the subclass's: a home with more than ``guard`` times the mean of
    outstanding requests plus ``slack`` is left for the replica with the fewest, which becomes the new home.
    """

    sees: ClassVar[Sees] = "counts"
    guard: float
    slack: int

    def key(self, request: RoutedRequest) -> object | None:
        """What binds *request* to its home; None: nothing does."""
        raise NotImplementedError

    def begin(self, rng: np.random.Generator) -> Choose:
        homes: dict[object, int] = {}

        def choose(view: View, request: RoutedRequest) -> int:
            outstanding, candidates = view.outstanding, view.candidates
            key = self.key(request)
            if key is not None:
                home = homes.get(key)
                if home is not None and home in candidates:
                    mean = sum(outstanding[index] for index in candidates) / len(candidates)
                    if outstanding[home] <= self.guard * mean + self.slack:
                        return home
            chosen = min(candidates, key=outstanding.__getitem__)
            if key is not None:
                homes[key] = chosen
            return chosen

        return choose


class PoolPicker(Router):
    """Base of routers that pick a pool and leave the replica to another router, named by the field ``then``.

    When the pool has no replica to offer, all candidates are offered to the other router.
    """

    then: str

    def pool(self, view: View, request: RoutedRequest) -> str | None:
        """The pool for *request*; None: any."""
        raise NotImplementedError

    def inner(self) -> Router:
        """The router within the pool."""
        from sim.policies.routers import router

        return router.make(self.then)

    def needs(self) -> Sees:
        return self.inner().needs()

    def begin(self, rng: np.random.Generator) -> Choose:
        inner = self.inner().begin(rng)
        known: Sequence[int] = ()
        members: dict[str, Sequence[int]] = {}

        def choose(view: View, request: RoutedRequest) -> int:
            nonlocal known
            pool = self.pool(view, request)
            if pool is not None:
                if view.candidates is not known:
                    known = view.candidates
                    members.clear()
                mine = members.get(pool)
                if mine is None:
                    mine = members[pool] = tuple(i for i in known if view.replicas[i].pool == pool)
                if mine:
                    view = view.among(mine)
            return inner(view, request)

        return choose
