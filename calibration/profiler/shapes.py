"""What one GPU's share of a decoder looks like, and how few layers tell what all of them cost.

A decoder whose layers are all alike needs two stacks, a short and a longer one: their difference is the cost
of a layer, and what is left is the cost of a step around the layers (embedding, lm_head, sampling). With
several kinds of layers (dense and MoE, full and sliding attention) each kind gets its own longer stack.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from calibration.architecture import Architecture
from calibration.dtypes import BYTES
from sim.errors import DoesNotFit, InputError, Problem


@dataclass(frozen=True, order=True)
class LayerKind:
    """Layers that cost the same: which attention, which MLP."""

    attention: Literal["full", "sliding"]
    mlp: Literal["dense", "moe"]

    def __str__(self) -> str:
        return f"{self.attention}-{self.mlp}"


@dataclass(frozen=True)
class Shape:
    """One GPU's share of *architecture* under tensor parallelism over *tp* GPUs."""

    architecture: Architecture
    tp: int = 1

    def __post_init__(self) -> None:
        arch = self.architecture
        problems = [
            Problem(
                f"{count} {what} cannot be shared by {self.tp} GPUs",
                key="--tp",
                expected=f"a divisor of {count}",
            )
            for what, count in (("attention heads", arch.heads), ("MLP columns", arch.ffn or self.tp))
            if count % self.tp
        ]
        if self.tp < 1:
            problems = [Problem(f"{self.tp}", key="--tp", expected="at least 1")]
        if arch.moe and arch.moe.ffn % self.tp:
            problems.append(Problem(f"experts of width {arch.moe.ffn} cannot be shared by {self.tp} GPUs", key="--tp"))
        if problems:
            raise InputError(problems)

    @property
    def heads(self) -> int:
        """Query heads on one GPU."""
        return self.architecture.heads // self.tp

    @property
    def kv_heads(self) -> int:
        """KV heads on one GPU; a head is replicated when there are more GPUs than heads."""
        return max(1, self.architecture.kv_heads // self.tp)

    @property
    def vocab(self) -> int:
        """Rows of lm_head on one GPU."""
        return -(-self.architecture.vocab // self.tp)

    def kinds(self) -> dict[LayerKind, int]:
        """How many layers of each kind the decoder has."""
        arch = self.architecture
        dense_first = arch.moe.dense_layers if arch.moe else 0
        counts: Counter[LayerKind] = Counter()
        for index in range(arch.layers):
            # Sliding layers are spread evenly; which of them come first does not matter to the time.
            sliding = (index * arch.sliding_layers) // arch.layers != ((index + 1) * arch.sliding_layers) // arch.layers
            moe = arch.moe is not None and index >= dense_first
            counts[LayerKind("sliding" if sliding else "full", "moe" if moe else "dense")] += 1
        return dict(sorted(counts.items()))

    def layer_bytes(self, kind: LayerKind, dtype: str) -> float:
        """Bytes of one layer's weights on one GPU."""
        arch = self.architecture
        width = BYTES[dtype]
        total = arch.attention_parameters_per_gpu(self.tp) * width
        if kind.mlp == "dense":
            return total + arch.mlp_parameters / self.tp * width
        assert arch.moe is not None
        experts = arch.expert_parameters * arch.moe.experts + arch.shared_parameters
        return total + experts / self.tp * width

    def head_bytes(self, dtype: str) -> float:
        """Bytes of the embedding table and lm_head on one GPU (16 bits at least, as engines keep them)."""
        ends = 1 if self.architecture.tied_embeddings else 2
        return ends * self.vocab * self.architecture.hidden * max(2.0, BYTES[dtype])

    def kv_layer_bytes(self, dtype: str) -> float:
        """KV bytes of a token in one layer on one GPU."""
        arch = self.architecture
        numbers = arch.mla.latent if arch.mla else 2 * self.kv_heads * arch.head_dim
        return numbers * max(2.0, BYTES[dtype])


@dataclass(frozen=True)
class Stack:
    """Some layers to run as if they were a decoder; *weight* is its factor in the sum that gives the
    whole."""

    counts: tuple[tuple[LayerKind, int], ...]
    weight: float

    @property
    def layers(self) -> int:
        """Layers in it."""
        return sum(count for _, count in self.counts)


def plan_stacks(shape: Shape, measured: int) -> tuple[Stack, ...]:
    """Which stacks to time so that ``Σ weight · time`` is the time of the whole decoder.

    *measured* is how many layers of a kind may be built. Enough for all gives one stack of weight 1;
    otherwise a short one and, for each kind not complete in it, one with up to *measured* layers of that
    kind.
    """
    kinds = shape.kinds()
    if all(measured >= count for count in kinds.values()):
        return (Stack(tuple(kinds.items()), 1.0),)
    if measured < 2:
        raise InputError(
            Problem(
                f"{measured} layers cannot tell a layer's cost from the rest of a step",
                key="--layers",
                expected=f"at least 2, or all {shape.architecture.layers}",
            )
        )
    short = {kind: min(count, max(1, measured // 4)) for kind, count in kinds.items()}
    longer: list[Stack] = []
    for kind, count in kinds.items():
        if count > short[kind]:
            grown = {**short, kind: min(count, measured)}
            weight = (count - short[kind]) / (grown[kind] - short[kind])
            longer.append(Stack(tuple(grown.items()), weight))
    return (Stack(tuple(short.items()), 1.0 - sum(stack.weight for stack in longer)), *longer)


def fitting_layers(shape: Shape, dtype: str, free_bytes: float, *, kv_share: float = 0.4) -> int:
    """The largest number of layers of each kind whose weights leave *kv_share* of *free_bytes* for the KV
    pool.

    Raise DoesNotFit when not even two do.
    """
    kinds = shape.kinds()
    room = free_bytes * (1.0 - kv_share) - shape.head_bytes(dtype)
    best = 0
    for layers in range(1, max(kinds.values()) + 1):
        need = sum(min(layers, count) * shape.layer_bytes(kind, dtype) for kind, count in kinds.items())
        if need > room:
            break
        best = layers
    if best < min(2, max(kinds.values())):
        one = sum(shape.layer_bytes(kind, dtype) for kind in kinds)
        head = shape.head_bytes(dtype)
        raise DoesNotFit(
            f"two layers of {shape.architecture.name} take {2 * one / 1e9:.2f} GB beside {head / 1e9:.2f} GB "
            f"of embeddings and lm_head, and {free_bytes / 1e9:.2f} GB are free ({kv_share:.0%} kept for KV)"
        )
    return best
