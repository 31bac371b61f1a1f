"""Admission control and the clients that it turns away."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fake_engine import FakeEngine
from hypothesis import given, settings
from hypothesis import strategies as st
from small_source import Q
from test_gateway import FirstOf, queries_st, query_rows, rows, run
from test_routers import Asked, Scene

from sim.cluster.failures import Failures, Outage
from sim.cluster.retries import Backoff
from sim.cluster.window import Measure
from sim.policies import registry
from sim.policies.routing import ReplicaInfo
from sim.results.columns import Status

ADMISSION = registry("admission")


def begin(name: str, **options: Any) -> Any:
    return ADMISSION.make(name, options).begin(np.random.default_rng(0))


def test_max_outstanding_counts_over_the_candidates() -> None:
    refuses = begin("max_outstanding", per_replica=3)
    assert refuses(Scene([2, 3]), Asked()) is None
    assert refuses(Scene([3, 3]), Asked()) == "6 requests are outstanding, 6 are allowed"
    assert refuses(Scene([3, 0, 9], candidates=(0, 1)), Asked()) is None


def test_token_bucket_lets_a_burst_pass_and_then_the_rate() -> None:
    refuses = begin("token_bucket", rate_per_s=2.0, burst=2)

    def at(seconds: float, client: int = 0) -> bool:
        return refuses(Scene([0], now_ps=round(seconds * 1e12)), Asked(client=client)) is None

    assert [at(0), at(0), at(0), at(0.49), at(0.5), at(0.6), at(1.0)] == [
        True,
        True,
        False,
        False,
        True,
        False,
        True,
    ]
    assert at(0.6, client=1)
    assert [at(1000), at(1000), at(1000)] == [True, True, False]  # who has been silent saves up no more than the burst


def test_priority_tiers_turn_batch_away_first() -> None:
    refuses = begin("priority_tiers", per_replica={1: 10, 5: 2})
    busy = Scene([3, 3])
    assert refuses(busy, Asked(priority=0)) is None
    assert refuses(busy, Asked(priority=1)) is None
    assert refuses(busy, Asked(priority=5)) is not None
    assert refuses(busy, Asked(priority=9)) is not None
    assert refuses(Scene([1, 2]), Asked(priority=9)) is None


def test_max_wait_looks_at_the_shortest() -> None:
    scene = Scene([1, 1], token_counts=[10**12, 10**11])  # 10 ps a token: 10 s and 1 s
    assert begin("max_wait", max_wait_s=1.0)(scene, Asked()) is None
    assert begin("max_wait", max_wait_s=0.9)(scene, Asked()) is not None


def test_deadline_shedding_adds_the_wait_and_the_own_output() -> None:
    """10 ps a token: the replica that is free first needs 1 s, an output of 10¹¹ tokens as much again."""
    scene = Scene([1, 1], token_counts=[10**12, 10**11])

    def lets_in(left_s: float, tokens: int = -1, **options: float) -> bool:
        asked = Asked(deadline_ps=scene.now_ps + round(left_s * 1e12), predicted_tokens=tokens)
        return begin("deadline_shedding", **options)(scene, asked) is None

    assert [lets_in(1.0), lets_in(0.999)] == [True, False]
    assert [lets_in(2.0, 10**11), lets_in(1.999, 10**11)] == [True, False]
    assert [lets_in(1.5, safety=1.5), lets_in(1.499, safety=1.5)] == [True, False]
    assert begin("deadline_shedding")(scene, Asked()) is None  # without a target


def test_token_limit_counts_all_tokens_and_the_own() -> None:
    """700 tokens are outstanding, half of 2,000 allowed: 100 of a prompt and 200 of an output fit, one more does not."""
    replicas = tuple(ReplicaInfo(index=i, pool="a", pool_index=0, replica=i, kv_tokens=1000) for i in range(2))
    scene = Scene([3, 4], token_counts=[300, 400], replicas=replicas)
    refuses = begin("token_limit", kv_share=0.5)
    assert refuses(scene, Asked(prompt_tokens=100, predicted_tokens=200)) is None
    assert refuses(scene, Asked(prompt_tokens=101, predicted_tokens=200)) is not None
    assert refuses(scene, Asked(prompt_tokens=100, predicted_tokens=201)) is not None
    assert refuses(scene, Asked(prompt_tokens=300)) is None


@pytest.mark.parametrize("name", ADMISSION.names())
@pytest.mark.parametrize("refresh_ps", [None, 50])
def test_every_admission_policy_serves_a_run(name: str, refresh_ps: int | None) -> None:
    queries = [Q(at, answer=5, client=at % 3, priority=at % 4) for at in range(0, 500, 4)]
    outcome = run(
        queries,
        engines=[FakeEngine(seats=2) for _ in range(2)],
        around={"admission": ADMISSION.make(name)},
        refresh_ps=refresh_ps,
    )
    done = rows(outcome)
    assert len(done) == len(queries)
    assert {row["status"] for row in done} <= {Status.COMPLETED, Status.REJECTED}


def test_a_client_backs_off_and_each_try_has_a_row() -> None:
    queries = [Q(0, answer=10), Q(5, answer=1)]
    outcome = run(
        queries,
        engines=[FakeEngine(base_ps=10, seat_ps=0)],
        around={"admission": ADMISSION.make("max_outstanding", {"per_replica": 1})},
        backoff=Backoff(attempts=3, first_ps=30, factor=2.0, jitter=0.0),
    )
    done = rows(outcome)
    # tries at 5, 35, 95 and 215; the replica is free from 100 on
    tries = [row for row in done if row["query"] == 1]
    assert [row["status"] for row in tries] == [Status.REJECTED] * 3 + [Status.COMPLETED]
    assert [row["finished_ps"] for row in tries] == [5, 35, 95, 225]
    query = query_rows(outcome)[1]
    assert (query["arrived_ps"], query["finished_ps"], query["retries"]) == (5, 225, 3)
    assert outcome.tally.retried == 3


def test_a_client_gives_up_in_the_end() -> None:
    outcome = run(
        [Q(0, answer=100), Q(5, answer=1)],
        engines=[FakeEngine(base_ps=10, seat_ps=0)],
        around={"admission": ADMISSION.make("max_outstanding", {"per_replica": 1})},
        backoff=Backoff(attempts=2, first_ps=30, jitter=0.0),
    )
    assert query_rows(outcome)[1]["status"] == Status.REJECTED
    assert query_rows(outcome)[1]["finished_ps"] == 95
    assert len(rows(outcome)) == 4


@given(queries_st, st.integers(1, 3), st.booleans(), st.sampled_from([None, 90]))
@settings(max_examples=40, deadline=None)
def test_laws_under_load_shedding(queries: list[Q], limit: int, samples: bool, timeout_ps: int | None) -> None:
    """Every query ends once, every try has a row, and the retries of the tables are those of the tally."""
    outcome = run(
        queries,
        engines=[FakeEngine(seats=2) for _ in range(2)],
        strategy=FirstOf(2) if samples else None,
        around={"admission": ADMISSION.make("max_outstanding", {"per_replica": limit})},
        backoff=Backoff(attempts=2, first_ps=25, after_timeouts=timeout_ps is not None and not samples),
        timeout_ps=timeout_ps,
    )
    done, asked = rows(outcome), query_rows(outcome)
    assert [row["query"] for row in asked] == list(range(len(queries)))
    assert len(done) == (2 if samples else 1) * len(queries) + outcome.tally.retried
    assert sum(row["retries"] for row in asked) == outcome.tally.retried
    assert all(row["status"] != Status.UNFINISHED for row in done)
    for row in asked:
        mine = [r for r in done if r["query"] == row["query"]]
        assert row["requests"] == len(mine)
        if row["status"] == Status.COMPLETED:
            assert any(r["status"] == Status.COMPLETED for r in mine)


def test_backoff_grows_and_jitters_around_its_mean() -> None:
    backoff = Backoff(first_ps=100, factor=3.0, jitter=0.5)
    assert [backoff.wait_ps(attempt, 0.5) for attempt in range(3)] == [100, 300, 900]
    assert (backoff.wait_ps(0, 0.0), backoff.wait_ps(0, 1.0)) == (50, 150)


# ------------------------------------------------------------------ clients that wait in vain


def test_who_waited_in_vain_tries_again_with_the_same_patience() -> None:
    """One seat, ten a token. What is taken back within a step leaves at its end."""
    queries = [Q(0, answer=20), Q(5, answer=2)]
    outcome = run(
        queries,
        engines=[FakeEngine(base_ps=10, seat_ps=0, seats=1)],
        timeout_ps=200,
        backoff=Backoff(attempts=1, first_ps=30, jitter=0.0, after_timeouts=True),
    )
    # query 1 has the seat from 200 on, has waited long enough at 205, and comes again at 235
    assert [(row["query"], row["status"], row["finished_ps"]) for row in rows(outcome)] == [
        (0, Status.COMPLETED, 200),
        (1, Status.TIMED_OUT, 210),
        (1, Status.COMPLETED, 255),
    ]
    impatient = run(
        queries,
        engines=[FakeEngine(base_ps=10, seat_ps=0, seats=1)],
        timeout_ps=50,
        backoff=Backoff(attempts=4, first_ps=30, factor=1.0, jitter=0.0, after_timeouts=True),
    )
    # query 0 tries at 0, 80, 160, 240, 320; query 1 five later, and has the seat for the last five of its fifty
    done = rows(impatient)
    assert {row["status"] for row in done} == {Status.TIMED_OUT}
    assert [row["finished_ps"] for row in done if row["query"] == 0] == [50, 130, 210, 290, 370]
    assert [row["finished_ps"] for row in done if row["query"] == 1] == [60, 140, 220, 300, 375]  # the run is over
    assert [(row["status"], row["retries"], row["finished_ps"]) for row in query_rows(impatient)] == [
        (Status.TIMED_OUT, 4, 370),
        (Status.TIMED_OUT, 4, 375),
    ]
    assert impatient.tally.retried == 8


def test_a_loss_neither_ends_nor_renews_a_clients_patience() -> None:
    """A try lost at 35 with its replica goes on elsewhere, and its client waits to 50 as before."""
    outcome = run(
        [Q(0, answer=20)],
        engines=[FakeEngine(base_ps=10, seat_ps=0) for _ in range(2)],
        timeout_ps=50,
        backoff=Backoff(attempts=1, first_ps=30, jitter=0.0, after_timeouts=True),
        around={"makers": [FakeEngine] * 2, "failures": Failures(outages=(Outage(0, at_ps=35),))},
    )
    assert [(row["status"], row["finished_ps"]) for row in rows(outcome)] == [
        (Status.FAILED, 35),
        (Status.TIMED_OUT, 55),
        (Status.TIMED_OUT, 130),  # the run is over
    ]
    assert query_rows(outcome)[0]["finished_ps"] == 130


def answered(queries: list[Q], backoff: Backoff, **around: Any) -> list[int]:
    """How many queries are answered in each 5,000 ps."""
    outcome = run(
        queries,
        engines=[FakeEngine(base_ps=10, seat_ps=10, seats=1000) for _ in range(2)],
        timeout_ps=2000,
        backoff=backoff,
        around=around or None,
        router="least_outstanding_requests",
        measure=Measure(duration_ps=35_000, max_drain_ps=0),
    )
    done = [row["finished_ps"] for row in query_rows(outcome) if row["status"] == Status.COMPLETED]
    found: list[int] = np.bincount(np.array(done, dtype=int) // 5000, minlength=7).tolist()
    return found


def test_a_retry_storm_without_back_off_outlives_the_spike_that_began_it() -> None:
    """Two replicas of a token in ten, shared by all on them: a third of their load, seven times as much for a while."""
    usual = 300
    at = [*range(0, 10_000, usual), *range(10_000, 13_000, usual // 7), *range(13_000, 35_000, usual)]
    queries = [Q(time, answer=20) for time in at]
    at_once = Backoff(attempts=1000, first_ps=10, factor=1.0, after_timeouts=True)
    storm = answered(queries, at_once)
    assert storm[1] >= 5000 // usual
    assert max(storm[4:]) == 0  # metastable: the spike is long over, and nobody is answered in time
    patient = answered(queries, Backoff(attempts=1000, first_ps=4000, factor=3.0, after_timeouts=True))
    assert min(patient[5:]) >= 5000 // usual - 2
    shed = answered(queries, at_once, admission=ADMISSION.make("max_outstanding", {"per_replica": 6}))
    assert min(shed[1:7]) >= 5000 // usual - 2
