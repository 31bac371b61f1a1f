"""What is timed: reasoning traffic on one replica of Llama-70B, as a scenario and as a plain list."""

from __future__ import annotations

from typing import Any

from benchmarks.reference import Load
from sim.engine.settings import EngineSettings
from sim.scenario.load import load as load_scenario
from sim.scenario.model import Scenario
from workloads.source import build

RATE = 0.30
"""Requests a second that one replica serves without queueing."""
LONGER_RATE = 0.125
"""Where outputs and their cap are twice as long: at RATE the mean batch is 25.0, here 25 again (23.6 at 0.12, 26.7 at
0.13), since a longer context makes longer steps. Twice the KV blocks, so that neither preempts."""
BLOCKS = 30_000
TIGHT = 14_000
"""Blocks in which the same traffic has to preempt now and then: 0.3 times a request under ``vllm``."""
SQUEEZED = 4_500
"""Blocks in which the same traffic has to preempt over and over, and the queue grows; the longest request takes 3,375."""


def scenario(
    queries: int,
    *,
    caching: bool = False,
    asynchronous: bool = False,
    blocks: int = BLOCKS,
    rate: float = RATE,
    stretch: int = 1,
    scheduler: str = "vllm",
    policy: str = "fcfs",
) -> Scenario:
    """*queries* of prompts near 300 and outputs near 2,000 tokens times *stretch*, Poisson at *rate*."""
    engine: dict[str, Any] = {
        "scheduler": scheduler,
        "policy": policy,
        "num_gpu_blocks_override": blocks,
        "max_num_seqs": 256,
        "max_num_batched_tokens": 8192,
        "enable_prefix_caching": caching,
        "async_scheduling": asynchronous,
    }
    pool = {"model": "llama-3.1-70b", "hardware": "h100-sxm", "tensor_parallel_size": 4, "engine": engine}
    lengths = {
        "prompt": {"law": "lognormal", "median": 300, "sigma": 0.8, "min": 16, "max": 4_000},
        "output": {
            "law": "lognormal",
            "median": 2_000 * stretch,
            "sigma": 1.2,
            "min": 50 * stretch,
            "max": 50_000 * stretch,
        },
    }
    return load_scenario(
        {
            "name": "speed",
            "seed": 1,
            "workload": {"arrivals": "poisson", "rate": f"{rate}/s", "lengths": lengths},
            "strategy": "single",
            "pools": {"pool": pool},
            "measure": {"queries": queries, "max_drain": "1000 h"},
        }
    )


def requests_of(scenario: Scenario, count: int) -> Load:
    """The first *count* requests of the scenario's traffic."""
    source = build(scenario.workload, seed=scenario.seed)
    arrived: list[int] = []
    prompts: list[int] = []
    outputs: list[int] = []
    index = 0
    while len(arrived) < count:
        block = source.block(index)
        assert block is not None
        arrived += block.arrived_ps.tolist()
        prompts += block.num_prefill_tokens.tolist()
        outputs += (block.num_reasoning_tokens + block.num_answer_tokens).tolist()
        index += 1
    return Load(arrived[:count], prompts[:count], outputs[:count])


def engine_settings(scenario: Scenario) -> EngineSettings:
    """The settings of the scenario's only pool, as its replica gets them."""
    from sim.placement import place

    ((name, pool),) = scenario.pools.items()
    return place(name, pool, scenario).settings
