"""A semantic cache of reasoning traces: which problems it holds, what a look-up finds, what goes first.

A look-up finds the trace of its own problem with the cache's recall where it is held; else, with a small
chance, that of another problem (a false hit), where there is one. A query whose problem never comes again takes
room all the same. Draws belong to the query, so that two capacities face the same luck.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sim.results.columns import Lookup
from sim.rng import QueryDraws

if TYPE_CHECKING:
    from sim.rng import Streams


@dataclass(frozen=True)
class TraceCacheSettings:
    """What `sim.scenario.trace_cache` says; times in picoseconds."""

    capacity: int
    shortens: bool
    lookup_ps: int
    recall: float
    false_hit: float
    keep_share: float
    trace_tokens: int
    expires_ps: int | None = None


@dataclass(slots=True)
class Trace:
    """What is kept of an answered query."""

    right: bool
    """Its answer was right; False without a quality model."""
    tokens: int
    """Reasoning and answer."""
    made_ps: int


class TraceCache:
    """Of one run."""

    def __init__(self, settings: TraceCacheSettings, streams: Streams) -> None:
        self.settings = settings
        self._draws = QueryDraws(streams.uniforms)
        self._held: OrderedDict[int, Trace] = OrderedDict()
        self._tokens = 0
        self.found: dict[int, int] = {}
        """What the look-up of each query came to: a `Lookup`."""
        self.most = self.evicted = self.expired = self.most_tokens = 0

    @staticmethod
    def problem(query: int, prompt: int) -> int:
        """The key of a query's problem: its *prompt*, or one of its own."""
        return prompt if prompt >= 0 else -1 - query

    def look_up(self, query: int, prompt: int, now_ps: int) -> tuple[Lookup, Trace | None]:
        """What *query* finds at that time; its own problem's trace counts as used."""
        settings = self.settings
        key = self.problem(query, prompt)
        held = self._held.get(key)
        if held is not None and settings.expires_ps is not None and now_ps - held.made_ps >= settings.expires_ps:
            self._drop(key)
            self.expired += 1
            held = None
        if held is not None and self._uniform(query, 0) < settings.recall:
            self._held.move_to_end(key)
            self.found[query] = Lookup.HIT
            return Lookup.HIT, held
        others = len(self._held) - (held is not None)
        if others and self._uniform(query, 1) < settings.false_hit:
            self.found[query] = Lookup.FALSE_HIT
            return Lookup.FALSE_HIT, None
        self.found[query] = Lookup.MISS
        return Lookup.MISS, None

    def keep(self, query: int, prompt: int, trace: Trace) -> None:
        """*query* has been answered: its trace is held from now on, in place of an older one of its problem."""
        key = self.problem(query, prompt)
        if key in self._held:
            self._drop(key)
        elif len(self._held) >= self.settings.capacity:
            self._drop(next(iter(self._held)))
            self.evicted += 1
        self._held[key] = trace
        self._tokens += trace.tokens
        self.most = max(self.most, len(self._held))
        self.most_tokens = max(self.most_tokens, self._tokens)

    def figures(self) -> dict[str, int]:
        """For the run's description."""
        return {
            "capacity": self.settings.capacity,
            "held": len(self._held),
            "held_most": self.most,
            "held_tokens": self._tokens,
            "held_tokens_most": self.most_tokens,
            "evicted": self.evicted,
            "expired": self.expired,
        }

    def _drop(self, key: int) -> None:
        self._tokens -= self._held.pop(key).tokens

    def _uniform(self, query: int, step: int) -> float:
        return self._draws.of("trace_cache", query, 0, step)
