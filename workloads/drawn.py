"""What a generator draws: as rows of a trace, and measured block by block as a trace is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from workloads.conversations import Structure
from workloads.held import Chunk
from workloads.portrait import Portrait
from workloads.source import BLOCK, QueryBlock, QuerySource

if TYPE_CHECKING:
    import pyarrow as pa

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
        known_as=source.clients if by_client and set(source.clients) == set(beside.known_as) else (),
    )
    for chunk in chunks_of(source, by_client=by_client):
        found.add(chunk)
    return found


def chunks_of(source: QuerySource, *, by_client: bool = True, most: int = _BLOCKS) -> Iterator[Chunk]:
    """All queries of *source*, up to so many blocks at a time; codes are those of clients, or of categories."""
    index, blocks = 0, list[QueryBlock]()
    while True:
        block = source.block(index)
        index += 1
        blocks += [] if block is None else [block]
        if blocks and (block is None or len(blocks) >= most):
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


def drawn_structure(source: QuerySource) -> Structure:
    """The conversations, shared prefixes and recurring prompts of all queries of *source*."""
    found = Structure()
    for batch in batches_of(source):
        found.watch(batch, np.zeros(batch.num_rows, np.int64))
    return found


def batches_of(
    source: QuerySource, *, queries: int | None = None, duration_s: float | None = None
) -> Iterator[pa.RecordBatch]:
    """The queries of *source* in trace columns: the first *queries*, or those before *duration_s*, or all."""
    import pyarrow as pa

    index = 0
    while queries is None or index * BLOCK < queries:
        block = source.block(index)
        index += 1
        if block is None:
            return
        size = len(block) if queries is None else min(len(block), queries - block.first)
        if duration_s is not None:
            size = min(size, int(np.searchsorted(block.arrived_ps, round(duration_s * 1e12))))
        part = slice(0, size)
        columns = {
            "arrived_at": block.arrived_ps[part] / 1e12,
            "num_prefill_tokens": block.num_prefill_tokens[part],
            "num_decode_tokens": block.num_decode_tokens[part],
        }
        if block.reasoning_known:
            columns["num_reasoning_tokens"] = block.num_reasoning_tokens[part]
            columns["num_answer_tokens"] = block.num_answer_tokens[part]
        for name, values, unset in (
            ("max_tokens", block.max_tokens, -1),
            ("priority", block.priority, 0),
            ("prefix_group", block.prefix_group, -1),
            ("prefix_len", block.prefix_len, 0),
            ("parent_id", block.parent, -1),
        ):
            if _ever(source, name) or (values != unset).any():
                columns[name] = values[part]
        arrays = {name: pa.array(values) for name, values in columns.items()}
        for name, codes, names in (
            ("client_id", block.client, source.clients),
            ("category", block.category, source.categories),
        ):
            if len(names) > 1:
                arrays[name] = pa.DictionaryArray.from_arrays(codes[part].astype("int32"), names).cast(pa.string())
        if _ever(source, "session_id"):
            arrays["session_id"] = pa.array(block.session[part]).cast(pa.string())
        if _ever(source, "prompt_id"):
            # A prompt of its own has the number of its query.
            own = np.arange(block.first, block.first + size)
            problem = np.where(block.prompt[part] >= 0, block.prompt[part], own)
            arrays["prompt_id"] = pa.array(problem).cast(pa.string())
        if size:
            yield pa.RecordBatch.from_pydict(arrays)
        if size < len(block):
            return


def _ever(source: QuerySource, column: str) -> bool:
    """Whether any block of *source* uses *column*, so that all batches have the same columns."""
    features = source.describe().get("columns", ())
    return isinstance(features, tuple) and column in features
