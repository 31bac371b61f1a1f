"""What the ``workload`` section of a scenario may say.

Three ways, exactly one of them::

    preset: deepseek-r1-production        # traffic regenerated from published figures
    trace: traffic.csv                    # replay, row by row
    arrivals: poisson                     # or spelled out: arrivals with lengths, categories or clients

and ``rate`` for any of them: queries per second in the mean. What belongs to another way is refused, never
ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from workloads.arrival_spec import Arrivals, Burst, Closed, RolloutArrivals, SecondsLaw
from workloads.laws import Law, Strict
from workloads.quantities import PerSecond, PositiveAmount, PositiveSeconds, Share, TokenCount

MaxTokens = Annotated[TokenCount, Field(description="the client's visible limit on output tokens")]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class ShareBand(Strict):
    """How much of an output of *up_to* tokens is reasoning; the last band of a list stands for longer outputs, too."""

    up_to: PositiveAmount
    share: Law


class Lengths(Strict):
    """Token counts of a kind of query: *prompt*, and *reasoning* with *answer*, or *output* with the share
    of it.

    Without a share, an *output* is not split, and the whole of it counts as answer.
    """

    prompt: Law
    reasoning: Law | None = None
    answer: Law | None = None
    output: Law | None = None
    reasoning_share: Law | None = None
    reasoning_share_by_output: tuple[ShareBand, ...] = ()
    """Instead of ``reasoning_share``: the share's law in each range of output tokens, which is the joint law of the
    two to any detail that one correlation cannot give."""
    within_prompt_sigma: float = Field(default=0.3, ge=0, le=5)
    """Spread (sigma of the log) of reasoning between samples of one prompt: 0.29 measured, 0.35 with
    sampling."""
    answer_prompt_share: Share = 0.3
    """Share of an answer's variance that belongs to the prompt (measured: 0.30)."""
    answer_correlation: Annotated[float, Field(ge=-1, le=1)] = 0.0
    """Correlation of the latent normals of reasoning and answer within a query."""
    share_correlation: Annotated[float, Field(ge=-1, le=1)] = 0.9
    """Correlation of the latent normals of output and share: high, because answers stay narrow as outputs
    grow."""

    prompt_correlation: Annotated[float, Field(ge=-1, le=1)] = 0.0
    """Correlation of the latent normals of prompt and output tokens within this kind; measured below 0.1."""

    @model_validator(mode="after")
    def _one_way(self) -> Lengths:
        split = self.reasoning is not None or self.answer is not None
        shares = self.reasoning_share is not None or bool(self.reasoning_share_by_output)
        whole = self.output is not None or shares
        if split and whole:
            raise ValueError("give reasoning and answer, or output and reasoning_share, not both")
        if split and self.answer is None:
            raise ValueError("reasoning needs an answer beside it")
        if not split and self.output is None:
            raise ValueError("give answer (and reasoning), or output (and reasoning_share)")
        if self.reasoning_share is not None and self.reasoning_share_by_output:
            raise ValueError("give reasoning_share or reasoning_share_by_output, not both")
        ends = [band.up_to for band in self.reasoning_share_by_output]
        if ends != sorted(set(ends)):
            raise ValueError("reasoning_share_by_output: up_to must rise from band to band")
        return self

    @property
    def split_known(self) -> bool:
        """Whether outputs fall into reasoning and answer."""
        return self.output is None or self.reasoning_share is not None or bool(self.reasoning_share_by_output)


class Sessions(Strict):
    """Conversations: arrivals are first turns; each further turn comes *think_time* after the one before it.

    *turns* is the number of turns of a session, ``rate`` counts turns. A turn's prompt is its parent's
    prompt and answer and its own new tokens, with the parent's reasoning between them where it is kept.
    """

    turns: Law
    think_time: SecondsLaw
    new_tokens: Law | None = Field(
        default=None, description="what later turns add to the conversation; default: as long as first prompts"
    )
    retries: Share = Field(
        default=0.0,
        description="later turns that ask the prompt before them once more instead of going on after its answer",
    )
    retry_keeps: Law | None = Field(
        default=None, description="how much of that prompt a retry asks again, where it is not all of it: a share"
    )
    max_prompt: TokenCount | None = None
    """Longer conversations lose their oldest part, and with it the prefix they share."""
    reasoning: Literal["dropped", "kept"] = Field(
        default="dropped",
        description="of earlier turns, in later prompts: dropped as chat templates of reasoning models do, so that "
        "what was answered is computed again; or kept",
    )


class Category(Strict):
    """A kind of query: how many of all (*weight*, relative), how long, and what its clients ask for."""

    weight: PositiveFloat = 1.0
    lengths: Lengths
    max_tokens: MaxTokens | None = None
    priority: int | None = None


class Client(Strict):
    """One client of a mixture: its rate in each window (1/s; 0 = silent), its burstiness, its lengths.

    *cvs* are the coefficients of variation of its gaps in each window; *weibull* lists the windows whose gaps
    are Weibull (the others are Gamma). One number stands for all windows. Instead, *gaps* is a law of gaps of any
    shape, relative to their mean. Several members may be one *client*, at different hours, say.
    """

    rates: tuple[Annotated[float, Field(ge=0)], ...] = Field(min_length=1)
    cvs: tuple[Annotated[float, Field(gt=0, le=100)], ...] = (1.0,)
    weibull: tuple[int, ...] = ()
    gaps: Law | None = None
    client: Name | None = None
    sessions: Sessions | None = Field(default=None, description="its own conversations; its rates count all turns")
    lengths: Lengths
    category: Name | None = None
    max_tokens: MaxTokens | None = None
    priority: int | None = None

    @model_validator(mode="after")
    def _as_many(self) -> Client:
        if len(self.cvs) not in (1, len(self.rates)):
            raise ValueError(f"cvs: one number, or as many as rates ({len(self.rates)}); got {len(self.cvs)}")
        if any(not 0 <= window < len(self.rates) for window in self.weibull):
            raise ValueError("weibull lists windows by number, from 0")
        return self


class Clients(Strict):
    """A mixture of clients, each a bursty process of its own (after ServeGen): bursts and tails come from
    clients.

    The windows follow one another and then repeat. With ``arrivals`` beside it clients keep their lengths
    and their share of all queries, and only those arrivals count.
    """

    window: PositiveSeconds = 600.0
    members: dict[Name, Client] = Field(min_length=1)

    @model_validator(mode="after")
    def _same_windows(self) -> Clients:
        counts = {len(client.rates) for client in self.members.values()} - {1}
        if len(counts) > 1:
            raise ValueError(f"clients must have the same number of windows, got {sorted(counts)}")
        if sum(sum(client.rates) for client in self.members.values()) <= 0:
            raise ValueError("at least one client needs a rate above zero")
        return self


class SharedPrefix(Strict):
    """System prompts: a *share* of queries starts with one of *groups* prefixes, the first ones being most
    popular.

    Popularity falls as 1 / rank ** *skew*. The prefix comes on top of the prompt's own tokens; *within_prompt* it is
    part of them, and shorter prompts share as much as they have.
    """

    groups: PositiveInt
    tokens: Law
    share: Share = 1.0
    skew: float = Field(default=1.0, ge=0)
    within_prompt: bool = False


class Recurrence(Strict):
    """Problems that come again: a *share* of queries asks one of *problems*, the first ones being most popular.

    Popularity falls as 1 / rank ** *skew* (Zipf). Queries of one problem have one difficulty, one category and one
    tendency to be long; in the same *wording* they share the KV cache of their prompt, too.
    """

    problems: PositiveInt
    share: Share = 1.0
    skew: float = Field(default=1.0, ge=0)
    wording: Literal["other", "same"] = "other"


class Runaway(Strict):
    """A *share* of queries that never stop thinking: their reasoning runs to *tokens* (a limit may cut it
    earlier)."""

    share: Share
    tokens: TokenCount = 32_768


def _short_runaway(value: Any) -> Any:
    return {"share": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


GENERATED = ("arrivals", "lengths", "categories", "clients")


class WorkloadSpec(Strict):
    """The ``workload`` section."""

    preset: Name | None = Field(default=None, description="a named workload; `thinkcap list presets`")
    trace: Name | None = Field(default=None, description="a trace file to replay")
    arrivals: Arrivals | None = Field(default=None, description="when queries arrive")
    lengths: Lengths | None = Field(default=None, description="how long they are")
    categories: dict[Name, Category] | None = Field(default=None, min_length=1)
    clients: Clients | None = None
    rate: PerSecond | None = Field(default=None, description="queries per second in the mean")
    queries: PositiveInt | None = Field(default=None, description="stop after so many")
    max_tokens: MaxTokens | None = None
    priority: int = 0
    profile: Literal["day", "steady"] | None = Field(
        default=None,
        description="clients: the day as measured, or its mean; default: steady where a rate is given",
    )
    mode: Literal["standard", "reasoning"] | None = Field(default=None, description="preset article only")
    windows: Name | None = Field(default=None, description="clients: CSV of their rates in other hours")
    sessions: Sessions | None = None
    shared_prefix: SharedPrefix | None = None
    recurrence: Recurrence | None = Field(default=None, description="problems that are asked again")
    runaway: Annotated[Runaway | None, BeforeValidator(_short_runaway)] = None
    even_draws: bool = Field(
        default=False,
        description="spread the luck of every 4,096 queries evenly over the quantiles of their laws (stratified), so "
        "that a sample as large as a trace has its quantiles and sums; off: independent draws",
    )

    @model_validator(mode="after")
    def _one_way(self) -> WorkloadSpec:
        problems: list[str] = []
        spelled = [name for name in GENERATED if getattr(self, name) is not None]
        ways = [name for name in ("preset", "trace") if getattr(self, name) is not None]
        if len(ways) == 2:
            problems.append("preset and trace exclude each other")
        elif not ways and not spelled:
            problems.append("give a preset, a trace, or arrivals with lengths, categories or clients")
        if self.trace is not None:
            refused = [*spelled, "profile", "mode", "windows", "sessions", "shared_prefix", "recurrence", "runaway"]
            problems += [f"{name} does not go with a trace" for name in refused if getattr(self, name) is not None]
            problems += ["even_draws does not go with a trace"] if self.even_draws else []
        elif self.preset is not None:
            problems += [f"{name} does not go with a preset" for name in spelled if name != "arrivals"]
        elif spelled:
            problems += self._spelled_out()
        talking = self.clients is not None and any(one.sessions is not None for one in self.clients.members.values())
        if (self.sessions is not None or talking) and self.recurrence is not None:
            problems.append(
                "recurrence does not go with sessions: turns of a conversation are no problems of their own"
            )
        if isinstance(self.arrivals, Closed | Burst | RolloutArrivals) and self.rate is not None:
            problems.append(f"rate does not go with {self.arrivals.process} arrivals")
        if talking and self.arrivals is not None:
            problems.append("sessions of clients go with the clients' own arrivals only")
        if self.mode is not None and self.preset != "article":
            problems.append("mode goes with preset article only")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _spelled_out(self) -> list[str]:
        problems = []
        kinds = [name for name in ("lengths", "categories", "clients") if getattr(self, name) is not None]
        if len(kinds) != 1:
            problems.append("give exactly one of lengths, categories and clients")
        if self.arrivals is None:
            if self.clients is None:
                problems.append("arrivals are missing")
        elif self.rate is None and not isinstance(self.arrivals, Closed | Burst | RolloutArrivals):
            problems.append("rate is missing")
        if self.windows is not None and (self.clients is None or self.arrivals is not None):
            problems.append("windows goes with the arrivals of clients only")
        if self.profile is not None and (self.clients is None or self.arrivals is not None):
            problems.append("profile goes with the arrivals of clients only")
        return problems
