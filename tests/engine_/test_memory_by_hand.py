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


def test_a_window_gives_a_block_back_when_the_next_token_reads_nothing_of_it() -> None:
    """A window of 4 in blocks of 4, full layers as paged. The 8th token reads places 4 to 7: the first block goes back as it
    is given its slot, and the third is taken for the 9th. Asynchronously the token before is in flight then, so a block
    goes back in the step that takes one."""
    trace = _play(ONE, sliding_window=4)
    assert _steps(trace, "window_blocks") == [2, 2, 1, 2, 2, 2, 1, 2]
    assert _steps(trace, "reserved_blocks") == [4, 4, 3, 5, 5, 5, 4, 6]
    two = _play(ONE, sliding_window=4, sliding_groups=2)
    assert _steps(two, "window_blocks") == [4, 4, 2, 4, 4, 4, 2, 4]
    trailing = _play(ONE, sliding_window=4, async_scheduling=True)
    assert set(_steps(trailing, "window_blocks")) == {2}
    assert _steps(trailing, "reserved_blocks") == [4, 4, 4, 5, 5, 5, 5, 6]
    longer = _play(ONE, sliding_window=8, async_scheduling=True)
    assert _steps(longer, "window_blocks") == [2, 2, 2, 3, 3, 3, 3, 3]


@pytest.mark.parametrize(("asynchronous", "held"), [(False, [3, 4, 3, 2, 1]), (True, [3, 6, 6, 3, 2])])
def test_a_prefill_keeps_the_windows_of_its_chunk_until_it_is_processed(asynchronous: bool, held: list[int]) -> None:
    """Chunks of 12, 12 and 6 tokens in blocks of 4, a window of 4. The second takes three blocks when 12 tokens are computed,
    of which the last 3 are still read: 2 blocks go back. Asynchronously nothing of the first chunk is processed by then: all
    stay, two go back as the third begins, and the first decode still has the third chunk in flight."""
    one = [{"prompt_tokens": 30, "output_tokens": 3}]
    trace = _play(one, sliding_window=4, max_num_batched_tokens=12, async_scheduling=asynchronous)
    assert _steps(trace, "window_blocks") == held


def test_an_admission_counts_the_windows_of_the_whole_prompt_up_to_those_in_flight() -> None:
    """30 tokens fill 8 blocks. With batches of 8 tokens at the most 3 + 8 are read or in flight: 3 blocks, and one more since
    they may begin anywhere: 12 have to be free beside the 2 of the other."""
    two = [{"prompt_tokens": 4, "output_tokens": 20}, {"prompt_tokens": 30, "output_tokens": 2}]
    for usable, at_once in ((14, True), (13, False)):
        trace = _play(two, sliding_window=4, max_num_batched_tokens=8, num_gpu_blocks=1 + usable)
        assert (_of(trace, "first_scheduled_ps")[1] == 0) == at_once


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
    """599 usable blocks of 16. With batches of 1,000 tokens 2,127 are in windows and in flight: 133 blocks and one more, which
    leaves 465. With batches of 8,192 the windows hold all, and one more: 299 blocks twice."""
    placed = deploy(model="gpt-oss-20b", hardware="h100-sxm", num_gpu_blocks_override=600, max_num_batched_tokens=1000)
    assert placed.memory.window_blocks_per_request == 9
    assert placed.max_model_len == 465 * 16
    assert deploy(model="gpt-oss-20b", hardware="h100-sxm", num_gpu_blocks_override=600).max_model_len == 299 * 16
