"""Shapes are counted exactly: parameters against the published totals, bytes against what engines print."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calibration.architecture import architecture, names
from calibration.hardware import hardware
from calibration.hf_config import from_hf_config
from sim.errors import InputError

# Totals that the models' safetensors indices state.
PARAMETERS = {
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "codellama-34b": 33_743_970_304,
    "r1-distill-qwen-1.5b": 1_777_088_000,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-72b": 72_706_203_648,
    "qwq-32b": 32_763_876_352,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    "deepseek-v3": 671_026_419_200,
}


@pytest.mark.parametrize(("name", "count"), sorted(PARAMETERS.items()))
def test_parameters_are_exact(name: str, count: int) -> None:
    assert architecture(name).parameters == count


@pytest.mark.parametrize("name", names())
def test_every_model_splits_without_losing_weights(name: str) -> None:
    arch = architecture(name)
    whole = arch.weight_bytes()
    for tp in (2, 4, 8):
        if arch.heads % tp == 0:
            # norms and replicated KV heads are on every GPU, so shares add up to a little more than the whole
            assert whole <= tp * arch.weight_bytes(tp=tp) <= whole * 1.15


@pytest.mark.parametrize(
    ("name", "kib"),
    [
        ("r1-distill-llama-70b", 320),
        ("llama-2-7b", 512),
        ("qwen3-14b", 160),
        ("qwen3-30b-a3b", 96),
        ("deepseek-r1", 68.625),  # 61 layers x (512 + 64) numbers of 2 bytes
        ("gpt-oss-120b", 36),  # 18 of 36 layers look back over the whole context
    ],
)
def test_kv_bytes_a_token(name: str, kib: float) -> None:
    assert architecture(name).kv_bytes_per_token() == kib * 1024


def test_kv_heads_are_replicated_past_their_number_and_latents_always() -> None:
    dense, latent = architecture("qwen3-30b-a3b"), architecture("deepseek-r1")  # 4 KV heads; one latent
    assert dense.kv_bytes_per_token(tp=4) == dense.kv_bytes_per_token() / 4
    assert dense.kv_bytes_per_token(tp=8) == dense.kv_bytes_per_token(tp=4)
    assert latent.kv_bytes_per_token(tp=8) == latent.kv_bytes_per_token()
    assert dense.kv_bytes_per_token("fp8") == dense.kv_bytes_per_token() / 2


def test_native_formats() -> None:
    assert architecture("gpt-oss-120b").weight_bytes() == pytest.approx(65.2e9, rel=0.01)
    assert architecture("deepseek-r1").weight_bytes() == pytest.approx(673e9, rel=0.01)
    assert architecture("llama-3.1-70b").weight_bytes("int4") < 0.32 * architecture("llama-3.1-70b").weight_bytes()


def test_active_parameters() -> None:
    assert architecture("deepseek-v3").active_parameters == pytest.approx(37e9, rel=0.03)
    assert architecture("gpt-oss-120b").active_parameters == pytest.approx(5.1e9, rel=0.02)
    assert architecture("qwen3-14b").active_parameters < architecture("qwen3-14b").parameters


def test_equal_shapes() -> None:
    assert architecture("r1-distill-llama-70b").shape() == architecture("llama-3.1-70b").shape()
    assert architecture("qwq-32b").shape() == architecture("r1-distill-qwen-32b").shape()
    assert architecture("qwen3-32b").shape() != architecture("qwen2.5-32b").shape()


def test_hub_names_are_aliases() -> None:
    assert architecture("Qwen/Qwen3-14B").name == "qwen3-14b"
    assert architecture("deepseek-ai/DeepSeek-R1-Distill-Llama-70B").name == "r1-distill-llama-70b"


def test_unknown_model_names_the_nearest() -> None:
    with pytest.raises(InputError, match="qwen3-14b"):
        architecture("qwen3-14")


# ---- config.json: shapes as published, written from the facts of each model's configuration ----------------

CONFIGS = {
    "llama-3.1-70b": {
        "model_type": "llama",
        "num_hidden_layers": 80,
        "hidden_size": 8192,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "intermediate_size": 28672,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192},
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
    },
    "qwq-32b": {
        "model_type": "qwen2",
        "num_hidden_layers": 64,
        "hidden_size": 5120,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "intermediate_size": 27648,
        "vocab_size": 152064,
        "max_position_embeddings": 40960,
        "sliding_window": 32768,
        "use_sliding_window": False,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
    },
    "qwen3-30b-a3b": {
        "model_type": "qwen3_moe",
        "num_hidden_layers": 48,
        "hidden_size": 2048,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
        "mlp_only_layers": [],
    },
    "gpt-oss-120b": {
        "model_type": "gpt_oss",
        "num_hidden_layers": 36,
        "hidden_size": 2880,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "intermediate_size": 2880,
        "num_local_experts": 128,
        "num_experts_per_tok": 4,
        "vocab_size": 201088,
        "max_position_embeddings": 131072,
        "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096},
        "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention"] * 18,
        "attention_bias": True,
        "quantization_config": {"quant_method": "mxfp4"},
        "tie_word_embeddings": False,
    },
    "deepseek-r1": {
        "model_type": "deepseek_v3",
        "num_hidden_layers": 61,
        "hidden_size": 7168,
        "num_attention_heads": 128,
        "num_key_value_heads": 128,
        "intermediate_size": 18432,
        "moe_intermediate_size": 2048,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "first_k_dense_replace": 3,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "head_dim": 128,
        "vocab_size": 129280,
        "max_position_embeddings": 163840,
        "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096},
        "quantization_config": {"quant_method": "fp8"},
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
    },
}


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_config_json_gives_the_shipped_architecture(tmp_path: Path, name: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIGS[name]))
    read, shipped = from_hf_config(path), architecture(name)
    assert read.shape() == shipped.shape()
    assert read.parameters == shipped.parameters
    assert read.max_context == shipped.max_context
    assert read.weight_bytes() == shipped.weight_bytes()
    assert architecture(str(path)).shape() == shipped.shape()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"hidden_size": 8}', '{"num_hidden_layers": -1, "hidden_size": 8, "vocab_size": "x"}'],
)
def test_bad_config_json_is_one_clear_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        from_hf_config(path)


@pytest.mark.parametrize("read", [architecture, hardware])
@pytest.mark.parametrize("data", [b"\x9b\xe9\x00\xff", b"a: [1,", b"- 1\n", b""])
def test_a_file_that_is_no_yaml_is_one_clear_error(tmp_path: Path, read: Callable[[str], object], data: bytes) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"mine\.yaml"):
        read(str(path))


PLAIN = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 32768,
}


@pytest.mark.parametrize(
    ("quant", "dtype"),
    [
        ({"quant_method": "awq"}, "int4"),
        ({"quant_method": "gptq", "bits": 8}, "int8"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}},
            },
            "fp8",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}},
            },
            "int4",
        ),
    ],
)
def test_formats_are_told_by_method_and_bits(tmp_path: Path, quant: dict[str, Any], dtype: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**PLAIN, "quantization_config": quant}), encoding="utf-8")
    assert from_hf_config(path).native_dtype == dtype


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layer_types": ["linear_attention", "full_attention"] * 16}, "linear_attention keep a state"),
        ({"model_type": "qwen3_next", "full_attention_interval": 4}, "full_attention_interval"),
        ({"is_encoder_decoder": True}, "encoder beside the decoder"),
        ({"num_key_value_heads": 7}, "7 KV heads do not divide 32"),
        ({"quantization_config": {"quant_method": "foo"}}, "'foo' in a format that is not known"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "quantization_config"),
    ],
)
def test_what_a_config_says_of_other_layers_and_formats_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**PLAIN, **changes}), encoding="utf-8")
    with pytest.raises(InputError, match=words):
        from_hf_config(path)


def test_context_is_stretched_by_either_spelling_of_rope(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for key in ("rope_scaling", "rope_parameters"):
        rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
        path.write_text(json.dumps({**PLAIN, key: rope}), encoding="utf-8")
        assert from_hf_config(path).max_context == 131072
