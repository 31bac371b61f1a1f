"""Conversations: first turns arrive by some process, later ones after a pause, and each carries what was
said before.

A turn's prompt is the parent's prompt, its answer, and the user's new tokens. Where reasoning is dropped (chat
templates of reasoning models do so), a turn shares the parent's prompt as a prefix, and the answer too where
the parent did not reason; where it is kept, the prompt grows by it, and all that the parent held is shared.
Pauses run from arrival to arrival: an open loop, in which a slow answer delays nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.rng import Streams
from workloads.arrivals import Chunk, Process, to_ps
from workloads.source import BLOCK
from workloads.spec import Sessions

Int64Array = npt.NDArray[np.int64]

Contexts = Mapping[int, tuple[int, int, int]]
"""Of each open session: its latest query, the tokens the next turn shares with it, and the whole context."""


@dataclass(frozen=True)
class Turns:
    """Whose turn each query is: session, number of the turn from 0, and whether it is the last."""

    session: Int64Array
    turn: Int64Array
    last: npt.NDArray[np.bool_]


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

    def __init__(self, base: Process, spec: Sessions, streams: Streams) -> None:
        self._base = base
        self._spec = spec
        self._streams = streams
        self.total = None if base.total is None else int(self._turns_of(np.arange(base.total)).sum())

    def start(self) -> _State:
        none = np.empty(0, np.int64)
        return _State(self._base.start(), 0, -1, none, Turns(none, none, np.empty(0, np.bool_)))

    def _turns_of(self, session: Int64Array) -> Int64Array:
        z = self._streams.normals("session.turns", session)
        return np.maximum(np.rint(self._spec.turns.from_normal(z)), 1).astype(np.int64)

    def _more(self, state: _State) -> _State:
        """The state with another block of sessions made."""
        count = BLOCK if self._base.total is None else min(BLOCK, self._base.total - state.sessions)
        chunk, after = self._base.step(state.process, state.sessions, count)
        session = np.arange(state.sessions, state.sessions + count)
        turns = self._turns_of(session)
        owner = np.repeat(np.arange(count), turns)
        first = np.concatenate([[0], np.cumsum(turns)[:-1]])
        turn = np.arange(len(owner)) - first[owner]
        z = self._streams.normals("session.think", session[owner], 0, turn)
        pause = np.where(turn == 0, 0, to_ps(self._spec.think_time.from_normal(z)))
        waited = np.cumsum(pause)
        times = chunk.arrived_ps[owner] + waited - waited[first[owner]]
        times = np.concatenate([state.times, times])
        whose = np.concatenate([state.turns.session, session[owner]])
        which = np.concatenate([state.turns.turn, turn])
        last = np.concatenate([state.turns.last, turn == turns[owner] - 1])
        order = np.lexsort((which, whose, times))
        done = self._base.total is not None and state.sessions + count >= self._base.total
        horizon = int(np.iinfo(np.int64).max) if done else int(chunk.arrived_ps[-1])
        return _State(
            after,
            state.sessions + count,
            horizon,
            times[order],
            Turns(whose[order], which[order], last[order]),
        )

    def step(self, state: _State, first: int, count: int) -> tuple[tuple[Chunk, Turns], _State]:
        """Arrivals and turns of queries *first* to ``first + count - 1``, and the state after them."""
        while np.searchsorted(state.times, state.horizon_ps) < count:
            state = self._more(state)
        turns = state.turns
        here = Turns(turns.session[:count], turns.turn[:count], turns.last[:count])
        rest = Turns(turns.session[count:], turns.turn[count:], turns.last[count:])
        after = _State(state.process, state.sessions, state.horizon_ps, state.times[count:], rest)
        return (Chunk(state.times[:count]), here), after

    def tell(
        self, contexts: Contexts, turns: Turns, query: Int64Array, said: Said
    ) -> tuple[Int64Array, Int64Array, Int64Array, Contexts]:
        """(prompt, parent, prefix_len) of each query, and the contexts after them."""
        contexts = dict(contexts)
        prompt = said.prompt.copy()
        parent = np.full(len(query), -1, np.int64)
        prefix_len = np.zeros(len(query), np.int64)
        limit = self._spec.max_prompt
        kept = self._spec.reasoning == "kept"
        for i, (session, last) in enumerate(zip(turns.session.tolist(), turns.last.tolist(), strict=True)):
            before = contexts.pop(session, None)
            if before is not None:
                asked, shared, context = before
                size = context + int(said.prompt[i])
                if limit is None or size <= limit:
                    prompt[i], parent[i], prefix_len[i] = size, asked, shared
                else:
                    prompt[i] = max(limit, int(said.prompt[i]))
            if not last:
                context = int(prompt[i] + said.answer[i]) + (int(said.reasoning[i]) if kept else 0)
                shared = int(prompt[i]) if said.reasoning[i] > 0 and not kept else context
                contexts[session] = (int(query[i]), shared, context)
        return prompt, parent, prefix_len, contexts
