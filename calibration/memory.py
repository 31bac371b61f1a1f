"""How many KV blocks fit: the sum that an engine does when it starts, per GPU and in bytes.

    KV cache = HBM x gpu_memory_utilization - weights - activations

Activations stand for all that the engine finds taken after its profiling run: the peak of a full batch's
activations, logits and sampling buffers, NCCL and CUDA graph memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from calibration.architecture import Architecture
from calibration.hardware import Hardware
from sim.errors import DoesNotFit

GIB = 2**30

# Fitted on the KV block counts that real engines reported (docs/calibration.md, "Memory").
BASE_BYTES = 0.22e9
NCCL_BYTES = 0.40e9
SAMPLER_BYTES = 24.0
MLP_COPIES = 2.0
HIDDEN_COPIES = 6.0


@dataclass(frozen=True)
class MemorySum:
    """Where the memory of each GPU of a replica goes, in bytes, and what KV pool is left."""

    gpus: int
    hbm_bytes: int
    gpu_memory_utilization: float
    usable_bytes: float
    """What the engine may use: HBM times utilisation."""
    weights_bytes: float
    activations_bytes: float
    kv_bytes: float
    """Left for the KV cache of one GPU."""
    kv_bytes_per_token: float
    """Of one GPU, for one more token of context."""
    kv_bytes_per_token_replica: float
    """Over all GPUs of the replica, copies of replicated heads included."""
    block_size: int
    num_gpu_blocks: int
    """Blocks of the replica (over all data-parallel ranks)."""
    sliding_window: int = 0
    """Tokens that sliding-window layers look back, 0 where there are none."""
    sliding_groups: int = 1
    """Groups of such layers, as many in each as there are of full attention: each takes blocks of its own."""
    stated: str = ""
    """Which setting gave the pool, when it was not this sum."""

    @property
    def window_blocks_per_request(self) -> int:
        """Blocks that a request keeps beside for sliding-window layers while it decodes beyond the window."""
        return self._blocks_of_windows(self.sliding_window - 1)

    def longest_context(self, ranks: int, tokens_in_flight: int) -> int:
        """Tokens of the longest request that one of *ranks* data-parallel ranks can hold: a block is the null block, and windows
        lie beside the context, with the *tokens_in_flight* of a prefill at the most."""
        blocks, groups = self.num_gpu_blocks // ranks - 1, self.sliding_groups
        if not self.sliding_window:
            return max(1, blocks * self.block_size)
        beside = blocks - self._blocks_of_windows(self.sliding_window - 1 + tokens_in_flight)
        whole = (blocks - groups) // (1 + groups)  # nothing of it leaves a window before all of it is in flight
        return max(1, max(beside, whole) * self.block_size)

    def _blocks_of_windows(self, tokens: int) -> int:
        # one block more than the tokens fill, since they may begin anywhere in their first
        return self.sliding_groups * (-(-tokens // self.block_size) + 1) if self.sliding_window else 0

    @property
    def kv_tokens(self) -> int:
        """Tokens that the pool holds."""
        return self.num_gpu_blocks * self.block_size

    def lines(self) -> list[str]:
        """The sum in words, one line a term."""

        def gb(value: float) -> str:
            return f"{value / 1e9:,.1f} GB"

        out = [
            f"memory of each of {self.gpus} GPU{'s' if self.gpus > 1 else ''}: {gb(self.hbm_bytes)}, "
            f"of which {self.gpu_memory_utilization:.0%} may be used: {gb(self.usable_bytes)}",
            f"- weights: {gb(self.weights_bytes)}",
            f"- activations, CUDA graphs, communication: {gb(self.activations_bytes)}",
        ]
        if self.stated:
            out.append(f"KV cache as stated by {self.stated}: {gb(self.kv_bytes)}")
        else:
            out.append(f"= KV cache: {gb(self.kv_bytes)}")
        out.append(
            f"/ {self.kv_bytes_per_token / 1024:,.1f} KiB a token on each GPU "
            f"({self.kv_bytes_per_token_replica / 1024:,.1f} KiB over all) "
            f"= {self.num_gpu_blocks:,} blocks of {self.block_size} = {self.kv_tokens:,} tokens"
        )
        if self.sliding_window:
            out.append(
                f"sliding-window layers take {self.window_blocks_per_request} more blocks a request that decodes, "
                "whatever its length, and as many as its chunk fills while it is in prefill"
            )
        return out


def activation_bytes(
    arch: Architecture,
    *,
    tp: int,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    sampler_bytes: float = SAMPLER_BYTES,
) -> float:
    """Bytes of a GPU that are neither weights nor KV cache, as an engine's profiling run finds them.

    *sampler_bytes* are those of a logit while sampling (sorting for top-k and top-p makes several copies).
    """
    tokens = max_num_batched_tokens
    width = max(arch.ffn, (arch.moe.ffn * arch.moe.active if arch.moe else 0)) / tp
    hidden = HIDDEN_COPIES * arch.hidden
    layer = 2.0 * tokens * (MLP_COPIES * width + hidden)
    rows = min(max_num_seqs, tokens)
    sampler = sampler_bytes * rows * arch.vocab
    return BASE_BYTES + (NCCL_BYTES if tp > 1 else 0.0) + max(layer, sampler)


def memory_sum(
    arch: Architecture,
    hardware: Hardware,
    *,
    tp: int,
    pp: int,
    dp: int,
    ep: bool,
    dtype: str,
    kv_dtype: str,
    gpu_memory_utilization: float,
    block_size: int,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    num_gpu_blocks_override: int | None = None,
    kv_cache_memory_bytes: float | None = None,
    sampler_bytes: float = SAMPLER_BYTES,
) -> MemorySum:
    """The sum for one replica; raise DoesNotFit with the arithmetic when no block is left."""
    usable = hardware.memory_bytes * gpu_memory_utilization
    expert_gpus = tp * dp if arch.moe and (ep or dp > 1) else 1
    weights = arch.weight_bytes(dtype, tp=tp, pp=pp, ep=expert_gpus if ep or dp > 1 else 1)
    activations = activation_bytes(
        arch,
        tp=tp,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        sampler_bytes=sampler_bytes,
    )
    token = arch.kv_bytes_per_token(kv_dtype, tp=tp, pp=pp)
    token_replica = arch.kv_bytes_per_token(kv_dtype, tp=tp) * tp
    block = token * block_size
    free, stated = usable - weights - activations, ""
    if num_gpu_blocks_override is not None:
        per_rank, stated = num_gpu_blocks_override, "num_gpu_blocks_override"
        free = per_rank * block
    else:
        if kv_cache_memory_bytes is not None:
            free, stated = float(kv_cache_memory_bytes), "kv_cache_memory_bytes"
        per_rank = int(free // block)
    if per_rank < 1:
        raise DoesNotFit(
            f"{arch.name} ({arch.dtype_or_native(dtype)}) does not fit on {hardware.name} with "
            f"tensor_parallel_size {tp}" + (f", pipeline_parallel_size {pp}" if pp > 1 else "") + ": "
            f"each GPU has {hardware.memory_bytes / 1e9:.1f} GB x {gpu_memory_utilization:g} "
            f"= {usable / 1e9:.1f} GB, "
            f"weights take {weights / 1e9:.1f} GB and activations {activations / 1e9:.1f} GB, "
            f"which leaves {free / 1e9:.1f} GB for the KV cache; use more GPUs a replica or a smaller dtype"
        )
    return MemorySum(
        gpus=tp * pp * dp,
        hbm_bytes=hardware.memory_bytes,
        gpu_memory_utilization=gpu_memory_utilization,
        usable_bytes=usable,
        weights_bytes=weights,
        activations_bytes=activations,
        kv_bytes=free,
        kv_bytes_per_token=token,
        kv_bytes_per_token_replica=token_replica,
        block_size=block_size,
        num_gpu_blocks=per_rank * dp,
        sliding_window=arch.sliding_window if arch.sliding_layers else 0,
        sliding_groups=arch.sliding_groups,
        stated=stated,
    )
