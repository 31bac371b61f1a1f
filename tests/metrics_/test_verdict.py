"""Stable, saturated, overloaded: each seen where theory says so, and no alarm by chance."""

from __future__ import annotations

import numpy as np
import pytest

from sim.metrics import finish, number_in_system
from sim.metrics.verdict import slope
from sim.metrics.warm_up import mser, neighbours_alike, until_filled


def judged(toy, work, **options):
    low, high = work[len(work) // 10][0], work[-1][0]
    return finish(toy.simulate(work, window=(low, high), **options).results).summary


def test_overload_is_seen(toy):
    """Four seats serve about 7 queries a second; 12 come."""
    summary = judged(toy, toy.random_work(1, 500, gap_s=1 / 12, output=30), seats=4)
    assert summary["verdict"] == "overloaded"
    assert "queries an hour" in summary["verdict_reason"]
    assert summary["verdict_detail"]["backlog_slope_low_per_s"] > 0
    # the backlog grows by what comes more than goes
    rate = summary["throughput"]["arrivals_per_s"] - summary["throughput"]["queries_per_s"]
    assert summary["verdict_detail"]["backlog_slope_per_s"] == pytest.approx(rate, rel=0.25)


def test_saturation_is_seen_and_its_cause_named(toy):
    """One seat, busy about 70 % of the time: its queue is blocked most of it, yet it does not grow."""
    work = toy.random_work(2, 500, gap_s=1.0, output=40)
    summary = judged(toy, work, seats=1)
    assert summary["verdict"] == "saturated"
    assert "max_num_seqs" in summary["verdict_reason"]
    shares = summary["verdict_detail"]["pools"]["reasoning"]
    assert shares["seats_full_share"] > 0.2
    assert shares["blocked_by_seats_share"] == pytest.approx(shares["head_blocked_share"])
    found = {finding["name"]: finding["do"] for finding in summary["anomalies"]}
    assert found["head_of_line_blocking"].startswith("raise max_num_seqs")


def test_kv_pressure_is_named(toy):
    """Three long prompts fill the cache; the fourth waits though seats are free."""
    work = [(i * toy.PS // 4, 200, 0, 60) for i in range(200)]
    summary = judged(toy, work, seats=50, blocks=56, budget=400)
    shares = summary["verdict_detail"]["pools"]["reasoning"]
    assert shares["blocked_by_kv_share"] > 0.5
    assert shares["blocked_by_kv_share"] == max(v for k, v in shares.items() if k.startswith("blocked"))
    found = {finding["name"]: finding["do"] for finding in summary["anomalies"]}
    assert found["head_of_line_blocking"].startswith("more KV memory or replicas")


@pytest.mark.parametrize("seed", range(3))
def test_light_load_is_stable(toy, seed):
    summary = judged(toy, toy.random_work(seed, 400, gap_s=1.5), seats=8)
    assert summary["verdict"] == "stable"
    assert not {"overloaded", "saturated", "thrashing"} & {finding["name"] for finding in summary["anomalies"]}


def test_chance_seldom_cries_wolf():
    """Means over parts of a stationary, correlated series: fewer than 5 in 100 are called growing."""
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(400):
        noise = rng.normal(size=40)
        series = np.zeros(40)
        for i in range(1, 40):
            series[i] = 0.6 * series[i - 1] + noise[i]
        alarms += slope(20 + 3 * series[20:], 1000.0).grows
    assert alarms / 400 < 0.05


def test_growth_is_found_and_measured():
    rng = np.random.default_rng(1)
    found = slope(5 + 0.1 * np.arange(20) * 50 + rng.normal(size=20), 1000.0)
    assert found.grows
    assert found.per_s == pytest.approx(0.1, rel=0.05)
    assert found.low_per_s < found.per_s
    assert not slope(np.full(20, 7.0), 1000.0).grows
    filling = 100 * (1 - np.exp(-np.arange(20) / 3.0))
    assert slope(filling, 1000.0).low_per_s > 0
    assert not slope(filling, 1000.0).grows


def test_a_drifting_queue_is_seldom_missed():
    """Random walks that drift by one standard deviation a part."""
    rng = np.random.default_rng(3)
    found = [slope(40 + np.cumsum(5 + 5 * rng.normal(size=20)), 1000.0).grows for _ in range(200)]
    assert np.mean(found) > 0.95


def test_a_closed_loop_cannot_overload(toy):
    work = toy.random_work(1, 300, gap_s=1 / 12, output=30)
    results = toy.simulate(work, seats=4, window=(0, work[-1][0])).results
    results.runs = tuple(type(r)(**{**vars(r), "closed_loop": 300}) for r in results.runs)
    summary = finish(results).summary
    assert summary["verdict"] == "saturated"


def test_number_in_system_is_the_plain_count(toy):
    results = toy.simulate(toy.random_work(4, 80)).results
    edges = np.linspace(0, 30, 16)
    queries = results.queries
    fine = np.linspace(0, 30, 60_001)[:-1] + 0.00025
    count = sum((fine >= a) & (fine < f) for a, f in zip(queries.arrived_s, queries.finished_s, strict=True))
    expected = count.reshape(15, -1).mean(axis=1)
    found = number_in_system(results.tables["queries"], results.runs[0], edges)
    assert found == pytest.approx(expected, abs=0.01)


def test_mser_cuts_the_start_and_nothing_else():
    rng = np.random.default_rng(2)
    filling = np.concatenate([np.linspace(0, 50, 40), np.full(160, 50.0)]) + rng.normal(size=200)
    assert 34 <= mser(filling) <= 50
    # a settled series loses a few values to chance at most
    assert np.mean([mser(50 + rng.normal(size=200)) for _ in range(50)]) < 30


def test_a_rate_that_goes_up_and_down_is_told_from_chance():
    rng = np.random.default_rng(4)
    hours = np.linspace(0, 24, 40)
    assert all(neighbours_alike(rng.poisson(40 + 30 * np.sin(hours / 24 * 6.28)).astype(float)) for _ in range(50))
    assert not any(neighbours_alike(rng.poisson(40, size=40).astype(float)) for _ in range(300))
    assert not neighbours_alike(np.full(40, 7.0))


def test_until_filled_by_hand():
    """All stay 10 s: 1 - t/10 is missing at t, so 9.5 s. Exponential times: exp(-t/mean), so mean · log 20."""
    assert until_filled(np.full(7, 10.0)) == pytest.approx(9.5)
    levels = (np.arange(200_000) + 0.5) / 200_000
    assert until_filled(-30 * np.log1p(-levels)) == pytest.approx(30 * np.log(20), rel=1e-3)
    assert until_filled(np.zeros(3)) == 0.0


def test_a_day_is_no_transient(toy):
    """Arrivals whose rate rises to its noon and falls again; the seats are ample, so nothing but the rate moves."""
    rng = np.random.default_rng(6)
    length = 1200.0
    times = np.sort(rng.uniform(0, length, 3000))
    times = times[rng.uniform(size=3000) < 0.1 + 0.9 * np.sin(times / length * np.pi) ** 2]
    work = [(int(t * toy.PS), 40, 20, 5) for t in times]
    long_enough = finish(toy.simulate(work, seats=50, window=(60 * toy.PS, int(length * toy.PS))).results).summary
    assert long_enough["warm_up"]["method"] == "residual"
    assert long_enough["warm_up"]["adequate"] is True
    assert 0 < long_enough["warm_up"]["suggested_s"] < 60
    steady = finish(toy.simulate(toy.random_work(1, 400, gap_s=1.0), window=(0, 400 * toy.PS)).results).summary
    assert steady["warm_up"]["method"] == "mser"
