"""Queries that are drawn: arrivals, kinds and lengths put together into blocks, in any order of asking."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from sim.rng import Streams
from workloads import lengths as ln
from workloads.arrivals import Chunk, Process
from workloads.even_gaps import GOLDEN
from workloads.sessions import Said, SessionProcess, Turns
from workloads.source import BLOCK, QueryBlock
from workloads.spec import Lengths, Recurrence, Runaway, SharedPrefix

Int64Array = npt.NDArray[np.int64]
T = TypeVar("T")

_KEPT_BLOCKS = 24
_KEPT_SAMPLES = 96
_CHECKPOINTS = 64
"""States kept besides that of query 0: the latest ones; an earlier block is made again from the nearest."""


FIRST_PROBLEM = 1 << 41
"""Number of the first problem that recurs: beyond all queries, so that no query of its own shares its luck."""


class _Lately:
    """The most recent results of *make*, by key."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[Any, Any] = OrderedDict()

    def get(self, key: Any, make: Callable[[], T]) -> T:
        kept = self._kept
        result: T | None = kept.get(key)
        if result is not None:
            kept.move_to_end(key)
            return result
        made = kept[key] = make()
        if len(kept) > self._size:
            kept.popitem(last=False)
        return made


@dataclass(frozen=True)
class Extras:
    """What may be laid over any generated workload."""

    shared_prefix: SharedPrefix | None = None
    runaway: Runaway | None = None
    recurrence: Recurrence | None = None
    even_draws: bool = False


class GeneratedSource:
    """A ``QuerySource`` of drawn queries.

    *kinds* are categories (chosen by *weights*) or, where the process says whose query it is, clients.
    """

    def __init__(
        self,
        *,
        name: str,
        process: Process | SessionProcess,
        kinds: list[ln.Kind],
        weights: list[float],
        categories: tuple[str, ...],
        clients: tuple[str, ...],
        streams: Streams,
        queries: int | None,
        extras: Extras,
        facts: dict[str, object],
    ) -> None:
        self.name = name
        self.categories = categories
        self.clients = clients
        totals = [total for total in (process.total, queries) if total is not None]
        self.total: int | None = min(totals) if totals else None
        self.closed_loop = process.closed_loop
        self._process = process
        self._kinds = kinds
        self._weights = weights
        laws = ln.laws_of(kinds)
        first_of_law = np.unique(laws, return_index=True)[1]
        self._laws = first_of_law[laws]
        """For each kind the first one whose lengths have the same laws: they share one draw."""
        self._streams = streams
        self._extras = extras
        self._facts = facts
        start = (process.start(), {}) if isinstance(process, SessionProcess) else process.start()
        self._states: OrderedDict[int, Any] = OrderedDict({0: start})
        self._split_known = all(kind.lengths.split_known for kind in kinds)
        used = {
            "max_tokens": any(kind.max_tokens >= 0 for kind in kinds),
            "priority": any(kind.priority != 0 for kind in kinds),
            "session_id": isinstance(process, SessionProcess),
            "parent_id": isinstance(process, SessionProcess),
            "prompt_id": extras.recurrence is not None,
            "prefix_group": extras.shared_prefix is not None,
            "prefix_len": extras.shared_prefix is not None or isinstance(process, SessionProcess),
        }
        self._columns = tuple(name for name, is_used in used.items() if is_used)
        self._blocks = _Lately(_KEPT_BLOCKS)
        self._codes: dict[int, Int64Array] = {}
        self._samples = _Lately(_KEPT_SAMPLES)
        self._prefixes: tuple[npt.NDArray[np.float64], Int64Array] | None = None
        self._popular: npt.NDArray[np.float64] | None = None
        self.turns = isinstance(process, SessionProcess)
        self.verbatim = extras.recurrence is None or extras.recurrence.wording == "same"

    # -- the contract -----------------------------------------------------------------------------------

    def block(self, index: int) -> QueryBlock | None:
        if index < 0:
            raise IndexError(f"block {index}")
        if self.total is not None and index * BLOCK >= self.total:
            return None
        return self._blocks.get(index, lambda: self._make(index))

    def sample_lengths(self, query: int, sample: int) -> tuple[int, int]:
        index, place = divmod(query, BLOCK)
        reasoning, answer = self._samples.get((index, sample), lambda: self._lengths_of(index, sample))
        if place >= len(reasoning):
            raise IndexError(f"query {query} of {self.total}")
        return reasoning[place], answer[place]

    def _lengths_of(self, index: int, sample: int) -> tuple[list[int], list[int]]:
        block = self.block(index)
        if block is None:
            return [], []
        if sample == 0:
            return block.num_reasoning_tokens.tolist(), block.num_answer_tokens.tolist()
        reasoning, answer = self._sample(block, sample)
        return reasoning.tolist(), answer.tolist()

    def lengths_under(self, query: int, sample: int, law: Lengths) -> tuple[int, int]:
        if query < 0 or (self.total is not None and query >= self.total):
            raise IndexError(f"query {query} of {self.total}")
        asked = np.array([query])
        if self._extras.even_draws:
            block = self.block(query // BLOCK)
            assert block is not None
            whole = np.arange(block.first, block.first + len(block))
            laws = self._laws[self._code_of(block)]
            place = int(query - block.first)
            # Luck is even among all queries of one law: where this one stands is seen among them alone.
            alike = np.flatnonzero(laws == laws[place])
            latents = self._latents(whole, block.prompt, laws, sample).at(alike)
            here = alike == place
            reasoning, answer = (part[here] for part in ln.under(law, latents))
        else:
            latents = ln.Latents.draw(self._streams, asked, _luck(asked, self._problem(asked)), sample)
            reasoning, answer = ln.under(law, latents)
        reasoning, answer = self._run_away(asked, sample, reasoning, answer)
        return int(reasoning[0]), int(answer[0])

    def describe(self) -> dict[str, object]:
        return {"name": self.name, **self._facts, "columns": self._columns}

    # -- making a block ---------------------------------------------------------------------------------

    def _make(self, index: int) -> QueryBlock:
        """Block *index*; makes those before it where their state is no longer at hand."""
        here = index if index in self._states else max(at for at in self._states if at <= index)
        while True:
            block, after = self._step(here, self._states[here])
            if len(block) == BLOCK and here + 1 not in self._states:
                self._states[here + 1] = after
                if len(self._states) > _CHECKPOINTS:
                    del self._states[next(at for at in self._states if at != 0)]
            if here == index:
                return block
            here += 1

    def _step(self, index: int, state: Any) -> tuple[QueryBlock, Any]:
        """Block *index* from the *state* before it, and the state after it."""
        first = index * BLOCK
        count = BLOCK if self.total is None else min(BLOCK, self.total - first)
        query = np.arange(first, first + count)
        if not isinstance(self._process, SessionProcess):
            chunk, after = self._process.step(state, first, count)
            return self._block(chunk, query), after
        arrivals, contexts = state
        (chunk, turns), after = self._process.step(arrivals, first, count)
        block = self._block(chunk, query, turns)
        said = Said(block.num_prefill_tokens, block.num_reasoning_tokens, block.num_answer_tokens)
        prompt, parent, prefix_len, contexts = self._process.tell(contexts, turns, query, said)
        block = replace(
            block,
            num_prefill_tokens=prompt,
            session=turns.session,
            parent=parent,
            prefix_len=np.where(parent >= 0, prefix_len, block.prefix_len),
            prefix_group=np.where(parent >= 0, -1, block.prefix_group),
        )
        return block, (after, contexts)

    def _block(self, chunk: Chunk, query: Int64Array, turns: Turns | None = None) -> QueryBlock:
        """The block of *query*; in a conversation without what was said before."""
        problem = self._problem(query)
        topic = _luck(query, problem) if turns is None else turns.session
        code = self._kind_of(topic, chunk)
        self._codes[int(query[0]) // BLOCK] = code
        if len(self._codes) > _KEPT_BLOCKS:
            del self._codes[next(iter(self._codes))]
        law = self._laws[code]
        latents = self._latents(query, problem, law, 0)
        reasoning, answer = self._run_away(query, 0, *ln.outputs(self._kinds, law, latents))
        if turns is None:
            prompt = ln.prompts(self._kinds, law, latents)
        else:
            prompt = self._new_tokens(code, turns, latents)
        none = np.full(len(query), -1, np.int64)
        group, prefix_len = none, np.zeros(len(query), np.int64)
        if self._extras.shared_prefix is not None:
            group, prefix_len = self._prefix(self._extras.shared_prefix, topic)
            if turns is not None:
                group, prefix_len = (
                    np.where(turns.turn == 0, group, -1),
                    np.where(turns.turn == 0, prefix_len, 0),
                )
            if self._extras.shared_prefix.within_prompt:
                prefix_len = np.minimum(prefix_len, prompt)
            else:
                prompt = prompt + prefix_len
        return QueryBlock(
            first=int(query[0]),
            arrived_ps=chunk.arrived_ps,
            num_prefill_tokens=prompt,
            max_tokens=self._column("max_tokens", code),
            priority=self._column("priority", code),
            category=self._column("category", code).astype(np.int16),
            client=self._column("client", code).astype(np.int32),
            session=none,
            prompt=problem,
            prefix_group=group,
            prefix_len=prefix_len,
            parent=none,
            num_reasoning_tokens=reasoning,
            num_answer_tokens=answer,
            reasoning_known=self._split_known,
        )

    def _new_tokens(self, code: Int64Array, turns: Turns, latents: ln.Latents) -> Int64Array:
        """First prompts, and what later turns add to theirs."""
        assert isinstance(self._process, SessionProcess)
        prompt = np.zeros(len(code), np.int64)
        first = np.array([self._process.new_tokens(index) is None for index in range(len(self._kinds))])[code]
        first |= turns.turn == 0
        prompt[first] = ln.prompts(self._kinds, self._laws[code[first]], latents.at(np.flatnonzero(first)))
        for index, where in ln.by_kind(np.where(first, -1, code)):
            law = self._process.new_tokens(index) if index >= 0 else None
            if law is not None:
                prompt[where] = ln.tokens(law, latents.spread(latents.prompt_tokens[where]), 1)
        return prompt

    def _column(self, name: str, code: Int64Array) -> Int64Array:
        return np.array([getattr(kind, name) for kind in self._kinds], dtype=np.int64)[code]

    def _kind_of(self, key: Int64Array, chunk: Chunk) -> Int64Array:
        """Kind of each query: its client's, or drawn by weight with *key* as coordinate.

        Clients are drawn at once. Categories race: each has its own stream of exponentials, divided by its
        weight, and the first one wins. A new category can take queries from the others, but moves none
        between them.
        """
        if chunk.client is not None:
            return chunk.client.astype(np.int64)
        if len(self._kinds) == 1:
            return np.zeros(len(key), np.int64)
        if len(self.clients) > 1 or len(self.categories) < len(self._kinds):
            shares = np.cumsum(self._weights)
            place = self._streams.uniforms("client", key)
            return np.searchsorted(shares / shares[-1], place).astype(np.int64)
        best = np.full(len(key), np.inf)
        code = np.zeros(len(key), np.int64)
        for index, (kind, weight) in enumerate(zip(self._kinds, self._weights, strict=True)):
            name = self.categories[kind.category]
            race = -np.log(self._streams.uniforms(f"category.{name}", key)) / weight
            code[race < best] = index
            best = np.minimum(best, race)
        return code

    def _sample(self, block: QueryBlock, sample: int) -> tuple[Int64Array, Int64Array]:
        query = np.arange(block.first, block.first + len(block))
        law = self._laws[self._code_of(block)]
        latents = self._latents(query, block.prompt, law, sample)
        return self._run_away(query, sample, *ln.outputs(self._kinds, law, latents))

    def _latents(self, query: Int64Array, problem: Int64Array, law: Int64Array, sample: int) -> ln.Latents:
        """Luck of the queries of a whole block, which ask *problem* (-1 = one of their own) and have these *law* s."""
        latents = ln.Latents.draw(self._streams, query, _luck(query, problem), sample)
        if not self._extras.even_draws:
            return latents
        # From block to block another place in each share: a law with one query a block shows all of itself in time.
        return latents.evened(law, float(np.mod(0.5 + int(query[0]) // BLOCK * GOLDEN, 1.0)))

    def _code_of(self, block: QueryBlock) -> Int64Array:
        """Kind of each query of *block*, as it was when the block was made."""
        index = block.first // BLOCK
        if index not in self._codes:
            self._make(index)
        return self._codes[index]

    def _run_away(
        self, query: Int64Array, sample: int, reasoning: Int64Array, answer: Int64Array
    ) -> tuple[Int64Array, Int64Array]:
        runaway = self._extras.runaway
        if runaway is None or runaway.share == 0.0:
            return reasoning, answer
        lost = self._streams.uniforms("runaway", query, sample) < runaway.share
        return np.where(lost, np.maximum(reasoning, runaway.tokens), reasoning), answer

    def _prefix(self, prefix: SharedPrefix, query: Int64Array) -> tuple[Int64Array, Int64Array]:
        if self._prefixes is None:
            groups = np.arange(prefix.groups)
            popular = np.cumsum((groups + 1.0) ** -prefix.skew)
            size = ln.tokens(prefix.tokens, self._streams.normals("prefix.tokens", groups), 1)
            self._prefixes = popular / popular[-1], size
        popular, size = self._prefixes
        group = np.searchsorted(popular, self._streams.uniforms("prefix.group", query))
        has = self._streams.uniforms("prefix", query) < prefix.share
        return np.where(has, group, -1), np.where(has, size[group], 0)

    def _problem(self, query: Int64Array) -> Int64Array:
        """The problem that each query asks again, -1: one of its own."""
        recurrence = self._extras.recurrence
        if recurrence is None:
            return np.full(len(query), -1, np.int64)
        if self._popular is None:
            shares = np.cumsum((np.arange(recurrence.problems) + 1.0) ** -recurrence.skew)
            self._popular = shares / shares[-1]
        rank = np.searchsorted(self._popular, self._streams.uniforms("recurrence.problem", query))
        again = self._streams.uniforms("recurrence", query) < recurrence.share
        return np.where(again, FIRST_PROBLEM + rank, -1)


def _luck(query: Int64Array, problem: Int64Array) -> Int64Array:
    """Coordinate of what belongs to the prompt: the problem's where it recurs, else the query's own."""
    return np.where(problem >= 0, problem, query)
