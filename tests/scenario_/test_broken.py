"""Scenarios that are wrong: each is refused with the line, the key, and what to write instead."""

from __future__ import annotations

import re

import pytest

from sim import load
from sim.errors import DoesNotFit, InputError

# (what to replace in the good scenario, by what, line, key, parts of the message)
BROKEN: list[tuple[str, str, int | None, str | None, tuple[str, ...]]] = [
    # names
    ("router: round_robin", "router: round_robbin", 13, "router", ("unknown router", "'round_robin'")),
    (
        "strategy: {name: single",
        "strategy: {name: singel",
        14,
        "strategy.name",
        ("unknown strategy", "'single'"),
    ),
    (
        "max_num_seqs: 256,",
        "scheduler: vlm,",
        12,
        "pools.reasoning.engine.scheduler",
        ("unknown scheduler", "'vllm'"),
    ),
    (
        "max_num_seqs: 256,",
        "scheduler: orca, kv_offloading_size: 64 GiB,",
        12,
        "pools.reasoning.engine.kv_offloading_size",
        ("reserves memory",),
    ),
    (
        "max_num_seqs: 256,",
        "kv: static, kv_offloading_size: 64 GiB,",
        12,
        "pools.reasoning.engine.kv_offloading_size",
        ("not modelled",),
    ),
    (
        "max_num_seqs: 256,",
        "kv: r-kv, kv_offloading_size: 64 GiB,",
        12,
        "pools.reasoning.engine.kv_offloading_size",
        ("not modelled",),
    ),
    (
        "max_num_seqs: 256,",
        "enable_prefix_caching: false, kv_offloading_size: 64 GiB,",
        12,
        "pools.reasoning.engine.kv_offloading_size",
        ("no kv_offloading_size",),
    ),
    (
        "model: r1-distill-llama-70b",
        "model: r1-distil-llama-70b",
        8,
        "pools.reasoning.model",
        ("did you mean",),
    ),
    ("hardware: h100-sxm", "hardware: h100-smx", 9, "pools.reasoning.hardware", ("h100-sxm",)),
    (
        "preset: deepseek-r1-production",
        "preset: deepsek-r1-production",
        4,
        "workload.preset",
        ("deepseek-r1-production",),
    ),
    # keys
    ("seed: 7", "sed: 7", 2, "sed", ("unknown key", "'seed'")),
    ("replicas: 2", "replica: 2", 11, "pools.reasoning.replica", ("unknown key", "'replicas'")),
    ("max_num_seqs: 256", "max_num_seq: 256", 12, "pools.reasoning.engine.max_num_seq", ("'max_num_seqs'",)),
    (
        "max_num_seqs: 256",
        "max-num-seqs: 256",
        12,
        "pools.reasoning.engine.max-num-seqs",
        ("'max_num_seqs'",),
    ),
    (
        "max_num_seqs: 256",
        "num_scheduler_steps: 4",
        12,
        "pools.reasoning.engine.num_scheduler_steps",
        ("not modelled",),
    ),
    ("warmup: 10 min", "warm_up: 10 min", 16, "measure.warm_up", ("'warmup'",)),
    ("ttft: {p95", "tfft: {p95", 15, "slo.tfft", ("'ttft'",)),
    (
        "thinking_token_budget:",
        "thinking_budget:",
        14,
        "strategy.thinking_budget",
        ("no such option", "'thinking_token_budget'"),
    ),
    ("rate: 2/s", "rate: 2/s\n  rates: 3/s", 6, "workload.rates", ("unknown key", "'rate'")),
    (
        "router: round_robin",
        "router: round_robin\npredictor: orakel",
        14,
        "predictor",
        ("unknown predictor 'orakel'", "'oracle'"),
    ),
    # missing
    ("workload:\n  preset: deepseek-r1-production\n  rate: 2/s\n", "", None, "workload", ("missing",)),
    ("    model: r1-distill-llama-70b\n", "", 7, "pools.reasoning.model", ("missing",)),
    ("pools:\n  reasoning:", "pools: {}\nold:\n  reasoning:", 6, "pools", ("empty",)),
    (
        "engine: {max_num_seqs: 256, max_num_batched_tokens: 8K}",
        "engine:",
        12,
        "pools.reasoning.engine",
        ("has no value",),
    ),
    ("strategy: {name: single, ", "strategy: {", 14, "strategy", ("names no policy",)),
    # units
    ("rate: 2/s", "rate: 2", 5, "workload.rate", ("no unit", "2/s")),
    ("rate: 2/s", "rate: 2 s", 5, "workload.rate", ("not a unit", "'2/s'")),
    ("warmup: 10 min", "warmup: 10", 16, "measure.warmup", ("no unit", "10 s")),
    ("duration: 2 h", "duration: 2 GB", 16, "measure.duration", ("not a unit",)),
    ("tta: {p99: 120 s}", "tta: {p99: 120}", 15, "slo.tta.p99", ("no unit", "120 s")),
    ("slowdown: {p50: 4}", "slowdown: {p50: 4 s}", 15, "slo.slowdown.p50", ("not a ratio",)),
    ("16K tokens", "16K", 14, "strategy.thinking_token_budget", ("two ways", "16000 or 16384")),
    ("replicas: 2", "replicas: 2\n    price: 2.5", 12, "pools.reasoning.price", ("no unit", "2.5 USD/h")),
    ("replicas: 2", "replicas: 2\n    price: 2.5 EUR/h", 12, "pools.reasoning.price", ("not a unit",)),
    (
        "max_num_seqs: 256",
        "kv_cache_memory_bytes: 45",
        12,
        "pools.reasoning.engine.kv_cache_memory_bytes",
        ("no unit", "45 GB"),
    ),
    # types and values
    ("seed: 7", "seed: seven", 2, "seed", ("'seven'", "a whole number")),
    ("seed: 7", "seed: -7", 2, "seed", ("at least 0",)),
    ("seed: 7", "seed: 1.5", 2, "seed", ("whole number",)),
    ("seed: 7", "seed: .nan", 2, "seed", ("whole number",)),
    ("seed: 7", "seed: true", 2, "seed", ("whole number",)),
    ("replicas: 2", "replicas: -2", 11, "pools.reasoning.replicas", ("-2", "at least 1")),
    ("replicas: 2", "replicas: 0", 11, "pools.reasoning.replicas", ("at least 1",)),
    ("replicas: 2", "replicas: two", 11, "pools.reasoning.replicas", ("whole number",)),
    ("replicas: 2", "replicas: [2]", 11, "pools.reasoning.replicas", ("whole number",)),
    ("rate: 2/s", "rate: 0/s", 5, "workload.rate", ("more than 0",)),
    ("rate: 2/s", "rate: -1/s", 5, "workload.rate", ("more than 0",)),
    ("rate: 2/s", "rate: nan/s", 5, "workload.rate", ("not a rate",)),
    ("rate: 2/s", "rate: true", 5, "workload.rate", ("true",)),
    ("rate: 2/s", "rate: 2/s\n  queries: true", 6, "workload.queries", ("true",)),
    (
        "max_num_seqs: 256",
        "gpu_memory_utilization: 1.5",
        12,
        "pools.reasoning.engine.gpu_memory_utilization",
        ("at most 1",),
    ),
    (
        "max_num_seqs: 256",
        "gpu_memory_utilization: .nan",
        12,
        "pools.reasoning.engine.gpu_memory_utilization",
        ("not finite",),
    ),
    (
        "max_num_seqs: 256",
        "gpu_memory_utilization: .inf",
        12,
        "pools.reasoning.engine.gpu_memory_utilization",
        ("finite",),
    ),
    ("max_num_seqs: 256", "max_num_seqs: 0", 12, "pools.reasoning.engine.max_num_seqs", ("at least 1",)),
    (
        "max_num_seqs: 256",
        "policy: lifo",
        12,
        "pools.reasoning.engine.policy",
        ("fcfs, priority",),
    ),
    (
        "max_num_seqs: 256",
        "enable_prefix_caching: yes",
        12,
        "pools.reasoning.engine.enable_prefix_caching",
        ("true or false",),
    ),
    ("max_num_seqs: 256", "preemption: swap", 12, "pools.reasoning.engine.preemption", ("recompute",)),
    ("max_num_seqs: 256", "kv_cache_dtype: fp7", 12, "pools.reasoning.engine.kv_cache_dtype", ("fp7",)),
    ("max_num_seqs: 256", "block_size: 0", 12, "pools.reasoning.engine.block_size", ("at least 1",)),
    ("tta: {p99: 120 s}", "tta: {p101: 120 s}", 15, "slo.tta.p101", ("not a percentile",)),
    ("tta: {p99: 120 s}", "tta: {99: 120 s}", 15, "slo.tta.99", ("not a percentile",)),
    ("tta: {p99: 120 s}", "tta: 120 s", 15, "slo.tta", ("a mapping of keys",)),
    ("tta: {p99: 120 s}", "tta: {p99: 0 s}", 15, "slo.tta.p99", ("more than 0",)),
    ("tta: {p99: 120 s}", "tta: {}", 15, "slo.tta", ("empty",)),
    ("replications: 5", "replications: 0", 16, "measure.replications", ("at least 1",)),
    ("pools:\n", "pools: 3\nold:\n", 6, "pools", ("a mapping of keys",)),
    ("name: good", "name: ''", 1, "name", ("empty",)),
    ("name: good", "name: [a]", 1, "name", ("a text",)),
    ("name: good", "name: good\nschema_version: 2", 2, "schema_version", ("2", "1")),
    ("name: good", "name: good\nextends: 5", 2, "extends", ("one file or name",)),
    ("name: good", "name: good\nextends: quickstrat", 2, "extends", ("no such file", "'quickstart'")),
    ("name: good", "name: good\nname: bad", 2, "name", ("given twice",)),
    ("  rate: 2/s", "\trate: 2/s", 5, None, ("a tab",)),
    ("preset: deepseek-r1-production", "trace: none.csv", 4, "workload.trace", ("no such file", "none.csv")),
    ("hardware: h100-sxm", "hardware: gpu.yaml", 9, "pools.reasoning.hardware", ("no such file",)),
    ("model: r1-distill-llama-70b", "model: config.json", 8, "pools.reasoning.model", ("no such file",)),
    # things that do not go together
    ("rate: 2/s", "rate: 2/s\n  trace: base.csv", None, "workload", ("preset and trace exclude",)),
    (
        "rate: 2/s",
        "rate: 2/s\n  lengths: {prompt: 5, output: 9}",
        None,
        "workload",
        ("does not go with a preset",),
    ),
    ("preset: deepseek-r1-production", "arrivals: poisson", None, "workload", ("lengths",)),
    (
        "preset: deepseek-r1-production",
        "arrivals: poison\n  lengths: {prompt: 5, output: 9}",
        4,
        "workload.arrivals.process",
        ("'poisson'",),
    ),
    (
        "preset: deepseek-r1-production",
        "arrivals: {process: gamma, cv: 0}\n  lengths: {prompt: 5, output: 9}",
        4,
        "workload.arrivals.cv",
        ("more than 0",),
    ),
    (
        "preset: deepseek-r1-production",
        "arrivals: poisson\n  lengths: {prompt: {law: lognormol, median: 3, sigma: 1}, output: 9}",
        5,
        "workload.lengths.prompt.law",
        ("'lognormal'",),
    ),
    (
        "preset: deepseek-r1-production",
        "arrivals: poisson\n  lengths: {prompt: {law: lognormal, median: -3, sigma: 1}, output: 9}",
        5,
        "workload.lengths.prompt.median",
        ("more than 0",),
    ),
    ("warmup: 10 min, duration: 2 h", "warmup: 10 min", 16, "measure", ("no end", "measure.duration")),
    ("warmup: 10 min, ", "warmup: 10 min, queries: 50, ", 16, "measure", ("duration or queries",)),
    (
        "thinking_token_budget: 16K tokens",
        "thinking_token_budget: -1",
        14,
        "strategy.thinking_token_budget",
        ("at least 0",),
    ),
    (
        "thinking_token_budget: 16K tokens",
        "thinking_token_budget: {default: 16K tokens, hard: -4}",
        14,
        "strategy.thinking_token_budget.hard",
        ("at least 0",),
    ),
    (
        "name: single, thinking_token_budget: 16K tokens",
        "name: majority_vote, samples: 1e6",
        14,
        "strategy.samples",
        ("at most 4096",),
    ),
    ("tta: {p99: 120 s}", "tta: {p99: 1e400 s}", 15, "slo.tta.p99", ("beyond everything",)),
    ("duration: 2 h", "duration: 101 days", 16, "measure", ("more than 100 days",)),
    ("router: round_robin", "router: ''", 13, "router", ("is not a policy",)),
    ("warmup: 10 min, ", "warmup: 10 min, warmup_queries: 5, ", 16, "measure", ("warmup or warmup_queries",)),
    (
        "tensor_parallel_size: 4",
        "tensor_parallel_size: 3",
        10,
        "pools.reasoning.tensor_parallel_size",
        ("3",),
    ),
    (
        "tensor_parallel_size: 4",
        "data_parallel_size: 4",
        None,
        "pools.reasoning.data_parallel_size",
        ("replicas: 4",),
    ),
    (
        "replicas: 2",
        "replicas: 2\n    profile: no-such-profile",
        None,
        "pools.reasoning.profile",
        ("no-such-profile",),
    ),
    (
        "max_num_seqs: 256",
        "max_model_len: 200K",
        12,
        "pools.reasoning.engine.max_model_len",
        ("204,800", "131,072"),
    ),
    (
        "max_num_seqs: 256",
        "num_gpu_blocks_override: 1001, max_model_len: 20000",
        12,
        "pools.reasoning.engine.max_model_len",
        ("KV pool",),
    ),
    (
        "max_num_batched_tokens: 8K",
        "max_num_batched_tokens: 128",
        12,
        "pools.reasoning.engine.max_num_batched_tokens",
        ("max_num_seqs",),
    ),
    (
        "max_num_batched_tokens: 8K",
        "max_num_batched_tokens: 8K, enable_chunked_prefill: false",
        12,
        "pools.reasoning.engine.max_num_batched_tokens",
        ("chunked prefill",),
    ),
    ("hardware: h100-sxm", "hardware: l4", None, None, ("GiB|GB",)),
]


def broken(good: str, old: str, new: str) -> str:
    assert old in good
    return good.replace(old, new, 1)


@pytest.mark.parametrize(("old", "new", "line", "key", "parts"), BROKEN, ids=[case[1][:50] for case in BROKEN])
def test_refused_with_line_and_key(file, good, old, new, line, key, parts):
    file("arrived_at,num_prefill_tokens,num_decode_tokens\n0,1,1\n", "base.csv")
    path = file(broken(good, old, new))
    with pytest.raises((InputError, DoesNotFit)) as caught:
        load(path)
    text = str(caught.value)
    for part in parts:
        assert re.search(part, text), text
    if isinstance(caught.value, InputError) and key is not None:
        about = [problem for problem in caught.value.problems if problem.key == key]
        assert about, text
        assert any(re.search(parts[0], str(problem)) for problem in about), text
        if line is not None:
            assert {problem.line for problem in about} == {line}, text
            assert {problem.source for problem in about} == {str(path)}


def test_everything_is_said_at_once_in_order(file, good):
    text = good
    for old, new in (
        ("seed: 7", "sed: 7"),
        ("rate: 2/s", "rate: 2"),
        ("replicas: 2", "replicas: none"),
        ("round_robin", "roundrobin"),
        ("p99: 120 s", "p99: 120"),
    ):
        text = broken(text, old, new)
    with pytest.raises(InputError) as caught:
        load(file(text))
    assert [problem.line for problem in caught.value.problems] == [2, 5, 11, 13, 15]


def test_plain_data_is_checked_as_well(data):
    data["pools"]["reasoning"]["replicas"] = -1
    data["extra"] = 1
    with pytest.raises(InputError) as caught:
        load(data)
    assert {problem.key for problem in caught.value.problems} == {"pools.reasoning.replicas", "extra"}


@pytest.mark.parametrize("text", ["workload.rate", "=3", "", "a..b=3", ".a=3", "a.=3", "a b .c=3", "seed="])
def test_overrides_that_set_nothing(text):
    with pytest.raises(InputError, match="sets nothing"):
        load("quickstart", [text])


@pytest.mark.parametrize("source", ["nowhere.yaml", "quikstart", "/", "scenarios", "a\0b"])
def test_sources_that_are_nothing(source):
    with pytest.raises(InputError):
        load(source)
