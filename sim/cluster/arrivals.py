"""Which query comes next: the blocks of a source, read ahead by one and handed out one query at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from workloads.source import QuerySource


class Arrival(NamedTuple):
    """One query as the source has it; the last two are hidden truth, passed on to the engine and to nobody
    else.
    """

    query: int
    arrived_ps: int
    """From the start of the run; in a closed loop the think time after the slot's release."""
    prompt_tokens: int
    max_tokens: int
    priority: int
    category: int
    client: int
    session: int
    prompt: int
    prefix_group: int
    prefix_len: int
    parent: int
    reasoning_tokens: int
    answer_tokens: int


def arrivals(source: QuerySource) -> Iterator[tuple[int, ...]]:
    """All queries of *source* in order, each a plain tuple in the order of `Arrival`: it costs least."""
    index = 0
    while (block := source.block(index)) is not None:
        first = block.first
        yield from zip(
            range(first, first + len(block)),
            block.arrived_ps.tolist(),
            block.num_prefill_tokens.tolist(),
            block.max_tokens.tolist(),
            block.priority.tolist(),
            block.category.tolist(),
            block.client.tolist(),
            block.session.tolist(),
            block.prompt.tolist(),
            block.prefix_group.tolist(),
            block.prefix_len.tolist(),
            block.parent.tolist(),
            block.num_reasoning_tokens.tolist(),
            block.num_answer_tokens.tolist(),
            strict=True,
        )
        index += 1
