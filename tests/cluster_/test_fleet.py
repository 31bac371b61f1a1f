"""Replicas that come and go: crashes, outages, restarts, autoscaling. Nothing vanishes, and every hour is
accounted for.
"""

from __future__ import annotations

from typing import Any

import pytest
from fake_engine import FakeEngine
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_source import Q
from test_gateway import FirstOf, queries_st, query_rows, rows, run

from sim.cluster import wiring
from sim.cluster.cluster import Outcome
from sim.cluster.failures import Failures, Outage, RollingRestart
from sim.cluster.scaling import Scaling, cold_start_ps
from sim.policies import registry
from sim.policies.scaling import Autoscaler, PoolState
from sim.results.columns import Status

AUTOSCALERS = registry("autoscaler")


def play(
    queries: list[Q], *, replicas: int = 2, engine: dict[str, Any] | None = None, **options: Any
) -> tuple[Outcome, Any]:
    settings = {"base_ps": 10, "seat_ps": 0, "seats": 4, **(engine or {})}

    def make() -> FakeEngine:
        return FakeEngine(**settings)

    around = {
        "makers": [make] * replicas,
        **{key: options.pop(key) for key in ("failures", "scalings", "off") if key in options},
    }
    outcome = run(queries, engines=[make() for _ in range(replicas)], around=around, **options)
    return outcome, around["cluster"]


# ------------------------------------------------------------------ failures


def test_a_lost_request_is_sent_again_and_both_attempts_have_a_row() -> None:
    outage = Failures(outages=(Outage(0, at_ps=35),))
    outcome, _ = play([Q(0, reasoning=4, answer=6)], failures=outage)
    first, second = rows(outcome)
    assert (first["status"], first["replica"], first["generated"], first["finished_ps"]) == (
        Status.FAILED,
        0,
        3,
        35,
    )
    assert (second["status"], second["replica"], second["arrived_ps"]) == (Status.COMPLETED, 1, 0)
    assert (second["first_scheduled_ps"], second["finished_ps"], second["generated"]) == (35, 135, 10)
    (query,) = query_rows(outcome)
    assert (query["requests"], query["retries"], query["finished_ps"]) == (2, 1, 135)
    assert query["reasoning_tokens"] + query["answer_tokens"] == 13
    assert outcome.tally.retried == outcome.crashes == 1


def test_a_completion_at_the_instant_of_the_crash_counts() -> None:
    outcome, _ = play([Q(0, answer=3)], failures=Failures(outages=(Outage(0, at_ps=30),)))
    (row,) = rows(outcome)
    assert (row["status"], row["finished_ps"]) == (Status.COMPLETED, 30)


def test_without_retries_the_client_sees_the_failure() -> None:
    outcome, _ = play([Q(0, answer=10)], failures=Failures(outages=(Outage(0, at_ps=35),), max_retries=0))
    assert [row["status"] for row in rows(outcome)] == [Status.FAILED]
    assert query_rows(outcome)[0]["status"] == Status.FAILED


def test_requests_wait_at_the_gateway_while_nobody_is_there() -> None:
    outages = tuple(Outage(i, at_ps=15, for_ps=100) for i in range(2))
    outcome, _ = play([Q(0, answer=4), Q(50, answer=2)], failures=Failures(outages=outages))
    done = rows(outcome)
    assert [row["status"] for row in done] == [Status.FAILED, Status.COMPLETED, Status.COMPLETED]
    assert [row["first_scheduled_ps"] for row in done] == [0, 115, 115]
    assert outcome.on_run_ps == [15 + 40, 15 + 40]


def test_a_replica_under_notice_takes_nothing_new() -> None:
    outage = Failures(outages=(Outage(0, at_ps=100, for_ps=50, notice_ps=90),))
    queries = [Q(0, answer=5), Q(20, answer=5), Q(30, answer=5), Q(160, answer=2), Q(165, answer=2)]
    outcome, _ = play(queries, failures=outage, router="least_outstanding_requests")
    assert [row["replica"] for row in rows(outcome)] == [0, 1, 1, 0, 1]
    assert not outcome.tally.retried


def test_a_rolling_restart_loses_nothing_and_takes_each_in_turn() -> None:
    queries = [Q(at, answer=6) for at in range(0, 1500, 15)]
    restart = Failures(restart=RollingRestart(at_ps=200, down_ps=100))
    outcome, cluster = play(queries, replicas=3, failures=restart)
    done = rows(outcome)
    assert {row["status"] for row in done} == {Status.COMPLETED}
    assert len(done) == len(queries)
    changes = [(index, change) for at, index, change in cluster.fleet.changes() if at > 0]
    assert changes == [(0, -1), (0, 1), (1, -1), (1, 1), (2, -1), (2, 1)]


def test_what_waits_on_a_draining_replica_goes_elsewhere() -> None:
    queries = [Q(0, answer=20), Q(0, answer=1), Q(0, answer=20), Q(0, answer=1)]
    restart = Failures(restart=RollingRestart(at_ps=5, down_ps=10))
    outcome, _ = play(queries, engine={"seats": 1}, failures=restart)
    done = rows(outcome)
    assert [row["replica"] for row in done] == [0, 1, 1, 1]
    assert len(done) == 4  # the one that moved was never lost
    assert not outcome.tally.retried


def test_a_rolling_restart_by_hand() -> None:
    """Replica 0 drains from 50 and is empty at 200, is down to 300; then replica 1, which is empty at once, to 400."""
    queries = [Q(0, answer=20), Q(60, answer=5), Q(210, answer=5), Q(310, answer=5), Q(450, answer=1)]
    restart = Failures(restart=RollingRestart(at_ps=50, down_ps=100))
    outcome, cluster = play(queries, failures=restart, router="least_outstanding_requests")
    assert [(row["replica"], row["finished_ps"]) for row in rows(outcome)] == [
        (0, 200),
        (1, 110),
        (1, 260),
        (0, 360),
        (0, 460),
    ]
    assert [change for change in cluster.fleet.changes() if change[0]] == [
        (200, 0, -1),
        (300, 0, 1),
        (300, 1, -1),
        (400, 1, 1),
    ]
    assert outcome.on_run_ps == [360, 360]
    assert outcome.tally.retried == outcome.crashes == 0


def test_a_spot_preemption_by_hand() -> None:
    """Notice at 40 of the end at 100: what waits moves at once, what runs has until then, and is sent again elsewhere."""
    queries = [Q(0, answer=20), Q(0, answer=20), Q(1, answer=2), Q(2, answer=2), Q(60, answer=1), Q(350, answer=1)]
    outage = Failures(outages=(Outage(0, at_ps=100, for_ps=150, notice_ps=60),))
    outcome, cluster = play(queries, engine={"seats": 1}, failures=outage, router="least_outstanding_requests")
    done = [(r["query"], r["replica"], r["status"], r["first_scheduled_ps"], r["finished_ps"]) for r in rows(outcome)]
    moved = (2, 1, Status.COMPLETED, 220, 240)  # it waited on replica 0 and had not begun: no retry
    assert done == [
        (0, 0, Status.FAILED, 0, 100),  # ten of its twenty tokens
        (1, 1, Status.COMPLETED, 0, 200),
        moved,
        (3, 1, Status.COMPLETED, 200, 220),
        (4, 1, Status.COMPLETED, 240, 250),
        (0, 1, Status.COMPLETED, 250, 450),  # sent again at 100, it waits for its turn
        (5, 0, Status.COMPLETED, 350, 360),
    ]
    assert [change for change in cluster.fleet.changes() if change[0]] == [(100, 0, -1), (250, 0, 1)]
    assert outcome.tally.retried == outcome.crashes == 1


class Always(Autoscaler):
    """Two."""

    def wanted(self, pool: PoolState) -> int:
        return 2


def two_of_three(failures: Failures, queries: list[Q]) -> tuple[Outcome, Any]:
    scaling = Scaling("pool", Always(), 1, 3, interval_ps=100, cold_start_ps=150, cooldown_ps=10_000)
    return play(
        queries,
        replicas=3,
        scalings=(scaling,),
        off=(2,),
        failures=failures,
        router="least_outstanding_requests",
    )


def test_a_lost_replica_is_replaced_after_a_cold_start() -> None:
    """Lost for good at 250, seen by the tick at 300, which orders it anew: paid for from then on, and there at 450."""
    queries = [Q(at, answer=10) for at in range(0, 700, 20)]
    outcome, cluster = two_of_three(Failures(outages=(Outage(0, at_ps=250),)), queries)
    assert [change for change in cluster.fleet.changes() if change[0]] == [(250, 0, -1), (300, 0, 1)]
    assert cluster.fleet.boots == [(0, 300, 450)]
    assert min(r["arrived_ps"] for r in rows(outcome) if r["replica"] == 0 and r["arrived_ps"] >= 250) == 460
    assert outcome.tally.retried > 0
    assert [row["status"] for row in query_rows(outcome)] == [Status.COMPLETED] * len(queries)


def test_who_is_about_to_be_lost_is_not_taken_back_but_replaced() -> None:
    """Notice at 150: the tick at 200 orders another one, there at 350, and nothing is lost at 500."""
    queries = [Q(at, answer=5) for at in range(0, 700, 20)]
    outcome, cluster = two_of_three(Failures(outages=(Outage(0, at_ps=500, notice_ps=350),)), queries)
    assert cluster.fleet.boots == [(2, 200, 350)]
    assert max(row["arrived_ps"] for row in rows(outcome) if row["replica"] == 0) < 150
    assert outcome.crashes == 1
    assert outcome.tally.retried == 0


def test_a_rolling_restart_goes_on_though_the_pool_grows_meanwhile() -> None:
    restart = Failures(restart=RollingRestart(at_ps=50, down_ps=100))
    queries = [Q(0, answer=20), *(Q(at, answer=5) for at in range(60, 900, 20))]
    _, cluster = two_of_three(restart, queries)
    changes = cluster.fleet.changes()
    assert [(index, change) for at, index, change in changes if at and index < 2] == [(0, -1), (0, 1), (1, -1), (1, 1)]
    assert (200, 0, -1) in changes
    assert (300, 0, 1) in changes


def test_a_rolling_restart_goes_on_though_its_replica_is_lost() -> None:
    """Replica 0 drains from 50 and is lost for good at 100; then replica 1 at once, with whom its request waits to 200."""
    failures = Failures(outages=(Outage(0, at_ps=100),), restart=RollingRestart(at_ps=50, down_ps=100))
    outcome, cluster = play([Q(0, answer=20)], failures=failures)
    assert [change for change in cluster.fleet.changes() if change[0]] == [(100, 0, -1), (100, 1, -1), (200, 1, 1)]
    assert [(r["status"], r["replica"], r["first_scheduled_ps"]) for r in rows(outcome)] == [
        (Status.FAILED, 0, 0),
        (Status.COMPLETED, 1, 200),
    ]


def test_an_outage_brings_back_only_what_it_took() -> None:
    """Replica 2 is off when it would be lost, so nobody starts it afterwards."""
    queries = [Q(at, answer=5) for at in range(0, 700, 20)]
    _, cluster = two_of_three(Failures(outages=(Outage(2, at_ps=100, for_ps=100),)), queries)
    assert [change for change in cluster.fleet.changes() if change[0]] == []


def changes_of(failures: Failures, queries: list[Q], **options: Any) -> list[tuple[int, int, int]]:
    _, cluster = play(queries, failures=failures, **options)
    return [change for change in cluster.fleet.changes() if change[0]]


def test_outages_that_overlap_hold_to_the_end_of_the_last() -> None:
    queries = [Q(at, answer=5) for at in range(0, 900, 20)]
    outages = (Outage(0, at_ps=100, for_ps=100), Outage(0, at_ps=150, for_ps=300), Outage(0, at_ps=160, for_ps=10))
    assert changes_of(Failures(outages=outages), queries) == [(100, 0, -1), (450, 0, 1)]
    for_good = (Outage(0, at_ps=100, for_ps=100), Outage(0, at_ps=150))
    assert changes_of(Failures(outages=for_good), queries) == [(100, 0, -1)]
    touching = (Outage(0, at_ps=100, for_ps=100), Outage(0, at_ps=200, for_ps=100))
    assert changes_of(Failures(outages=touching), queries) == [(100, 0, -1), (300, 0, 1)]


def test_an_outage_at_a_given_time_holds_though_its_replica_crashed_by_chance_before() -> None:
    queries = [Q(at, answer=5) for at in range(0, 20_000, 100)]
    by_chance = changes_of(Failures(mtbf_ps=2000, mttr_ps=500), queries, replicas=1)
    down_ps, up_ps = by_chance[0][0], by_chance[1][0]
    middle_ps = (down_ps + up_ps) // 2
    longer = Failures(mtbf_ps=2000, mttr_ps=500, outages=(Outage(0, at_ps=middle_ps, for_ps=up_ps),))
    assert changes_of(longer, queries, replicas=1)[:2] == [(down_ps, 0, -1), (middle_ps + up_ps, 0, 1)]
    shorter = Failures(mtbf_ps=2000, mttr_ps=500, outages=(Outage(0, at_ps=middle_ps, for_ps=1),))
    assert changes_of(shorter, queries, replicas=1) == by_chance


def test_notice_that_came_while_the_replica_was_down_holds_when_it_is_back() -> None:
    """Down from 100 to 200; to be lost at 500 with 350 notice, so that it is back for nothing."""
    queries = [Q(at, answer=5) for at in range(0, 700, 20)]
    outages = (Outage(0, at_ps=100, for_ps=100), Outage(0, at_ps=500, notice_ps=350))
    outcome, _ = play(queries, failures=Failures(outages=outages), router="least_outstanding_requests")
    assert max(row["arrived_ps"] for row in rows(outcome) if row["replica"] == 0) < 100
    assert outcome.crashes == 2


def test_an_outage_during_a_restart_holds_and_the_restart_goes_on() -> None:
    """Replica 0 is down for the restart from 50 to 150, and lost at 100 for 200 more; replica 1 goes at 150."""
    queries = [Q(at, answer=1) for at in range(205, 900, 20)]
    failures = Failures(outages=(Outage(0, at_ps=100, for_ps=200),), restart=RollingRestart(at_ps=50, down_ps=100))
    assert changes_of(failures, queries) == [(50, 0, -1), (150, 1, -1), (250, 1, 1), (300, 0, 1)]


def test_notice_to_a_replica_that_drains_for_a_restart_does_not_stop_the_restart() -> None:
    """Replica 0 drains from 50 to 200 and is under notice from 100 on, to be lost at 1,000; then replica 1 has its turn."""
    failures = Failures(outages=(Outage(0, at_ps=1000, notice_ps=900),), restart=RollingRestart(at_ps=50, down_ps=100))
    changes = changes_of(failures, [Q(0, answer=20), Q(990, answer=20)], router="least_outstanding_requests")
    assert changes == [(200, 0, -1), (300, 0, 1), (300, 1, -1), (400, 1, 1), (1000, 0, -1)]


def test_a_spare_replica_that_is_lost_is_not_repaired() -> None:
    """One of two drains from the tick at 200 on, is lost at 250, and nobody wants it back at 350."""
    scaling = Scaling("pool", FewerFrom200(), 1, 2, interval_ps=100, cold_start_ps=150, cooldown_ps=0)
    queries = [Q(0, answer=60), Q(0, answer=60), Q(900, answer=1)]
    for lost in (0, 1):
        changes = changes_of(
            Failures(outages=(Outage(lost, at_ps=250, for_ps=100),)),
            queries,
            scalings=(scaling,),
            router="least_outstanding_requests",
        )
        assert changes[0] == (250, lost, -1)
        assert ((350, lost, 1) in changes) == (lost == 0)  # the spare one is the last


class FewerFrom200(Autoscaler):
    """Two, and one from the second tick on."""

    def wanted(self, pool: PoolState) -> int:
        return 2 if pool.now_s < 199e-12 else 1


def test_who_comes_back_and_is_taken_off_in_one_instant_did_neither() -> None:
    """Replica 0 is lost at 150 and back at 300, when the tick wants one less."""
    scaling = Scaling("pool", FewerFrom200(), 1, 2, interval_ps=100, cold_start_ps=150, cooldown_ps=0)
    outage = Failures(outages=(Outage(0, at_ps=150, for_ps=150),))
    queries = [Q(at, answer=5) for at in range(0, 700, 20)]
    _, cluster = play(queries, scalings=(scaling,), failures=outage, router="least_outstanding_requests")
    changes = cluster.fleet.changes()
    assert [change for change in changes if change[0] and change[1] == 0] == [(150, 0, -1)]
    assert wiring.served(cluster.fleet, [0, 1])[:3] == [0, 0, 150]


@given(
    queries_st,
    st.integers(1, 4),
    st.sampled_from([40, 150, 600]),
    st.integers(0, 2),
    st.booleans(),
    st.sampled_from([None, 120]),
)
@example([Q(0, 1, answer=1), Q(0, 1, answer=1), Q(229, 1, answer=7)], 2, 40, 1, False, 120)  # back as its client goes
@settings(max_examples=60, deadline=None)
def test_laws_under_crashes(
    queries: list[Q], replicas: int, mtbf_ps: int, retries: int, samples: bool, timeout_ps: int | None
) -> None:
    failures = Failures(mtbf_ps=mtbf_ps, mttr_ps=50, max_retries=retries)
    outcomes = []
    for jump in (True, False):
        outcome, cluster = play(
            queries,
            replicas=replicas,
            engine={"jump": jump, "seat_ps": 1},
            failures=failures,
            strategy=FirstOf(2) if samples else None,
            router="least_outstanding_requests",
            timeout_ps=timeout_ps,
        )
        outcomes.append((rows(outcome), query_rows(outcome), outcome.end_ps, outcome.on_run_ps))
        done, asked = rows(outcome), query_rows(outcome)
        assert [row["query"] for row in asked] == list(range(len(queries)))
        assert len(done) == (2 if samples else 1) * len(queries) + outcome.tally.retried
        assert sum(row["retries"] for row in asked) == outcome.tally.retried
        for row in done:
            assert row["status"] != Status.UNFINISHED
            if row["status"] == Status.COMPLETED:
                assert row["generated"] == row["output_tokens"]
        for row in asked:
            mine = [r for r in done if r["query"] == row["query"]]
            assert row["reasoning_tokens"] + row["answer_tokens"] == sum(r["generated"] for r in mine)
            assert max(0, row["retries"]) <= retries * (2 if samples else 1)
        for shell in cluster.shells:
            on_ps = outcome.on_run_ps[shell.info.index]
            assert 0 <= on_ps <= outcome.end_ps
    assert outcomes[0] == outcomes[1]


def test_a_fleet_that_nothing_befalls_changes_nothing() -> None:
    queries = [Q(at, answer=1 + at % 9) for at in range(0, 400, 7)]
    governed, _ = play(queries, failures=Failures())
    plain = run(queries, engines=[FakeEngine(base_ps=10, seat_ps=0, seats=4) for _ in range(2)])
    assert rows(governed) == rows(plain)
    assert governed.on_ps == plain.on_ps


def test_failures_of_one_replica_do_not_shift_those_of_another() -> None:
    queries = [Q(at, answer=2) for at in range(0, 3000, 30)]
    failures = Failures(mtbf_ps=300, mttr_ps=50)
    few = play(queries, replicas=2, failures=failures)[1].fleet.changes()
    many = play(queries, replicas=3, failures=failures)[1].fleet.changes()
    horizon = min(few[-1][0], many[-1][0])
    assert [c for c in many if c[1] < 2 and c[0] < horizon] == [c for c in few if c[0] < horizon]


# ------------------------------------------------------------------ autoscaling


def pool(**changes: Any) -> PoolState:
    state = {"now_s": 0.0, "ready": 4, "starting": 0, "outstanding": 8, "waiting": 0, "tokens": 1000}
    state["kv_use"] = 0.6
    return PoolState(**{**state, **changes})


@pytest.mark.parametrize(
    ("name", "options", "state", "wanted"),
    [
        ("target_kv_use", {"target": 0.6}, {"kv_use": 0.9}, 6),
        ("target_kv_use", {"target": 0.6}, {"kv_use": 0.65}, 4),
        ("target_kv_use", {"target": 0.6}, {"kv_use": 0.3}, 2),
        ("target_kv_use", {"target": 0.6}, {"ready": 0, "kv_use": 0.0, "outstanding": 3}, 1),
        ("queue_depth", {"up": 1.0, "down": 8.0}, {"waiting": 8}, 5),
        ("queue_depth", {"up": 1.0, "down": 8.0}, {"waiting": 12}, 6),
        ("queue_depth", {"up": 1.0, "down": 8.0}, {"waiting": 8, "starting": 3}, 7),  # they are on their way
        ("queue_depth", {"up": 1.0, "down": 8.0}, {"outstanding": 23}, 3),
        ("queue_depth", {"up": 1.0, "down": 8.0}, {"outstanding": 24}, 4),
        ("outstanding_tokens", {"target": 300}, {"tokens": 1000}, 4),
        ("outstanding_tokens", {"target": 300}, {"tokens": 900}, 3),
        ("scheduled", {"replicas": {0.0: 2, 3600.0: 5}}, {"now_s": 3599.0}, 2),
        ("scheduled", {"replicas": {0.0: 2, 3600.0: 5}}, {"now_s": 86_400.0 + 3600.0}, 5),
        ("scheduled", {"replicas": {100.0: 2, 3600.0: 5}}, {"now_s": 50.0}, 5),
        ("predicted", {"rates_per_s": (1.0, 4.0), "lead_s": 60.0, "period_s": 200.0}, {"now_s": 39.0}, 1),
        ("predicted", {"rates_per_s": (1.0, 4.0), "lead_s": 60.0, "period_s": 200.0}, {"now_s": 41.0}, 4),
        ("predicted", {"rates_per_s": (1.0, 4.0), "lead_s": 60.0, "period_s": 200.0}, {"now_s": 199.0}, 4),
    ],
)
def test_wanted_by_hand(name: str, options: dict[str, Any], state: dict[str, Any], wanted: int) -> None:
    assert AUTOSCALERS.make(name, options).wanted(pool(**state)) == wanted


@pytest.mark.parametrize("name", AUTOSCALERS.names())
def test_every_autoscaler_serves_a_run(name: str) -> None:
    scaling = Scaling("pool", AUTOSCALERS.make(name), 1, 4, interval_ps=100, cold_start_ps=50, cooldown_ps=200)
    queries = [Q(at, answer=10) for at in range(0, 2000, 9)]
    outcome, cluster = play(queries, replicas=4, engine={"seats": 2}, scalings=(scaling,), off=(1, 2, 3))
    assert {row["status"] for row in rows(outcome)} == {Status.COMPLETED}
    assert outcome.tally.queries == len(queries)
    assert all(0 <= on <= outcome.end_ps for on in outcome.on_run_ps)
    assert all(1 <= wanted <= 4 for _, wanted, _ in cluster.controllers[0].decisions)


class Steps(Autoscaler):
    """Two from 100 ps on, one from 500 ps on."""

    def wanted(self, pool: PoolState) -> int:
        return 2 if 100e-12 <= pool.now_s < 500e-12 else 1


def test_cold_start_cool_down_and_drain_by_hand() -> None:
    scaling = Scaling("pool", Steps(), 1, 2, interval_ps=100, cold_start_ps=150, cooldown_ps=200)
    queries = [Q(at, answer=30) for at in range(0, 1000, 50)]
    outcome, cluster = play(queries, scalings=(scaling,), off=(1,), engine={"seats": 50})
    assert cluster.controllers[0].decisions == [(100, 2, 1), (600, 1, 2)]
    changes = cluster.fleet.changes()
    assert (100, 1, 1) in changes  # ordered, and paid for from then on
    done = rows(outcome)
    assert min(row["arrived_ps"] for row in done if row["replica"] == 1) == 250  # there
    ((off_ps, gone, _),) = [change for change in changes if change[2] == -1]
    mine = [row for row in done if row["replica"] == gone]
    assert max(row["arrived_ps"] for row in mine) < 600  # nothing new since it drains
    assert off_ps == max(row["finished_ps"] for row in mine) > 600  # what ran has finished
    assert sum(outcome.on_run_ps) == off_ps - [0, 100][gone] + outcome.end_ps - [100, 0][gone]


def test_a_pool_may_shrink_to_nothing_and_come_back() -> None:
    class OnDemand(Autoscaler):
        def wanted(self, pool: PoolState) -> int:
            return 1 if pool.outstanding else 0

    scaling = Scaling("pool", OnDemand(), 0, 1, interval_ps=100, cold_start_ps=30, cooldown_ps=100)
    outcome, _ = play([Q(0, answer=2), Q(1000, answer=2)], replicas=1, scalings=(scaling,))
    done = rows(outcome)
    assert [row["status"] for row in done] == [Status.COMPLETED] * 2
    assert done[1]["first_scheduled_ps"] == 1130  # ticks come before arrivals: seen at 1100, and 30 to start
    assert outcome.on_run_ps[0] < 300


def test_cold_start_from_size_and_bandwidth() -> None:
    assert cold_start_ps(140e9, 2e9, 20.0) == 90 * 10**12
