"""deploy(): the best profile there is, the memory sum, and errors that say what to mend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration import profile as profiles
from calibration.architecture import architecture
from calibration.deployment import deploy
from calibration.engine_costs import engine_cost, nearest_version, versions
from calibration.hardware import hardware, names
from calibration.physics import TOLERANCE, shares
from calibration.prior import hardware_cost
from sim.errors import DoesNotFit, InputError

# KV blocks that real engines stated in their logs: vLLM with these settings (published serving runs).
BLOCKS = [
    ("llama-2-7b", "h100-sxm", 1, "0.15", 0.90, 128, 2048, 7462),
    ("llama-2-70b", "h100-sxm", 4, "0.15", 0.90, 128, 2048, 31356),
    ("mixtral-8x7b", "h100-sxm", 2, "0.15", 0.90, 128, 2048, 27510),
    ("qwen2.5-7b", "h100-sxm", 1, "0.15", 0.90, 128, 2048, 65352),
    ("qwen3-14b", "h100-sxm", 1, "0.23", 0.92, 256, 8192, 18038),
    ("llama-3.1-8b", "rtx-4090", 1, "0.19", 0.90, 256, 2048, 2588),
]


@pytest.mark.parametrize(("model", "gpu", "tp", "version", "share", "seqs", "tokens", "blocks"), BLOCKS)
def test_blocks_as_engines_count_them(
    model: str, gpu: str, tp: int, version: str, share: float, seqs: int, tokens: int, blocks: int
) -> None:
    found = deploy(
        model=model,
        hardware=gpu,
        tensor_parallel_size=tp,
        engine_version=version,
        gpu_memory_utilization=share,
        max_num_seqs=seqs,
        max_num_batched_tokens=tokens,
    )
    assert found.memory.num_gpu_blocks == pytest.approx(blocks, rel=0.01)


def test_memory_sum_adds_up_and_is_said_in_words() -> None:
    memory = deploy(model="r1-distill-llama-70b", hardware="h100-sxm", tensor_parallel_size=4).memory
    assert memory.kv_bytes == memory.usable_bytes - memory.weights_bytes - memory.activations_bytes
    assert memory.num_gpu_blocks == memory.kv_bytes // (memory.kv_bytes_per_token * 16)
    assert memory.kv_bytes_per_token_replica == 320 * 1024
    text = "\n".join(memory.lines())
    for word in ("weights: 35.3 GB", "320.0 KiB over all", f"{memory.num_gpu_blocks:,} blocks"):
        assert word in text


def test_stated_pools_override_the_sum() -> None:
    settings_: dict[str, Any] = {
        "model": "r1-distill-llama-70b",
        "hardware": "h100-sxm",
        "tensor_parallel_size": 4,
    }
    assert deploy(**settings_, num_gpu_blocks_override=30_000).memory.num_gpu_blocks == 30_000
    stated = deploy(**settings_, kv_cache_memory_bytes=45e9 / 4).memory
    assert stated.num_gpu_blocks == int(45e9 // (320 * 1024 * 16))
    assert "kv_cache_memory_bytes" in "\n".join(stated.lines())


def test_expert_parallel_ranks_hold_whole_experts_and_pools_of_their_own() -> None:
    one = deploy(model="deepseek-r1", hardware="h200", tensor_parallel_size=8)
    ranks = deploy(
        model="deepseek-r1",
        hardware="h200",
        data_parallel_size=8,
        enable_expert_parallel=True,
        profile="prior",
    )
    assert ranks.gpus == one.gpus == 8
    # attention is copied to each rank, so weights grow; the latent KV cache is not, so the pool does
    assert ranks.memory.weights_bytes > one.memory.weights_bytes
    assert ranks.memory.num_gpu_blocks > 4 * one.memory.num_gpu_blocks
    assert ranks.memory.kv_bytes_per_token == one.memory.kv_bytes_per_token


def test_sliding_layers_take_blocks_of_their_own() -> None:
    memory = deploy(model="gpt-oss-120b", hardware="h100-sxm", tensor_parallel_size=2).memory
    assert memory.window_blocks_per_request == 9  # 127 tokens before the newest reach into nine blocks of 16


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "llama-3.1-80b"}, "llama-3.1-70b"),
        ({"hardware": "h10"}, "h100"),
        ({"tensor_parallel_size": 3}, "do not fill a part of a node"),
        ({"tensor_parallel_size": 16}, "do not fill a part of a node"),
        ({"tensor_parallel_size": 0}, "at least 1"),
        ({"dtype": "bf61"}, "bf16"),
        ({"kv_cache_dtype": "nvfp4"}, "kv_cache_dtype"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization"),
        ({"block_size": 0}, "block_size"),
        ({"profile": "llama-3.1-70b_h100-sxm_tp4"}, "llama-3.1-70b_h100-sxm_tp4_bf16"),
        ({"profile": "qwen3-14b_h100-sxm_tp1_bf16"}, "shapes differ"),
        ({"enable_expert_parallel": True}, "no experts"),
        ({"data_parallel_size": 2}, "replicas: 2"),
        ({"engine": "vlm"}, "vllm"),
        ({"engine_version": "0.24"}, "0.23"),
    ],
)
def test_bad_settings_name_what_is_wrong(changes: dict[str, Any], words: str) -> None:
    good: dict[str, Any] = {
        "model": "r1-distill-llama-70b",
        "hardware": "h100-sxm",
        "tensor_parallel_size": 4,
    }
    with pytest.raises(InputError, match=words):
        deploy(**(good | changes))


def test_weights_larger_than_the_gpu_show_the_arithmetic() -> None:
    with pytest.raises(DoesNotFit, match=r"141\.1 GB"):
        deploy(model="r1-distill-llama-70b", hardware="h100-sxm")


def test_same_shapes_share_a_profile_and_it_is_said() -> None:
    found = deploy(model="qwq-32b", hardware="h100-sxm", tensor_parallel_size=2)
    assert found.fidelity.kind == "composed"
    assert found.fidelity.profile.startswith("qwen2.5-32b_h100-sxm_tp2")
    assert any("same shapes" in note for note in found.fidelity.notes)
    assert found.fidelity.sha256


def test_another_vocabulary_is_corrected_and_said() -> None:
    ours = deploy(model="llama-3-70b", hardware="h200", tensor_parallel_size=8)
    theirs = deploy(model="llama-2-70b", hardware="h200", tensor_parallel_size=8)
    assert theirs.fidelity.profile == ours.fidelity.profile
    assert any("vocabulary" in note for note in theirs.fidelity.notes)
    assert theirs.step_cost.linear(1) < ours.step_cost.linear(1)


def test_fp8_kv_reads_half_the_bytes() -> None:
    full = deploy(model="qwen3-14b", hardware="h100-sxm")
    half = deploy(model="qwen3-14b", hardware="h100-sxm", kv_cache_dtype="fp8")
    assert half.step_cost.kv_ps == pytest.approx(full.step_cost.kv_ps / 2, rel=0.01)
    assert half.memory.num_gpu_blocks == pytest.approx(2 * full.memory.num_gpu_blocks, rel=0.001)
    assert any("KV" in note for note in half.fidelity.notes)


def test_the_prior_is_labelled_and_stands_for_what_was_not_measured() -> None:
    found = deploy(model="qwen3-8b", hardware="mi300x")
    assert found.fidelity.kind == "prior"
    assert any("other GPUs" in note for note in found.fidelity.notes)
    assert "nothing was measured" in found.fidelity.words()
    assert found.fidelity.error_p95 > found.fidelity.error_median > 0


def test_leaving_the_measured_range_is_warned_of_in_plain_words() -> None:
    fidelity = deploy(model="qwen3-14b", hardware="h100-sxm").fidelity
    assert fidelity.warnings(batch=64, context=8000, tokens=8192) == []
    assert fidelity.batch_max is not None
    found = fidelity.warnings(batch=fidelity.batch_max + 1, context=10**6, tokens=10**5)
    assert len(found) == 3
    assert "extrapolated" in found[0]


@settings(max_examples=30, deadline=None)
@given(factor=st.floats(0.5, 2.0))
def test_scaled_steps_scale_every_step(factor: float) -> None:
    plain = deploy(model="qwen3-14b", hardware="h100-sxm")
    scaled = plain.with_step_scaled(factor).step_cost
    for batch, context in ((1, 100), (64, 10**5), (300, 10**6)):
        ratio = scaled.decode_ps(batch, context) / plain.step_cost.decode_ps(batch, context)
        assert ratio == pytest.approx(factor, rel=1e-4)


def test_more_gpus_make_steps_shorter_and_pools_larger() -> None:
    found = [deploy(model="r1-distill-llama-70b", hardware="h100-sxm", tensor_parallel_size=tp) for tp in (2, 4, 8)]
    steps = [one.step_cost.decode_ps(32, 32 * 2000) for one in found]
    assert steps == sorted(steps, reverse=True)
    assert [one.memory.num_gpu_blocks for one in found] == sorted(one.memory.num_gpu_blocks for one in found)


def test_pipeline_stages_hold_fewer_weights_and_cost_transfers() -> None:
    two = deploy(model="llama-3.1-405b", hardware="h200", tensor_parallel_size=8, pipeline_parallel_size=2)
    assert two.gpus == 16
    assert two.memory.weights_bytes < 812e9 / 16 * 1.1
    with pytest.raises(InputError, match="layers"):
        deploy(model="qwen3-14b", hardware="h100-sxm", pipeline_parallel_size=99)


# ---- every shipped profile and GPU -------------------------------------------------------------------------


def test_at_least_sixty_profiles_ship_with_those_that_matter() -> None:
    index = profiles.index()
    assert len(index) >= 60
    shapes = {(architecture(model).shape(), gpu) for _, model, gpu, *_ in index}
    for model in ("r1-distill-llama-70b", "qwq-32b", "r1-distill-qwen-32b", "qwen3-32b", "qwen3-30b-a3b"):
        for gpu in ("a100", "h100-sxm", "h200", "b200", "l40s"):
            assert (architecture(model).shape(), gpu) in shapes, (model, gpu)
    for model, gpus in (
        ("qwen3-235b-a22b", ("a100", "h100-sxm", "h200", "b200")),
        ("gpt-oss-120b", ("h100-sxm", "h200", "b200", "l40s")),
        ("deepseek-r1", ("h200", "b200")),
    ):
        for gpu in gpus:
            assert (architecture(model).shape(), gpu) in shapes, (model, gpu)


@pytest.mark.parametrize("name", sorted(profiles.shipped()))
def test_every_shipped_profile_is_whole_and_possible(name: str) -> None:
    found = profiles.get(name)
    assert found.name == name
    assert name == profiles.name_of(
        found.model, found.hardware, found.tensor_parallel_size, found.dtype, ep=found.enable_expert_parallel
    )
    assert {"source", "licence", "version", "quantity", "rows", "command", "data_sha256"} <= set(found.provenance)
    assert {"decode", "prefill", "decode_unseen_contexts", "decode_unseen_batches"} <= set(found.error)
    kv_dtype = found.kv_cache_dtype if found.kv_cache_dtype in ("fp8", "int8") else "auto"
    again = shares(
        architecture(found.model),
        hardware(found.hardware),
        found.cost,
        tp=found.tensor_parallel_size,
        dtype=found.dtype,
        kv_dtype=kv_dtype,
    )
    assert not again.impossible()
    for what, value in found.physics.items():
        assert 0 < value <= TOLERANCE, what
        assert value == pytest.approx(getattr(again, what), abs=0.002)


def test_shipped_profiles_predict_what_was_left_out() -> None:
    """Medians over profiles of the median and the 95th percentile, as the bars are stated."""
    kinds: dict[str, list[dict[str, profiles.Error]]] = {"dense": [], "moe": []}
    for name in profiles.shipped():
        found = profiles.get(name)
        if architecture(found.model).moe:
            kinds["moe"].append(found.error)
        elif found.dtype in ("bf16", "fp16"):
            kinds["dense"].append(found.error)
    bars = {"dense": (0.02, 0.07), "moe": (0.07, 0.22)}
    for kind, errors in kinds.items():
        assert len(errors) >= 60
        for what in ("decode_unseen_contexts", "decode_unseen_batches"):
            assert np.median([error[what].median for error in errors]) <= bars[kind][0]
            assert np.median([error[what].p95 for error in errors]) <= bars[kind][1]
        assert np.median([error["prefill"].median for error in errors]) <= 0.01
        assert np.median([error["prefill"].p95 for error in errors]) <= 0.05


@pytest.mark.parametrize("name", names())
def test_every_gpu_is_whole(name: str) -> None:
    gpu = hardware(name)
    assert gpu.bandwidth_bytes_per_s >= 0.3e12
    assert gpu.flops["bf16"] < gpu.peak_flops("fp8") * 1.01
    assert gpu.power.idle_w < gpu.power.memory_bound_w < gpu.power.compute_bound_w
    assert gpu.peak_flops("fp16") == gpu.flops["bf16"]
    assert gpu.price is None or (gpu.price.date and gpu.price.source)
    assert deploy(model="qwen3-4b", hardware=name).step_cost.decode_ps(1, 1) > 0


def test_what_kernels_timed_one_by_one_leave_out_is_added() -> None:
    cost = deploy(model="llama-3.1-70b", hardware="a100", tensor_parallel_size=2)
    kernels = profiles.get(cost.fidelity.profile).cost
    gpu = hardware("a100")
    read = kernels.linear(1)
    assert cost.hardware_cost.linear(1) == pytest.approx(read), "reading weights takes what it took"
    assert cost.hardware_cost.linear(2048) - read == pytest.approx(
        (kernels.linear(2048) - read) / gpu.sustained_compute
    )
    assert cost.hardware_cost.seq_s == pytest.approx(kernels.seq_s + 80 * gpu.sequence_layer_s)
    assert any("one by one" in note for note in cost.fidelity.notes)
    h100 = deploy(model="llama-3.1-70b", hardware="h100-sxm", tensor_parallel_size=2)
    assert h100.hardware_cost == profiles.get(h100.fidelity.profile).cost, "nothing is known of others"


def test_ranks_of_experts_cost_what_kernels_of_one_group_say_of_the_prior() -> None:
    group = deploy(model="minimax-m2.5", hardware="b200", tensor_parallel_size=4)
    ranks = deploy(model="minimax-m2.5", hardware="b200", data_parallel_size=4, enable_expert_parallel=True)
    assert group.fidelity.kind == "composed"
    assert ranks.fidelity.kind == "prior", "nothing was measured of ranks"
    assert any(group.fidelity.profile in note for note in ranks.fidelity.notes)
    arch, gpu = architecture("minimax-m2.5"), hardware("b200")
    bare = hardware_cost(arch, gpu, dp=4, ep=True)
    for tokens in (4, 64, 2048):
        ratio = group.hardware_cost.linear(tokens) / hardware_cost(arch, gpu, tp=4).linear(tokens)
        assert ranks.hardware_cost.linear(tokens) == pytest.approx(bare.linear(tokens) * ratio, rel=0.03)


def test_experts_in_eight_bits_compute_at_a_rate_of_their_own() -> None:
    """Fitted on Qwen3 30B-A3B in fp8; the composed prefill of Qwen3 235B-A22B, which it was not fitted on, agrees."""
    for gpu in ("h100-sxm", "h200", "b200"):
        found = profiles.get(f"qwen3-235b-a22b_{gpu}_tp4_fp8").cost
        prior = hardware_cost(architecture("qwen3-235b-a22b"), hardware(gpu), tp=4, dtype="fp8")
        off = [float(prior.linear(tokens) / found.linear(tokens)) - 1 for tokens in (1024, 2048, 4096, 8192)]
        assert np.median(np.abs(off)) < 0.17, gpu


def test_other_kernels_of_experts_compute_at_another_rate_past_the_weights() -> None:
    cost = profiles.get("gpt-oss-120b_h200_tp1_mxfp4").cost
    other = cost.computing_beyond(128, 0.5)
    assert other.linear(64) == cost.linear(64)
    assert other.linear(8192) - cost.linear(128) == pytest.approx(2 * (cost.linear(8192) - cost.linear(128)))
    assert cost.computing_beyond(128, 1.0).linear_s == pytest.approx(cost.linear_s)


def test_engine_costs_are_explained() -> None:
    arch = architecture("llama-3.1-8b")
    for version in versions():
        cost = engine_cost(arch, version=version)
        assert cost.source
        assert cost.identified_by
        assert cost.front_end_s > 0
    assert engine_cost(arch, tp=2, version="0.19").layer_s <= engine_cost(arch, tp=8, version="0.19").layer_s
    experts = architecture("deepseek-r1")
    wide, narrow = (engine_cost(experts, tp=8, dtype=dtype, version="0.19").layer_s for dtype in ("bf16", "nvfp4"))
    assert wide < narrow < engine_cost(experts, tp=8, dtype="fp8", version="0.19").layer_s
    assert (
        engine_cost(experts, tp=8, dtype="nvfp4", version="0.15").layer_s
        == engine_cost(experts, tp=8, dtype="bf16", version="0.15").layer_s
    )


def test_stated_versions_find_the_nearest_known_one() -> None:
    stated = ("0.23.0 (stock)", "v0.19.0-cu130", "0.12.0", "unstated", "0.15.1")
    assert [nearest_version(one) for one in stated] == ["0.23", "0.19", "0.11.1", "0.23", "0.15"]


def test_deploying_is_quick_and_repeatable() -> None:
    one = deploy(model="r1-distill-llama-70b", hardware="h100-sxm", tensor_parallel_size=4)
    two = deploy(model="r1-distill-llama-70b", hardware="h100-sxm", tensor_parallel_size=4)
    assert one.step_cost == two.step_cost
    assert np.all(np.diff(one.step_cost.linear_ps) >= 0)


@pytest.mark.parametrize(
    ("hardware", "dtype", "median"),
    [("b200", "bf16", 0.039), ("b200", "fp8", 0.063), ("b200", "nvfp4", 0.196), ("l4", "fp8", 0.071)],
)
def test_the_priors_error_is_that_of_its_format_and_gpu(hardware: str, dtype: str, median: float) -> None:
    placed = deploy(model="qwen3-8b", hardware=hardware, dtype=dtype, profile="prior")
    assert placed.fidelity.error_median == median
    assert placed.fidelity.error_p95 > median
