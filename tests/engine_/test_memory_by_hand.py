"""Every kind of KV memory in a case small enough for paper, in both modes: blocks over time, waste, swaps, windows."""

from __future__ import annotations

from typing import Any

import pytest

from calibration.deployment import deploy
from calibration.step_cost import StepCost
from sim.engine.settings import EngineSettings
from sim.policies.schedulers.vllm import Vllm
from sim.results.sinks import REQUEST_ROW, SEGMENT_ROW
from sim.validation.modes import ARRIVE, Case, Cue, Trace, compare

STEP = 1000


def _play(requests: list[dict[str, Any]], **settings: Any) -> Trace:
    """All *requests* at once, blocks of 4, synchronous, no prefix cache, a step takes 1000 ps; equal in both modes."""
    chosen = {
        "num_gpu_blocks": 101,
        "block_size": 4,
        "async_scheduling": False,
        "enable_prefix_caching": False,
        **settings,
    }
    case = Case(
        EngineSettings(**chosen),
        StepCost(host_ps=STEP, linear_ps=(0,), linear_slope_ps=0),
        tuple({"max_tokens": each["output_tokens"], **each} for each in requests),
        tuple(Cue(0, ARRIVE, index) for index in range(len(requests))),
    )
    stepwise, _, found = compare(case, Vllm)
    assert not found, "\n".join(found)
    return stepwise


def _steps(trace: Trace, name: str) -> list[int]:
    return [row[SEGMENT_ROW.index(name)] for row in trace.segments]


def _of(trace: Trace, name: str) -> list[int]:
    return [row[REQUEST_ROW.index(name)] for row in trace.requests]


ONE = [{"prompt_tokens": 6, "output_tokens": 8}]
"""Computed after its steps: 6, 7, … 13 tokens (the last token is never computed)."""


def test_paged_blocks_follow_the_tokens() -> None:
    trace = _play(ONE)
    assert _steps(trace, "live_tokens") == [6, 7, 8, 9, 10, 11, 12, 13]
    assert _steps(trace, "reserved_blocks") == [2, 2, 2, 3, 3, 3, 3, 4]
    assert set(_steps(trace, "unused_blocks")) == {0}


def test_reserved_at_the_peak_blocks_become_used_one_by_one() -> None:
    """20 tokens allowed: 6 + 20 - 1 = 25 tokens, 7 blocks from the start."""
    trace = _play([{**ONE[0], "max_tokens": 20}], reservation="max_tokens")
    assert set(_steps(trace, "reserved_blocks")) == {7}
    assert _steps(trace, "unused_blocks") == [5, 5, 5, 4, 4, 4, 4, 3]


def test_a_window_holds_two_blocks_at_most_beside_the_full_layers() -> None:
    """Two blocks of window from the first step on, since six tokens fill two; full layers as paged."""
    trace = _play(ONE, window_blocks=2)
    assert set(_steps(trace, "window_blocks")) == {2}
    assert _steps(trace, "reserved_blocks") == [4, 4, 4, 5, 5, 5, 5, 6]
    longer = _play(ONE, window_blocks=3)
    assert _steps(longer, "window_blocks") == [2, 2, 2, 3, 3, 3, 3, 3]
    assert _steps(longer, "reserved_blocks") == [4, 4, 4, 6, 6, 6, 6, 7]


def test_a_swapped_victim_comes_back_without_computing() -> None:
    """Five blocks for two of 8 + 5. Each takes two for its prompt; the first takes the fifth for its ninth token, so the
    second, with 8 computed, goes to the host: two blocks, 70 ps. It comes back when the first has ended: 70 ps again,
    and it goes on with one token a step as if nothing had been."""
    two = [{"prompt_tokens": 8, "output_tokens": 5}, {"prompt_tokens": 8, "output_tokens": 5}]
    swapped = _play(two, num_gpu_blocks=6, swap_block_ps=35, swap_blocks=10)
    assert _of(swapped, "preemptions") == [0, 1]
    assert _of(swapped, "scheduled_tokens") == [12, 12]
    assert _of(swapped, "recomputed_tokens") == [0, 0]
    assert _of(swapped, "finished_ps") == [5 * STEP + 70, 9 * STEP + 140]
    recomputed = _play(two, num_gpu_blocks=6)
    assert _of(recomputed, "scheduled_tokens") == [12, 20]
    assert _of(recomputed, "recomputed_tokens") == [0, 8]
    assert _of(recomputed, "finished_ps") == [5 * STEP, 9 * STEP]
    full = _play(two, num_gpu_blocks=6, swap_block_ps=35, swap_blocks=1)
    assert full.requests == recomputed.requests  # no room on the host: computed again


@pytest.mark.parametrize(
    ("model", "options", "bytes_per_token"),
    [
        ("llama-3.1-70b", {}, 2 * 80 * 8 * 128 * 2),  # keys and values, 80 layers, 8 heads of 128, two bytes
        ("llama-3.1-70b", {"kv_cache_dtype": "fp8"}, 2 * 80 * 8 * 128),
        ("deepseek-r1", {"hardware": "h200", "tensor_parallel_size": 8}, 8 * 61 * (512 + 64) * 2),
    ],
)
def test_bytes_of_a_token(model: str, options: dict[str, Any], bytes_per_token: int) -> None:
    """Grouped heads are split over the GPUs; MLA's latent of 512 + 64 is the same on every one of them."""
    placed = deploy(**{"model": model, "hardware": "h100-sxm", "tensor_parallel_size": 4, **options})
    assert placed.memory.kv_bytes_per_token_replica == bytes_per_token


def test_the_longest_context_leaves_room_for_its_windows() -> None:
    """599 usable blocks of 16, nine for the windows: 590 blocks hold 9,440 tokens, and not one more."""
    placed = deploy(model="gpt-oss-20b", hardware="h100-sxm", num_gpu_blocks_override=600)
    assert placed.memory.window_blocks_per_request == 9
    assert placed.max_model_len == 590 * 16
