"""A decoder with the real shapes of an architecture and random weights, which runs one step of any
composition."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F

from calibration.profiler.attention import CANDIDATES, PREFERRED, Attention, Batched, Loop
from calibration.profiler.devices import Device
from calibration.profiler.kv import BlockTables, Span, StepInput, build_step
from calibration.profiler.layers import Build, GroupedQuery, Latent, Rope, rms_norm, rotate
from calibration.profiler.mlp import Experts, Mlp, check_dtype, random_weight, swiglu
from calibration.profiler.shapes import LayerKind, Shape, Stack
from sim.errors import InputError, Problem


class Layer:
    """One decoder layer: attention and MLP, each behind an RMSNorm and summed into the residual stream."""

    def __init__(self, build: Build, kind: LayerKind) -> None:
        arch = build.shape.architecture
        self.build = build
        self.norms = (build.norm(arch.hidden), build.norm(arch.hidden))
        window = arch.sliding_window if kind.attention == "sliding" else 0
        self.attention: GroupedQuery | Latent = (Latent if arch.mla else GroupedQuery)(build, window)
        common: dict[str, Any] = {
            "gated": arch.gated,
            "dtype": build.dtype,
            "device": build.device,
            "activate": build.swiglu,
        }
        self.mlp: Mlp | Experts
        if kind.mlp == "moe":
            assert arch.moe is not None
            self.mlp = Experts(arch.hidden, arch.moe, tp=build.shape.tp, max_tokens=build.max_tokens, **common)
        else:
            self.mlp = Mlp(arch.hidden, arch.ffn // build.shape.tp, **common)

    def __call__(self, x: torch.Tensor, step: StepInput, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        reduce = self.build.reduce
        x = x + reduce(self.attention(rms_norm(x, self.norms[0]), step, cos, sin))
        return x + reduce(self.mlp(rms_norm(x, self.norms[1])))


class Decoder:
    """Layers of *counts* by kind between an embedding and a sampled lm_head; call :meth:`allocate` before
    the first step.

    *reduce* sums over a tensor-parallel group, *collect* concatenates its shards of the logits.
    """

    def __init__(
        self,
        shape: Shape,
        counts: dict[LayerKind, int],
        *,
        dtype: str,
        device: Device,
        attention: Attention,
        max_tokens: int,
        longest: int,
        seed: int = 0,
        compiled: bool = False,
        reduce: Callable[[torch.Tensor], torch.Tensor] | None = None,
        collect: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        check_dtype(dtype, device)
        torch.manual_seed(seed)
        arch = shape.architecture
        self.shape, self.device, self.dtype, self.attention = shape, device, dtype, attention
        fuse: Callable[[Any], Any] = torch.compile(dynamic=True) if compiled else lambda function: function
        self.build = Build(
            shape=shape,
            dtype=dtype,
            device=device,
            attention=attention,
            max_tokens=max_tokens,
            reduce=reduce or (lambda x: x),
            rotate=fuse(rotate),
            swiglu=fuse(swiglu),
        )
        self.collect = collect or (lambda x: x)
        options: dict[str, Any] = {"device": device, "dtype": self.build.work}
        self.embedding = random_weight(shape.vocab, arch.hidden, fan_in=1, **options)
        self.head = (
            self.embedding
            if arch.tied_embeddings
            else random_weight(shape.vocab, arch.hidden, fan_in=arch.hidden, **options)
        )
        self.norm = self.build.norm(arch.hidden)
        self.rope = Rope(arch.mla.qk_rope_head_dim if arch.mla else arch.head_dim, longest, device)
        self.layers = {kind: [Layer(self.build, kind) for _ in range(count)] for kind, count in counts.items()}
        self.blocks = self.block_size = 0

    def allocate(self, blocks: int, block_size: int) -> None:
        """Make the KV pool of every layer."""
        self.blocks, self.block_size = blocks, block_size
        for layer in self.all_layers():
            layer.attention.allocate(blocks, block_size)

    def all_layers(self) -> Iterable[Layer]:
        """Every layer, kind by kind."""
        for layers in self.layers.values():
            yield from layers

    def shuffle(self) -> None:
        """Draw another routing for layers with experts."""
        for layer in self.all_layers():
            if isinstance(layer.mlp, Experts):
                layer.mlp.shuffle()

    @torch.inference_mode()
    def step(self, step: StepInput, stack: Stack | None = None) -> torch.Tensor:
        """Run *step* through *stack* (all layers when None); the tokens sampled for ``step.rows``."""
        x = self.build.reduce(F.embedding(step.tokens, self.embedding))
        cos, sin = self.rope.at(step.positions)
        counts = {kind: len(layers) for kind, layers in self.layers.items()} if stack is None else dict(stack.counts)
        for kind, count in counts.items():
            for layer in self.layers[kind][:count]:
                x = layer(x, step, cos, sin)
        x = rms_norm(x[step.rows], self.norm)
        return sample(self.collect(F.linear(x, self.head)))


def sample(logits: torch.Tensor) -> torch.Tensor:
    """One token a row, drawn from the softmax of its logits by inversion."""
    totals = torch.softmax(logits.float(), dim=-1).cumsum(dim=-1)
    drawn = torch.rand(logits.shape[0], 1, device=logits.device) * totals[:, -1:]
    return torch.searchsorted(totals, drawn).clamp_max(logits.shape[-1] - 1)[:, 0]


def choose_attention(
    shape: Shape, dtype: str, device: Device, wanted: str = "auto"
) -> tuple[Attention, int, list[str]]:
    """(the way of doing attention, its block size, why better ones were passed over).

    A way is used only if it gives what the plain one gives on a small uneven step of these heads; raise an
    InputError when the *wanted* one does not.
    """
    if wanted != "auto" and wanted not in CANDIDATES:
        raise InputError(Problem(f"{wanted!r}", key="--attention", expected="auto, " + ", ".join(CANDIDATES)))
    if shape.architecture.mla:
        return Batched() if device.kind != "cpu" else Loop(), 16, ["latent attention multiplies matrices"]
    notes: list[str] = []
    for name in PREFERRED[device.kind] if wanted == "auto" else (wanted,):
        for make, block_size in CANDIDATES[name]:
            try:
                attention = make()
                error = disagreement(attention, block_size, shape, dtype, device)
            except Exception as reason:  # whatever a kernel of some torch on some device objects to
                notes.append(f"{name}, blocks of {block_size}: {_first_line(reason)}")
                continue
            if error < 0.05:
                return attention, block_size, notes
            notes.append(f"{name}, blocks of {block_size}: differs from the plain way by {error:.2g}")
    raise InputError(Problem("no way of doing attention works here: " + "; ".join(notes), key="--attention"))


def disagreement(attention: Attention, block_size: int, shape: Shape, dtype: str, device: Device) -> float:
    """Largest difference of *attention* from the plain way over a mixed step of uneven sequences, in
    standard deviations."""
    from calibration.profiler.devices import TORCH_DTYPES

    heads, kv_heads, dim = shape.heads, shape.kv_heads, shape.architecture.head_dim
    tables = BlockTables(64, block_size, seed=1)
    decodes = [Span(tables.take(cached + 1), cached) for cached in (5, 37, 2 * block_size)]
    chunks = [Span(tables.take(cached + 20), cached, 20) for cached in (0, block_size + 3)]
    window = shape.architecture.sliding_window
    plain = build_step(device, decodes, chunks, block_size=block_size, vocab=2, window=window)
    generator = torch.Generator().manual_seed(1)

    def random(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator).to(device.torch, TORCH_DTYPES[dtype])

    query = random(plain.tokens.shape[0], heads, dim)
    keys, values = (random(64, block_size, kv_heads, dim) for _ in range(2))
    worst = 0.0
    for look_back in {0, window}:
        expected = Loop()(query, keys, values, plain, window=look_back).float()
        found = attention(query, keys, values, plain, window=look_back).float()
        device.sync()
        gap = float(((found - expected).abs().max() / expected.std()).item())
        if gap != gap:
            return float("inf")
        worst = max(worst, gap)
    return worst


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:120]
