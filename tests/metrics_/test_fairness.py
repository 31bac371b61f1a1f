"""Who suffers, and the signs of thrashing: by hand, and reacting to what they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from sim.metrics import finish, summarise
from sim.metrics.anomalies import anomalies
from sim.metrics.fairness import jain


def test_jain_by_hand():
    assert jain(np.array([3.0, 3.0, 3.0])) == pytest.approx(1.0)
    assert jain(np.array([5.0, 0.0, 0.0, 0.0])) == pytest.approx(0.25)
    assert jain(np.array([1.0, 2.0, np.nan])) == pytest.approx(9 / 10)


@pytest.fixture(scope="module")
def summary(toy):
    results = toy.simulate(toy.random_work(8, 400, gap_s=0.12), seats=5).results
    return finish(results)


def test_deciles_and_clients_cover_everything_once(summary):
    fairness, queries = summary.summary["fairness"], summary.queries
    deciles = fairness["by_length_decile"]
    assert [entry["n"] for entry in deciles] == [40] * 10
    tokens = np.sort(queries.reasoning_tokens + queries.answer_tokens)
    assert deciles[0]["tokens_max"] == tokens[39]
    assert deciles[9]["tokens_min"] == tokens[360]
    mean = sum(entry["slowdown_mean"] * entry["n"] for entry in deciles) / 400
    assert mean == pytest.approx(queries.slowdown.mean())
    clients = {entry["client"]: entry for entry in fairness["by_client"]}
    for client, rows in queries.groupby("client", observed=True):
        assert clients[client]["n"] == len(rows)
        assert clients[client]["slowdown_mean"] == pytest.approx(rows.slowdown.mean())
    assert sum(entry["share_of_service"] for entry in clients.values()) == pytest.approx(1.0)
    service = summary.requests.groupby("client", observed=True).scheduled_tokens.sum()
    assert clients["a"]["share_of_service"] == pytest.approx(service["a"] / service.sum())
    assert fairness["longest_wait_s"] == pytest.approx(summary.requests.queue_s.max())


def test_short_queries_behind_long_ones_are_seen(toy):
    """Two seats, long and short mixed: the short ones wait as long and are slowed down far more."""
    rng = np.random.default_rng(0)
    work = [(i * toy.PS // 3, 20, 0, 3 if rng.random() < 0.5 else 100) for i in range(300)]
    results = finish(toy.simulate(work, seats=2).results)
    deciles = results.summary["fairness"]["by_length_decile"]
    assert deciles[0]["slowdown_mean"] > 5 * deciles[9]["slowdown_mean"]
    assert "unfair_to_short" in {finding["name"] for finding in results.summary["anomalies"]}
    assert results.summary["fairness"]["jain_queries"] < 0.7


def test_thrash_indicator_reacts_to_kv_memory_alone(toy):
    """The same work with less and less KV memory: no recomputation, some, more than a tenth."""
    work = [(i * toy.PS // 5, 40, 0, 120) for i in range(120)]
    ratios = {}
    for blocks in (1000, 50, 24):
        run = toy.simulate(work, seats=32, budget=512, blocks=blocks)
        summary = finish(run.results).summary
        ratios[blocks] = summary["pressure"]["recomputed_per_generated"]
        requests = run.results.requests
        generated = (requests.reasoning_tokens + requests.answer_tokens).sum()
        assert ratios[blocks] == pytest.approx(requests.recomputed_tokens.sum() / generated)
        assert summary["pressure"]["preemptions_per_request"] == pytest.approx(run.preemptions / 120)
        assert ("thrashing" in {f["name"] for f in summary["anomalies"]}) == (ratios[blocks] > 0.1)
    assert ratios[1000] == 0 < ratios[50] < ratios[24]
    assert ratios[24] > 0.1


def test_starvation_age_is_the_longest_wait_or_stall(toy):
    work = [(i * toy.PS // 5, 40, 0, 120) for i in range(120)]
    run = toy.simulate(work, seats=32, budget=512, blocks=24)
    pressure = finish(run.results).summary["pressure"]
    stall, wait = run.results.stalls.gap_s.max(), run.results.requests.queue_s.max()
    assert pressure["longest_stall_s"] == pytest.approx(stall)
    assert pressure["starvation_age_s"] == pytest.approx(max(stall, wait))


def test_one_that_is_passed_over_starves_and_all_who_wait_alike_do_not(toy):
    """One of 300 stands still for a minute, the others hardly wait: starving. In overload all wait long: it is not."""
    quick = [(i * toy.PS, 20, 0, 5) for i in range(300)]
    calm = finish(toy.simulate(quick, seats=4).results)
    names = {finding["name"] for finding in calm.summary["anomalies"]}
    assert "starving" not in names
    queue = calm.tables["requests"].columns["queue_s"]
    queue[7] = 61.0
    calm.tables["requests"].columns["first_scheduled_s"][7] += 61.0  # those behind it have begun by then
    found = {finding["name"] for finding in anomalies(calm, summarise(calm))}
    assert "starving" in found
    queue[:] = np.linspace(0, 120, len(queue))
    assert "starving" not in {finding["name"] for finding in anomalies(calm, summarise(calm))}


def test_every_anomaly_says_what_to_do(toy):
    run = toy.simulate(toy.random_work(5, 200, gap_s=0.05), seats=4, window=(0, 10 * toy.PS), stop_ps=11 * toy.PS)
    found = finish(run.results).summary["anomalies"]
    assert found
    for finding in found:
        assert set(finding) == {"name", "severity", "what", "do"}
        assert all(finding.values())
        assert finding["severity"] in ("warning", "note")
