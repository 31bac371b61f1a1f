"""How a query becomes generation: the words in which a strategy speaks.

A strategy is a generator without I/O. It yields what it wants done and receives what came of it, so that it
can be driven by hand in a test, and by the gateway in simulated time, unchanged::

    def run(self, query):
        first = yield Generate()                                   # one outcome
        votes = yield Parallel((Generate(sample=1), Generate(sample=2)), enough=decided)   # a list of outcomes
        score = yield Verify(votes[0], pool="verifier")            # one outcome
        yield Wait(0.5)                                            # None
        return Answer(votes[0])

What it receives tells tokens, status and what a client would see. True lengths and correctness stay hidden.
Most of these words are named tuples: several are made a query, and a frozen dataclass takes four times as long to make.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import Field

from sim.scenario.policy import PerCategory, TokenCount


class QueryView(NamedTuple):
    """What a strategy may know of its query."""

    id: int
    category: str
    client: str
    prompt_tokens: int
    max_tokens: int
    """The client's visible limit, -1 when it gave none."""
    priority: int
    load: float = 0.0
    """Requests outstanding over seats, of all replicas that generate, when the query arrived."""
    coin: float = 0.5
    """A fair draw in (0, 1) of the query's own, for ties; 0.5 where there is no quality model."""


class Outcome(NamedTuple):
    """What came of one call, as the client sees it."""

    request: int
    """Number of the request; a further call can go on from it."""
    sample: int
    status: str
    """completed, rejected, timed_out, cancelled or failed."""
    reasoning_tokens: int
    answer_tokens: int
    truncated: bool
    finished_s: float
    answer: int | None = None
    """Which answer it gave (equal numbers are equal answers); None where there is no quality model."""
    score: float | None = None
    """A verifier's score; None for a generation."""
    paused: bool = False
    """It was paused at ``pause_tokens``: there is more to come."""

    @property
    def ok(self) -> bool:
        """It came to its end."""
        return self.status == "completed"


@dataclass(frozen=True, slots=True)
class Probes:
    """Early exit: reasoning is looked at every *every_tokens*, and ended when a look says that it is settled.

    A look costs *probe_tokens*, decoded behind the chain so far; then their KV is rolled back. Once the chain has settled on
    its answer each look sees it with probability *hit*; before that it says so wrongly with probability *false_exit*.
    """

    every_tokens: int
    probe_tokens: int = 0
    hit: float = 1.0
    false_exit: float = 0.0


class Branch(NamedTuple):
    """A generation that is a part of a solution: *share* of its whole length, going on *after* an outcome
    (None: from the prompt). The KV of what it goes on from is shared.
    """

    tokens: int
    share: float
    after: Outcome | None = None
    last: bool = False
    """It brings the answer, too."""


class Generate(NamedTuple):
    """One generation. Samples of one number face the same draws in every configuration."""

    sample: int = 0
    pool: str | None = None
    """Pool to go to; None: any pool for generation, as the router decides."""
    thinking_token_budget: int | None = None
    """Reasoning is ended after so many tokens and the answer follows; None: no budget."""
    max_tokens: int | None = None
    """Limit on the output; None: the client's."""
    replica: int | None = None
    """Reserved for calls that must stay where their prefix is; None: where the query is."""
    forced_answer: bool = True
    """At the budget the answer is forced; False: the generation ends there, without one."""
    leaves: bool = False
    """Its budget is where the strategy leaves the chain, not where a limit cuts it."""
    effort: float = 1.0
    """Length of the reasoning over its natural length."""
    probes: Probes | None = None
    branch: Branch | None = None
    pause_tokens: int | None = None
    """It pauses after so many tokens; another call with ``made_tokens`` goes on."""
    made_tokens: int = 0
    """Tokens of this sample that calls before have made: they are read with the prompt, and only the rest is generated."""
    reads: tuple[Outcome, ...] = ()
    """Outcomes whose answers it reads in its prompt and merges: it answers what most of them do, else on its
    own where they say nothing."""


@lru_cache(maxsize=4096)
def generation(sample: int = 0, pool: str | None = None, thinking_token_budget: int | None = None) -> Generate:
    """`Generate` with these options alone, made once for all queries that ask for it."""
    return Generate(sample, pool, thinking_token_budget)


class Verify(NamedTuple):
    """A verifier reads the prompt and the answer of *outcome* and says a score: a prefill and
    *output_tokens*.
    """

    outcome: Outcome
    pool: str | None = None
    output_tokens: int = 1
    with_reasoning: bool = False
    """The verifier reads the chain of thought too (process reward)."""
    discrimination: float = 0.0
    """By how many standard deviations right answers score higher; 0: useless, infinite: ideal."""
    settled: Probes | None = None
    """It is asked whether the chain so far has settled on its answer, as these probes would see it: score 1 or 0."""


class Parallel(NamedTuple):
    """All *calls* at once. When *enough* says so of the outcomes so far (None: still open), the rest is
    cancelled.
    """

    calls: Sequence[Generate | Verify]
    enough: Callable[[Sequence[Outcome | None]], bool] | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for *seconds*."""

    seconds: float


@dataclass(frozen=True, slots=True)
class NextStep:
    """Do nothing until the weights change; at once where there are no training steps."""


class Confidence(NamedTuple):
    """What a generation itself says of its answer: the outcome with a score, at once and at no cost."""

    outcome: Outcome
    discrimination: float


class Classify(NamedTuple):
    """Is the query one of the hardest *hard_share*? A classifier answers True or False: True with
    probability *sensitivity* where it is, False with probability *specificity* where it is not.
    """

    hard_share: float
    sensitivity: float
    specificity: float


class Answer(NamedTuple):
    """The end of a query: which outcome is its answer; None: it has none."""

    outcome: Outcome | None


Call = Generate | Verify | Parallel | Wait | NextStep | Confidence | Classify
Run = Generator[Call, Any, Answer]


class Strategy:
    """Base of the strategies: a subclass fills in `run`.

    ``plain`` strategies make exactly one generation a query, to whatever pool, with the length and the budget that `length`
    and `budget` say; the gateway then needs no generator, with the same result.
    """

    @property
    def plain(self) -> bool:
        """Whether the gateway needs no generator."""
        return False

    judged: ClassVar[bool] = False
    """It makes no sense without a quality model: the scenario needs a ``quality`` section."""

    looks_at_load: ClassVar[bool] = True
    """It may read `QueryView.load`; False: it does not, which is 0 then and saves the sum over all replicas."""

    def run(self, query: QueryView) -> Run:
        """The life of one query."""
        raise NotImplementedError

    def budget(self, category: str) -> int | None:
        """Thinking-token budget of a plain strategy for queries of *category*."""
        return None

    def length(self, category: str) -> float:
        """Reasoning of a plain strategy's generations of *category*, over its natural length."""
        return 1.0

    def forces_answer(self) -> bool:
        """Whether a plain strategy's budget forces an answer, or ends the generation without one."""
        return True

    def probes_in_line(self) -> Probes | None:
        """Probes that its generations decode and roll back; None: none."""
        return None

    def pools(self) -> tuple[str, ...]:
        """Pools that it names; the scenario must have them."""
        return (
            tuple(
                value
                for field in fields(self)
                if (field.name == "pool" or field.name.endswith("_pool"))
                and isinstance(value := getattr(self, field.name), str)
            )
            if is_dataclass(self)
            else ()
        )


TokenBudget = TokenCount | PerCategory[TokenCount] | None
"""Type of an option: reasoning tokens after which thinking is cut, for all or by category; None: never."""
Samples = Annotated[int, Field(ge=1, le=4096)]
"""Type of an option: how many samples are drawn of one query, at once or at a node of a tree."""


def budget_of(budget: int | Mapping[str, int] | None, category: str) -> int | None:
    """A budget given as one number, or by category with an optional ``default``."""
    if budget is None or isinstance(budget, int):
        return budget
    return budget.get(category, budget.get("default"))
