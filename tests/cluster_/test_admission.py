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

from sim.cluster.retries import Backoff
from sim.policies import registry
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
        backoff=Backoff(attempts=2, first_ps=25),
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
