"""Reasoning in chunks: what it does for short queries, by hand and by measure."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from calibration.step_cost import StepCost
from sim import load, simulate
from sim.engine.replica import make_replica
from sim.engine.request import Request
from sim.engine.settings import EngineSettings
from sim.errors import InputError
from sim.policies.schedulers import scheduler
from sim.policies.schedulers.chunked_reasoning import ChunkedReasoning, _Notes
from sim.results.columns import Status

STEP = 1000


def _ends(name: str, options: dict[str, Any], *, stepwise: bool, swap: int = 0, blocks: int = 100) -> list[int]:
    """When a chain of 100 tokens and a query of 3, which comes at its tenth step, end in an engine with one seat."""
    settings = EngineSettings(
        num_gpu_blocks=blocks, block_size=4, max_num_seqs=1, async_scheduling=False, enable_prefix_caching=False,
        swap_block_ps=swap, swap_blocks=1000 if swap else 0,
    )  # fmt: skip
    cost = StepCost(host_ps=STEP, linear_ps=(0,), linear_slope_ps=0)
    replica = make_replica(settings, cost, scheduler.make(name, options), stepwise=stepwise)
    long = Request(0, arrived_ps=0, prompt_tokens=4, output_tokens=100, reasoning_tokens=90, max_tokens=100)
    short = Request(1, arrived_ps=10 * STEP, prompt_tokens=4, output_tokens=3, reasoning_tokens=1, max_tokens=3)
    replica.submit(long, 0)
    end, waiting = replica.plan(0), [short]
    while end is not None:
        now = min(end, short.arrived_ps) if waiting else end
        if now == end:
            replica.complete(now)
        if waiting and now == short.arrived_ps:
            replica.submit(waiting.pop(), now)
        end = replica.plan(now)
    return [long.finished_ps, short.finished_ps]


@pytest.mark.parametrize("stepwise", [True, False])
def test_a_short_query_waits_for_the_end_of_a_chunk_not_of_a_chain(stepwise: bool) -> None:
    assert _ends("vllm", {}, stepwise=stepwise) == [100 * STEP, 103 * STEP]
    kept = _ends("chunked_reasoning", {"quantum_tokens": 20}, stepwise=stepwise)
    assert kept == [103 * STEP, 23 * STEP]  # nothing is lost: the chain ends three steps later
    again = _ends("chunked_reasoning", {"quantum_tokens": 20, "between_chunks": "recompute"}, stepwise=stepwise)
    assert again == [103 * STEP, 23 * STEP]  # one prefill of what it had, in one step, yields its next token
    host = _ends("chunked_reasoning", {"quantum_tokens": 20, "between_chunks": "host"}, stepwise=stepwise, swap=10)
    assert host == [103 * STEP + 12 * 10, 23 * STEP + 6 * 10]  # 23 computed tokens: six blocks out, six in


@pytest.mark.parametrize("stepwise", [True, False])
def test_a_parked_chunk_is_reclaimed_when_nothing_else_can_run(stepwise: bool) -> None:
    """The pool holds the chain alone: its chunk is thrown away for the short query, and computed again."""
    ends = _ends("chunked_reasoning", {"quantum_tokens": 20}, stepwise=stepwise, blocks=28)
    tight = _ends("chunked_reasoning", {"quantum_tokens": 95}, stepwise=stepwise, blocks=28)
    assert ends == [103 * STEP, 23 * STEP]
    assert tight[0] == 100 * STEP  # answers are not interrupted


def test_short_queries_gain_and_the_longest_pay() -> None:
    """Reasoning traffic on a replica with few seats: answers of under 512 tokens come several times sooner."""
    work = {"preset": "deepseek-r1-production", "rate": "1.2/s", "queries": 400}
    short_s, long_s, tail_s = {}, {}, {}
    for name, options in (("vllm", {}), ("chunked_reasoning", {"quantum_tokens": 512})):
        results = simulate(load(_scenario({"name": name, **options}, workload=work, measure={})))
        requests = results.tables["requests"]
        assert (requests["status"] == Status.COMPLETED).all()
        short = requests["reasoning_tokens"] + requests["answer_tokens"] < 512
        assert short.sum() > 50
        short_s[name] = float(requests["e2e_s"][short].mean())
        long_s[name] = float(requests["e2e_s"][~short].mean())
        tail_s[name] = float(np.quantile(requests["e2e_s"][~short], 0.99))
    assert short_s["chunked_reasoning"] < short_s["vllm"] / 5
    assert long_s["chunked_reasoning"] < long_s["vllm"]
    assert tail_s["chunked_reasoning"] > 1.2 * tail_s["vllm"]


def _scenario(chosen: dict[str, Any], kv: str | None = None, **more: Any) -> dict[str, Any]:
    engine: dict[str, Any] = {"scheduler": chosen, "max_num_seqs": 16} | ({"kv": kv} if kv else {})
    return {
        "name": "chunks",
        "seed": 3,
        "workload": {"preset": "deepseek-r1-production", "rate": "1/s"},
        "pools": {"a": {"model": "r1-distill-llama-8b", "hardware": "h100-sxm", "engine": engine}},
        "measure": {"queries": 10},
        **more,
    }


@pytest.mark.parametrize(
    ("between", "kv", "good"), [("host", None, False), ("host", "swap", True), ("keep", "swap", False)]
)
def test_chunks_go_to_the_host_only_where_there_is_a_way(between: str, kv: str | None, good: bool) -> None:
    data = _scenario({"name": "chunked_reasoning", "between_chunks": between}, kv)
    if good:
        load(data)
        return
    with pytest.raises(InputError, match="between_chunks: host together with kv: swap"):
        load(data)


def test_of_those_parked_in_one_instant_the_first_to_come_goes_on_first() -> None:
    """They were parked by what was left of their chunks, which is not the order of the queue."""
    policy, resumed = ChunkedReasoning(), []
    requests = [Request(number, arrived_ps=0, prompt_tokens=4, output_tokens=9) for number in range(3)]
    for request, yielded_ps in zip(requests, (50, 50, 60), strict=True):
        request.yielded_ps = yielded_ps
    parked = dict.fromkeys([requests[1], requests[0], requests[2]])
    step: Any = SimpleNamespace(
        seats=1,
        now_ps=100,
        number=7,
        settings=EngineSettings(num_gpu_blocks=9),
        resume=resumed.append,
        candidates=lambda: iter(()),
    )
    policy._resume(step, _Notes({}, parked), set())
    assert resumed == [requests[0]]
    assert list(parked) == [requests[1], requests[2]]
