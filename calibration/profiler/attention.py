"""Ways to do attention over a paged cache, from the portable one to the kernels that serve.

``loop``     a sequence at a time: gather its blocks, then SDPA; the portable one
``batched``  as ``loop``, but decodes of equal length in one gather and one SDPA
``flex``     as ``loop``, but decodes by compiled FlexAttention over a paged block mask
``varlen``   FlashAttention with a block table, decodes and chunks in one call a layer

``loop`` is the plain version that the others are checked against before they are used. A gather copies the
KV once more than a paged kernel reads it, so only ``flex`` and ``varlen`` measure a context's cost as a
serving engine pays it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from calibration.profiler.kv import Chunk, StepInput


class Attention(Protocol):
    """Attention of one step: *query* is (rows, heads, head_dim), caches are (blocks, block_size, kv_heads,
    head_dim)."""

    name: str
    masks: bool
    """Whether it reads the masks of chunks."""

    def __call__(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, step: StepInput, *, window: int
    ) -> torch.Tensor: ...


def gather(cache: torch.Tensor, table: torch.Tensor, length: int, window: int = 0) -> torch.Tensor:
    """The last *window* (0: all) of *length* tokens in the blocks of *table*: (tokens, …)."""
    size = cache.shape[1]
    first = max(0, length - window) // size if window else 0
    rows = cache.index_select(0, table[first : -(-length // size)])
    flat = rows.reshape(-1, *cache.shape[2:])
    begin = (length - window - first * size) if window and length > window else 0
    return flat[begin : length - first * size]


def sdpa(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any) -> torch.Tensor:
    """SDPA of (batch, heads, …) tensors whose KV heads may be fewer."""
    return F.scaled_dot_product_attention(query, key, value, enable_gqa=query.shape[1] != key.shape[1], **options)


class Loop:
    """A sequence at a time; see the module."""

    name = "loop"
    masks = True

    def __call__(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, step: StepInput, *, window: int
    ) -> torch.Tensor:
        out = torch.empty_like(query)
        self.decode(query, keys, values, step, window, out)
        for chunk in step.chunks:
            self.chunk(query, keys, values, chunk, window, out)
        return out

    def decode(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        step: StepInput,
        window: int,
        out: torch.Tensor,
    ) -> None:
        """Attention of the step's decodes, into *out*."""
        for row in range(step.decodes):
            length, table = step.lengths[row], step.tables[row]
            key = gather(keys, table, length, window).transpose(0, 1)[None]
            value = gather(values, table, length, window).transpose(0, 1)[None]
            out[row] = sdpa(query[row : row + 1].transpose(0, 1)[None], key, value)[0, :, 0]

    def chunk(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        chunk: Chunk,
        window: int,
        out: torch.Tensor,
    ) -> None:
        """Attention of one chunk, into *out*."""
        rows = slice(chunk.start, chunk.start + chunk.new)
        total = chunk.cached + chunk.new
        key = gather(keys, chunk.table, total).transpose(0, 1)[None]
        value = gather(values, chunk.table, total).transpose(0, 1)[None]
        out[rows] = causal(query[rows].transpose(0, 1)[None], key, value, chunk, window)[0].transpose(0, 1)


def causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, chunk: Chunk, window: int) -> torch.Tensor:
    """Causal SDPA of a chunk whose queries are the last of the keys."""
    if window and chunk.sliding_mask is not None and window < chunk.cached + chunk.new:
        return sdpa(query, key, value, attn_mask=chunk.sliding_mask)
    if not chunk.cached:
        return sdpa(query, key, value, is_causal=True)
    if query.is_cuda:
        from torch.nn.attention.bias import causal_lower_right

        return sdpa(query, key, value, attn_mask=causal_lower_right(query.shape[2], key.shape[2]))
    return sdpa(query, key, value, attn_mask=chunk.mask)


class Batched(Loop):
    """Equal sequences at once; see the module."""

    name = "batched"

    def decode(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        step: StepInput,
        window: int,
        out: torch.Tensor,
    ) -> None:
        count = step.decodes
        if not step.even or count < 2 or window:
            super().decode(query, keys, values, step, window, out)
            return
        length, size = step.lengths[0], keys.shape[1]
        blocks = step.table[:count, : -(-length // size)].flatten()

        def take(cache: torch.Tensor) -> torch.Tensor:
            rows = cache.index_select(0, blocks).view(count, -1, *cache.shape[2:])
            return rows[:, :length].transpose(1, 2)

        out[:count] = sdpa(query[:count, :, None], take(keys), take(values))[:, :, 0]


class Flex(Loop):
    """FlexAttention for decodes; see the module."""

    name = "flex"

    def __init__(self, *, compiled: bool = True) -> None:
        from torch.nn.attention.flex_attention import flex_attention

        if compiled:
            # One graph a shape; past the limit torch would fall back to scores in memory without a word.
            torch._dynamo.config.recompile_limit = 1024
        attend: Any = flex_attention
        self._flex: Callable[..., Any] = torch.compile(attend, dynamic=False) if compiled else attend

    def decode(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        step: StepInput,
        window: int,
        out: torch.Tensor,
    ) -> None:
        if not step.decodes:
            return
        if window:
            super().decode(query, keys, values, step, window, out)
            return
        if "flex" not in step.extra:
            step.extra["flex"] = paged_mask(step, keys.shape[0], keys.shape[1])
        pool = (1, keys.shape[0] * keys.shape[1], keys.shape[2], keys.shape[3])
        result = self._flex(
            query[: step.decodes, :, None],
            keys.view(pool).transpose(1, 2).expand(step.decodes, -1, -1, -1),
            values.view(pool).transpose(1, 2).expand(step.decodes, -1, -1, -1),
            block_mask=step.extra["flex"],
            enable_gqa=query.shape[1] != keys.shape[2],
        )
        out[: step.decodes] = result[:, :, 0]


def paged_mask(step: StepInput, blocks: int, block_size: int) -> Any:
    """The block mask by which each decode of *step* sees its own blocks of the pool, and of its last one the
    filled part.

    Physical block numbers stand in the mask directly; only a sequence's last block is looked at slot by slot.
    """
    from torch.nn.attention.flex_attention import BlockMask

    count = step.decodes
    used = step.used[:count]
    whole = ((used - 1) // block_size).to(torch.int32)
    indices = torch.zeros(count, 1, 1, blocks, dtype=torch.int32, device=used.device)
    indices[:, 0, 0, : step.table.shape[1]] = step.table[:count]
    last = torch.zeros_like(indices)
    last[:, 0, 0, 0] = step.table[:count].gather(1, whole[:, None].long())[:, 0]
    # Where in its sequence a block stands; far beyond any length for blocks of others.
    order = torch.full((count, blocks), 2**30, dtype=torch.int32, device=used.device)
    owned = torch.arange(step.table.shape[1], device=used.device, dtype=torch.int32).expand(count, -1)
    owned = torch.where(owned <= whole[:, None], owned, 2**30 // block_size)
    order.scatter_reduce_(1, step.table[:count].long(), owned * block_size, "amin")

    def visible(b: Any, h: Any, q: Any, slot: Any) -> Any:
        return order[b, slot // block_size] + slot % block_size < used[b]

    ones = torch.ones_like(whole)
    return BlockMask.from_kv_blocks(
        ones[:, None, None],
        last,
        whole[:, None, None],
        indices,
        BLOCK_SIZE=(128, block_size),
        mask_mod=visible,
        seq_lengths=(1, blocks * block_size),
    )


class Varlen:
    """FlashAttention over block tables; see the module."""

    name = "varlen"
    masks = False

    def __init__(self, *, with_key_starts: bool = False) -> None:
        from torch.nn.attention.varlen import varlen_attn

        if "block_table" not in inspect.signature(varlen_attn).parameters:
            raise NotImplementedError("this torch's varlen_attn takes no block table")
        self._attend: Callable[..., Any] = varlen_attn
        self._with_key_starts = with_key_starts

    def __call__(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, step: StepInput, *, window: int
    ) -> torch.Tensor:
        key_starts = None
        if self._with_key_starts:
            if "key_starts" not in step.extra:
                step.extra["key_starts"] = F.pad(step.used.cumsum(0, dtype=torch.int32), (1, 0))
            key_starts = step.extra["key_starts"]
        out: torch.Tensor = self._attend(
            query,
            keys,
            values,
            step.starts,
            key_starts,
            step.longest_new,
            step.longest,
            window_size=(window - 1 if window else -1, 0),
            enable_gqa=query.shape[1] != keys.shape[2],
            seqused_k=step.used,
            block_table=step.table,
        )
        return out


CANDIDATES: dict[str, tuple[tuple[Callable[[], Attention], int], ...]] = {
    "varlen": (
        (Varlen, 16),
        (lambda: Varlen(with_key_starts=True), 16),
        (Varlen, 256),
        (lambda: Varlen(with_key_starts=True), 256),
    ),
    "flex": ((Flex, 128),),
    "batched": ((Batched, 16),),
    "loop": ((Loop, 16),),
}
"""Ways by name, each with the block sizes it may need (FlashAttention 2 pages 256 tokens, 3 any number)."""

PREFERRED = {"cuda": ("varlen", "flex", "batched", "loop"), "mps": ("batched", "loop"), "cpu": ("loop",)}
