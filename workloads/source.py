"""What the simulator asks of a workload: queries in blocks, in arrival order, the same ones every time.

A ``QuerySource`` is a pure function of its spec, its seed and the block index. Nothing is drawn "next":
block 7 may be asked for before block 3, twice, or never, and an endless source needs no more memory than
the blocks in use.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from workloads.spec import Lengths, WorkloadSpec

BLOCK = 4096
"""Queries in a block; the last block of a source may be shorter."""

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class QueryBlock:
    """Up to ``BLOCK`` consecutive queries as arrays, one entry a query, in arrival order.

    ``first`` is the id of the first one; ids are 0, 1, 2, … without a gap. The last three arrays are hidden
    truth: nothing outside workloads and the engine reads them.
    """

    first: int
    arrived_ps: Int64Array
    """From the start of the run; in a closed loop the think time, from the release of the slot."""
    num_prefill_tokens: Int64Array
    max_tokens: Int64Array
    """The client's visible limit on output tokens; -1 = none."""
    priority: Int64Array
    category: npt.NDArray[np.int16]
    """Index into the source's ``categories``."""
    client: npt.NDArray[np.int32]
    """Index into the source's ``clients``."""
    session: Int64Array
    """-1 = none."""
    prompt: Int64Array
    """Queries with the same number ask the same prompt; -1 = a prompt of its own."""
    prefix_group: Int64Array
    """The first ``prefix_len`` prompt tokens are common to all queries of a group; -1 = none."""
    prefix_len: Int64Array
    parent: Int64Array
    """Id of an earlier query: the first ``prefix_len`` prompt tokens are its prompt and output; -1 = none."""
    num_reasoning_tokens: Int64Array
    num_answer_tokens: Int64Array
    """Natural lengths of sample 0; the output is their sum, and at least one token."""
    reasoning_known: bool
    """False: a trace that does not split its output; then all of it stands in ``num_answer_tokens``."""

    def __len__(self) -> int:
        return len(self.arrived_ps)

    @property
    def num_decode_tokens(self) -> Int64Array:
        """Natural output of sample 0: reasoning and answer."""
        return self.num_reasoning_tokens + self.num_answer_tokens

    def _check(self) -> None:
        """Raise AssertionError, naming the column, when the block breaks a promise of this class."""
        count = len(self.arrived_ps)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                assert value.shape == (count,), (field.name, value.shape, count)
        ids = np.arange(self.first, self.first + count)
        assert (self.arrived_ps >= 0).all(), "arrived_ps"
        assert (self.num_prefill_tokens >= 1).all(), "num_prefill_tokens"
        assert (self.num_decode_tokens >= 1).all(), "num_decode_tokens"
        assert (self.num_reasoning_tokens >= 0).all(), "num_reasoning_tokens"
        assert (self.num_answer_tokens >= 0).all(), "num_answer_tokens"
        assert (self.parent < ids).all(), "parent"
        assert (self.prefix_len <= self.num_prefill_tokens).all(), "prefix_len"


@runtime_checkable
class QuerySource(Protocol):
    """An ordered, possibly endless stream of queries."""

    @property
    def name(self) -> str:
        """What it is, for people: ``trace azure2023_conv.csv``, ``preset deepseek-r1-production``."""

    @property
    def categories(self) -> tuple[str, ...]:
        """Names behind the category codes."""

    @property
    def clients(self) -> tuple[str, ...]:
        """Names behind the client codes."""

    @property
    def total(self) -> int | None:
        """How many queries there are; None = endless."""

    @property
    def closed_loop(self) -> int | None:
        """How many slots each ask one query at a time; None = open loop."""

    def block(self, index: int) -> QueryBlock | None:
        """Queries ``index * BLOCK`` and on; None past the end; the same answer every time."""

    def sample_lengths(self, query: int, sample: int) -> tuple[int, int]:
        """Natural (reasoning, answer) lengths of another *sample* of *query*; sample 0 is the block's own."""

    def describe(self) -> dict[str, object]:
        """Plain figures for provenance and the report: what it is, where it is from, what was assumed."""


def words_recur(source: QuerySource) -> bool:
    """Whether queries of one prompt have the same words, so that the engine's prefix cache serves them; else they
    share a problem only, asked in other words.
    """
    return bool(getattr(source, "verbatim", True))


def has_turns(source: QuerySource) -> bool:
    """Whether any query goes on after another one's answer, as the turns of a conversation do; False where a source does not
    say."""
    return bool(getattr(source, "turns", False))


@runtime_checkable
class OtherModels(Protocol):
    """A source that also says how long another model would answer the same query; all that `build` makes are."""

    def lengths_under(self, query: int, sample: int, law: Lengths) -> tuple[int, int]:
        """Natural (reasoning, answer) lengths of *sample* of *query* under *law*, as of another model asked it.

        The latent difficulty of the query and the luck of the sample stay, the distribution is that of *law*
        (its prompt is not used): a query that is long for one model is long for the other, too, as in a
        cascade. Luck is shared at the same *sample*: ask for another number where the models' luck shall be
        independent. In a replay the difficulty is where the recorded output stands among all of its trace.
        Raises IndexError for a query that the source does not have.
        """


def build(spec: WorkloadSpec, *, seed: int, replication: int = 0, base: Path | None = None) -> QuerySource:
    """The source that *spec* describes, with the randomness of *seed* and *replication*.

    A trace's path is looked for under *base* (the scenario's folder), then in the working directory. Raises
    InputError when the spec, or a file that it names, is wrong.
    """
    from workloads.build import build_source

    return build_source(spec, seed=seed, replication=replication, base=base)
