"""The shipped scenarios of overload show what they say: a storm that outlives its spike, and batch work that fills valleys."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sim import load, simulate
from sim.results.results import Results

pytestmark = pytest.mark.slow


def ran(name: str, *overrides: str) -> Results:
    return simulate(load(name, overrides=overrides))


def quick(results: Results) -> np.ndarray[Any, Any]:
    """Share of the queries answered within two minutes of their first try, by the ten minutes in which they arrived."""
    queries = results.queries[results.queries["in_window"]]
    piece = (queries["arrived_s"] // 600).astype(int)
    return (queries["tta_s"] <= 120).groupby(piece).mean().to_numpy()


def test_a_retry_storm_outlives_its_spike_and_shedding_with_back_off_ends_it() -> None:
    """The spike is in minutes 10 to 13; the last whole ten minutes begin at minute 50."""
    storm, gone, calmed = ran("retry_storm"), ran("retry_storm", "gateway.backoff=null"), ran("retry_storm_calmed")
    before, late = 0, 5
    for results in (storm, gone, calmed):
        assert quick(results)[before] > 0.8
    assert quick(gone)[late] > 0.85  # without second tries it is over by itself
    assert quick(storm)[2:].max() < 0.25
    assert quick(calmed)[late] > 0.75
    assert calmed.summary["goodput"]["value"] > 3 * storm.summary["goodput"]["value"]


def test_batch_fills_the_valleys_and_interactive_queries_hardly_notice() -> None:
    filled = ran("batch_in_the_valleys")
    alone = ran("batch_in_the_valleys", "admission.per_replica={1: 0}", "gateway.backoff=null")
    crowded = ran(
        "batch_in_the_valleys", "admission=null", "gateway.backoff=null", "pools.reasoning.engine.policy=fcfs"
    )

    def tokens_per_s(results: Results) -> float:
        value: float = results.summary["throughput"]["output_tokens_per_s"]
        return value

    def interactive(results: Results, column: str) -> float:
        queries = results.queries
        mine = queries[queries["in_window"] & (queries["category"] == "interactive")]
        if column == "ttft_s":
            requests = results.requests
            mine = requests[requests["in_window"] & (requests["category"] == "interactive")]
        return float(mine[column].quantile(0.99))

    assert tokens_per_s(filled) > 1.8 * tokens_per_s(alone)
    assert interactive(filled, "ttft_s") < 1.1 * interactive(alone, "ttft_s")
    assert interactive(filled, "tta_s") < 1.1 * interactive(alone, "tta_s")
    assert interactive(crowded, "tta_s") > 1.25 * interactive(alone, "tta_s")
    batch = filled.queries[filled.queries["in_window"] & (filled.queries["category"] == "batch")]
    assert (batch["status"] == "completed").mean() > 0.95
