"""Failures, autoscaling and back-off as a scenario says them: nothing vanishes, and what it cost is told."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from sim import load, simulate
from sim.errors import InputError
from sim.metrics.fleet import mean_on
from sim.report import facts
from sim.report.figures import fleet as figure
from sim.results.columns import Status
from sim.results.results import Results
from sim.results.sinks import SEGMENT_ROW, SegmentSink

GOOD: dict[str, Any] = {
    "name": "fleet",
    "seed": 3,
    "workload": {
        "arrivals": "poisson",
        "rate": "8/s",
        "lengths": {
            "prompt": {"law": "lognormal", "median": 300, "sigma": 0.8, "min": 16, "max": 4000},
            "reasoning": {"law": "lognormal", "median": 600, "sigma": 1.0, "min": 10, "max": 8000},
            "answer": {"law": "lognormal", "median": 100, "sigma": 0.6, "min": 5, "max": 1000},
        },
    },
    "pools": {
        "main": {
            "model": "llama-3.1-8b",
            "hardware": "h100-sxm",
            "replicas": 2,
            "engine": {"num_gpu_blocks_override": 2000, "max_num_seqs": 32, "max_model_len": 16384},
        }
    },
    "slo": {"tta": {"p99": "60 s"}},
    "measure": {"queries": 300},
}


def scenario(pool: dict[str, Any] | None = None, **sections: Any) -> Any:
    data = copy.deepcopy(GOOD) | sections
    data["pools"]["main"] |= pool or {}
    return load(data)


def autoscaling(**options: Any) -> dict[str, Any]:
    quick = {"interval": "2 s", "cooldown": "20 s", "engine_start": "5 s", "max_replicas": 5}
    return {"autoscaling": quick | {"policy": {"name": "queue_depth", "up": 2}} | options}


@pytest.mark.parametrize("stepwise", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_crashes_lose_no_query_and_are_counted(stepwise: bool) -> None:
    """Every balance of a run is checked by `simulate` itself, crashes included."""
    failures = {
        "mtbf": "40 s",
        "mttr": "5 s",
        "outages": [{"pool": "main", "replica": 1, "at": "8 s", "lasts": "10 s", "notice": "3 s"}],
    }
    results = simulate(scenario(failures=failures), stepwise=stepwise)
    told, queries = results.summary["fleet"], results.tables["queries"]
    assert told["pools"]["main"]["crashes"] >= 2
    assert told["requests_retried"] >= told["queries_retried"] > 0
    assert told["requests_retried"] == int(queries["retries"][queries["in_window"].astype(bool)].sum())
    assert set(np.unique(queries["status"])) <= {Status.COMPLETED, Status.UNFINISHED, Status.FAILED}


@pytest.mark.slow
def test_a_crash_is_the_same_in_both_modes() -> None:
    failures = {"outages": [{"pool": "main", "at": "9123456789 ns", "lasts": "4 s"}]}
    one, two = (simulate(scenario(failures=failures), stepwise=stepwise) for stepwise in (True, False))
    for name in ("queries", "requests"):
        for column, values in one.tables[name].columns.items():
            assert values.tobytes() == two.tables[name].columns[column].tobytes(), (name, column)
    assert one.summary["fleet"] == two.summary["fleet"]
    assert one.summary["metrics"]["itl"] == two.summary["metrics"]["itl"]


def test_without_retries_what_is_lost_fails() -> None:
    failures = {"outages": [{"pool": "main", "at": "10 s"}], "max_retries": 0}
    told = simulate(scenario(failures=failures)).summary["fleet"]
    assert told["queries_failed"] > 0
    assert told["requests_retried"] == 0
    assert told["slo_missed_with_retry"] == told["queries_failed"]


def test_replicas_come_and_are_paid_for_from_their_order_on() -> None:
    results = simulate(scenario(autoscaling()))
    (pool,) = results.runs[0].pools
    told = results.summary["fleet"]["pools"]["main"]
    assert told["cold_starts"] == len(pool.boots_ps) // 2 > 0
    assert told["replicas_max"] == max(pool.on_replicas) > 2
    most = max(pool.on_replicas)
    assert facts.answer(results).sentence.startswith(f"{min(pool.on_replicas)} to {most} replicas of llama-3.1-8b on ")
    length = (results.runs[0].window_end_ps - results.runs[0].window_start_ps) / 1e12
    edges = np.array([results.runs[0].window_start_ps / 1e12, results.runs[0].window_start_ps / 1e12 + length])
    assert mean_on(pool, edges)[0] * length / 3600 == pytest.approx(pool.gpu_hours, rel=1e-9)
    weights = pool.memory["weights_bytes"] * pool.gpus_per_replica
    starts = [end - start for start, end in zip(pool.boots_ps[::2], pool.boots_ps[1::2], strict=True)]
    assert starts[0] == round((weights / 2e9 + 5) * 1e12)


def test_the_history_survives_saving_and_is_drawn(tmp_path: Any) -> None:
    results = simulate(scenario(autoscaling()))
    loaded = Results.load(results.save(tmp_path / "run"))
    assert loaded.runs[0].pools[0].on_replicas == results.runs[0].pools[0].on_replicas
    data = figure.table(loaded.queries, loaded.runs[0], pieces=10)
    assert data["arrivals_per_s"].mean() * (loaded.runs[0].window_end_ps - loaded.runs[0].window_start_ps) / 1e12 == (
        pytest.approx(300)
    )
    price = loaded.runs[0].pools[0].price_usd_per_gpu_hour
    assert price is not None
    assert data["usd_per_hour"].to_numpy() == pytest.approx(price * data["replicas"].to_numpy())
    assert "replicas" in figure.finding(data)
    assert len(figure.figure(loaded.queries, loaded.runs[0]).data) == 4


def test_clients_that_back_off_come_again() -> None:
    full = {"admission": {"name": "max_outstanding", "per_replica": 10}}
    gone = simulate(scenario(**full)).summary
    again = simulate(scenario(**full, gateway={"backoff": {"attempts": 5, "first": "2 s"}})).summary
    assert again["fleet"]["requests_retried"] > 0 == gone["fleet"]["requests_retried"]
    assert again["totals"]["rejected"] < gone["totals"]["rejected"]


@pytest.mark.slow
def test_clients_that_waited_in_vain_come_again_in_both_modes() -> None:
    """`simulate` checks that every try has its row and that tokens balance."""
    gateway = {"timeout": "6 s", "backoff": {"attempts": 2, "first": "1 s", "after_timeouts": True}}
    case = scenario(gateway=gateway, measure={"queries": 60})
    one, two = (simulate(case, stepwise=stepwise) for stepwise in (True, False))
    for name in ("queries", "requests"):
        for column, values in one.tables[name].columns.items():
            assert values.tobytes() == two.tables[name].columns[column].tobytes(), (name, column)
    queries, requests = two.queries, two.requests
    assert set(queries["retries"]) == {0, 1, 2}
    assert (requests["status"] == "timed_out").sum() > (queries["status"] == "timed_out").sum() > 0
    given_up = queries[queries["status"] == "timed_out"]
    assert (given_up["retries"] == 2).all()
    assert (
        (given_up["finished_s"] - given_up["arrived_s"]).between(3 * 6 + 1.5, 3 * 6 + 4.5)
    ).all()  # waits of 1 s and 2 s


@pytest.mark.parametrize(
    ("sections", "key", "said"),
    [
        ({"gateway": {"backoff": {"after_timeouts": True}}}, "gateway.backoff.after_timeouts", "gateway.timeout"),
        (
            {"gateway": {"timeout": "9 s", "backoff": {"after_timeouts": True}}, "strategy": "majority_vote"},
            "gateway.backoff.after_timeouts",
            "one request a query",
        ),
        ({"failures": {"mtbf": "1 h"}}, "failures", "mtbf and mttr"),
        ({"failures": {"outages": [{"pool": "mian", "at": "1 s"}]}}, "failures.outages[0].pool", "main"),
        ({"failures": {"outages": [{"pool": "main", "replica": 2, "at": "1 s"}]}}, "replica", "0 to 1"),
        ({"gateway": {"backoff": {"attempts": 2}}}, "gateway.backoff", "admission"),
        ({"failures": {"mtfb": "1 h"}}, "failures.mtfb", "mtbf"),
        ({"router": {"name": "by_length_class", "bounds": [9], "pools": ["main", "mian"]}}, "router", "'mian'"),
        ({"router": {"name": "by_category", "default": "mian"}}, "router", "did you mean 'main'"),
        ({"router": {"name": "by_category", "pools": {"math": "main"}}}, "router.pools.math", "no category"),
        ({"router": {"name": "by_category", "default": "main", "then": "radnom"}}, "router", "random"),
        ({"kv_transfer": {"bandwidth": "1 GB/s"}}, "kv_transfer", "not apart"),
    ],
)
def test_what_cannot_be_is_refused(sections: dict[str, Any], key: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        scenario(**sections)
    assert key in str(error.value)
    assert said in str(error.value)


def test_a_router_sends_nobody_to_a_pool_that_takes_no_queries() -> None:
    with pytest.raises(InputError, match="its role is decode"):
        load(two_pools(router={"name": "by_length_class", "bounds": [9], "pools": ["prefill", "decode"]}))


def test_options_of_autoscalers_take_times_and_shares_as_people_write_them() -> None:
    times = autoscaling(policy={"name": "scheduled", "replicas": {"0": 1, "7 h 30 min": 3}, "period_s": "1 day"})
    made = scenario(times).pools["main"].autoscaling.policy.make("autoscaler")
    assert made.replicas == {0.0: 1, 27_000.0: 3}
    share = autoscaling(policy={"name": "target_kv_use", "target": "60 %"})
    assert scenario(share).pools["main"].autoscaling.policy.make("autoscaler").target == 0.6
    assert load(scenario(times).resolved()) == scenario(times)


def test_a_pool_begins_within_its_limits() -> None:
    with pytest.raises(InputError, match="begins with 2"):
        scenario(autoscaling(min_replicas=3))


def test_steps_cut_by_a_loss_bring_no_tokens() -> None:
    """Ten steps of 10, 11, … ps; the loss at 40 ps cuts the fourth (10 + 11 + 12 = 33)."""
    sink = SegmentSink()
    row = dict.fromkeys(SEGMENT_ROW, 0) | {"steps": 5, "step_ps": 10, "step_growth_ps": 1, "decodes": 4, "fresh": 1}
    sink.add(tuple(row.values()))
    sink.lose(40)
    rows = [dict(zip(SEGMENT_ROW, values, strict=True)) for values in sink.segments().tolist()]
    assert [(r["start_ps"], r["steps"], r["step_ps"], r["fresh"], r["dropped"]) for r in rows] == [
        (0, 3, 10, 1, 0),
        (33, 1, 13, 0, 4),
        (46, 1, 14, 0, 4),
    ]
    before = sink.segments().copy()
    sink.lose(60)
    assert (sink.segments() == before).all()


def test_stalls_that_a_loss_cut_off_are_none() -> None:
    sink = SegmentSink()
    sink.stall(1, 30, 20)
    sink.stall(2, 50, 20)
    sink.stall(3, 40, 20)
    sink.lose(40)
    assert sink.stalls().tolist() == [[1, 30, 20], [3, 40, 20]]


@pytest.mark.parametrize("engine", [{"num_gpu_blocks_override": 700}, {"async_scheduling": True}])
@pytest.mark.parametrize("seed", [0, pytest.param(2, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.slow)])
def test_losses_balance_under_kv_pressure_and_with_batches_committed_ahead(engine: dict[str, Any], seed: int) -> None:
    """Gaps of preempted requests and first steps that a crash makes undone: `simulate` checks every balance."""
    failures = {"mtbf": "10 s", "mttr": "3 s"}
    data = scenario({"engine": engine | {"max_model_len": 8192}, "replicas": 3}, failures=failures, seed=seed)
    results = simulate(data)
    assert ((results.requests["preemptions"] > 0).any()) == ("num_gpu_blocks_override" in engine)
    lost = results.requests[results.requests["status"] == "failed"]
    assert len(lost) > 20
    begun = lost[lost["first_scheduled_s"].notna()]
    assert (begun["first_scheduled_s"] <= begun["finished_s"]).all()


def two_pools(**sections: Any) -> dict[str, Any]:
    data = copy.deepcopy(GOOD) | sections
    data["pools"] = {
        role: {**data["pools"]["main"], "role": role, "replicas": count}
        for role, count in (("prefill", 1), ("decode", 2))
    }
    return data


def test_prefill_and_decode_pools_balance_and_know_what_a_query_takes_alone() -> None:
    """`simulate` checks every balance of tokens. One query at a time is neither slowed nor sped up."""
    data = two_pools(kv_transfer={"bandwidth": "10 GB/s", "latency": "2 ms"})
    results = simulate(load(data))
    requests = results.requests
    legs = requests["role"] == "prefill"
    assert legs.sum() == (~legs).sum() == len(results.queries)
    assert (requests["pool"][legs] == "prefill").all()
    data["workload"] = {**data["workload"], "rate": "0.02/s"}
    data["measure"] = {"queries": 20}
    alone = simulate(load(data))
    assert alone.queries["slowdown"].to_numpy() == pytest.approx(1, abs=1e-3)
    narrow = simulate(load(data | {"kv_transfer": {"bandwidth": "10 MB/s"}}))
    assert narrow.summary["metrics"]["ttft"]["p50"] > alone.summary["metrics"]["ttft"]["p50"] + 1
    assert narrow.summary["metrics"]["tpot"]["p50"] == pytest.approx(alone.summary["metrics"]["tpot"]["p50"], rel=0.02)


def test_both_modes_agree_on_prefill_and_decode_pools() -> None:
    data = two_pools(failures={"mtbf": "60 s", "mttr": "5 s"}, measure={"queries": 60})
    one, two = (simulate(load(data), stepwise=stepwise) for stepwise in (True, False))
    for name in ("queries", "requests"):
        for column, values in one.tables[name].columns.items():
            assert values.tobytes() == two.tables[name].columns[column].tobytes(), (name, column)
    assert one.summary["fleet"] == two.summary["fleet"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"role": "generate"}, "without a decode pool"),
        ({"model": "r1-distill-llama-70b"}, "without a decode pool of its model"),
        ({"engine": {"block_size": 32}}, "another form"),
        ({"engine": {"scheduler": "srpt"}}, "first come, first served"),
    ],
)
def test_pools_that_do_not_go_together_are_refused(change: dict[str, Any], words: str) -> None:
    data = two_pools()
    data["pools"]["decode"] |= {"tensor_parallel_size": 4} | change
    with pytest.raises(InputError, match=words):
        load(data)
