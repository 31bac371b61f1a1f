"""Steps of any model composed from the kernel times that the package ``aiconfigurator-core`` publishes.

The package (Apache-2.0, optional extra ``kernels``) holds measured times of matrix multiplications,
attention, mixtures of experts and all-reduces on eight GPUs, by engine and version. A step is their sum over
the layers, and the time to pass over the activations in norms, activation functions and rotary embeddings
(:func:`calibration.physics.elementwise_s`). Kernel launches, the router's top-k, sampling and the host are
not in it: the engine part of a step (``calibration/engines``) stands for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from calibration.architecture import Architecture
from calibration.hardware import Hardware
from calibration.importers.kernels import Kernels, package_version
from calibration.measurements import check
from calibration.memory import memory_sum
from calibration.parts import knots
from calibration.physics import elementwise_s
from sim.errors import DoesNotFit, InputError, Problem

if TYPE_CHECKING:
    import pandas as pd

Array = npt.NDArray[np.float64]


def compose(
    arch: Architecture,
    hardware: Hardware,
    *,
    tp: int = 1,
    ep: bool = False,
    dtype: str = "auto",
    kv_dtype: str = "auto",
) -> pd.DataFrame:
    """A measurement table of composed decode and prefill steps of *arch* over *tp* GPUs.

    With *ep* the experts are shared whole, by expert parallelism within the TP group. Decode rows reach as
    far as the KV pool does. Raise an InputError when a kernel that the model needs was not measured.
    """
    import pandas as pd

    kernels = Kernels(hardware)
    dtype = arch.dtype_or_native(dtype)
    step = _Step(arch, kernels, tp=tp, ep=ep, dtype=dtype, kv_dtype=kv_dtype)
    most = _pool_tokens(arch, hardware, tp=tp, dtype=dtype, kv_dtype=kv_dtype, ep=ep)
    common = {
        "source": f"aiconfigurator-core {package_version()}",
        "gpu": hardware.name,
        "model": arch.name,
        "dtype": dtype,
        "kv_dtype": "bf16" if kv_dtype == "auto" else kv_dtype,
        "tp": tp,
        "engine": f"vLLM {kernels.version} kernels",
        "quantity": "iteration_composed",
    }
    batches = [b for b in knots(1024, moe=arch.moe is not None) if b not in (257, 513)]
    contexts = [2**power for power in range(4, 18)]
    decode = pd.DataFrame(
        [(b, c) for b in batches for c in contexts if b * c <= most and c <= arch.max_context],
        columns=["decodes", "context"],
    )
    decode["time_ms"] = step.decode(decode["decodes"].to_numpy(float), decode["context"].to_numpy(float)) * 1e3
    lengths = [16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384]
    totals = [t for t in knots(16384, moe=arch.moe is not None) if t >= 16 and t not in (257, 513)]
    prefill = pd.DataFrame(
        sorted(
            {(1, t) for t in totals if t <= arch.max_context}
            | {
                (count, length)
                for length in lengths
                for count in (2, 4, 8, 16, 32, 64)
                if count * length <= 16384 and length <= arch.max_context
            }
        ),
        columns=["chunks", "chunk_tokens"],
    )
    prefill["decodes"], prefill["context"] = 0, 0
    prefill["time_ms"] = step.prefill(prefill["chunks"].to_numpy(float), prefill["chunk_tokens"].to_numpy(float)) * 1e3
    frame = pd.concat([decode, prefill], ignore_index=True).fillna({"chunks": 0, "chunk_tokens": 0})
    labels = pd.DataFrame([common] * len(frame))
    return check(pd.concat([labels, frame], axis=1), source="composed kernels")


def _pool_tokens(arch: Architecture, hardware: Hardware, *, tp: int, dtype: str, kv_dtype: str, ep: bool) -> float:
    try:
        memory = memory_sum(
            arch,
            hardware,
            tp=tp,
            pp=1,
            dp=1,
            ep=ep,
            dtype=dtype,
            kv_dtype=kv_dtype,
            gpu_memory_utilization=0.95,
            block_size=16,
            max_num_seqs=256,
            max_num_batched_tokens=8192,
        )
    except DoesNotFit as error:
        raise InputError(Problem(str(error), key="model")) from None
    return float(max(memory.kv_tokens, 16_384))


class _Step:
    """Adds up the kernels of one step."""

    def __init__(self, arch: Architecture, kernels: Kernels, *, tp: int, ep: bool, dtype: str, kv_dtype: str) -> None:
        self.arch, self.kernels, self.tp, self.ep, self.dtype, self.kv_dtype = (
            arch,
            kernels,
            tp,
            ep,
            dtype,
            kv_dtype,
        )

    def decode(self, batch: Array, context: Array) -> Array:
        """Seconds of a pure decode step."""
        arch, tp = self.arch, self.tp
        total = self._layers(batch) + self._head(batch)
        if arch.mla:
            return total + arch.layers * self.kernels.mla(
                "decode", batch, context, heads=arch.heads // tp, kv_dtype=self.kv_dtype, dtype=self.dtype
            )
        shape = self._shape()
        total = total + arch.full_layers * self.kernels.decode_attention(batch, context, window=0, **shape)
        if arch.sliding_layers:
            total = total + arch.sliding_layers * self.kernels.decode_attention(
                batch, context, window=arch.sliding_window, **shape
            )
        return np.asarray(total)

    def prefill(self, chunks: Array, length: Array) -> Array:
        """Seconds of a step of *chunks* prompts of *length* tokens."""
        arch, tp = self.arch, self.tp
        total = self._layers(chunks * length) + self._head(chunks)
        if arch.mla:
            return total + arch.layers * self.kernels.mla(
                "prefill", chunks, length, heads=arch.heads // tp, kv_dtype=self.kv_dtype, dtype=self.dtype
            )
        shape = self._shape()
        total = total + arch.full_layers * self.kernels.prefill_attention(chunks, length, window=0, **shape)
        if arch.sliding_layers:
            total = total + arch.sliding_layers * self.kernels.prefill_attention(
                chunks, length, window=arch.sliding_window, **shape
            )
        return np.asarray(total)

    def _shape(self) -> dict[str, Any]:
        arch, tp = self.arch, self.tp
        return {
            "heads": arch.heads // tp,
            "kv_heads": max(1, arch.kv_heads // tp),
            "head_dim": arch.head_dim,
            "kv_dtype": self.kv_dtype,
        }

    def _layers(self, tokens: Array) -> Array:
        """Matrix multiplications, experts and all-reduces of all layers, attention kernels left out."""
        arch, tp, kernels, dtype = self.arch, self.tp, self.kernels, self.dtype
        # block-scaled fp8 multiplications were timed outside a CUDA graph (0.2 ms whatever their size), so
        # the
        # per-tensor ones stand for them
        dense = "bf16" if dtype in ("mxfp4", "int4") else dtype
        total = np.zeros_like(tokens)
        if not arch.mla:
            kv_heads = max(1, arch.kv_heads // tp)
            qkv = (arch.heads // tp + 2 * kv_heads) * arch.head_dim
            total = total + arch.layers * (
                kernels.gemm(tokens, qkv, arch.hidden, dense)
                + kernels.gemm(tokens, arch.hidden, arch.heads * arch.head_dim / tp, dense)
            )
        total = total + arch.dense_mlp_layers * self._mlp(tokens, arch.ffn, dense)
        if arch.moe:
            experts = kernels.moe(tokens, arch, tp=1 if self.ep else tp, ep=tp if self.ep else 1, dtype=self.dtype)
            router = kernels.gemm(tokens, arch.moe.experts, arch.hidden, "bf16")
            shared = self._mlp(tokens, arch.moe.shared_width, dense) if arch.moe.shared else 0.0
            total = total + arch.moe_layers * (experts + router + shared)
        total = total + elementwise_s(arch, tokens, kernels.hardware, tp=tp)
        return np.asarray(total + 2 * arch.layers * kernels.allreduce(tokens * arch.hidden * 2.0, tp))

    def _mlp(self, tokens: Array, width: int, dtype: str) -> Array:
        arch, tp = self.arch, self.tp
        if not width:
            return np.zeros_like(tokens)
        up = (arch.matrices - 1) * width / tp
        return np.asarray(
            self.kernels.gemm(tokens, up, arch.hidden, dtype)
            + self.kernels.gemm(tokens, arch.hidden, width / tp, dtype)
        )

    def _head(self, rows: Array) -> Array:
        return self.kernels.gemm(rows, self.arch.vocab / self.tp, self.arch.hidden, "bf16")
