"""A scenario from a deployment is the inverse of what a plan says to deploy, and ignores nothing in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sim.cli.main import main
from sim.errors import InputError
from sim.planning import deploy
from sim.planning.from_kubernetes import pools_of
from sim.planning.from_serve import is_serve, served, words_of
from sim.scenario.load import load, shipped
from sim.scenario.model import Scenario
from sim.scenario.pools import Pool

NOT_VLLM = {"schedulers", "kv_reservation"}
"""Shipped scenarios whose scheduler or KV policy no command line of vLLM can name."""
SETTINGS: list[dict[str, Any]] = [
    {"model": "qwen3-32b", "tensor_parallel_size": 2},
    {"model": "deepseek-r1", "hardware": "h200", "data_parallel_size": 8, "enable_expert_parallel": True},
    {"model": "llama-3-70b", "tensor_parallel_size": 4, "pipeline_parallel_size": 2, "dtype": "fp8"},
    {"model": "qwen3-8b", "dtype": "int4", "engine": {"kv_cache_dtype": "fp8", "max_model_len": 16000}},
    {"model": "qwen3-8b", "engine": {"enable_prefix_caching": False, "async_scheduling": False}},
    {"model": "qwen3-8b", "engine": {"policy": "priority", "num_gpu_blocks_override": 5000}},
    {"model": "qwen3-8b", "engine": {"kv_cache_memory_bytes": "12345678901 B", "block_size": 32}},
    {"model": "qwen3-8b", "engine": {"long_prefill_token_threshold": 512, "watermark": 0.01}},
    {"model": "qwen3-8b", "engine": {"scheduler_reserve_full_isl": False, "gpu_memory_utilization": 0.85}},
    {"model": "qwen3-8b", "engine": {"enable_chunked_prefill": False, "max_num_seqs": 64}},
    {"model": "qwen3-8b", "engine": {"kv_offloading_size": 64}},
]


def scenario_of(pools: dict[str, Any]) -> Scenario:
    return load(
        {
            "name": "back",
            "workload": {"preset": "deepseek-r1-production", "rate": "1/s", "queries": 10},
            "pools": pools,
        }
    )


def alike(pool: Pool) -> dict[str, Any]:
    """What a command line can say of *pool*: one name a model, no price, no profile, no part in the scenario."""
    placed = deploy.deployment(pool)
    data = pool.model_dump(
        mode="json", exclude={"price", "profile", "autoscaling", "replicas", "role", "model", "dtype"}
    )
    return {**data, "architecture": placed.architecture.name, "dtype": placed.dtype, "kv": placed.kv_cache_dtype}


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: json.dumps(s)[:60])
def test_a_pool_comes_back_from_its_command_line(settings: dict[str, Any]) -> None:
    pool = scenario_of({"only": {"hardware": "h100-sxm", **settings}}).pools["only"]
    words = words_of("#!/bin/sh\nset -eu\n" + deploy.serve_command(pool))
    assert is_serve(words)
    back = scenario_of({"only": {**served(words).pool, "hardware": pool.hardware}}).pools["only"]
    assert alike(back) == alike(pool)


@pytest.mark.parametrize("name", sorted(set(shipped()) - NOT_VLLM))
def test_every_shipped_scenario_comes_back_from_its_manifest(name: str) -> None:
    scenario = load(name)
    manifest = deploy.manifest(scenario)
    back = scenario_of(dict(pools_of(manifest, "kubernetes.yaml")))
    assert list(back.pools) == list(scenario.pools)
    for pool, original in scenario.pools.items():
        assert back.pools[pool].replicas == original.replicas
        assert alike(back.pools[pool]) == alike(original)


def test_the_command_writes_a_scenario_that_runs_and_says_what_it_assumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.yaml"
    line = (
        "CUDA_VISIBLE_DEVICES=0,1 vllm serve Qwen/Qwen3-32B -tp=2 --max_num_seqs 128 --port 80 --no-async-scheduling &"
    )
    assert main(["scenario-from", line, "--hardware", "h100-sxm", "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert "--port" in said
    assert "deepseek-r1-production at 1/s is assumed" in said
    pool = load(out).pools["served"]
    assert (pool.tensor_parallel_size, pool.engine.max_num_seqs, pool.engine.async_scheduling) == (2, 128, False)


def test_unknown_and_unmodelled_options_are_all_named(capsys: pytest.CaptureFixture[str]) -> None:
    line = "vllm serve Qwen/Qwen3-8B --max-nun-seqs 9 --speculative-config '{}' --frobnicate --max-model-len"
    assert main(["scenario-from", line, "--hardware", "h100-sxm"]) == 2
    said = capsys.readouterr().err
    assert "did you mean 'max-num-seqs'" in said
    assert "--speculative-config: is an option of vLLM that is not modelled" in said
    assert "--frobnicate" in said
    assert "--max-model-len has no value" in said
    kept = served(words_of("vllm serve Qwen/Qwen3-8B --enforce-eager --seed 3"), leave_out=["enforce_eager"])
    assert (kept.left_out, kept.unchanged) == (["enforce-eager"], ["seed"])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ls -l", "starts no vLLM server"),
        ("vllm serve", "no model"),
        ("vllm serve a 'b", "is no shell command"),
        ("vllm serve Qwen/Qwen3-8B other", "is no option"),
        ("vllm serve Qwen/Qwen3-8B --dtype bf17", "is no number format"),
        ("vllm serve Qwen/Qwen3-8B --quantization compressed-tensors", "does not say how many bits"),
        ("vllm serve $MODEL", "is a variable"),
        ("vllm serve Qwen/Qwen3-8B --max-num-seqs $SEATS", "is a variable"),
        ("vllm serve Qwen/Qwen3-8B --max-num-seqs many", "max_num_seqs"),
        ("vllm serve someone/unheard-of", "unknown model"),
    ],
)
def test_what_cannot_be_read_is_one_clear_error(line: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scenario-from", line, "--hardware", "h100-sxm"]) == 2
    assert expected in capsys.readouterr().err


def test_the_gpu_must_be_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scenario-from", "vllm serve Qwen/Qwen3-8B"]) == 2
    assert "--hardware" in capsys.readouterr().err


def test_a_config_file_of_vllm_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: Qwen/Qwen3-8B\nmax_num_seqs: 7\nenable-prefix-caching: false\n")
    found = served(words_of(f"vllm serve --config {tmp_path / 'config.yaml'} --max-num-seqs 9"))
    assert found.pool["model"] == "Qwen/Qwen3-8B"
    assert found.pool["engine"] == {"max_num_seqs": 9, "enable_prefix_caching": False}


KSERVE = """
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: qwen}
spec:
  predictor:
    minReplicas: 3
    nodeSelector: {nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3}
    model:
      modelFormat: {name: huggingface}
      storageUri: hf://Qwen/Qwen3-8B
      args: [--max-model-len=8192, --tensor-parallel-size=2]
"""
LLM_SERVICE = """
apiVersion: serving.kserve.io/v1alpha1
kind: LLMInferenceService
metadata: {name: qwen}
spec:
  model: {uri: "hf://Qwen/Qwen3-8B"}
  replicas: 3
  parallelism: {tensor: 2}
  template:
    nodeSelector: {nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3}
    containers: [{name: main, args: [--max-model-len=8192]}]
"""
STACK = """
servingEngineSpec:
  modelSpec:
  - name: qwen
    modelURL: Qwen/Qwen3-8B
    replicaCount: 3
    nodeSelectorTerms:
    - matchExpressions: [{key: nvidia.com/gpu.product, operator: In, values: [NVIDIA-H100-80GB-HBM3]}]
    vllmConfig: {tensorParallelSize: 2, maxModelLen: 8192, enablePrefixCaching: true}
"""
LLM_D = """
modelArtifacts: {uri: "hf://Qwen/Qwen3-8B", name: Qwen/Qwen3-8B}
decode:
  replicas: 3
  nodeSelector: {nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3}
  parallelism: {tensor: 2}
  containers: [{name: vllm, modelCommand: vllmServe, args: [--max-model-len, "8192"]}]
prefill: {create: false}
"""
CHART = """
image: {repository: vllm/vllm-openai, command: [vllm, serve, Qwen/Qwen3-8B, --max-model-len, "8192", -tp, "2"]}
replicaCount: 3
nodeSelector: {nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3}
"""
SHELL = """
kind: Deployment
metadata: {name: qwen}
spec:
  replicas: 3
  template:
    spec:
      nodeSelector: {nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3}
      containers:
      - name: proxy
        image: nginx
      - name: vllm
        image: vllm/vllm-openai:v0.11
        command: [/bin/sh, -c, "exec vllm serve Qwen/Qwen3-8B --max-model-len 8192 -tp 2"]
---
kind: Service
metadata: {name: qwen}
"""


@pytest.mark.parametrize("text", [KSERVE, LLM_SERVICE, STACK, LLM_D, CHART, SHELL])
def test_manifests_and_helm_values_of_others(text: str) -> None:
    found = pools_of(text, "values.yaml")
    (pool,) = found.values()
    assert (pool["model"], pool["replicas"], pool["tensor_parallel_size"]) == ("Qwen/Qwen3-8B", 3, 2)
    assert pool["engine"]["max_model_len"] == 8192
    assert scenario_of(dict(found)).pools[next(iter(found))].hardware in ("h100", "h100-sxm")


def test_what_starts_no_server_is_refused() -> None:
    with pytest.raises(InputError, match="starts no vLLM server"):
        pools_of("kind: Service\n", "values.yaml")
    with pytest.raises(InputError, match="is no YAML"):
        pools_of("a: [", "values.yaml")
    with pytest.raises(InputError, match="prefill"):
        pools_of(yaml.safe_dump({**yaml.safe_load(LLM_D), "prefill": {"create": True}}), "values.yaml")
