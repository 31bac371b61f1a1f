"""Small decoders of every sort that the profiler builds."""

from __future__ import annotations

from typing import Any

from calibration.architecture import Architecture, Mla, Moe

PLAIN: dict[str, Any] = {
    "layers": 3,
    "hidden": 64,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 16,
    "ffn": 128,
    "vocab": 200,
    "max_context": 4096,
}

SORTS: dict[str, Architecture] = {
    "grouped": Architecture("grouped", **PLAIN),
    "biased": Architecture(
        "biased", **PLAIN, qkv_bias=True, out_bias=True, qk_norm=True, gated=False, tied_embeddings=True
    ),
    "sliding": Architecture("sliding", **PLAIN, sliding_window=24, sliding_layers=2),
    "experts": Architecture("experts", **PLAIN, moe=Moe(8, 2, 32, shared=1, dense_layers=1)),
    "latent": Architecture(
        "latent",
        **{**PLAIN, "kv_heads": 4},
        mla=Mla(q_lora_rank=24, kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=12),
    ),
    "latent-direct": Architecture(
        "latent-direct",
        **{**PLAIN, "kv_heads": 4},
        mla=Mla(q_lora_rank=0, kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16),
        moe=Moe(4, 2, 32),
    ),
}
