"""The summary against plain loops over the same rows, its keys, its intervals, and that it is JSON and
deterministic."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from sim.metrics import METRICS, describe, finish, summarise
from sim.metrics.definitions import STATS
from sim.metrics.intervals import interval
from sim.metrics.keys import KEYS
from sim.metrics.usage import _live_area
from sim.results import Results, SloTarget

TOTALS = [
    "queries",
    "requests",
    "completed",
    "rejected",
    "timed_out",
    "cancelled",
    "failed",
    "retried",
    "truncated",
    "unfinished",
    "prompt_tokens",
    "reasoning_tokens",
    "answer_tokens",
    "verification_tokens",
    "recomputed_tokens",
    "dropped_tokens",
    "simulated_s",
    "preemptions",
]


@pytest.fixture(scope="module")
def run(toy):
    work = toy.random_work(3, 300, gap_s=0.4)
    slo = (SloTarget("tta", 99, 1.5), SloTarget("ttft", 95, 0.2), SloTarget("itl", 95, 0.0121))
    done = toy.simulate(work, seats=6, budget=24, blocks=40, window=(work[30][0], work[250][0]), slo=slo)
    finish(done.results)
    return done


def test_keys_are_those_promised(run):
    summary = run.results.summary
    assert list(summary["totals"]) == TOTALS
    assert list(summary["metrics"]) == ["ttft", "ttfo", "tpot", "itl", "e2e", "tta", "queue_time", "slowdown"]
    for name, entry in summary["metrics"].items():
        assert set(STATS) | {"n", "unit"} <= set(entry)
        assert entry["unit"] == METRICS[name].unit
        assert entry["n"] > 0
    expected = {
        "verdict",
        "slo",
        "goodput",
        "cost",
        "kv",
        "fidelity",
        "not_modelled",
        "replications",
        "anomalies",
    }
    assert expected | {"schema_version", "warm_up", "littles_law"} <= set(summary)
    assert summary["not_modelled"] == ["the network"]
    assert summary["fidelity"]["reasoning"]["in_range"] is True
    assert summary["kv"]["pools"]["reasoning"]["memory"]["lines"] == ["80 GB"]


def test_distributions_equal_numpy_on_the_rows_of_the_window(run):
    results, entries = run.results, run.results.summary["metrics"]
    low, high = (getattr(results.runs[0], name) / 1e12 for name in ("window_start_ps", "window_end_ps"))
    queries, requests = results.queries, results.requests
    inside = queries[(queries.arrived_s >= low) & (queries.arrived_s < high)]
    assert (inside.in_window).all()
    assert queries.in_window.sum() == len(inside) == 220
    requests = requests[requests["query"].isin(inside["query"])]
    raw = {
        "tta": inside.finished_s - inside.arrived_s + 0.007,
        "ttfo": requests.first_answer_s - requests.arrived_s + 0.007,
        "ttft": requests.first_token_s - requests.arrived_s + 0.007,
        "e2e": requests.finished_s - requests.arrived_s + 0.007,
        "queue_time": requests.first_scheduled_s - requests.arrived_s,
    }
    many = requests[requests.reasoning_tokens + requests.answer_tokens > 1]
    raw["tpot"] = (many.finished_s - many.first_token_s) / (many.reasoning_tokens + many.answer_tokens - 1)
    for name, values in raw.items():
        entry = entries[name]
        assert entry["n"] == len(values)
        assert entry["mean"] == pytest.approx(values.mean(), rel=1e-9)
        for stat, q in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)):
            assert entry[stat] == pytest.approx(np.quantile(values, q), rel=1e-9)


def test_tpot_and_itl_are_those_of_the_tokens(run):
    for number, times in list(run.tokens.items())[:50]:
        row = run.results.requests.loc[number]
        gaps = np.diff(times) / 1e12
        if len(gaps):
            assert row.tpot_s == pytest.approx(gaps.mean(), rel=1e-9)
        answer = times[int(row.reasoning_tokens) :]
        if len(answer) > 1:
            assert row.answer_tpot_s == pytest.approx((answer[-1] - answer[0]) / (len(answer) - 1) / 1e12, rel=1e-9)
        assert row.ttft_s == pytest.approx((times[0] / 1e12) - row.arrived_s + 0.007, rel=1e-9)


def test_throughput_cost_and_use_by_hand(run):
    results, summary = run.results, run.results.summary
    info = results.runs[0]
    low, high = info.window_start_ps, info.window_end_ps
    length = (high - low) / 1e12
    tokens = sum(low <= at < high for times in run.tokens.values() for at in times)
    assert summary["throughput"]["output_tokens"] == tokens
    assert summary["throughput"]["output_tokens_per_s"] == pytest.approx(tokens / length)
    answered = sum(low / 1e12 <= t < high / 1e12 for t in results.queries.finished_s)
    usd = 2.5 * 2 * length / 3600
    assert summary["cost"]["cost_per_query"] == pytest.approx(usd / answered)
    assert summary["cost"]["usd_per_million_output_tokens"] == pytest.approx(1e6 * usd / tokens)
    busy = sum(
        max(0.0, min(end, high / 1e12) - max(start, low / 1e12))
        for start, end in zip(results.segments.start_s, results.segments.end_s, strict=True)
    )
    assert summary["gpu"]["value"] == pytest.approx(busy / length)
    parts = summary["gpu"]["pools"]["reasoning"]["parts"]
    assert sum(parts.values()) == pytest.approx(1.0)
    assert min(parts.values()) > 0
    use = summary["kv"]["pools"]["reasoning"]
    assert 0 < use["memory_efficiency"] <= 1
    assert use["memory_efficiency"] == summary["kv"]["memory_efficiency"]
    assert 0 < use["use_mean"] < use["use_max"] <= 1


def test_memory_efficiency_by_hand(toy):
    """One request: p tokens after the prefill, one more each step, in blocks of 16."""
    prompt, output = 20, 40
    run = toy.simulate([(0, prompt, 0, output)])
    finish(run.results)
    tokens = [prompt, *range(prompt + 1, prompt + output)]
    steps = [end - start for start, end in zip([0, *run.tokens[0]], run.tokens[0], strict=False)]
    live = sum(t * s for t, s in zip(tokens, steps, strict=True))
    reserved = sum(-(-t // 16) * 16 * s for t, s in zip(tokens, steps, strict=True))
    assert run.results.summary["kv"]["memory_efficiency"] == pytest.approx(live / reserved, rel=1e-12)


def test_live_tokens_over_time_step_by_step(toy):
    """Steps that grow a lot: the closed form equals the sum over steps."""
    cost = replace(toy.COST, kv_ps=10**9)
    results = toy.simulate(toy.random_work(2, 40, gap_s=3.0), cost=cost).results
    part = results.tables["segments"]
    for row, area in zip(results.segments.itertuples(), _live_area(part), strict=True):
        i = np.arange(row.steps)
        steps = row.step_s + i * row.step_growth_s
        assert area == pytest.approx(((row.live_tokens + i * row.decodes) * steps).sum(), rel=1e-9)
    assert (results.segments.steps * results.segments.step_growth_s / results.segments.step_s).max() > 1


def test_slo_shares_and_goodput_by_hand(run):
    results, summary = run.results, run.results.summary
    inside = results.queries[results.queries.in_window]
    ttft = results.requests[results.requests.in_window].ttft_s.to_numpy()
    met = (inside.tta_s.to_numpy() <= 1.5) & (ttft <= 0.2)
    assert 0.5 < met.mean() < 1
    assert (inside.slo_met.to_numpy() == met).all()
    assert summary["slo"]["attainment"] == pytest.approx(met.mean())
    assert summary["goodput"]["value"] == pytest.approx(met.sum() / summary["window"]["total_s"])
    tta, first, gaps = summary["slo"]["targets"]
    assert tta["share"] == pytest.approx((inside.tta_s <= 1.5).mean())
    assert tta["attained"] == pytest.approx(np.quantile(inside.tta_s, 0.99))
    assert tta["met"] is bool((inside.tta_s <= 1.5).mean() >= 0.99)
    assert first["share"] == pytest.approx((ttft <= 0.2).mean())
    window = results.runs[0]
    values = [g for at, g in run.gaps if window.window_start_ps <= at < window.window_end_ps]
    assert gaps["n"] == len(values)
    assert gaps["share"] == pytest.approx(np.mean(np.array(values) <= 12_100_000_000))


def test_json_without_nan_and_the_same_again(run):
    text = json.dumps(run.results.summary, allow_nan=False)
    assert json.dumps(summarise(run.results), allow_nan=False) == text


def test_unfinished_queries_are_censored_not_dropped(toy):
    """The machine is stopped in the middle of an overload: what is open counts as longer, and p99 is not
    known."""
    work = toy.random_work(5, 200, gap_s=0.05)
    stop = work[150][0]
    run = toy.simulate(work, seats=4, window=(0, stop), stop_ps=stop)
    finish(run.results)
    summary = run.results.summary
    unfinished = summary["totals"]["unfinished"]
    assert unfinished > 50
    open_ = run.results.queries[run.results.queries.status == "unfinished"]
    entry = summary["metrics"]["tta"]
    assert entry["censored"] == open_.in_window.sum()
    assert entry["p99"] is None
    assert entry["max"] is None
    longest = max(stop / 1e12 - t for t in run.results.queries.arrived_s[run.results.queries.finished_s.isna()])
    assert entry["p99_at_least"] == pytest.approx(max(longest, run.results.queries.tta_s.max()), rel=0.01)
    completed = run.results.queries.tta_s.dropna()
    assert entry["p50"] is None or entry["p50"] > completed.median()
    assert entry["mean_at_least"] > completed.mean()
    assert {"censored", "overloaded"} <= {finding["name"] for finding in summary["anomalies"]}
    assert summary["slo"]["attainment"] < 1


def test_replications_carry_intervals(toy):
    runs = []
    for replication in range(4):
        work = toy.random_work(20 + replication, 120)
        done = toy.simulate(work, replication=replication, window=(0, work[-1][0]))
        runs.append((done.results.runs[0], done.results.tables))
    results = finish(Results(scenario="name: toy\n", runs=runs))
    entry = results.summary["metrics"]["tta"]
    assert results.summary["replications"] == 4
    pooled = results.queries[results.queries.in_window]
    assert entry["p95"] == pytest.approx(np.quantile(pooled.tta_s, 0.95))
    each = pooled.groupby("replication").tta_s.quantile(0.95).to_numpy()
    half = 3.182446 * each.std(ddof=1) / 2
    assert entry["p95_ci"] == pytest.approx([entry["p95"] - half, entry["p95"] + half], rel=1e-5)
    assert "max_ci" not in entry
    assert results.summary["totals"]["queries"] == 480
    assert results.summary["goodput"]["value_ci"][0] < results.summary["goodput"]["value"]
    assert "mean_ci" in results.summary["metrics"]["itl"]


def test_interval_needs_two_figures():
    assert interval(1.0, [1.0]) is None
    assert interval(1.0, [1.0, math.nan]) is None
    assert interval(2.0, [1.0, 3.0]) == pytest.approx((2 - 12.7062, 2 + 12.7062), rel=1e-4)


def test_describe_a_sample_of_a_category(run):
    from sim.metrics import sample

    coding = run.results.tables["queries"].equals("category", "coding")
    entry = describe(sample(run.results, "tta", where=coding))
    frame = run.results.queries
    assert entry["n"] == ((frame.category == "coding") & frame.in_window).sum()


def test_nothing_measured_is_said(toy, tmp_path):
    """A window in which nobody comes, and a run without a single query."""
    work = toy.random_work(1, 5)
    late = toy.simulate(work, window=(10**15, 10**15 + 1))
    none = toy.simulate([])
    for run in (late, none):
        finish(run.results)
        run.results.save(tmp_path / "run")
        loaded = Results.load(tmp_path / "run")
        assert summarise(loaded)["totals"] == run.results.summary["totals"]
        assert run.results.summary["metrics"]["tta"]["n"] == 0
        assert run.results.summary["metrics"]["tta"]["p99"] is None
        assert "nothing_measured" in {finding["name"] for finding in run.results.summary["anomalies"]}


def test_a_burst_before_which_the_window_is_closed_still_has_a_cost(toy):
    """All come at once and the window is shorter than the first answer: cost is that of the whole run."""
    run = toy.simulate([(0, 10, 0, 20)] * 4, window=(0, 1000))
    cost = finish(run.results).summary["cost"]
    assert cost["basis"] == "run"
    assert cost["queries_completed"] == 4
    hours = 2 * run.results.runs[0].end_ps / 1e12 / 3600
    assert cost["cost_per_query"] == pytest.approx(2.5 * hours / 4)


def test_a_category_can_have_targets_of_its_own(toy):
    """They replace those of all queries for the metric, and for no other category."""
    work = toy.random_work(3, 200, gap_s=0.4)
    slo = (SloTarget("tta", 95, 1.0), SloTarget("tta", 50, 0.2, "proof"), SloTarget("itl", 99, 1.0, "proof"))
    results = finish(toy.simulate(work, seats=6, slo=slo).results)
    frame = results.queries
    proof = frame.category == "proof"
    limit = np.where(proof, 0.2, 1.0)
    assert (frame.slo_met == (frame.tta_s <= limit)).all()
    general, own, gaps = results.summary["slo"]["targets"]
    assert general["share"] == pytest.approx((frame.tta_s[~proof] <= 1.0).mean())
    assert general["n"] + own["n"] == 200
    assert own["share"] == pytest.approx((frame.tta_s[proof] <= 0.2).mean())
    assert own["category"] == "proof"
    assert gaps["met"] is None
    assert "target_not_judged" in {finding["name"] for finding in results.summary["anomalies"]}


def paths(data, prefix="") -> set[str]:
    """Every key of a summary, names replaced as in KEYS."""
    if isinstance(data, list) and data and isinstance(data[0], dict):
        return set().union(*(paths(entry, f"{prefix}[]") for entry in data))
    if not isinstance(data, dict) or not data:
        return {prefix}
    found = set()
    for key, value in data.items():
        name = key
        if prefix == "metrics":
            name = "<metric>"
        elif prefix == "fidelity" or prefix.endswith(".pools"):
            name = "<pool>"
        elif prefix == "metrics.<metric>":
            name = re.sub(rf"^({'|'.join(STATS)})", "<stat>", key)
        path = f"{prefix}.{name}" if prefix else name
        found |= {path} if path in ("runs", "warm_up.stated") else paths(value, path)
    return found


def with_extras(run):
    """The same run as one with a trace cache, a trainer, and prefill elsewhere would describe it."""
    kept = dict.fromkeys(("capacity", "held", "held_most", "held_tokens", "held_tokens_most", "evicted", "expired"), 1)
    times = {"start_ps": 0, "generated_ps": 5 * 10**12, "updated_ps": 6 * 10**12}
    step = {**times, "started": 4, "resumed": 0, "trained": 4, "lag_sum": 0, "lag_most": 0}
    trainer = {"prompts": 4, "max_lag": 0, "training_ps": 10**12, "weight_sync_ps": 0, "training_gpus": 0}
    exits = dict.fromkeys(("generations", "probes", "left", "false", "wanted_tokens", "thought_tokens"), 1)
    pools = tuple(replace(pool, role="decode") for pool in run.pools)
    return replace(run, pools=pools, trace_cache=kept, early_exit=exits, rollout={**trainer, "steps": [step]})


def test_every_key_is_declared_and_every_declared_key_occurs(toy):
    """Over runs that have intervals, censoring, targets known and unknown, and none at all."""
    found = set()
    slo = (SloTarget("tta", 99, 1.5), SloTarget("itl", 95, 0.0121), SloTarget("tta", 50, 1.0, "proof"))
    parts = []
    for replication in range(2):
        work = toy.random_work(3 + replication, 250, gap_s=0.08)
        options = {"window": (0, 10 * toy.PS), "stop_ps": 11 * toy.PS, "slo": slo, "replication": replication}
        done = toy.simulate(work, seats=4, **options)
        parts.append((done.results.runs[0], done.results.tables))
        found |= paths(finish(done.results).summary)
    found |= paths(finish(Results(scenario="", runs=parts)).summary)
    settled = []
    for replication in range(2):
        done = toy.simulate(toy.random_work(replication, 30, gap_s=0.4), slo=slo, replication=replication)
        settled.append((done.results.runs[0], done.results.tables))
    found |= paths(finish(Results(scenario="", runs=settled)).summary)
    found |= paths(finish(Results(scenario="", runs=[(with_extras(run), t) for run, t in settled])).summary)
    assert found - set(KEYS) == set()
    assert set(KEYS) - found == set()
