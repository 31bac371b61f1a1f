"""A paged KV cache, and the input of one step that reads and writes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from calibration.profiler.devices import Device
from calibration.profiler.points import Point
from sim.errors import DoesNotFit


class BlockTables:
    """Hands out blocks in random order, so that a sequence's blocks lie scattered as in a long-running
    server."""

    def __init__(self, blocks: int, block_size: int, seed: int) -> None:
        self.block_size = block_size
        self.blocks = blocks
        generator = torch.Generator().manual_seed(seed)
        self._free: list[int] = torch.randperm(blocks, generator=generator).tolist()

    def take(self, tokens: int) -> list[int]:
        """Blocks for *tokens* tokens; raise DoesNotFit when too few are free."""
        count = -(-tokens // self.block_size)
        if count > len(self._free):
            raise DoesNotFit(
                f"{tokens} tokens need {count} blocks of {self.block_size}, "
                f"and {len(self._free)} of {self.blocks} are free"
            )
        taken = self._free[-count:] if count else []
        del self._free[len(self._free) - count :]
        return taken

    def give(self, blocks: Sequence[int]) -> None:
        """Take *blocks* back."""
        self._free.extend(blocks)


@dataclass
class Span:
    """One sequence in a step: *new* tokens after *cached* ones, whose KV lies in *table*."""

    table: list[int]
    cached: int
    new: int = 1


@dataclass
class Chunk:
    """A prefill chunk: rows [start, start + new) of the step; its mask where attention needs one."""

    start: int
    new: int
    cached: int
    table: torch.Tensor
    mask: torch.Tensor | None
    sliding_mask: torch.Tensor | None


@dataclass
class StepInput:
    """The input of one step, on the device: decodes first, then chunks."""

    tokens: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    """Where each token's KV is written: block · block_size + offset."""
    rows: torch.Tensor
    """Rows whose logits are sampled: each decode, each chunk's last."""
    decodes: int
    lengths: list[int]
    """Tokens that each decode attends to, its own included; known to the host."""
    tables: list[torch.Tensor]
    """Blocks of each decode."""
    chunks: list[Chunk]
    table: torch.Tensor
    """Block tables of all sequences, padded, int32."""
    used: torch.Tensor
    """Tokens in the cache of each sequence after this step, int32."""
    starts: torch.Tensor
    """Cumulative rows of all sequences, int32."""
    longest_new: int
    longest: int
    extra: dict[str, Any] = field(default_factory=dict)
    """What a way of doing attention keeps from one layer to the next."""

    @property
    def even(self) -> bool:
        """Whether all decodes have the same length."""
        return len(set(self.lengths)) <= 1


def build_step(
    device: Device,
    decodes: Sequence[Span],
    chunks: Sequence[Span],
    *,
    block_size: int,
    vocab: int,
    window: int = 0,
    masks: bool = True,
    generator: torch.Generator | None = None,
) -> StepInput:
    """The input of a step of *decodes* (one new token each) and *chunks*, with random token ids.

    *masks* says whether the attention in use reads masks of chunks (some kernels work them out themselves).
    """
    sequences = [*decodes, *chunks]
    positions: list[int] = []
    slots: list[int] = []
    rows: list[int] = []
    starts = [0]
    for sequence in sequences:
        for position in range(sequence.cached, sequence.cached + sequence.new):
            positions.append(position)
            slots.append(sequence.table[position // block_size] * block_size + position % block_size)
        starts.append(len(positions))
        rows.append(len(positions) - 1)
    widest = max(len(sequence.table) for sequence in sequences)
    place = device.torch
    table = torch.tensor([s.table + [0] * (widest - len(s.table)) for s in sequences], dtype=torch.int32, device=place)
    used = [sequence.cached + sequence.new for sequence in sequences]
    tokens = torch.randint(0, vocab, (len(positions),), generator=generator).to(place)
    return StepInput(
        tokens=tokens,
        positions=torch.tensor(positions, device=place),
        slots=torch.tensor(slots, device=place),
        rows=torch.tensor(rows, device=place),
        decodes=len(decodes),
        lengths=used[: len(decodes)],
        tables=[
            torch.tensor(s.table[: -(-length // block_size)], device=place)
            for s, length in zip(decodes, used, strict=False)
        ],
        chunks=[
            _chunk(device, chunk, starts[len(decodes) + index], block_size, window, masks)
            for index, chunk in enumerate(chunks)
        ],
        table=table,
        used=torch.tensor(used, dtype=torch.int32, device=place),
        starts=torch.tensor(starts, dtype=torch.int32, device=place),
        longest_new=max(sequence.new for sequence in sequences),
        longest=max(used),
    )


def _chunk(device: Device, chunk: Span, start: int, block_size: int, window: int, masks: bool) -> Chunk:
    total = chunk.cached + chunk.new
    table = torch.tensor(chunk.table[: -(-total // block_size)], device=device.torch)
    mask = sliding = None
    if masks and (chunk.cached or window):
        query = torch.arange(chunk.cached, total, device=device.torch)[:, None]
        key = torch.arange(total, device=device.torch)[None, :]
        mask = key <= query if chunk.cached else None
        sliding = (key <= query) & (key > query - window) if window else None
    return Chunk(start, chunk.new, chunk.cached, table, mask, sliding)


def point_sequences(point: Point, tables: BlockTables) -> tuple[list[Span], list[Span]]:
    """The sequences of *point* with blocks taken from *tables*."""
    decodes = [Span(tables.take(point.context + 1), point.context) for _ in range(point.decodes)]
    total = point.chunk_cached + point.chunk_tokens
    chunks = [Span(tables.take(total), point.chunk_cached, point.chunk_tokens) for _ in range(point.chunks)]
    return decodes, chunks
