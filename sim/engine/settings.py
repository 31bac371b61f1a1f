"""What one engine is set to: integers and flags only, under vLLM's own names where it has one."""

from __future__ import annotations

from dataclasses import dataclass

from sim.engine.compression import Compression
from sim.engine.speculation import Speculation


@dataclass(frozen=True)
class EngineSettings:
    """Settings of one replica's engine; the meaning of each is vLLM's (`vllm serve --help`)."""

    num_gpu_blocks: int
    """KV blocks of the pool, the null block included: one less can be used."""
    block_size: int = 16
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    max_model_len: int = 131_072
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    long_prefill_token_threshold: int = 0
    long_prefill_token_threshold_adaptive: bool = False
    policy: str = "fcfs"
    watermark: float = 0.0
    scheduler_reserve_full_isl: bool = True
    reservation: str = "none"
    """KV blocks set aside at admission: ``none`` (paged), ``max_tokens`` (what PagedAttention replaced) or ``predicted``
    (prompt plus the predictor's output tokens; paged beyond)."""
    sliding_window: int = 0
    """Tokens that a sliding-window layer looks back, the newest included; 0 where every layer attends to all."""
    sliding_groups: int = 1
    """Groups of sliding-window layers, as many layers in each as there are of full attention: each takes blocks of its own."""
    swap_block_ps: int = 0
    """Time to copy one block to or from the host; 0 where preemption recomputes."""
    swap_blocks: int = 0
    """Blocks of host memory for preempted requests; where they run out, preemption recomputes."""
    compression: Compression | None = None
    """How each request's KV cache is compressed while it decodes; None: never."""
    host_blocks: int = 0
    """Blocks of host memory for what the prefix cache gives up; 0: it is forgotten."""
    host_block_ps: int = 0
    """Time to load one such block."""
    speculation: Speculation | None = None
    """How drafts are verified; None: every decode computes one token. Not with asynchronous scheduling."""
    async_scheduling: bool = True
    """Two batches in flight: a batch is scheduled while the one before it runs."""

    def __post_init__(self) -> None:
        if self.policy not in ("fcfs", "priority"):
            raise ValueError(f"policy must be 'fcfs' or 'priority', not {self.policy!r}")
        if self.reservation not in ("none", "max_tokens", "predicted"):
            raise ValueError(f"reservation must be 'none', 'max_tokens' or 'predicted', not {self.reservation!r}")
        if self.enable_prefix_caching and (self.sliding_window or self.reservation != "none"):
            raise ValueError("a prefix cache with sliding-window layers or reserved blocks is not modelled")
        if self.compression and (self.sliding_window or self.reservation != "none" or self.swap_block_ps):
            raise ValueError("KV compression with sliding-window layers, reserved blocks or swapping is not modelled")
        if self.host_blocks and self.compression:
            raise ValueError("KV compression with a host tier is not modelled")
        if self.host_blocks and not self.enable_prefix_caching:
            raise ValueError("host_blocks keep what the prefix cache gives up; without a prefix cache there is nothing")
        if self.speculation and (self.compression or self.sliding_window or self.async_scheduling):
            raise ValueError(
                "speculative decoding with KV compression, sliding-window layers or asynchronous scheduling is not modelled"
            )
        if not 0 <= self.watermark < 1:
            raise ValueError(f"watermark must be at least 0 and below 1, not {self.watermark}")
        if self.long_prefill_token_threshold < 0:
            raise ValueError(
                f"long_prefill_token_threshold must be at least 0, not {self.long_prefill_token_threshold}"
            )
        if self.sliding_window < 0:
            raise ValueError(f"sliding_window must be at least 0, not {self.sliding_window}")
        for name in (
            "num_gpu_blocks",
            "sliding_groups",
            "block_size",
            "max_num_seqs",
            "max_num_batched_tokens",
            "max_model_len",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    @property
    def usable_blocks(self) -> int:
        """Blocks that requests can hold."""
        return self.num_gpu_blocks - 1

    @property
    def window_is_even(self) -> bool:
        """Whether a decode that is in every batch gives a block of its window back in the very step that takes one: all that
        decode can be counted then."""
        return not self.sliding_window or (self.async_scheduling and self.sliding_window % self.block_size == 0)

    @property
    def window_cap(self) -> int:
        """Blocks of a group of sliding-window layers that an admission counts at most: those of the window and of all tokens
        that may be in flight (``SlidingWindowSpec.max_admission_blocks_per_request``)."""
        flying = self.max_num_batched_tokens * (2 if self.async_scheduling else 1)
        return -(-min(self.sliding_window - 1 + flying, self.max_model_len) // self.block_size) + 1

    @property
    def watermark_blocks(self) -> int:
        """Blocks that an admission must leave free while others run."""
        return int(self.watermark * self.num_gpu_blocks)
