"""Metrics on runs of the simulator itself: all adds up under pressure, and survives a trip to disk."""

from __future__ import annotations

import json

import pytest

from sim import load, simulate
from sim.cli.explain import explain
from sim.metrics import summarise
from sim.results import Results

SCENARIO = """
name: pressure
seed: 11
workload: {{preset: deepseek-r1-production, rate: 2/s}}
pools:
  reasoning:
    model: r1-distill-llama-70b
    hardware: h100-sxm
    tensor_parallel_size: 4
    replicas: 1
    price: 2.50 USD/h
    engine: {{num_gpu_blocks_override: 4000, max_model_len: 60000, max_num_batched_tokens: 512, {engine}}}
gateway: {{timeout: {timeout}}}
slo: {{tta: {{p99: 120 s}}, ttft: {{p95: 2 s}}, itl: {{p99: 50 ms}}}}
measure: {{warmup: 20 s, duration: 60 s, max_drain: {drain}, replications: 2}}
"""


@pytest.fixture(
    scope="module",
    params=["async_scheduling: true", "async_scheduling: false", "enable_prefix_caching: false"],
)
def results(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("scenario") / "pressure.yaml"
    timeout = "10 min" if "prefix" in request.param else "90 s"
    path.write_text(SCENARIO.format(engine=request.param, timeout=timeout, drain="3 min"))
    return simulate(load(path))  # raises a BalanceError when anything does not add up


def test_the_run_had_pressure_and_every_kind_of_end(results):
    totals = results.summary["totals"]
    assert totals["preemptions"] > 0
    assert totals["recomputed_tokens"] > 0
    assert totals["completed"] > 50
    assert totals["timed_out"] + totals["unfinished"] > 0
    assert results.summary["littles_law"]["relative_difference"] < 1e-9


def test_a_trip_to_disk_changes_no_figure(results, tmp_path):
    results.save(tmp_path)
    loaded = Results.load(tmp_path)
    assert json.dumps(loaded.summary) == json.dumps(results.summary)
    again, first = summarise(loaded), dict(results.summary)
    for summary in (again, first):  # what the steps' time went to needs the step cost, which is not on disk
        summary.pop("gpu")
        summary.pop("energy")
    assert again == first


def test_every_query_has_a_story(results):
    queries = results.queries
    for status in queries.status.unique():
        row = queries[queries.status == status].iloc[0]
        lines = explain(results, int(row["query"]), int(row["replication"]))
        assert len(lines) >= 3
        assert not any("nan" in line or "—" in line for line in lines), lines


def test_slowdown_is_at_least_one(results):
    """Nobody is faster in company, but for what the prefix cache saves."""
    queries, requests = results.queries, results.requests
    plain = requests.cached_tokens.to_numpy() == 0
    slowdown = queries.slowdown[plain & queries.slowdown.notna().to_numpy()]
    assert len(slowdown) > 50
    assert slowdown.min() > 1 - 1e-12
