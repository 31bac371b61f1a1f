"""Workloads written out by hand: a list of queries as a source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workloads.source import BLOCK, QueryBlock


@dataclass(frozen=True)
class Q:
    """One query."""

    at: int
    prompt: int = 10
    reasoning: int = 0
    answer: int = 5
    max_tokens: int = -1
    priority: int = 0
    category: int = 0
    client: int = 0
    session: int = -1
    prompt_id: int = -1
    group: int = -1
    prefix: int = 0
    parent: int = -1


class ListSource:
    """A source of the queries given, in blocks of *block*."""

    name = "list"

    def __init__(
        self,
        queries: Sequence[Q],
        *,
        closed_loop: int | None = None,
        categories: tuple[str, ...] = ("chat", "code", "math"),
        block: int = BLOCK,
    ) -> None:
        self.queries = list(queries)
        self.closed_loop = closed_loop
        self.categories = categories
        self.clients = ("a", "b", "c")
        self.total = len(self.queries)
        self._block = block

    def block(self, index: int) -> QueryBlock | None:
        part = self.queries[index * self._block : (index + 1) * self._block]
        if not part:
            return None

        def column(name: str, dtype: type = np.int64) -> np.ndarray:
            return np.array([getattr(query, name) for query in part], dtype=dtype)

        return QueryBlock(
            first=index * self._block,
            arrived_ps=column("at"),
            num_prefill_tokens=column("prompt"),
            max_tokens=column("max_tokens"),
            priority=column("priority"),
            category=column("category", np.int16),
            client=column("client", np.int32),
            session=column("session"),
            prompt=column("prompt_id"),
            prefix_group=column("group"),
            prefix_len=column("prefix"),
            parent=column("parent"),
            num_reasoning_tokens=column("reasoning"),
            num_answer_tokens=column("answer"),
            reasoning_known=True,
        )

    def sample_lengths(self, query: int, sample: int) -> tuple[int, int]:
        base = self.queries[query]
        return base.reasoning + sample % 3, base.answer + sample % 2

    def describe(self) -> dict[str, object]:
        return {"name": self.name}
