"""The attention halves of a decoder layer: grouped-query heads over a KV cache, and multi-head latent
attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from calibration.profiler.attention import Attention, causal, gather
from calibration.profiler.devices import TORCH_DTYPES, Device
from calibration.profiler.kv import StepInput
from calibration.profiler.mlp import Linear, random_weight
from calibration.profiler.shapes import Shape


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding of (rows, heads, head_dim); *cos* and *sin* are (rows, 1, head_dim / 2)."""
    left, right = x.float().chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1).to(x.dtype)


class Rope:
    """Tables of cosines and sines for positions up to *longest*."""

    def __init__(self, dim: int, longest: int, device: Device) -> None:
        steps = torch.arange(0, dim, 2, device=device.torch, dtype=torch.float32) / dim
        angles = torch.arange(longest, device=device.torch, dtype=torch.float32)[:, None] * 1e4**-steps
        self.cos, self.sin = angles.cos(), angles.sin()

    def at(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows for *positions*, with an axis for heads."""
        return self.cos[positions][:, None], self.sin[positions][:, None]


@dataclass
class Build:
    """What all layers are built with."""

    shape: Shape
    dtype: str
    device: Device
    attention: Attention
    max_tokens: int
    reduce: Callable[[torch.Tensor], torch.Tensor]
    """Sums over the GPUs of a tensor-parallel group."""
    rotate: Callable[..., torch.Tensor]
    swiglu: Callable[..., torch.Tensor]

    @property
    def work(self) -> torch.dtype:
        """The format of activations."""
        return TORCH_DTYPES[self.dtype]

    def linear(self, inputs: int, outputs: int, *, bias: bool = False) -> Linear:
        """A matrix in the format of the weights."""
        return Linear(inputs, outputs, dtype=self.dtype, device=self.device, bias=bias)

    def norm(self, width: int) -> torch.Tensor:
        """Weights of an RMSNorm, near one."""
        return 1.0 + random_weight(width, device=self.device, dtype=self.work, fan_in=1000)

    def random(self, *shape: int) -> torch.Tensor:
        """Normal numbers of variance 1 in the format of activations."""
        return random_weight(*shape, device=self.device, dtype=self.work, fan_in=1)


def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """RMSNorm over the last axis."""
    out: torch.Tensor = F.rms_norm(x, (x.shape[-1],), weight, 1e-6)
    return out


class GroupedQuery:
    """Attention with as many or fewer KV heads than query heads; *window* tokens look back, 0 for all."""

    def __init__(self, build: Build, window: int) -> None:
        arch, shape = build.shape.architecture, build.shape
        self.build, self.window = build, window
        self.heads, self.kv_heads, self.dim = shape.heads, shape.kv_heads, arch.head_dim
        width = (self.heads + 2 * self.kv_heads) * self.dim
        self.qkv = build.linear(arch.hidden, width, bias=arch.qkv_bias)
        self.out = build.linear(self.heads * self.dim, arch.hidden, bias=arch.out_bias)
        self.norms = (build.norm(self.dim), build.norm(self.dim)) if arch.qk_norm else None
        self.keys = self.values = torch.empty(0)

    def allocate(self, blocks: int, block_size: int) -> None:
        """A random KV pool."""
        self.keys = self.build.random(blocks, block_size, self.kv_heads, self.dim)
        self.values = self.build.random(blocks, block_size, self.kv_heads, self.dim)

    def __call__(self, x: torch.Tensor, step: StepInput, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        rows = x.shape[0]
        qkv = self.qkv(x).view(rows, -1, self.dim)
        query, key, value = torch.split(qkv, [self.heads, self.kv_heads, self.kv_heads], dim=1)
        if self.norms:
            query, key = rms_norm(query, self.norms[0]), rms_norm(key, self.norms[1])
        query, key = self.build.rotate(query, cos, sin), self.build.rotate(key, cos, sin)
        self.keys.view(-1, self.kv_heads, self.dim).index_copy_(0, step.slots, key)
        self.values.view(-1, self.kv_heads, self.dim).index_copy_(0, step.slots, value)
        mixed = self.build.attention(query, self.keys, self.values, step, window=self.window)
        return self.out(mixed.reshape(rows, -1))


class Latent:
    """Multi-head latent attention: decodes attend to the cached latents themselves, chunks to keys and
    values from them."""

    def __init__(self, build: Build, window: int) -> None:
        arch, shape = build.shape.architecture, build.shape
        assert arch.mla is not None
        self.build, self.mla, self.heads = build, arch.mla, shape.heads
        m = arch.mla
        self.head = m.qk_nope_head_dim + m.qk_rope_head_dim
        self.scale = self.head**-0.5
        self.query_down = build.linear(arch.hidden, m.q_lora_rank) if m.q_lora_rank else None
        self.query_norm = build.norm(m.q_lora_rank) if m.q_lora_rank else None
        self.query_up = build.linear(m.q_lora_rank or arch.hidden, self.heads * self.head)
        self.down = build.linear(arch.hidden, m.latent)
        self.norm = build.norm(m.kv_lora_rank)
        self.expand = build.linear(m.kv_lora_rank, self.heads * (m.qk_nope_head_dim + m.v_head_dim))
        # The same matrix, taken apart: its key half takes queries into latent space, its value half results
        # out of it.
        halves = self.expand.plain().view(self.heads, m.qk_nope_head_dim + m.v_head_dim, m.kv_lora_rank)
        self.absorb_keys = halves[:, : m.qk_nope_head_dim].contiguous()
        self.absorb_values = halves[:, m.qk_nope_head_dim :].transpose(1, 2).contiguous()
        self.out = build.linear(self.heads * m.v_head_dim, arch.hidden)
        self.cache = torch.empty(0)

    def allocate(self, blocks: int, block_size: int) -> None:
        """A random pool of latents."""
        self.cache = self.build.random(blocks, block_size, self.mla.latent)

    def __call__(self, x: torch.Tensor, step: StepInput, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        rows, m = x.shape[0], self.mla
        if self.query_down is None or self.query_norm is None:
            query = self.query_up(x)
        else:
            query = self.query_up(rms_norm(self.query_down(x), self.query_norm))
        query = query.view(rows, self.heads, self.head)
        plain, turned = torch.split(query, [m.qk_nope_head_dim, m.qk_rope_head_dim], dim=-1)
        turned = self.build.rotate(turned, cos, sin)
        latent, rope = torch.split(self.down(x), [m.kv_lora_rank, m.qk_rope_head_dim], dim=-1)
        rope = self.build.rotate(rope[:, None], cos, sin)[:, 0]
        row = torch.cat((rms_norm(latent.contiguous(), self.norm), rope), dim=-1)
        self.cache.view(-1, m.latent).index_copy_(0, step.slots, row)
        out = x.new_empty(rows, self.heads, m.v_head_dim)
        if step.decodes:
            out[: step.decodes] = self._decode(plain[: step.decodes], turned[: step.decodes], step)
        for chunk in step.chunks:
            part = slice(chunk.start, chunk.start + chunk.new)
            total = chunk.cached + chunk.new
            cached = gather(self.cache, chunk.table, total)
            expanded = self.expand(cached[:, : m.kv_lora_rank]).view(total, self.heads, -1)
            key, value = torch.split(expanded, [m.qk_nope_head_dim, m.v_head_dim], dim=-1)
            shared = cached[:, None, m.kv_lora_rank :].expand(-1, self.heads, -1)
            # Fused kernels want values as wide as keys, so engines pad them, and so do we.
            value = F.pad(value, (0, max(0, self.head - m.v_head_dim)))
            mixed = causal(
                torch.cat((plain[part], turned[part]), dim=-1).transpose(0, 1)[None],
                torch.cat((key, shared), dim=-1).transpose(0, 1)[None],
                value.transpose(0, 1)[None],
                chunk,
                0,
            )
            out[part] = mixed[0].transpose(0, 1)[..., : m.v_head_dim]
        return self.out(out.reshape(rows, -1))

    def _decode(self, plain: torch.Tensor, turned: torch.Tensor, step: StepInput) -> torch.Tensor:
        """Absorbed decode: queries are taken into latent space, so that each cached latent is read for all
        heads at once."""
        m = self.mla
        query = torch.cat((torch.bmm(plain.transpose(0, 1), self.absorb_keys).transpose(0, 1), turned), dim=-1)
        if step.even and step.decodes > 1 and self.build.device.kind != "cpu":
            length, size = step.lengths[0], self.cache.shape[1]
            blocks = step.table[: step.decodes, : -(-length // size)].flatten()
            cached = self.cache.index_select(0, blocks).view(step.decodes, -1, m.latent)[:, :length]
            mixed = self._attend(query, cached)
        else:
            mixed = torch.stack(
                [
                    self._attend(query[row], gather(self.cache, step.tables[row], step.lengths[row]))
                    for row in range(step.decodes)
                ]
            )
        return torch.bmm(mixed.transpose(0, 1), self.absorb_values).transpose(0, 1)

    def _attend(self, query: torch.Tensor, cached: torch.Tensor) -> torch.Tensor:
        scores = torch.matmul(query, cached.transpose(-1, -2)).float() * self.scale
        weights = torch.softmax(scores, dim=-1).to(query.dtype)
        return torch.matmul(weights, cached[..., : self.mla.kv_lora_rank])
