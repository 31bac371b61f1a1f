"""Traffic with other lengths than its own: all at the mean, or with a longer tail; arrivals are untouched."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from workloads.source import QueryBlock, QuerySource

Int64Array = npt.NDArray[np.int64]
LONGEST = 10_000_000
"""Tokens that no stretched length exceeds: a guard for integers, far above any model's context."""


def means(source: QuerySource, budget: int | None = None) -> tuple[float, float, float]:
    """Mean prompt, reasoning (cut at *budget* where there is one) and answer tokens of the first block: up to 4,096
    queries."""
    block = source.block(0)
    if block is None or not len(block):
        return 1.0, 0.0, 1.0
    return (
        float(block.num_prefill_tokens.mean()),
        float((block.num_reasoning_tokens if budget is None else block.num_reasoning_tokens.clip(max=budget)).mean()),
        float(block.num_answer_tokens.mean()),
    )


class Changed:
    """A `QuerySource` that gives the queries of *source* other lengths.

    With *means* each has the mean prompt, reasoning and answer of the first block, and shares no prefix. Else
    reasoning and answers x become m·(x/m)^tail, with m the median of the first block.
    """

    def __init__(self, source: QuerySource, *, tail: float = 1.0, means: bool = False) -> None:
        self._source = source
        self._tail = tail
        self._means = _means_of(source) if means else None
        first = source.block(0)
        self._median = (
            (float(np.median(first.num_reasoning_tokens)), float(np.median(first.num_answer_tokens)))
            if first is not None and len(first)
            else (1.0, 1.0)
        )
        self.name = source.name
        self.categories, self.clients = source.categories, source.clients
        self.total, self.closed_loop = source.total, source.closed_loop
        self.verbatim = getattr(source, "verbatim", True)

    def block(self, index: int) -> QueryBlock | None:
        """Queries of that block, with their lengths changed."""
        block = self._source.block(index)
        if block is None:
            return None
        count = len(block)
        if self._means is not None:
            prompt, reasoning, answer = self._means
            return replace(
                block,
                num_prefill_tokens=np.full(count, prompt, dtype=np.int64),
                num_reasoning_tokens=np.full(count, reasoning, dtype=np.int64),
                num_answer_tokens=np.full(count, answer, dtype=np.int64),
                prefix_group=np.full(count, -1, dtype=np.int64),
                prefix_len=np.zeros(count, dtype=np.int64),
                parent=np.full(count, -1, dtype=np.int64),
            )
        return replace(
            block,
            num_reasoning_tokens=self._stretch(block.num_reasoning_tokens, 0),
            num_answer_tokens=np.maximum(self._stretch(block.num_answer_tokens, 1), 1),
        )

    def sample_lengths(self, query: int, sample: int) -> tuple[int, int]:
        """Another sample's lengths, changed alike."""
        if self._means is not None:
            return self._means[1], self._means[2]
        both = self._source.sample_lengths(query, sample)
        reasoning, answer = (
            int(self._stretch(np.array([value], dtype=np.int64), place)[0]) for place, value in enumerate(both)
        )
        return reasoning, max(answer, 1)

    def describe(self) -> dict[str, object]:
        """As the traffic's own, and what was changed."""
        change = "every query has the mean lengths" if self._means is not None else f"tail exponent {self._tail:g}"
        return {**self._source.describe(), "changed": change}

    def _stretch(self, tokens: Int64Array, which: int) -> Int64Array:
        median = max(self._median[which], 1.0)
        long = median * (tokens / median) ** self._tail
        # rounded, so that the changed lengths are whole on every platform alike
        changed: Int64Array = np.where(tokens > 0, np.clip(np.rint(long), 1, LONGEST), 0).astype(np.int64)
        return changed


def _means_of(source: QuerySource) -> tuple[int, int, int]:
    prompt, reasoning, answer = means(source)
    return max(1, math.ceil(prompt)), round(reasoning), max(1, math.ceil(answer))
