"""One model on some GPUs with some settings: what a step costs, how much KV fits, and how far to believe
it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.adaptive_depth import Depths, at_depths
from calibration.architecture import Architecture, architecture
from calibration.choose import Wanted, choose
from calibration.dtypes import KV_DTYPES, dtype_name
from calibration.engine_costs import engine_cost
from calibration.fidelity import Fidelity
from calibration.hardware import Hardware, Power, hardware
from calibration.memory import MemorySum, memory_sum
from calibration.parts import PS, EngineCost, HardwareCost, combine
from calibration.step_cost import StepCost
from calibration.step_parts import parts
from sim.errors import InputError, Problem


@dataclass(frozen=True)
class Deployment:
    """One replica's model, GPUs, costs and memory."""

    architecture: Architecture
    hardware: Hardware
    tensor_parallel_size: int
    pipeline_parallel_size: int
    data_parallel_size: int
    enable_expert_parallel: bool
    dtype: str
    kv_cache_dtype: str
    gpus: int
    """GPUs of one replica."""
    step_cost: StepCost = field(repr=False)
    hardware_cost: HardwareCost = field(repr=False)
    engine_cost: EngineCost = field(repr=False)
    front_end_ps: int
    """Outside the step, once a request, in every time the client sees."""
    memory: MemorySum
    max_model_len: int
    """Longest context of a request in tokens: the smaller of what the model or the user allows and what
    the pool holds."""
    price_per_gpu_hour: float | None
    """US dollars, of the hardware's list price; None where none is known."""
    power: Power
    fidelity: Fidelity
    depths: Depths = ()
    """How deep tokens run, (depth, share) each; empty: every layer once."""

    def cost_parts(self, segments: Any) -> dict[str, npt.NDArray[np.float64]]:
        """Seconds of each part of a step for each row of a segments table; keys in ``step_parts.PARTS``."""
        return parts(self.step_cost, segments)

    def with_step_scaled(self, factor: float) -> Deployment:
        """The same deployment, every step *factor* times as long (what-if bands)."""
        hardware_half, engine_half = self.hardware_cost.scaled(factor), self.engine_cost.scaled(factor)
        size = len(self.step_cost.linear_ps) - 1
        cost = combine(hardware_half, engine_half, layers=self.architecture.layers, table_tokens=size)
        return replace(
            self, step_cost=at_depths(cost, self.depths), hardware_cost=hardware_half, engine_cost=engine_half
        )

    def with_computing_beyond(self, tokens: int, share: float) -> Deployment:
        """The same deployment with kernels that compute at *share* of the rate in steps of more than *tokens* tokens."""
        hardware_half = self.hardware_cost.computing_beyond(tokens, share)
        size = len(self.step_cost.linear_ps) - 1
        cost = combine(hardware_half, self.engine_cost, layers=self.architecture.layers, table_tokens=size)
        return replace(self, step_cost=at_depths(cost, self.depths), hardware_cost=hardware_half)

    def with_depths(self, depths: Depths) -> Deployment:
        """The same deployment of a model whose tokens run to *depths* (``adaptive_depth``)."""
        return replace(self, step_cost=at_depths(self.step_cost, depths), depths=depths)


def deploy(
    *,
    model: str,
    hardware: str,
    tensor_parallel_size: int = 1,
    pipeline_parallel_size: int = 1,
    data_parallel_size: int = 1,
    enable_expert_parallel: bool = False,
    dtype: str = "auto",
    kv_cache_dtype: str = "auto",
    gpu_memory_utilization: float = 0.92,
    block_size: int = 16,
    max_num_seqs: int = 256,
    max_num_batched_tokens: int = 8192,
    max_model_len: int | None = None,
    num_gpu_blocks_override: int | None = None,
    kv_cache_memory_bytes: float | None = None,
    profile: str | None = None,
    engine: str = "vllm",
    engine_version: str | None = None,
    base: Path | None = None,
) -> Deployment:
    """One replica of *model* on *hardware*; settings are named as vLLM names them.

    *profile* is a profile's name or file, "prior" for the roofline, or None for the best there is. Files are
    relative to *base*. Raise an InputError for what is unknown or impossible, DoesNotFit when the weights
    leave no room for KV.
    """
    arch = architecture(model, base=base)
    gpu = _hardware(hardware, base)
    tp, pp, dp = tensor_parallel_size, pipeline_parallel_size, data_parallel_size
    dtype = arch.native_dtype if dtype == "auto" else dtype_name(dtype)
    kv_dtype = "auto" if kv_cache_dtype == "auto" else dtype_name(kv_cache_dtype, key="kv_cache_dtype")
    _check_parallelism(arch, gpu, tp=tp, pp=pp, dp=dp, ep=enable_expert_parallel)
    _check_settings(kv_dtype, gpu_memory_utilization, block_size, max_num_seqs, max_num_batched_tokens)
    engine_half = engine_cost(arch, tp=tp, dtype=dtype, engine=engine, version=engine_version)
    memory = memory_sum(
        arch,
        gpu,
        tp=tp,
        pp=pp,
        dp=dp,
        ep=enable_expert_parallel,
        dtype=dtype,
        kv_dtype=kv_dtype,
        gpu_memory_utilization=gpu_memory_utilization,
        block_size=block_size,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        num_gpu_blocks_override=num_gpu_blocks_override,
        kv_cache_memory_bytes=kv_cache_memory_bytes,
        sampler_bytes=engine_half.sampler_bytes,
    )
    wanted = Wanted(arch, gpu, tp, pp, dp, enable_expert_parallel, dtype, kv_dtype)
    hardware_half, fidelity = choose(wanted, profile=profile, base=base)
    fidelity = replace(fidelity, engine=f"{engine_half.name} {engine_half.version}")
    pool = memory.longest_context(dp, 2 * max_num_batched_tokens)  # two batches are in flight
    return Deployment(
        architecture=arch,
        hardware=gpu,
        tensor_parallel_size=tp,
        pipeline_parallel_size=pp,
        data_parallel_size=dp,
        enable_expert_parallel=enable_expert_parallel,
        dtype=dtype,
        kv_cache_dtype=kv_dtype,
        gpus=tp * pp * dp,
        step_cost=combine(
            hardware_half, engine_half, layers=arch.layers, table_tokens=max_num_batched_tokens + max_num_seqs
        ),
        hardware_cost=hardware_half,
        engine_cost=engine_half,
        front_end_ps=round(engine_half.front_end_s * PS),
        memory=memory,
        max_model_len=min(max_model_len or arch.max_context, pool),
        price_per_gpu_hour=gpu.price.usd_per_gpu_hour if gpu.price else None,
        power=gpu.power,
        fidelity=fidelity,
    )


def _hardware(name: str, base: Path | None) -> Hardware:
    return hardware(name, base=base)


def _check_parallelism(arch: Architecture, gpu: Hardware, *, tp: int, pp: int, dp: int, ep: bool) -> None:
    problems = []
    for key, value in (
        ("tensor_parallel_size", tp),
        ("pipeline_parallel_size", pp),
        ("data_parallel_size", dp),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            problems.append(Problem(f"{value!r}", key=key, expected="a whole number, at least 1"))
    if problems:
        raise InputError(problems)
    if tp > gpu.gpus_per_node or gpu.gpus_per_node % tp:
        sizes = [size for size in range(1, gpu.gpus_per_node + 1) if gpu.gpus_per_node % size == 0]
        problems.append(
            Problem(
                f"{tp} GPUs do not fill a part of a node of {gpu.gpus_per_node} x {gpu.name}",
                key="tensor_parallel_size",
                expected="one of " + ", ".join(map(str, sizes)) + " (larger models: pipeline_parallel_size)",
            )
        )
    elif arch.heads % tp:
        problems.append(
            Problem(
                f"{arch.heads} attention heads of {arch.name} cannot be split over {tp} GPUs",
                key="tensor_parallel_size",
                expected=f"a divisor of {arch.heads}",
            )
        )
    elif not arch.mla and max(tp, arch.kv_heads) % min(tp, arch.kv_heads):
        problems.append(
            Problem(
                f"{arch.kv_heads} KV heads of {arch.name} cannot be split over {tp} GPUs",
                key="tensor_parallel_size",
                expected=f"a divisor or a multiple of {arch.kv_heads}",
            )
        )
    if pp > arch.layers:
        problems.append(
            Problem(
                f"{pp} stages for {arch.layers} layers",
                key="pipeline_parallel_size",
                expected=f"at most {arch.layers}",
            )
        )
    if ep and not arch.moe:
        problems.append(
            Problem(f"{arch.name} has no experts", key="enable_expert_parallel", expected="a mixture of experts")
        )
    if dp > 1 and not arch.moe:
        problems.append(
            Problem(
                f"data_parallel_size {dp} of a dense model is {dp} independent engines",
                key="data_parallel_size",
                expected=f"replicas: {dp} instead",
            )
        )
    if problems:
        raise InputError(problems)


def _check_settings(kv_dtype: str, utilization: float, block_size: int, seqs: int, tokens: int) -> None:
    problems = []
    if kv_dtype not in ("auto", *KV_DTYPES):
        problems.append(Problem(f"{kv_dtype!r}", key="kv_cache_dtype", expected="auto, " + ", ".join(KV_DTYPES)))
    if not 0 < utilization <= 1:
        problems.append(Problem(f"{utilization!r}", key="gpu_memory_utilization", expected="more than 0, at most 1"))
    for key, value in (
        ("block_size", block_size),
        ("max_num_seqs", seqs),
        ("max_num_batched_tokens", tokens),
    ):
        if value < 1:
            problems.append(Problem(f"{value!r}", key=key, expected="at least 1"))
    if problems:
        raise InputError(problems)
