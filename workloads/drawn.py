"""What a generator draws, measured block by block as a trace is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from workloads.held import Chunk
from workloads.portrait import Portrait
from workloads.source import QueryBlock, QuerySource

_BLOCKS = 16


def drawn_portrait(source: QuerySource, *, beside: Portrait) -> Portrait:
    """The portrait of all queries of *source*, with the windows and scales of the one that it stands *beside*."""
    by_client = len(source.clients) > 1
    found = Portrait(
        beside.window_s,
        [meter.scale_s for meter in beside.curve],
        names=source.clients if by_client else source.categories,
        grouped_by="client_id" if by_client else "category" if len(source.categories) > 1 else "nothing",
        split_known=beside.split_known,
    )
    for chunk in chunks_of(source, by_client=by_client):
        found.add(chunk)
    return found


def chunks_of(source: QuerySource, *, by_client: bool = True) -> Iterator[Chunk]:
    """All queries of *source*, some blocks at a time; codes are those of clients, or of categories."""
    index, blocks = 0, list[QueryBlock]()
    while True:
        block = source.block(index)
        index += 1
        blocks += [] if block is None else [block]
        if blocks and (block is None or len(blocks) >= _BLOCKS):
            yield Chunk(
                arrived=np.concatenate([one.arrived_ps for one in blocks]) / 1e12,
                prompt=np.concatenate([one.num_prefill_tokens for one in blocks]),
                output=np.concatenate([one.num_decode_tokens for one in blocks]),
                reasoning=np.concatenate([one.num_reasoning_tokens for one in blocks])
                if blocks[0].reasoning_known
                else None,
                client=np.concatenate([one.client if by_client else one.category for one in blocks]).astype(np.int64),
            )
            blocks = []
        if block is None:
            return
