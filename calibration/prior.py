"""What a step costs where nothing was measured: a roofline with fitted efficiencies.

For each layer, a soft maximum of the time to read the weights and the time to compute, two all-reduces, the
KV cache read by decodes, attention of prefills; then lm_head. Efficiencies (what part of a peak is reached)
are a GPU's and come from ``calibration/efficiencies.yaml``, with the error that this prior showed on models
it was not fitted on.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.architecture import Architecture
from calibration.dtypes import BYTES, compute_dtype
from calibration.files import read_yaml
from calibration.hardware import Hardware
from calibration.parts import HardwareCost, knots
from calibration.physics import elementwise_s

Array = npt.NDArray[np.float64]

EFFICIENCIES = Path(__file__).parent / "efficiencies.yaml"


@dataclass(frozen=True)
class Efficiency:
    """What part of each peak a GPU reaches, and what an all-reduce costs."""

    weights: float
    """Of peak bandwidth while reading weights."""
    kv: float
    """Of peak bandwidth while decodes read the KV cache."""
    compute: float
    """Of peak FLOPs in large matrix multiplications."""
    attention: float
    """Of peak FLOPs in prefill attention."""
    allreduce: dict[int, tuple[float, float]]
    """By number of GPUs: microseconds of an all-reduce of nothing, and share of the link's one-way
    bandwidth that a large one reaches."""
    softness: float = 3.0
    """Exponent of the soft maximum: larger is sharper."""
    kernel_us: float = 0.0
    """Of a layer, whatever its size: launch and ramp of its kernels."""
    experts: float = 0.0
    """Of peak bandwidth while reading experts; 0 means as ``weights``."""
    experts_compute: float = 0.0
    """Of peak FLOPs in the experts' multiplications; 0 means as ``compute``."""
    mla_us: float = 0.0
    """Of a layer with latent attention: its many small kernels."""
    mla_compute: float = 0.0
    """Of peak FLOPs in decode attention on latents; 0 means as ``compute``."""
    fp8_weights: float = 0.0
    """As ``weights`` where they are 8 or 4 bits wide; 0 means as ``weights``."""
    fp8_compute: float = 0.0
    """Of the narrow format's peak FLOPs; 0 means as ``compute``."""
    fp8_kernel_us: float = 0.0
    """More of a layer whose activations are quantised on the way."""
    fp8_experts_compute: float = 0.0
    """As ``experts_compute`` where experts multiply in 8 or 4 bits, of that format's peak; 0 means as
    ``experts_compute``."""
    borrowed: bool = False
    """Taken from other GPUs, because nothing was measured on this one."""


@dataclass(frozen=True)
class PriorError:
    """Absolute relative error of the prior, by what it was compared with."""

    median: float
    p95: float
    basis: str


@functools.cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = read_yaml(EFFICIENCIES.read_text(encoding="utf-8"))
    return table


def efficiency(gpu: str) -> Efficiency:
    """Efficiencies of *gpu*; those of the typical measured GPU, marked as borrowed, where it has none."""
    table = _table()
    default = table["default"]
    own = table["gpus"].get(gpu)
    values = {**default, **(own or {})}
    values["allreduce"] = {int(gpus): (pair[0], pair[1]) for gpus, pair in values["allreduce"].items()}
    return Efficiency(**values, borrowed=own is None)


def expected_error(arch: Architecture, gpu: str, dtype: str) -> PriorError:
    """The error to expect of the prior for *arch* on *gpu* in weights of *dtype*, from comparisons with measurements
    it was not fitted on. Narrow formats and borrowed efficiencies each have their own; where both hold, the larger.
    """
    errors = {name: PriorError(**values) for name, values in _table()["errors"].items()}
    kind = "moe" if arch.moe else "dense"
    bits = 16 if BYTES[dtype] >= 2 else 8 if BYTES[dtype] >= 1 else 4
    found = [errors[kind]]
    if efficiency(gpu).borrowed:
        found.append(errors[f"{kind}_borrowed"])
    if f"{kind}_{bits}bit" in errors:
        found.append(errors[f"{kind}_{bits}bit"])
    return max(found[1:] or found, key=lambda error: error.median)


def hardware_cost(
    arch: Architecture,
    hardware: Hardware,
    *,
    tp: int = 1,
    pp: int = 1,
    dp: int = 1,
    ep: bool = False,
    dtype: str = "auto",
    kv_dtype: str = "auto",
    top: int = 32_768,
    using: Efficiency | None = None,
) -> HardwareCost:
    """The prior for *arch* on *hardware*: tokens, context and pairs are totals over all *dp* ranks, evenly
    spread.

    *using* replaces the GPU's efficiencies (fitting, what-if).
    """
    eff = using or efficiency(hardware.name)
    dtype = arch.dtype_or_native(dtype)
    at = np.asarray(knots(top, moe=arch.moe is not None), float)
    layers_s = np.zeros_like(at)
    for layer, count in _layer_kinds(arch):
        layers_s += count * _layer_s(arch, hardware, eff, layer, at, tp=tp, dp=dp, ep=ep, dtype=dtype)
    head_s = _matmul_s(
        hardware,
        eff,
        arch.lm_head_parameters / tp,
        at / dp,
        bytes_each=2.0,
        dtype="bf16",
        softness=eff.softness,
    )
    # logits are computed for sequences, not for prompt tokens; past a large batch the tokens are prompt
    # tokens
    head_s = np.minimum(head_s, np.interp(1024 * dp, at, head_s))
    hop_us, _ = _allreduce(eff, 2)
    link_s = (pp - 1) * (hop_us * 1e-6 + at / dp * arch.hidden * 2 / hardware.link_bytes_per_s)
    passes_s = elementwise_s(arch, at, hardware, tp=tp, dp=dp)
    linear = np.maximum.accumulate(layers_s + passes_s + head_s + link_s)
    pair_s = (
        arch.full_layers * arch.attention_flops_per_pair() / tp / dp / (eff.attention * hardware.peak_flops("bf16"))
    )
    window_s = 0.0
    if arch.sliding_layers:
        window_s = arch.sliding_layers * arch.sliding_window * _kv_s(arch, hardware, eff, kv_dtype, tp=tp) / dp
    return HardwareCost(
        tokens=tuple(int(value) for value in at),
        linear_s=tuple(linear.tolist()),
        kv_s=arch.full_layers * _kv_s(arch, hardware, eff, kv_dtype, tp=tp) / dp,
        pair_s=pair_s,
        cached_s=arch.full_layers * _kv_s(arch, hardware, eff, kv_dtype, tp=tp) / dp,
        seq_s=window_s,
    )


def _layer_kinds(arch: Architecture) -> list[tuple[str, int]]:
    kinds = [("dense", arch.dense_mlp_layers), ("moe", arch.moe_layers)]
    return [(kind, count) for kind, count in kinds if count]


def _kv_s(arch: Architecture, hardware: Hardware, eff: Efficiency, kv_dtype: str, *, tp: int) -> float:
    """Seconds that one layer's decode attention takes for one token of context on each of *tp* GPUs."""
    read = arch.kv_numbers_per_layer() * arch.kv_width(kv_dtype) * arch.kv_copies(tp) / tp
    read_s = read / (eff.kv * hardware.bandwidth_bytes_per_s)
    if not arch.mla:
        return read_s
    flops = arch.attention_flops_per_pair(absorbed=True) / tp
    return float(
        _soft_max(read_s, flops / ((eff.mla_compute or eff.compute) * hardware.peak_flops("bf16")), eff.softness)
    )


def _layer_s(
    arch: Architecture,
    hardware: Hardware,
    eff: Efficiency,
    kind: str,
    tokens: Array,
    *,
    tp: int,
    dp: int,
    ep: bool,
    dtype: str,
) -> Array:
    """Seconds of one layer's matrix multiplications and all-reduces for *tokens* tokens over all *dp*
    ranks."""
    width = arch.part_bytes(dtype)
    own = tokens / dp
    attention = arch.attention_parameters_per_gpu(tp)
    if kind == "dense":
        parameters = attention + arch.mlp_parameters / tp
        seconds: Array = _matmul_s(hardware, eff, parameters, own, bytes_each=width["mlp"], dtype=dtype)
    else:
        assert arch.moe is not None
        shared = arch.matrices * arch.hidden * arch.moe.shared_width / tp + arch.hidden * arch.moe.experts
        seconds = _matmul_s(
            hardware, eff, attention + shared, own, bytes_each=width["attention"], dtype=_multiplied(dtype)
        )
        gpus = tp * dp
        touched = arch.moe.experts * (1.0 - (1.0 - arch.moe.active / arch.moe.experts) ** tokens)
        reads = touched * arch.expert_parameters / gpus * width["experts"]
        flops = 2.0 * tokens * arch.moe.active * arch.expert_parameters / gpus
        compute = eff.experts_compute or eff.compute
        if _narrow(dtype):
            compute = eff.fp8_experts_compute or compute
        seconds = seconds + _soft_max(
            reads / ((eff.experts or eff.weights) * hardware.bandwidth_bytes_per_s),
            flops / (compute * hardware.peak_flops(compute_dtype(dtype))),
            eff.softness,
        )
        if ep and gpus > 1:
            # dispatch and combine: each token's hidden state to the GPUs of its experts and back
            moved = own * min(arch.moe.active, gpus) * arch.hidden * 2 * (gpus - 1) / gpus
            latency_us, link = _allreduce(eff, gpus)
            seconds = seconds + 2 * (latency_us * 1e-6 + moved / (link * hardware.link_bytes_per_s))
    kernels_us = eff.kernel_us + (eff.mla_us if arch.mla else 0.0)
    if _narrow(dtype):
        kernels_us += eff.fp8_kernel_us
    total: Array = seconds + kernels_us * 1e-6 + 2 * allreduce_s(hardware, eff, own * arch.hidden * 2, tp)
    return total


def _multiplied(dtype: str) -> str:
    return "bf16" if dtype == "mxfp4" else dtype


def _narrow(dtype: str) -> bool:
    """True for formats that multiply narrower than 16 bits, with activations quantised on the way."""
    return compute_dtype(dtype) in ("fp8", "nvfp4", "int8")


def _matmul_s(
    hardware: Hardware,
    eff: Efficiency,
    parameters: float,
    tokens: Array,
    *,
    bytes_each: float,
    dtype: str,
    softness: float | None = None,
) -> Array:
    weights, compute = eff.weights, eff.compute
    if _narrow(dtype):
        weights, compute = eff.fp8_weights or weights, eff.fp8_compute or compute
    reads = parameters * bytes_each / (weights * hardware.bandwidth_bytes_per_s)
    flops = 2.0 * parameters * tokens / (compute * hardware.peak_flops(compute_dtype(dtype)))
    return _soft_max(reads, flops, softness or eff.softness)


def allreduce_s(hardware: Hardware, eff: Efficiency, message: Array, gpus: int) -> Array:
    """Seconds of an all-reduce of *message* bytes over *gpus* GPUs of one node: latency + ring traffic
    over the link."""
    if gpus == 1:
        return np.zeros_like(message)
    latency_us, link = _allreduce(eff, gpus)
    traffic = 2.0 * message * (gpus - 1) / gpus
    return np.asarray(latency_us * 1e-6 + traffic / (link * hardware.link_bytes_per_s))


def _allreduce(eff: Efficiency, gpus: int) -> tuple[float, float]:
    """Latency and share of the link at *gpus*, or at the nearest number that was measured."""
    known = min(eff.allreduce, key=lambda count: (abs(np.log2(count / gpus)), count))
    return eff.allreduce[known]


def _soft_max(a: float | Array, b: float | Array, softness: float) -> Array:
    """``(a^s + b^s)^(1/s)``: the larger of two times, rounded where they meet."""
    return np.asarray((a**softness + b**softness) ** (1.0 / softness))
