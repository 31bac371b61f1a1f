"""How each kind of query fares, who is passed over, and what the page says of a fleet: over runs with tiers and losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sim import load, simulate
from sim.report import exhibits, facts, serving
from sim.results.results import Results

LENGTHS = {"prompt": 200, "reasoning": 150, "answer": 50}
BASE: dict[str, Any] = {
    "name": "tiers",
    "seed": 1,
    "workload": {
        "arrivals": "poisson",
        "rate": "20/s",
        "categories": {
            "chat": {"weight": 1, "priority": 0, "lengths": LENGTHS},
            "batch": {"weight": 1, "priority": 5, "lengths": LENGTHS},
        },
    },
    "pools": {"main": {"model": "llama-3.1-8b", "hardware": "h100-sxm", "engine": {"policy": "priority"}}},
    "slo": {"ttft": {"p90": "1 s"}},
    "measure": {"duration": "20 s"},
}


def run(**sections: Any) -> Results:
    return simulate(load(BASE | sections))


def test_kinds_against_plain_loops_over_the_rows() -> None:
    results = run(admission={"name": "priority_tiers", "per_replica": {0: 60, 5: 8}})
    chat, batch = results.summary["fairness"]["by_kind"]
    assert (chat["category"], chat["priority"], batch["category"], batch["priority"]) == ("chat", 0, "batch", 5)
    queries = results.queries[results.queries["in_window"]]
    requests = results.requests[results.requests["in_window"]]
    length_s = results.summary["window"]["total_s"]
    for kind in (chat, batch):
        own = queries[queries["category"] == kind["category"]]
        done = own[own["status"] == "completed"]
        assert (kind["n"], kind["completed"]) == (len(own), len(done))
        assert kind["rejected"] == (own["status"] == "rejected").sum()
        assert kind["slo_attainment"] == pytest.approx(own["slo_met"].mean())
        assert kind["tta_p95_s"] == pytest.approx(np.quantile(done["tta_s"], 0.95))
        answered = requests[(requests["category"] == kind["category"]) & requests["ttft_s"].notna()]
        assert kind["ttft_p50_s"] == pytest.approx(np.quantile(answered["ttft_s"], 0.5))
        tokens = (done["reasoning_tokens"] + done["answer_tokens"]).sum()
        assert kind["output_tokens_per_s"] == pytest.approx(tokens / length_s)
    assert chat["rejected"] == 0 < batch["rejected"]
    assert facts.limit(results).startswith("admission control turns away")
    (kinds,) = exhibits._kinds(results)
    assert [row[0] for row in kinds.rows] == ["chat (priority 0)", "batch (priority 5)"]
    assert len(results.summary["banners"]) == 1  # one example of one kind


def test_who_waits_in_turn_is_not_starved() -> None:
    """Both wait for over 30 s; first come, first served nobody is passed over, and the scheduler is not blamed."""
    engine = {"max_num_seqs": 4}
    burst = {key: value for key, value in BASE["workload"].items() if key != "rate"}
    burst |= {"arrivals": {"process": "burst", "size": 150}, "queries": 150}
    pool = BASE["pools"]["main"]
    plain = run(workload=burst, pools={"main": pool | {"engine": engine}}, measure={})
    assert plain.summary["pressure"]["starvation_age_s"] > 30
    assert plain.summary["pressure"]["passed_over_by"] == 0
    assert "starving" not in {finding["name"] for finding in plain.summary["anomalies"]}
    workload = BASE["workload"] | {"rate": "5/s"}
    tiers = run(workload=workload, pools={"main": pool | {"engine": engine | {"policy": "priority"}}})
    assert tiers.summary["pressure"]["passed_over_by"] > 0


def test_losses_and_what_was_sent_again_are_told() -> None:
    pools = {"main": BASE["pools"]["main"] | {"replicas": 2}}
    outages = [{"pool": "main", "replica": i, "at": f"{5 + i} s", "lasts": "0.5 s"} for i in range(2)]
    results = run(pools=pools, failures={"outages": outages})
    fleet = results.summary["fleet"]
    assert fleet["pools"]["main"]["crashes"] == 2 <= fleet["queries_retried"]
    (line,) = serving.lines(results)
    assert line.startswith(f"2 losses of replicas in the run: {fleet['queries_retried']} queries were sent again")
    slow = [{"pool": "main", "factor": 1.5}]
    assert serving.lines(run(pools=pools, failures={"slowdowns": slow})) == ["1 straggler; no replica was lost."]
    assert serving.lines(run(pools=pools)) == []


def test_cold_starts_and_clients_that_come_again_are_told() -> None:
    scaling = {
        "policy": {"name": "queue_depth", "up": 1},
        "max_replicas": 3,
        "interval": "1 s",
        "load_bandwidth": "50 GB/s",
        "engine_start": "1 s",
    }
    pools = {"main": BASE["pools"]["main"] | {"autoscaling": scaling, "engine": {"max_num_seqs": 8}}}
    shed = {"admission": {"name": "max_outstanding", "per_replica": 20}, "gateway": {"backoff": {"first": "1 s"}}}
    first, second = serving.lines(run(pools=pools, **shed))
    assert first.startswith("Autoscaling of pool main: 1 to 3 replicas")
    assert "2 cold starts took" in first
    assert second.startswith("Clients that were turned away or waited in vain came again")


def test_a_time_without_replicas_is_said() -> None:
    outages = [{"pool": "main", "at": "5 s", "lasts": "6 s"}]
    workload = BASE["workload"] | {"rate": "2/s"}
    results = run(workload=workload, failures={"outages": outages})
    assert facts.limit(results) == "for a time no replica was there, and queries waited for one"
    assert facts.answer(results).sentence.startswith("0 to 1 replicas of llama-3.1-8b on 0 to 1 h100-sxm give ")
    assert facts.answer(run(workload=workload)).sentence.startswith("1 replica of llama-3.1-8b on 1 h100-sxm ")
    still = {"max_replicas": 1, "interval": "10 s"}
    pools = {"main": BASE["pools"]["main"] | {"autoscaling": still}}
    (line,) = serving.lines(run(workload=workload, pools=pools))
    assert line == "Autoscaling of pool main: 1 replica all along; 0 cold starts."
