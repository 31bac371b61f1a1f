"""Options of ``vllm serve``: which key of a pool each one is, and which change nothing that is simulated.

As vLLM 0.28 documents them (docs.vllm.ai, `vllm serve`). One table, read in both directions: `sim.planning.deploy`
writes a pool as a command line, `sim.planning.from_serve`
reads a command line as a pool.
"""

from __future__ import annotations

POOL = {
    "tensor-parallel-size": "tensor_parallel_size",
    "pipeline-parallel-size": "pipeline_parallel_size",
    "data-parallel-size": "data_parallel_size",
    "enable-expert-parallel": "enable_expert_parallel",
}
"""Options that are keys of a pool."""

ENGINE = {
    "max-model-len": "max_model_len",
    "max-num-seqs": "max_num_seqs",
    "max-num-batched-tokens": "max_num_batched_tokens",
    "gpu-memory-utilization": "gpu_memory_utilization",
    "block-size": "block_size",
    "kv-cache-dtype": "kv_cache_dtype",
    "enable-prefix-caching": "enable_prefix_caching",
    "enable-chunked-prefill": "enable_chunked_prefill",
    "async-scheduling": "async_scheduling",
    "scheduling-policy": "policy",
    "num-gpu-blocks-override": "num_gpu_blocks_override",
    "kv-cache-memory-bytes": "kv_cache_memory_bytes",
    "long-prefill-token-threshold": "long_prefill_token_threshold",
    "scheduler-reserve-full-isl": "scheduler_reserve_full_isl",
    "watermark": "watermark",
    "kv-offloading-size": "kv_offloading_size",
}
"""Options that are keys of a pool's engine."""

SHORT = {
    "tp": "tensor-parallel-size",
    "pp": "pipeline-parallel-size",
    "dp": "data-parallel-size",
    "ep": "enable-expert-parallel",
    "q": "quantization",
}
"""Options of one dash."""

SWITCHES = frozenset(
    {
        "enable-expert-parallel",
        "enable-prefix-caching",
        "enable-chunked-prefill",
        "async-scheduling",
        "scheduler-reserve-full-isl",
    }
)
"""Options that take no value; ``--no-…`` turns them off."""

DTYPES = {"auto": "auto", "bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float": "fp32", "float32": "fp32"}
"""Values of ``--dtype``, and what a pool's ``dtype`` calls them."""

QUANTIZATIONS = {
    "fp8": "fp8",
    "awq": "int4",
    "awq_marlin": "int4",
    "gptq": "int4",
    "gptq_marlin": "int4",
    "modelopt_fp4": "nvfp4",
    "mxfp4": "mxfp4",
}
"""Values of ``--quantization`` that say how many bits the weights have, and a pool's ``dtype`` of that many."""

FRONT_END_SWITCHES = frozenset(
    {
        "allow-credentials",
        "disable-frontend-multiprocessing",
        "disable-log-requests",
        "disable-log-stats",
        "disable-uvicorn-access-log",
        "enable-auto-tool-choice",
        "enable-force-include-usage",
        "enable-log-outputs",
        "enable-log-requests",
        "enable-prompt-tokens-details",
        "enable-reasoning",
        "enable-request-id-headers",
        "enable-server-load-tracking",
        "exclude-tools-when-tool-choice-none",
        "return-tokens-as-token-ids",
        "trust-remote-code",
        "use-tqdm-on-load",
    }
)
"""Options of the front end, of loading and of logging that take no value."""

FRONT_END = FRONT_END_SWITCHES | frozenset(
    {
        "allowed-headers",
        "allowed-methods",
        "allowed-origins",
        "api-key",
        "api-server-count",
        "chat-template",
        "chat-template-content-format",
        "collect-detailed-traces",
        "default-chat-template-kwargs",
        "disable-access-log-for-endpoints",
        "distributed-executor-backend",
        "download-dir",
        "generation-config",
        "hf-token",
        "host",
        "load-format",
        "log-config-file",
        "max-log-len",
        "max-logprobs",
        "middleware",
        "otlp-traces-endpoint",
        "override-generation-config",
        "port",
        "reasoning-parser",
        "response-role",
        "revision",
        "root-path",
        "seed",
        "served-model-name",
        "show-hidden-metrics-for-version",
        "ssl-ca-certs",
        "ssl-certfile",
        "ssl-keyfile",
        "tokenizer",
        "tokenizer-mode",
        "tokenizer-revision",
        "tool-call-parser",
        "tool-parser-plugin",
        "uds",
        "uvicorn-log-level",
    }
)
"""Those, and those that take one: they change neither what is scheduled nor how long a step takes."""

NOT_MODELLED_SWITCHES = frozenset(
    {
        "data-parallel-hybrid-lb",
        "disable-cascade-attn",
        "disable-custom-all-reduce",
        "disable-hybrid-kv-cache-manager",
        "disable-sliding-window",
        "enable-dbo",
        "enable-eplb",
        "enable-lora",
        "enforce-eager",
        "language-model-only",
    }
)
"""Options without a value that can change the answer and are not modelled."""

NOT_MODELLED = NOT_MODELLED_SWITCHES | frozenset(
    {
        "attention-backend",
        "compilation-config",
        "cpu-offload-gb",
        "cudagraph-capture-sizes",
        "data-parallel-backend",
        "data-parallel-size-local",
        "decode-context-parallel-size",
        "hf-overrides",
        "kv-transfer-config",
        "limit-mm-per-prompt",
        "lora-modules",
        "max-long-partial-prefills",
        "max-loras",
        "max-num-partial-prefills",
        "mm-processor-kwargs",
        "rope-scaling",
        "speculative-config",
        "stream-interval",
        "swap-space",
    }
)
"""Those, and those with one: refused, unless they are left out by name."""
