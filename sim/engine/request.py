"""One generation call to an engine: what is asked, what is hidden, and what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from sim.results.columns import Role, Status

if TYPE_CHECKING:
    from sim.engine.paged_kv import Piece, Space, Tenure

FAR_FUTURE = 1 << 100
NO_KV_TO_COME, KV_TO_COME, KV_LANDED = range(3)
"""Whether the KV of a request's prompt comes from another engine: no; yes, once blocks are reserved; it has come."""
_UNFINISHED = Status.UNFINISHED  # an enum's attributes are slow to read


class RequestView(Protocol):
    """What a policy may know of a request: nothing of its true length, its convergence or its correctness."""

    @property
    def id(self) -> int: ...
    @property
    def arrived_ps(self) -> int: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def priority(self) -> int: ...
    @property
    def category(self) -> int: ...
    @property
    def client(self) -> int: ...
    @property
    def predicted_tokens(self) -> int:
        """Output tokens that the length predictor expects in all; ``max_tokens`` when there is no predictor."""
        ...

    @property
    def deadline_ps(self) -> int:
        """Latest moment that meets the query's own target; a far future when it has none."""
        ...

    @property
    def preemptions(self) -> int: ...
    @property
    def order(self) -> int:
        """Place in the running order, 0 before the first admission."""
        ...


class Looks:
    """Excursions of a request: now and then it decodes tokens that lead nowhere, and their KV is given back.

    After its *first* tokens, then after every *every* more, a request decodes *tokens* that are no part of what it reads
    further on, *count* times in all. What it computes next goes on from where it stood.
    """

    __slots__ = ("count", "every", "first", "granted", "left", "tokens")

    def __init__(self, *, first: int, every: int, tokens: int, count: int) -> None:
        if first < 1 or every < 0 or tokens < 1 or count < 0:
            raise ValueError(f"no such excursions: {first}, {every}, {tokens}, {count}")
        self.first = first
        self.every = every
        self.tokens = tokens
        self.count = count
        self.granted = count
        """How many fit into the request's limits, known once it has been submitted."""
        self.left = count

    def again(self) -> Looks:
        """The same of a request that begins anew."""
        return Looks(first=self.first, every=self.every, tokens=self.tokens, count=self.count)

    def fitting(self, limit: int) -> int:
        """How many end within the first *limit* output tokens, their own included."""
        room = limit - self.first - self.tokens
        if room < 0:
            return 0
        return min(self.count, 1 + room // self.every) if self.every else self.count


class Request:
    """A request from submission to its end. The gateway makes it, one engine fills it in.

    ``known`` counts tokens whose value is known (prompt and sampled), ``computed`` those computed so far: they are in the KV
    cache, but for the ``evicted`` ones that a compression threw out. While a request
    decodes in a counted batch its ``computed`` is ``base`` plus the batch's decode counter, and the fields are stale.
    Once a look (see :class:`Looks`) is over, its tokens are taken out of ``known``, ``computed``, ``end`` and ``foreseen_end``,
    and ``probe_tokens`` counts them.
    ``status`` is UNFINISHED until the request has ended. All times are integer picoseconds, -1 until known.

    With sliding-window layers ``slid_blocks`` counts the blocks of each group that lie outside the window and were given back,
    and ``last_tokens`` the tokens computed in the last batch.

    ``yielded_ps`` is when its scheduler last took its place for others that wait.

    Its engine sets ``end`` and ``foreseen_end`` when it is submitted, ``reused`` when it is admitted, and
    ``counted_from``, ``growth``, ``stop`` and ``mark`` when it joins a counted batch.
    """

    __slots__ = (
        "_kin",
        "ahead",
        "arrived_ps",
        "awaits_kv",
        "base",
        "burst",
        "busy_until_ps",
        "cached_tokens",
        "cached_tokens_first",
        "cancelled",
        "category",
        "client",
        "computed",
        "counted",
        "counted_from",
        "deadline_ps",
        "decoding",
        "drafted",
        "draining",
        "dropped_tokens",
        "end",
        "evicted",
        "finished_ps",
        "first_answer_ps",
        "first_scheduled_ps",
        "first_token_ps",
        "foreseen_end",
        "growth",
        "host_tokens",
        "id",
        "in_flight",
        "keeps_kv",
        "known",
        "kv_arrived_ps",
        "last_batch",
        "last_token_ps",
        "last_tokens",
        "looks",
        "mark",
        "max_tokens",
        "order",
        "output_tokens",
        "owner",
        "parent",
        "paused",
        "peak",
        "pieces",
        "point",
        "pool",
        "predicted_tokens",
        "preemptions",
        "prefix_group",
        "prefix_len",
        "priority",
        "probe_tokens",
        "prompt_tokens",
        "query",
        "reasoning_tokens",
        "recomputed_tokens",
        "refine_after",
        "refined_tokens",
        "registered",
        "replica",
        "reserved",
        "reused",
        "role",
        "running",
        "sample",
        "scheduled_tokens",
        "session",
        "shared_blocks",
        "slid_blocks",
        "space",
        "status",
        "steps",
        "stop",
        "swapped",
        "table",
        "tenure",
        "transferred_tokens",
        "truncated",
        "yielded_ps",
    )

    end: int
    foreseen_end: int
    reused: int
    counted_from: int
    growth: int
    stop: int
    mark: int

    def __init__(
        self,
        id: int,
        arrived_ps: int,
        prompt_tokens: int,
        output_tokens: int,
        reasoning_tokens: int = 0,
        max_tokens: int = -1,
        query: int = -1,
        sample: int = 0,
        role: int = Role.GENERATE,
        priority: int = 0,
        category: int = 0,
        client: int = 0,
        session: int = -1,
        prefix_group: Any = None,
        prefix_len: int = 0,
        parent: Request | None = None,
    ) -> None:
        self.id = id
        self.query = query
        self.sample = sample
        self.role = role
        self.pool = 0
        self.replica = 0
        self.arrived_ps = arrived_ps
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.reasoning_tokens = reasoning_tokens
        self.max_tokens = max_tokens
        self.priority = priority
        self.category = category
        self.client = client
        self.session = session
        self.prefix_group = prefix_group
        self.prefix_len = prefix_len
        self.parent = parent
        self.predicted_tokens = self.refined_tokens = max_tokens
        self.refine_after = 0
        self.deadline_ps = FAR_FUTURE
        self.status: int = _UNFINISHED
        self.first_scheduled_ps = self.first_token_ps = self.first_answer_ps = self.finished_ps = -1
        self.last_token_ps = -1
        self.last_batch = -2
        self.preemptions = 0
        self.cached_tokens_first = -1
        self.cached_tokens = self.scheduled_tokens = self.steps = 0
        self.recomputed_tokens = self.dropped_tokens = self.host_tokens = 0
        self.truncated = False
        self.cancelled: int | None = None
        self.known = prompt_tokens
        self.computed = self.base = self.in_flight = 0
        self.busy_until_ps = self.yielded_ps = -1
        self.peak = 0
        self.counted = self.decoding = self.running = self.draining = self.paused = False
        self.order = 0
        self.reserved = self.swapped = 0
        self.slid_blocks = self.last_tokens = 0
        self.evicted = self.point = 0
        self.ahead = self.burst = self.drafted = self.probe_tokens = 0
        self.looks: Looks | None = None
        self.awaits_kv = NO_KV_TO_COME
        self.keeps_kv = False
        self.kv_arrived_ps = -1
        self.transferred_tokens = 0
        self.registered = self.shared_blocks = 0
        self.owner: Any = None
        self.tenure: Tenure | None = None
        self.space: Space | None = None
        self.pieces: list[Piece] | None = None
        self.table: list[int] | None = None
        self._kin = False

    @property
    def generated(self) -> int:
        """Tokens sampled so far; exact once the request has ended."""
        return self.known - self.prompt_tokens + self.probe_tokens

    def lasting(self, tokens: int) -> int:
        """Of its first *tokens* computed, those that are not of a look under way."""
        looks = self.looks
        return tokens if looks is None or not self.point else min(tokens, self.point - looks.tokens)

    def __repr__(self) -> str:
        return f"Request({self.id}, {self.prompt_tokens}+{self.max_tokens}, {Status(self.status).name.lower()})"
