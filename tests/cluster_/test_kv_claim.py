"""How many requests fit in 45 GB? Reserved at their peak as many as the arithmetic says; paged more, and at a price."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sim import load, simulate
from sim.results.results import Results

STANDARD = ("workload.lengths.reasoning=0", "workload.max_tokens=200", "workload.rate=1000/s")


def _run(*overrides: str, stepwise: bool = False) -> Results:
    return simulate(load("kv_reservation", list(overrides)), stepwise=stepwise)


def _crowded(results: Results) -> tuple[Any, Any]:
    """Requests running while others wait, and for how long."""
    segments = results.segments[results.segments["waiting"] > 0]
    return segments["running"].to_numpy(), (segments["end_s"] - segments["start_s"]).to_numpy()


def test_the_pool_is_the_one_of_the_claim() -> None:
    pool = _run("workload.queries=1", "measure.queries=1").summary["kv"]["pools"]["main"]
    assert pool["kv_bytes_per_token"] == 320 * 1024
    assert pool["num_gpu_blocks"] == 45_000_000_000 // (16 * 320 * 1024) == 8583


@pytest.mark.parametrize(("overrides", "tokens", "fit"), [(STANDARD, 2_200, 62), ((), 22_200, 6)])
def test_as_many_fit_as_their_peaks_do(overrides: tuple[str, ...], tokens: int, fit: int) -> None:
    results = _run(*overrides)
    running, _ = _crowded(results)
    assert (results.requests["prompt_tokens"] + results.requests["max_tokens"] == tokens).all()
    assert running.max() == fit == int(45e9 / (tokens * 320 * 1024))
    assert results.summary["totals"]["preemptions"] == 0
    unused = results.segments["unused_block_s"].sum() / results.segments["reserved_block_s"].sum()
    found = {finding["name"] for finding in results.summary["anomalies"]}
    assert ("reserved_in_vain" in found) == (fit == 6)
    assert unused > 0.03 if fit == 62 else unused > 0.3  # nobody has reached the peak before the end


def test_paged_runs_nearly_twice_as_many_and_computes_nearly_everything_twice() -> None:
    results = _run("pools.main.engine.kv=paged")
    running, time_s = _crowded(results)
    mean = float(np.average(running, weights=time_s))
    assert 10 < mean < 11.6  # the arithmetic's mean context, 12,100 tokens, would let 11.3 in
    requests = results.requests
    recomputed = requests["recomputed_tokens"].sum() / (requests["reasoning_tokens"] + requests["answer_tokens"]).sum()
    assert 0.85 < recomputed < 1.1
    assert "thrashing" in {finding["name"] for finding in results.summary["anomalies"]}
    assert results.summary["kv"]["pools"]["main"]["waste"]["reserved_unused"] == 0


def test_copies_of_a_common_prefix_are_counted_and_named() -> None:
    """Eight samples of one prompt of 1,600 tokens: 100 blocks each; without the prefix cache seven copies are in vain."""
    overrides = [
        "workload.queries=1",
        "measure.queries=1",
        "workload.lengths.prompt=1600",
        "workload.lengths.reasoning=0",
        "workload.lengths.answer=160",
        "pools.main.model=r1-distill-llama-70b",
        "pools.main.engine.kv=paged",
        "pools.main.engine.num_gpu_blocks_override=2000",
        "strategy={name: majority_vote, samples: 8}",
        "quality={benchmark: math-500}",
    ]
    apart = _run(*overrides).segments
    shared = _run(*overrides, "pools.main.engine.enable_prefix_caching=true").segments
    decoding = apart[apart["decodes"] == 8]
    duration = (decoding["end_s"] - decoding["start_s"]).sum()
    assert decoding["duplicate_block_s"].sum() / duration == pytest.approx(7 * 100, rel=1e-12)
    both = shared[shared["decodes"] == 8]
    duration = (both["end_s"] - both["start_s"]).sum()
    assert both["duplicate_block_s"].sum() / duration == pytest.approx(7, rel=1e-12)  # the last block of each prompt
