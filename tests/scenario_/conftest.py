"""A scenario that is right, to be broken or changed."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

GOOD = """\
name: good
seed: 7
workload:
  preset: deepseek-r1-production
  rate: 2/s
pools:
  reasoning:
    model: r1-distill-llama-70b
    hardware: h100-sxm
    tensor_parallel_size: 4
    replicas: 2
    engine: {max_num_seqs: 256, max_num_batched_tokens: 8K}
router: round_robin
strategy: {name: single, thinking_token_budget: 16K tokens}
slo: {tta: {p99: 120 s}, ttft: {p95: 2 s}, slowdown: {p50: 4}}
measure: {warmup: 10 min, duration: 2 h, max_drain: 1 h, replications: 5}
"""


@pytest.fixture
def good() -> str:
    return GOOD


@pytest.fixture
def data() -> dict:
    """The same as plain data."""
    from sim.scenario.yaml_file import read_text

    return copy.deepcopy(read_text(GOOD, "good.yaml").data)


@pytest.fixture
def file(tmp_path: Path):
    """Writes a text to a file of the test's folder and gives its path."""

    def make(text: str, name: str = "scenario.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return make
