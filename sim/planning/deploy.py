"""What to deploy: a plan's scenario as vLLM command lines, a Kubernetes manifest, and a load test."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from sim.planning.serve_flags import DTYPES, QUANTIZATIONS
from sim.scenario.check import deployment

if TYPE_CHECKING:
    from sim.scenario.model import Scenario
    from sim.scenario.pools import Pool

IMAGE = "vllm/vllm-openai:latest"
PORT = 8000
_DTYPES = {ours: theirs for theirs, ours in DTYPES.items() if theirs in ("bfloat16", "float16", "float32")}
_QUANTIZATIONS = {ours: theirs for theirs, ours in QUANTIZATIONS.items() if not theirs.startswith(("awq_", "gptq"))}


def serve_arguments(pool: Pool) -> list[str]:
    """Arguments of ``vllm serve`` for one replica of *pool*; what is vLLM's default on this hardware is said too,
    so that a change of default changes nothing."""
    placed, engine = deployment(pool), pool.engine
    hub = placed.architecture.hf[0] if placed.architecture.hf else placed.architecture.name
    said: list[tuple[str, Any]] = [("tensor-parallel-size", pool.tensor_parallel_size)]
    if pool.pipeline_parallel_size > 1:
        said.append(("pipeline-parallel-size", pool.pipeline_parallel_size))
    if pool.data_parallel_size > 1:
        said.append(("data-parallel-size", pool.data_parallel_size))
    if pool.enable_expert_parallel:
        said.append(("enable-expert-parallel", True))
    dtype = placed.dtype
    if dtype != placed.architecture.native_dtype:
        if dtype in _DTYPES:
            said.append(("dtype", _DTYPES[dtype]))
        elif _QUANTIZATIONS.get(dtype):
            said.append(("quantization", _QUANTIZATIONS[dtype]))
    said += [
        ("max-model-len", engine.max_model_len),
        ("max-num-seqs", engine.max_num_seqs),
        ("max-num-batched-tokens", engine.max_num_batched_tokens),
        ("gpu-memory-utilization", f"{engine.gpu_memory_utilization:g}"),
        ("block-size", engine.block_size),
    ]
    if engine.kv_cache_dtype != "auto":
        said.append(("kv-cache-dtype", _DTYPES.get(engine.kv_cache_dtype, engine.kv_cache_dtype)))
    for key, value, default in (
        ("enable-prefix-caching", engine.enable_prefix_caching, None),
        ("enable-chunked-prefill", engine.enable_chunked_prefill, None),
        ("async-scheduling", engine.async_scheduling, None),
        ("scheduling-policy", engine.policy, "fcfs"),
        ("num-gpu-blocks-override", engine.num_gpu_blocks_override, None),
        ("kv-cache-memory-bytes", engine.kv_cache_memory_bytes, None),
        ("long-prefill-token-threshold", engine.long_prefill_token_threshold, 0),
        ("scheduler-reserve-full-isl", engine.scheduler_reserve_full_isl, True),
        ("watermark", engine.watermark, 0.0),
        ("kv-offloading-size", _gibibytes(engine.kv_offloading_size), None),
    ):
        if value is not None and value != default:
            said.append((key, value))
    words = [hub]
    for key, value in said:
        if value is True:
            words.append(f"--{key}")
        elif value is False:
            words.append(f"--no-{key}")
        else:
            words += [f"--{key}", str(value)]
    return words


def _gibibytes(size: int | None) -> str | None:
    return None if size is None else f"{size / 2**30:.12g}"


def serve_command(pool: Pool) -> str:
    """The ``vllm serve`` command line of one replica, an option a line."""
    words = serve_arguments(pool)
    lines = [f"vllm serve {shlex.quote(words[0])}"]
    for word in words[1:]:
        if word.startswith("--"):
            lines.append(f"  {word}")
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n".join(lines) + "\n"


def manifest(scenario: Scenario) -> str:
    """Kubernetes: a Deployment and a Service a pool; replicas that are pods, GPUs that are limits."""
    documents: list[dict[str, Any]] = []
    for name, pool in scenario.pools.items():
        placed = deployment(pool)
        app = re.sub(r"[^a-z0-9-]+", "-", f"vllm-{name}".lower()).strip("-")[:50]
        labels = {"app": app}
        container = {
            "name": "vllm",
            "image": IMAGE,
            "args": serve_arguments(pool),
            "ports": [{"containerPort": PORT}],
            "resources": {"limits": {"nvidia.com/gpu": placed.gpus}},
            "readinessProbe": {"httpGet": {"path": "/health", "port": PORT}, "periodSeconds": 5},
            "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
        }
        documents.append(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": app, "labels": labels},
                "spec": {
                    "replicas": pool.replicas,
                    "selector": {"matchLabels": labels},
                    "template": {
                        "metadata": {"labels": labels, "annotations": {"thinkcap/hardware": placed.hardware.name}},
                        "spec": {
                            "containers": [container],
                            "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
                        },
                    },
                },
            }
        )
        documents.append(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": app},
                "spec": {"selector": labels, "ports": [{"port": PORT, "targetPort": PORT}]},
            }
        )
    return yaml.dump_all(documents, Dumper=_Plain, sort_keys=False)


class _Plain(yaml.SafeDumper):
    """Says everything where it is, without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def load_test(scenario: Scenario, workload: str, *, rate_per_s: float, queries: int) -> str:
    """A script that sends the exported *workload* (vLLM's custom data set) to the deployment and measures it."""
    pool = next(iter(scenario.pools.values()))
    hub = serve_arguments(pool)[0]
    goodput = " ".join(
        f"{metric}:{1000 * target:g}"
        for metric, _, target in scenario.slo.targets()
        if metric in ("ttft", "tpot", "e2e")
    ).replace("e2e:", "e2el:")
    lines = [
        "vllm bench serve",
        f"--model {shlex.quote(hub)}",
        "--base-url http://localhost:8000",
        "--dataset-name custom",
        f"--dataset-path {shlex.quote(workload)}",
        "--custom-output-len -1",  # each row's own
        "--skip-chat-template",
        "--disable-shuffle",
        "--ignore-eos",
        f"--num-prompts {queries}",
        f"--request-rate {rate_per_s:g}",
        "--percentile-metrics ttft,tpot,itl,e2el",
        "--metric-percentiles 50,90,95,99",
        "--save-result --save-detailed",
    ]
    if goodput:
        lines.append(f"--goodput {goodput}")
    return " \\\n  ".join(lines) + "\n"


def differences(scenario: Scenario) -> Sequence[str]:
    """In words, what of *scenario* a deployment by these commands does not have."""
    said = []
    router: Mapping[str, Any] = scenario.resolved().get("router", {})
    name = router.get("name") if isinstance(router, Mapping) else router
    said.append(f"the router is {name} in the plan; a Kubernetes Service spreads connections at random")
    if scenario.strategy.name != "single":
        said.append(f"the strategy {scenario.strategy.name} runs in the gateway, not in vLLM")
    for pool_name, pool in scenario.pools.items():
        if pool.engine.scheduler.name != "vllm":
            said.append(f"the scheduler {pool.engine.scheduler.name} of pool {pool_name} is none of vLLM's")
        if pool.engine.kv is not None and pool.engine.kv.name != "paged":
            said.append(f"the KV policy {pool.engine.kv.name} of pool {pool_name} is none of vLLM's")
        if pool.engine.speculative_config is not None:
            said.append(f"pool {pool_name} drafts tokens: add --speculative-config with your draft model")
        if pool.engine.long_prefill_token_threshold_adaptive:
            said.append(f"the threshold of long prompts of pool {pool_name} adapts; vLLM's is fixed")
        if pool.autoscaling is not None:
            said.append(f"pool {pool_name} scales with its load; the manifest has a fixed number of replicas")
        placed = deployment(pool)
        if placed.dtype != placed.architecture.native_dtype and placed.dtype not in (*_DTYPES, *_QUANTIZATIONS):
            said.append(f"pool {pool_name} has weights in {placed.dtype}: serve a checkpoint that has them")
    return said
