"""The ``engine`` section of a pool: vLLM's settings by their names, so that a deployment can be typed in."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sim.scenario.base import ByteCount, EngineCount, GibibyteCount, Section, Share
from sim.scenario.policy import Policy, PolicyRef

GIB = 2**30

NOT_MODELLED = {
    "async_engine",
    "attention_backend",
    "compilation_config",
    "cpu_offload_gb",
    "disable_sliding_window",
    "enable_lora",
    "enforce_eager",
    "kv_offloading_backend",
    "kv_transfer_config",
    "limit_mm_per_prompt",
    "lora_modules",
    "max_long_partial_prefills",
    "max_num_partial_prefills",
    "max_seq_len_to_capture",
    "num_lookahead_slots",
    "num_scheduler_steps",
    "prefill_schedule_interval",
    "max_num_active_seqs",
    "scheduling_policy",
    "swap_space",
}
"""Settings of vLLM that exist and are not modelled: refused by name, with that reason."""


class SpeculativeConfig(Section):
    """Speculative decoding: a draft is verified in one step, and its tokens before the first wrong one stay."""

    num_speculative_tokens: Annotated[int, Field(ge=1, le=64)] = Field(description="tokens of a draft")
    acceptance: Share = Field(
        description="probability that a token of the draft is right, if those before it are; measure yours"
    )
    draft_cost: Annotated[float, Field(ge=0, le=10)] = Field(
        default=0.05,
        description="a draft token's time over the target's for one token of the same batch, context aside; an assumption",
    )


class Depth(Section):
    """Tokens that run fewer layers than the model has, or run them again."""

    depth: Annotated[float, Field(gt=0, le=1000)] = Field(
        description="layers that they run, over those of the model; above 1: recurrent depth"
    )
    share: Share = Field(description="share of all tokens; the rest runs every layer once")


class Engine(Section):
    """How each replica schedules and keeps its KV cache; None is vLLM's default, stated once loaded."""

    scheduler: PolicyRef = Field(default=Policy(name="vllm"), description="`thinkcap list schedulers`")
    kv: PolicyRef | None = Field(default=None, description="how KV memory is managed; default: vLLM's paged blocks")
    policy: Literal["fcfs", "priority"] = Field(default="fcfs", description="order of the waiting queue")
    max_num_seqs: Annotated[EngineCount, Field(ge=1)] | None = Field(
        default=None, description="sequences in a step at most; default: vLLM's for this GPU"
    )
    max_num_batched_tokens: Annotated[EngineCount, Field(ge=1)] | None = Field(
        default=None, description="tokens in a step at most; default: vLLM's for this GPU"
    )
    max_model_len: Annotated[EngineCount, Field(ge=1)] | None = Field(
        default=None,
        description="longest context of a request; default: the smaller of the model's and the KV pool's",
    )
    block_size: Annotated[int, Field(ge=1, le=4096)] = Field(default=16, description="tokens in a KV block")
    gpu_memory_utilization: Annotated[Share, Field(gt=0)] = Field(
        default=0.92, description="share of the GPU's memory that the engine may use"
    )
    enable_prefix_caching: bool = Field(default=True, description="reuse KV blocks of shared prefixes")
    enable_chunked_prefill: bool = Field(default=True, description="a prompt may be computed in parts")
    long_prefill_token_threshold: Annotated[EngineCount, Field(ge=0)] = Field(
        default=0, description="longest part of a prompt in one step; 0: no limit but the step's"
    )
    long_prefill_token_threshold_adaptive: bool = Field(
        default=False, description="the threshold shrinks as sequences decode"
    )
    watermark: Annotated[Share, Field(lt=1)] = Field(
        default=0.0, description="share of KV blocks that an admission leaves free while others run"
    )
    scheduler_reserve_full_isl: bool = Field(
        default=True, description="admit a request only when its whole prompt fits"
    )
    speculative_config: SpeculativeConfig | None = Field(
        default=None, description="drafts that are verified; without async_scheduling, which it turns off"
    )
    adaptive_depth: list[Depth] = Field(
        default_factory=list,
        description="how deep tokens run that do not run every layer once; what it costs, not what it knows",
    )
    async_scheduling: bool = Field(default=True, description="a step is scheduled while the one before it runs")
    preemption: Literal["recompute"] = Field(default="recompute", description="what becomes of a victim's KV")
    kv_cache_dtype: str = Field(default="auto", description="auto (the model's), bf16, fp16, fp8 …")
    num_gpu_blocks_override: Annotated[EngineCount, Field(ge=2)] | None = Field(
        default=None, description="KV blocks of a replica, instead of what memory allows"
    )
    kv_cache_memory_bytes: ByteCount | None = Field(
        default=None, description="KV memory of a GPU, such as 45 GB, instead of what utilization leaves"
    )
    kv_offloading_size: GibibyteCount | None = Field(
        default=None,
        description="host memory of a replica, all its GPUs together, for what the prefix cache gives up: 64 (GiB) or 64 GB",
    )


def server_defaults(memory_bytes: int, gpu: str) -> tuple[int, int]:
    """vLLM's ``max_num_seqs`` and ``max_num_batched_tokens`` for a server on a GPU of that memory and name.

    Source: vLLM 0.33.0, ``engine/arg_utils.py`` lines 2940-3039: from 160 GiB on 1,024 sequences and 16,384
    tokens; from 70 GiB on 1,024 and 8,192, except on an A100; otherwise 256 and 2,048.
    """
    if memory_bytes >= 160 * GIB:
        return 1024, 16384
    if memory_bytes >= 70 * GIB and "a100" not in gpu.lower():
        return 1024, 8192
    return 256, 2048
