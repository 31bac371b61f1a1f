"""Conversations: first turns arrive by some process, later ones after a pause, and each carries what was
said before.

A turn's prompt is the parent's prompt, its answer, and the user's new tokens. Where reasoning is dropped (chat
templates of reasoning models do so), a turn shares the parent's prompt as a prefix, and the answer too where
the parent did not reason; where it is kept, the prompt grows by it, and all that the parent held is shared.
Pauses run from arrival to arrival: an open loop, in which a slow answer delays nobody. A retry asks the very prompt
before it once more, or the first part of it, and shares all of that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.rng import Streams
from workloads.arrivals import Chunk, Process, to_ps
from workloads.laws import Law
from workloads.source import BLOCK as _BATCH
from workloads.spec import Sessions

Int64Array = npt.NDArray[np.int64]

Contexts = Mapping[int, tuple[int, int, int, int]]
"""Of each open session: its latest query, the tokens the next turn shares with it, the whole context, and the prompt."""


@dataclass(frozen=True)
class Turns:
    """Whose turn each query is: session, number of the turn from 0, whether it is the last, and the kind of query."""

    session: Int64Array
    turn: Int64Array
    last: npt.NDArray[np.bool_]
    kind: Int64Array

    def at(self, index: Any) -> Turns:
        return Turns(self.session[index], self.turn[index], self.last[index], self.kind[index])


@dataclass(frozen=True)
class Said:
    """New prompt tokens of some turns, and what they were answered with."""

    prompt: Int64Array
    reasoning: Int64Array
    answer: Int64Array


@dataclass(frozen=True)
class _State:
    """Turns made but not yet handed out, in order, and how far the sessions have been made."""

    process: Any
    sessions: int
    horizon_ps: int
    times: Int64Array
    turns: Turns


class SessionProcess:
    """Turns of sessions, merged in order of time."""

    closed_loop: int | None = None

    def __init__(
        self, base: Process, talks: Sequence[Sessions | None], streams: Streams, queries: int | None = None
    ) -> None:
        """*talks* are the conversations of each kind of query that *base* may say (None: single queries).

        Where no more than so many *queries* are asked for, sessions are made a few at a time: the later ones of a block
        might begin beyond all time.
        """
        self._batch = _BATCH if queries is None else max(min(_BATCH, queries // 8), 1)
        self._base = base
        self._talks = list(talks)
        self._streams = streams
        self.total = None
        if base.total is not None:
            self.total = int(self._turns_of(np.arange(base.total), np.zeros(base.total, np.int64)).sum())

    def start(self) -> _State:
        none = np.empty(0, np.int64)
        return _State(self._base.start(), 0, -1, none, Turns(none, none, np.empty(0, np.bool_), none))

    def _turns_of(self, session: Int64Array, kind: Int64Array) -> Int64Array:
        turns = np.ones(len(session), np.int64)
        z = self._streams.normals("session.turns", session)
        for talk, where in self._by_talk(kind):
            turns[where] = np.maximum(np.rint(talk.turns.from_normal(z[where])), 1)
        return turns

    def _by_talk(self, kind: Int64Array) -> list[tuple[Sessions, npt.NDArray[np.bool_]]]:
        """Conversations, and which of some queries are of their *kind*."""
        found = []
        for code in np.unique(kind).tolist():
            talk = self._talks[code]
            if talk is not None:
                found.append((talk, kind == code))
        return found

    def new_tokens(self, code: int) -> Law | None:
        """The law of what later turns of kind *code* add; None: that of first prompts."""
        talk = self._talks[code]
        return None if talk is None else talk.new_tokens

    def _more(self, state: _State) -> _State:
        """The state with another block of sessions made."""
        count = self._batch if self._base.total is None else min(self._batch, self._base.total - state.sessions)
        chunk, after = self._base.step(state.process, state.sessions, count)
        session = np.arange(state.sessions, state.sessions + count)
        kind = np.zeros(count, np.int64) if chunk.client is None else chunk.client.astype(np.int64)
        turns = self._turns_of(session, kind)
        owner = np.repeat(np.arange(count), turns)
        first = np.concatenate([[0], np.cumsum(turns)[:-1]])
        turn = np.arange(len(owner)) - first[owner]
        z = self._streams.normals("session.think", session[owner], 0, turn)
        pause = np.zeros(len(owner), np.int64)
        for talk, where in self._by_talk(kind[owner]):
            later = where & (turn > 0)
            pause[later] = to_ps(talk.think_time.from_normal(z[later]))
        waited = np.cumsum(pause)
        times = chunk.arrived_ps[owner] + waited - waited[first[owner]]
        made = Turns(session[owner], turn, turn == turns[owner] - 1, kind[owner])
        times = np.concatenate([state.times, times])
        joined = Turns(
            *(
                np.concatenate([getattr(state.turns, name), getattr(made, name)])
                for name in ("session", "turn", "last", "kind")
            )
        )
        order = np.lexsort((joined.turn, joined.session, times))
        done = self._base.total is not None and state.sessions + count >= self._base.total
        horizon = int(np.iinfo(np.int64).max) if done else int(chunk.arrived_ps[-1])
        return _State(after, state.sessions + count, horizon, times[order], joined.at(order))

    def step(self, state: _State, first: int, count: int) -> tuple[tuple[Chunk, Turns], _State]:
        """Arrivals and turns of queries *first* to ``first + count - 1``, and the state after them."""
        while np.searchsorted(state.times, state.horizon_ps) < count:
            state = self._more(state)
        here, rest = state.turns.at(slice(None, count)), state.turns.at(slice(count, None))
        after = _State(state.process, state.sessions, state.horizon_ps, state.times[count:], rest)
        whose = here.kind.astype(np.int32) if len(self._talks) > 1 else None
        return (Chunk(state.times[:count], whose), here), after

    def tell(
        self, contexts: Contexts, turns: Turns, query: Int64Array, said: Said
    ) -> tuple[Int64Array, Int64Array, Int64Array, Contexts]:
        """(prompt, parent, prefix_len) of each query, and the contexts after them."""
        contexts = dict(contexts)
        prompt = said.prompt.copy()
        parent = np.full(len(query), -1, np.int64)
        prefix_len = np.zeros(len(query), np.int64)
        again = self._streams.uniforms("session.retry", turns.session, 0, turns.turn)
        keeps = np.ones(len(query))
        z = self._streams.normals("session.retry_keeps", turns.session, 0, turns.turn)
        for law, where in self._by_talk(turns.kind):
            if law.retry_keeps is not None:
                keeps[where] = np.clip(law.retry_keeps.from_normal(z[where]), 0.0, 1.0)
        rows = zip(turns.session.tolist(), turns.last.tolist(), turns.kind.tolist(), strict=True)
        for i, (session, last, kind) in enumerate(rows):
            before = contexts.pop(session, None)
            if last and before is None:
                continue
            talk = self._talks[kind]
            assert talk is not None
            limit, kept = talk.max_prompt, talk.reasoning == "kept"
            if before is not None:
                asked, shared, context, before_prompt = before
                size = context + int(said.prompt[i])
                if again[i] < talk.retries:
                    asks = max(round(before_prompt * float(keeps[i])), 1)
                    prompt[i], parent[i], prefix_len[i] = asks, asked, asks
                elif limit is None or size <= limit:
                    prompt[i], parent[i], prefix_len[i] = size, asked, shared
                else:
                    prompt[i] = max(limit, int(said.prompt[i]))
            if not last:
                context = int(prompt[i] + said.answer[i]) + (int(said.reasoning[i]) if kept else 0)
                shared = int(prompt[i]) if said.reasoning[i] > 0 and not kept else context
                contexts[session] = (int(query[i]), shared, context, int(prompt[i]))
        return prompt, parent, prefix_len, contexts
