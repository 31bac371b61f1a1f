"""Matrix multiplications in the formats that a device has, and the MLPs made of them: SwiGLU, and a mixture
of experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from calibration.architecture import Moe
from calibration.profiler.devices import TORCH_DTYPES, Device
from sim.errors import InputError, Problem

FP8_MAX = 448.0
"""Largest finite number of float8 e4m3."""


def check_dtype(dtype: str, device: Device) -> None:
    """Raise an InputError when *device* cannot multiply matrices of *dtype* in torch."""
    if dtype not in TORCH_DTYPES:
        raise InputError(
            Problem(
                f"torch has no {dtype} matrix multiplication that an engine would use",
                key="--dtype",
                expected=", ".join(TORCH_DTYPES) + "; other formats come from `thinkcap calibrate import`",
            )
        )
    if dtype == "fp8" and device.capability < (9, 0):
        have = f"{device.name} has compute capability {'.'.join(map(str, device.capability))}"
        raise InputError(
            Problem(
                "fp8 with a scale a row needs torch._scaled_mm on Hopper or newer (capability 9.0); "
                + (have if device.kind == "cuda" else f"{device.kind} has none"),
                key="--dtype",
                expected="bf16, fp16 or fp32 on this device",
            )
        )


def random_weight(*shape: int, device: Device, dtype: torch.dtype, fan_in: int) -> torch.Tensor:
    """Normal numbers of variance 1/fan_in, made in place; zeros would draw less power and run at higher
    clocks."""
    weight = torch.empty(*shape, device=device.torch, dtype=dtype)
    return weight.normal_(0.0, fan_in**-0.5)


class Linear:
    """A matrix of *outputs* by *inputs* in *dtype*; fp8 quantises its input by row, as engines do."""

    def __init__(self, inputs: int, outputs: int, *, dtype: str, device: Device, bias: bool = False) -> None:
        work = TORCH_DTYPES[dtype]
        weight = random_weight(outputs, inputs, device=device, dtype=work, fan_in=inputs)
        self.bias = random_weight(outputs, device=device, dtype=work, fan_in=inputs) if bias else None
        self.scale: torch.Tensor | None = None
        if dtype == "fp8":
            weight, scale = quantise_rows(weight)
            self.scale = scale.t().contiguous()
        self.weight = weight

    def plain(self) -> torch.Tensor:
        """The matrix in the format of activations."""
        if self.scale is None:
            return self.weight
        return (self.weight.float() * self.scale.t()).to(torch.bfloat16)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.scale is None:
            return F.linear(x, self.weight, self.bias)
        rows, scale = quantise_rows(x)
        out: torch.Tensor = torch._scaled_mm(
            rows, self.weight.t(), scale_a=scale, scale_b=self.scale, out_dtype=x.dtype, use_fast_accum=True
        )
        return out if self.bias is None else out + self.bias


def quantise_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(*x* in float8 e4m3, its scales by row)."""
    scale = x.abs().amax(dim=-1, keepdim=True).float().clamp_min(1e-12) / FP8_MAX
    return (x.float() / scale).to(torch.float8_e4m3fn), scale


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) · up of the two halves."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


class Mlp:
    """An ordinary MLP: SwiGLU, or GELU between two matrices when not *gated*."""

    def __init__(
        self, hidden: int, ffn: int, *, gated: bool, dtype: str, device: Device, activate: Callable[..., Any]
    ) -> None:
        self.up = Linear(hidden, 2 * ffn if gated else ffn, dtype=dtype, device=device)
        self.down = Linear(ffn, hidden, dtype=dtype, device=device)
        self.activate = activate if gated else F.gelu

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.activate(self.up(x)))


class Experts:
    """Routed (and shared) experts with random gates; each token goes to *moe.active* of them.

    The gate is multiplied as in the model, but noise decides: random weights alone would send like tokens to
    like experts, while trained routers are balanced by their loss. The noise is drawn again between repeats
    (:meth:`shuffle`).
    """

    def __init__(
        self,
        hidden: int,
        moe: Moe,
        *,
        tp: int,
        gated: bool,
        dtype: str,
        device: Device,
        max_tokens: int,
        activate: Callable[..., Any],
    ) -> None:
        self.moe = moe
        self.activate = activate if gated else F.gelu
        work = TORCH_DTYPES[dtype]
        ffn = moe.ffn // tp
        self.gate = random_weight(moe.experts, hidden, device=device, dtype=work, fan_in=hidden)
        width = 2 * ffn if gated else ffn
        self.up = random_weight(moe.experts, width, hidden, device=device, dtype=work, fan_in=hidden)
        self.down = random_weight(moe.experts, hidden, ffn, device=device, dtype=work, fan_in=ffn)
        self.scales: tuple[torch.Tensor, torch.Tensor] | None = None
        if dtype == "fp8":
            self.up, up_scale = quantise_rows(self.up)
            self.down, down_scale = quantise_rows(self.down)
            self.scales = (up_scale[..., 0].contiguous(), down_scale[..., 0].contiguous())
        shared = moe.shared_width // tp
        self.shared = (
            Mlp(hidden, shared, gated=gated, dtype=dtype, device=device, activate=activate) if shared else None
        )
        self.noise = torch.empty(max_tokens, moe.experts, device=device.torch)
        self.numbers = torch.arange(moe.experts, device=device.torch)
        self.multiply = grouped(device, fp8=self.scales is not None)
        self.shuffle()

    def shuffle(self) -> None:
        """Draw the routing of the next steps."""
        self.noise.uniform_(0.0, 100.0)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        active = self.moe.active
        scores = F.linear(x, self.gate).float() + self.noise[: x.shape[0]]
        weights, chosen = scores.topk(active, dim=-1)
        weights = torch.softmax(weights, dim=-1).to(x.dtype)
        experts, order = chosen.flatten().sort(stable=True)
        # Where each expert's rows end, without asking the device how many they are.
        ends = torch.searchsorted(experts, self.numbers, right=True).to(torch.int32)
        rows = x.index_select(0, order // active)
        up_scale, down_scale = self.scales or (None, None)
        inner = self.activate(self.multiply(rows, self.up, ends, up_scale))
        out = self.multiply(inner, self.down, ends, down_scale)
        back = torch.empty_like(out).index_copy_(0, order, out)
        mixed = (back.view(x.shape[0], active, -1) * weights[..., None]).sum(dim=1)
        return mixed if self.shared is None else mixed + self.shared(x)


Multiply = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, "torch.Tensor | None"], torch.Tensor]


def grouped(device: Device, *, fp8: bool) -> Multiply:
    """Rows sorted by expert times each expert's matrix: one grouped kernel where there is one, else expert
    by expert."""
    kernel: Any = getattr(torch, "_scaled_grouped_mm" if fp8 else "_grouped_mm", None)

    def by_kernel(
        rows: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor, scale: torch.Tensor | None
    ) -> torch.Tensor:
        if scale is None:
            plain: torch.Tensor = kernel(rows, weight.transpose(-2, -1), offs=ends)
            return plain
        quantised, row_scale = quantise_rows(rows)
        out: torch.Tensor = kernel(
            quantised,
            weight.transpose(-2, -1),
            row_scale[:, 0].contiguous(),
            scale,
            offs=ends,
            out_dtype=rows.dtype,
            use_fast_accum=True,
        )
        return out

    if fp8 or (kernel is not None and _works(by_kernel, device)):
        return by_kernel
    return expert_by_expert


def expert_by_expert(
    rows: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor, scale: torch.Tensor | None
) -> torch.Tensor:
    """The plain grouped multiplication: only experts with rows are read."""
    out = rows.new_empty(rows.shape[0], weight.shape[1])
    start = 0
    for expert, end in enumerate(ends.tolist()):
        if end > start:
            out[start:end] = rows[start:end] @ weight[expert].t()
        start = end
    return out


def _works(multiply: Multiply, device: Device) -> bool:
    """Whether *multiply* gives what the plain version gives on a small case."""
    work = torch.bfloat16 if device.kind == "cuda" else torch.float32
    rows = torch.randn(32, 64, device=device.torch, dtype=work)
    weight = torch.randn(4, 32, 64, device=device.torch, dtype=work)
    ends = torch.tensor([16, 16, 24, 32], dtype=torch.int32, device=device.torch)
    try:
        found = multiply(rows, weight, ends, None)
    except (RuntimeError, NotImplementedError):
        return False
    return torch.allclose(found.float(), expert_by_expert(rows, weight, ends, None).float(), rtol=0.05, atol=0.5)
