"""What a step must at least move and multiply, and what share of a GPU's peaks a cost implies.

A cost that implies more than 100 % of peak bandwidth or FLOPs cannot be true; such a profile is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from calibration.architecture import Architecture
from calibration.dtypes import compute_dtype
from calibration.hardware import Hardware
from calibration.parts import HardwareCost

Array = npt.NDArray[np.float64]

TOLERANCE = 1.02
"""Data sheets round, and small models' weights stay in the L2 cache: refuse only what is above this."""


def step_weight_bytes(
    arch: Architecture, tokens: Array | float, *, tp: int = 1, dp: int = 1, dtype: str = "auto"
) -> Array:
    """Bytes of weights that each GPU reads in a step of *tokens* tokens: matrices, experts touched, lm_head
    once."""
    dtype = arch.dtype_or_native(dtype)
    width = arch.part_bytes(dtype)
    at = np.asarray(tokens, float)
    total = arch.layers * arch.attention_parameters_per_gpu(tp) * width["attention"]
    total += arch.dense_mlp_layers * arch.mlp_parameters / tp * width["mlp"]
    total += arch.lm_head_parameters / tp * width["rest"]
    out = np.full_like(at, total)
    if arch.moe:
        shared = arch.matrices * arch.hidden * arch.moe.shared_width / tp * width["mlp"]
        touched = arch.moe.experts * (1.0 - (1.0 - arch.moe.active / arch.moe.experts) ** at)
        experts = touched * arch.expert_parameters / (tp * dp) * width["experts"]
        out = out + arch.moe_layers * (shared + experts)
    return out


def step_flops(arch: Architecture, tokens: Array | float, *, tp: int = 1, dp: int = 1) -> Array:
    """FLOPs of each GPU's matrix multiplications for *tokens* tokens over all ranks, lm_head left out."""
    at = np.asarray(tokens, float)
    each = arch.layers * arch.attention_parameters_per_gpu(tp) + arch.dense_mlp_layers * arch.mlp_parameters / tp
    if arch.moe:
        each += arch.moe_layers * arch.matrices * arch.hidden * arch.moe.shared_width / tp
    flops = 2.0 * each * at / dp
    if arch.moe:
        flops = flops + 2.0 * arch.moe_layers * arch.moe.active * arch.expert_parameters * at / (tp * dp)
    return flops


ELEMENTWISE_SHARE = 0.6
"""Of peak bandwidth, in norms, activations and rotary embeddings of 512 tokens and more: 0.53-0.68 over
five models on A100 and H100, TP 1 and 4, in Vidur's published per-layer profiles (MIT)."""


def elementwise_s(arch: Architecture, tokens: Array | float, hardware: Hardware, *, tp: int = 1, dp: int = 1) -> Array:
    """Seconds of all layers' kernels that only pass over activations, for *tokens* tokens; no launch, no
    floor.

    Per token and layer: two norms with their residuals (8 hidden), the activation (3 widths of the MLP, in
    dense layers; fused expert kernels hold their own) and rotary embedding, head norms and the KV write (4 of
    all heads), 16 bits each.
    """
    at = np.asarray(tokens, float) / dp
    heads = arch.heads if arch.mla else arch.heads + arch.kv_heads
    layer = 8.0 * arch.hidden + 4.0 * heads * arch.head_dim / tp
    mlps = arch.dense_mlp_layers * 3.0 * arch.ffn / tp
    if arch.moe:
        mlps += arch.moe_layers * 3.0 * arch.moe.shared_width / tp
    moved = 2.0 * at * (arch.layers * layer + mlps)
    return np.asarray(moved / (ELEMENTWISE_SHARE * hardware.bandwidth_bytes_per_s))


@dataclass(frozen=True)
class Shares:
    """Shares of a GPU's peaks that a cost implies; 1 is the peak."""

    weights: float
    """Of bandwidth, reading weights in the step that does so fastest."""
    kv: float
    """Of bandwidth, reading KV; the larger of bytes and, under MLA, FLOPs."""
    compute: float
    """Of FLOPs, in the step that multiplies fastest."""
    attention: float
    """Of FLOPs, in prefill attention; 0 where it is not known."""

    def impossible(self) -> list[str]:
        """Which shares exceed the peak, in words."""
        return [
            f"{what} at {share:.0%} of the peak"
            for what, share in (
                ("weights are read", self.weights),
                ("KV is read", self.kv),
                ("matrices are multiplied", self.compute),
                ("prefill attention runs", self.attention),
            )
            if share > TOLERANCE
        ]


def shares(
    arch: Architecture,
    hardware: Hardware,
    cost: HardwareCost,
    *,
    tp: int = 1,
    dp: int = 1,
    dtype: str = "auto",
    kv_dtype: str = "auto",
) -> Shares:
    """What *cost* implies of the peaks of *hardware*."""
    dtype = arch.dtype_or_native(dtype)
    at = np.asarray(cost.tokens, float)
    times = np.asarray(cost.linear_s)
    weights = step_weight_bytes(arch, at, tp=tp, dp=dp, dtype=dtype) / times / hardware.bandwidth_bytes_per_s
    peak = hardware.peak_flops(compute_dtype(dtype))
    compute = step_flops(arch, at, tp=tp, dp=dp) / times / peak
    kv_bytes = arch.kv_bytes_per_token(kv_dtype, tp=tp) / dp
    kv = kv_bytes / cost.kv_s / hardware.bandwidth_bytes_per_s if cost.kv_s else 0.0
    if arch.mla and cost.kv_s:
        flops = arch.full_layers * arch.attention_flops_per_pair(absorbed=True) / tp / dp
        kv = max(kv, flops / cost.kv_s / hardware.peak_flops("fp8" if kv_dtype == "fp8" else "bf16"))
    pair_flops = arch.full_layers * arch.attention_flops_per_pair() / tp / dp
    attention = pair_flops / cost.pair_s / hardware.peak_flops("bf16") if cost.pair_s else 0.0
    return Shares(float(weights.max()), float(kv), float(compute.max()), float(attention))


def least_costs(
    arch: Architecture, hardware: Hardware, *, tp: int = 1, dp: int = 1, kv_dtype: str = "auto"
) -> dict[str, float]:
    """Seconds that a context token and a (query, key) pair take at the peaks: no cost can be less.

    A hair more than the peak's time, so that figures rounded to five digits stay possible.
    """
    kv = arch.kv_bytes_per_token(kv_dtype, tp=tp) / dp / hardware.bandwidth_bytes_per_s
    pair = arch.full_layers * arch.attention_flops_per_pair() / tp / dp / hardware.peak_flops("bf16")
    return {"kv": 1.001 * kv, "pair": 1.001 * pair}
