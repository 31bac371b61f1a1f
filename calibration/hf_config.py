"""The architecture that a Hugging Face ``config.json`` describes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from calibration.architecture import Architecture, Mla, Moe
from sim.errors import InputError, Problem

_QUANT = {"fp8": "fp8", "fbgemm_fp8": "fp8", "mxfp4": "mxfp4", "nvfp4": "nvfp4"}
"""Formats that the name of the method tells; others are told by their bits."""
_WITH_BITS = ("awq", "gptq", "modelopt", "modelopt_fp4", "compressed-tensors", "bitsandbytes", "quark", "auto-round")


def from_hf_config(path: str | Path) -> Architecture:
    """The architecture that a Hugging Face ``config.json`` describes; raise an InputError when it does
    not say enough."""
    path = Path(path)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputError(Problem("no such file", source=str(path), key="model")) from None
    except ValueError as error:
        raise InputError(Problem(f"not valid JSON: {error}", source=str(path))) from None
    if not isinstance(raw, dict):
        raise InputError(Problem("not a JSON object", source=str(path), expected="a Hugging Face config.json"))
    text = raw.get("text_config")
    config = {**raw, **text} if isinstance(text, dict) else raw
    return _from_config(config, source=str(path), name=str(raw.get("_name_or_path") or _named(path)))


def _named(path: Path) -> str:
    """A model's name from where its config lies: ``NAME/config.json`` or ``NAME.json``."""
    return path.stem if path.stem != "config" else path.resolve().parent.name or "model"


def _from_config(config: dict[str, Any], *, source: str, name: str) -> Architecture:
    problems: list[Problem] = []

    def number(*keys: str, default: int | None = None) -> int:
        for key in keys:
            value = config.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
        if default is not None:
            return default
        problems.append(Problem("missing or not a positive whole number", source=source, key=keys[0]))
        return 1

    layers = number("num_hidden_layers", "n_layer")
    hidden = number("hidden_size", "n_embd")
    heads = number("num_attention_heads", "n_head")
    vocab = number("vocab_size")
    family = str(config.get("model_type", ""))
    experts = number("num_local_experts", "num_experts", "n_routed_experts", default=0)
    ffn = number("intermediate_size", "n_inner", default=4 * hidden if not experts else 0)
    mla = None
    if config.get("kv_lora_rank"):
        mla = Mla(
            q_lora_rank=config.get("q_lora_rank") or 0,
            kv_lora_rank=number("kv_lora_rank"),
            qk_nope_head_dim=number("qk_nope_head_dim"),
            qk_rope_head_dim=number("qk_rope_head_dim"),
            v_head_dim=number("v_head_dim"),
        )
    moe = None
    if experts:
        moe = Moe(
            experts=experts,
            active=number("num_experts_per_tok", "experts_per_token"),
            ffn=number("moe_intermediate_size", "intermediate_size"),
            shared=number("n_shared_experts", default=1 if config.get("shared_expert_intermediate_size") else 0),
            shared_ffn=number("shared_expert_intermediate_size", default=0),
            dense_layers=number("first_k_dense_replace", default=len(config.get("mlp_only_layers") or ())),
            bias=family == "gpt_oss",
        )
    kv_heads = number("num_key_value_heads", "num_kv_heads", default=heads)
    if heads % kv_heads:
        what = f"{kv_heads} KV heads do not divide {heads} heads"
        problems.append(Problem(what, source=source, key="num_key_value_heads"))
    other = _unmodelled(config)
    if other is not None:
        key, what = other
        problems.append(Problem(what, source=source, key=key, expected="a decoder with attention in every layer"))
    dtype = _format(config, source, problems)
    if problems:
        raise InputError(problems)
    sliding = _sliding_layers(config, layers)
    return Architecture(
        name=name.rstrip("/").rpartition("/")[2].lower(),
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=number("head_dim", default=hidden // heads),
        ffn=ffn,
        vocab=vocab,
        max_context=_max_context(config, number("max_position_embeddings", "n_positions", default=2048)),
        native_dtype=dtype,
        tied_embeddings=bool(config.get("tie_word_embeddings", family in {"gemma", "gemma2", "gemma3_text"})),
        qkv_bias=bool(config.get("attention_bias", family in {"qwen2", "qwen2_moe"})),
        out_bias=bool(config.get("attention_bias", False)) and family != "qwen2",
        qk_norm=family in {"qwen3", "qwen3_moe"},
        gated=family not in {"gpt2", "opt", "bloom", "falcon", "starcoder2", "gpt_neox"},
        sliding_window=number("sliding_window", default=0) if sliding else 0,
        sliding_layers=sliding,
        attention_sinks=family == "gpt_oss",
        moe=moe,
        mla=mla,
        source=source,
    )


def _unmodelled(config: dict[str, Any]) -> tuple[str, str] | None:
    """The key and what it says of layers that keep no KV cache of their tokens; None: all are attention."""
    if config.get("is_encoder_decoder"):
        return "is_encoder_decoder", "an encoder beside the decoder is not modelled"
    kinds = config.get("layer_types") or config.get("layers_block_type")
    if isinstance(kinds, list):
        known = {"full_attention", "sliding_attention", "chunked_attention", "attention"}
        odd = sorted({str(kind) for kind in kinds} - known)
        if odd:
            return "layer_types", f"layers of kind {', '.join(odd)} keep a state, not a KV cache, and are not modelled"
    for key in (
        "full_attention_interval",
        "linear_num_value_heads",
        "hybrid_override_pattern",
        "mamba_d_state",
        "ssm_cfg",
    ):
        if config.get(key):
            return key, "layers of linear attention or a state space keep a state, not a KV cache, and are not modelled"
    return None


def _format(config: dict[str, Any], source: str, problems: list[Problem]) -> str:
    """Number format of the weights; what cannot be told goes to *problems*."""
    native = str(config.get("torch_dtype") or config.get("dtype") or "bfloat16")
    plain = {"float16": "fp16", "float32": "fp32"}.get(native, "bf16")
    quant = config.get("quantization_config") or {}
    method = str(quant.get("quant_method", "")).lower()
    if not method:
        return plain
    if method in _QUANT:
        return _QUANT[method]
    found = _of_bits(quant) if method in _WITH_BITS else None
    if found is None:
        problems.append(
            Problem(
                f"weights of {method!r} in a format that is not known",
                source=source,
                key="quantization_config",
                expected="one of "
                + ", ".join((*_QUANT, *_WITH_BITS))
                + " with its bits, or none and --dtype in the scenario",
            )
        )
        return plain
    return found


def _of_bits(quant: dict[str, Any]) -> str | None:
    """The format that a method's bits tell: as the method itself, its groups of weights or its algorithm has them."""
    named = str(quant.get("quant_algo") or "").lower()
    for name in ("nvfp4", "mxfp4", "fp8", "int8", "int4"):
        if name in named:
            return name
    if quant.get("load_in_4bit"):
        return "int4"
    if quant.get("load_in_8bit"):
        return "int8"
    about: dict[str, Any] = quant
    groups = quant.get("config_groups")
    if isinstance(groups, dict) and groups:
        group = next(iter(groups.values()))
        if isinstance(group, dict) and isinstance(group.get("weights"), dict):
            about = group["weights"]
    bits = about.get("num_bits", about.get("bits", about.get("w_bit")))
    number = str(about.get("type", "int")).lower()
    if number == "float":
        return {8: "fp8", 4: "nvfp4"}.get(bits) if isinstance(bits, int) else None
    if bits is None and str(quant.get("quant_method")) in ("awq", "gptq"):
        return "int4"
    return {8: "int8", 4: "int4"}.get(bits)  # type: ignore[arg-type]


def _sliding_layers(config: dict[str, Any], layers: int) -> int:
    """How many layers look back over ``sliding_window`` tokens only, as transformers decides it."""
    if not config.get("sliding_window") or config.get("use_sliding_window") is False:
        return 0
    kinds = config.get("layer_types")
    if isinstance(kinds, list):
        return sum(kind == "sliding_attention" for kind in kinds)
    if config.get("model_type") == "gemma2":
        return layers // 2
    pattern = config.get("sliding_window_pattern")
    if isinstance(pattern, int) and pattern > 1:
        return layers - layers // pattern
    if config.get("model_type") == "qwen2":
        return max(0, layers - int(config.get("max_window_layers") or layers))
    return layers


def _max_context(config: dict[str, Any], positions: int) -> int:
    """``max_position_embeddings``, times the RoPE scaling where that is not yet contained in it."""
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    original = scaling.get("original_max_position_embeddings")
    factor = scaling.get("factor", 1)
    if kind in {"linear", "dynamic", "yarn"} and isinstance(factor, int | float) and factor > 1:
        base = original or positions
        return max(positions, int(base * factor))
    return positions
