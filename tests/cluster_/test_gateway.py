"""Queries through the gateway: laws over random scenarios, ties, windows, timeouts, closed loops."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pytest
from fake_engine import FakeEngine
from hypothesis import given, settings
from hypothesis import strategies as st
from small_source import ListSource, Q

from sim.cluster.cluster import Cluster, Outcome
from sim.cluster.gateway import GatewaySettings
from sim.cluster.window import Measure
from sim.errors import PolicyError
from sim.policies import registry
from sim.policies.reasoning import Answer, Generate, Parallel, QueryView, Run, Strategy, Verify, Wait
from sim.policies.routing import ReplicaInfo, Router
from sim.policies.strategies.single import Single
from sim.results.columns import Role, Status
from sim.rng import Streams


@dataclass(frozen=True)
class SlowSingle(Single):
    """The same strategy through its generator."""

    plain: ClassVar[bool] = False


def run(
    queries: list[Q] | ListSource,
    *,
    engines: list[FakeEngine] | None = None,
    strategy: Strategy | None = None,
    router: str | Router = "round_robin",
    measure: Measure | None = None,
    pools: list[str] | None = None,
    around: dict[str, Any] | None = None,
    **settings: Any,
) -> Outcome:
    engines = engines or [FakeEngine()]
    pools = pools or ["pool"] * len(engines)
    names = list(dict.fromkeys(pools))
    infos = [
        ReplicaInfo(
            index=i,
            pool=pool,
            pool_index=names.index(pool),
            replica=pools[:i].count(pool),
            role="verify" if pool == "verifier" else "generate",
        )
        for i, pool in enumerate(pools)
    ]
    cluster = Cluster(
        source=queries if isinstance(queries, ListSource) else ListSource(queries),
        replicas=list(zip(infos, engines, strict=True)),
        strategy=strategy or Single(),
        router=registry("router").make(router) if isinstance(router, str) else router,
        streams=Streams(1),
        measure=measure,
        settings=GatewaySettings(**settings),
        **(around or {}),
    )
    outcome = cluster.run()
    if around is not None:
        around["cluster"] = cluster
    return outcome


def rows(outcome: Outcome) -> list[dict[str, int]]:
    columns = outcome.requests.columns()
    found = [dict(zip(columns, row, strict=True)) for row in zip(*(c.tolist() for c in columns.values()), strict=True)]
    return sorted(found, key=lambda row: row["id"])


def query_rows(outcome: Outcome) -> list[dict[str, int]]:
    columns = outcome.queries.columns()
    found = [dict(zip(columns, row, strict=True)) for row in zip(*(c.tolist() for c in columns.values()), strict=True)]
    return sorted(found, key=lambda row: row["query"])


queries_st = st.lists(
    st.builds(
        Q,
        at=st.integers(0, 400),
        prompt=st.integers(1, 30),
        reasoning=st.integers(0, 12),
        answer=st.integers(1, 12),
        category=st.integers(0, 2),
    ),
    min_size=1,
    max_size=40,
).map(lambda queries: sorted(queries, key=lambda query: query.at))
cluster_st = st.fixed_dictionaries(
    {
        "replicas": st.integers(1, 4),
        "seats": st.integers(1, 5),
        "base_ps": st.integers(1, 12),
        "seat_ps": st.integers(0, 3),
        "fits": st.sampled_from([15, 1 << 60]),
    }
)


def engines_of(given: dict[str, int], jump: bool = True) -> list[FakeEngine]:
    options = {key: value for key, value in given.items() if key != "replicas"}
    return [FakeEngine(jump=jump, **options) for _ in range(given["replicas"])]


@given(queries_st, cluster_st, st.sampled_from(["round_robin", "least_outstanding_requests"]))
def test_laws(queries: list[Q], given: dict[str, int], router: str) -> None:
    """Nothing is lost or served twice, tokens in are tokens out, time never runs back, and Little's law
    holds.
    """
    engines = engines_of(given)
    outcome = run(queries, engines=engines, router=router)
    done = rows(outcome)
    assert [row["query"] for row in done] == list(range(len(queries)))
    area = 0
    for row, query in zip(done, queries, strict=True):
        assert row["arrived_ps"] == query.at
        assert row["prompt_tokens"] == query.prompt
        if query.prompt > given["fits"]:
            assert row["status"] == Status.REJECTED
            assert (row["finished_ps"], row["pool"], row["generated"]) == (query.at, -1, 0)
            continue
        assert row["status"] == Status.COMPLETED
        assert row["generated"] == query.reasoning + query.answer
        assert query.at <= row["first_scheduled_ps"] < row["first_token_ps"] <= row["first_answer_ps"]
        assert row["first_answer_ps"] <= row["finished_ps"] <= outcome.end_ps
        area += row["finished_ps"] - row["arrived_ps"]
    # Little: the time integral of how many are present is the sum of the times they are present
    times = sorted({t for row in done for t in (row["arrived_ps"], row["finished_ps"])})
    present = sum(
        (later - now) * sum(row["arrived_ps"] <= now < row["finished_ps"] for row in done)
        for now, later in pairwise(times)
    )
    assert present == area
    assert all(not engine.running and not engine.waiting for engine in engines)
    assert outcome.drained


@given(queries_st, cluster_st, st.sampled_from(["round_robin", "least_outstanding_requests"]))
def test_step_by_step_equals_jumping(queries: list[Q], given: dict[str, int], router: str) -> None:
    jumped = run(queries, engines=engines_of(given), router=router)
    stepped = run(queries, engines=engines_of(given, jump=False), router=router)
    assert rows(jumped) == rows(stepped)


@given(queries_st, cluster_st, st.integers(0, 3), st.booleans(), st.sampled_from([None, 40, 150]))
def test_the_plain_path_equals_the_generator(
    queries: list[Q], given: dict[str, int], budget: int, closed: bool, timeout_ps: int | None
) -> None:
    tables = []
    for strategy in (Single, SlowSingle):
        source = ListSource(queries, closed_loop=3 if closed else None, block=7)
        outcome = run(
            source,
            engines=engines_of(given),
            strategy=strategy({"default": 10, "code": budget}),
            router="least_outstanding_requests",
            timeout_ps=timeout_ps,
        )
        tables.append((rows(outcome), query_rows(outcome), outcome.end_ps, outcome.window_end_ps))
    assert tables[0] == tables[1]


@given(queries_st, cluster_st)
def test_the_same_run_twice_gives_the_same_bytes(queries: list[Q], given: dict[str, int]) -> None:
    one, two = (run(queries, engines=engines_of(given)) for _ in range(2))
    for name, column in one.requests.columns().items():
        assert column.tobytes() == two.requests.columns()[name].tobytes()


# ------------------------------------------------------------------ ties


def test_an_arrival_exactly_at_a_step_end_joins_the_next_step() -> None:
    engine = FakeEngine(seats=2, base_ps=10, seat_ps=0)
    done = rows(run([Q(0, answer=3), Q(10, answer=1)], engines=[engine]))
    assert done[1]["first_scheduled_ps"] == 10
    assert [row["finished_ps"] for row in done] == [30, 20]


def test_an_arrival_exactly_at_a_completion_takes_the_seat() -> None:
    engine = FakeEngine(seats=1, base_ps=10, seat_ps=0)
    done = rows(run([Q(0, answer=2), Q(20, answer=1)], engines=[engine]))
    assert done[1]["first_scheduled_ps"] == 20


def test_a_router_sees_completions_of_its_own_instant() -> None:
    """Replica 0 ends exactly when the third query comes: it is the emptier one by then."""
    engines = [FakeEngine(base_ps=10, seat_ps=0), FakeEngine(base_ps=10, seat_ps=0)]
    queries = [Q(0, answer=2), Q(0, answer=9), Q(20, answer=1)]
    done = rows(run(queries, engines=engines, router="least_outstanding_requests"))
    assert [row["replica"] for row in done] == [0, 1, 0]


def test_several_replicas_ending_at_once_are_handled_in_order() -> None:
    engines = [FakeEngine(base_ps=10, seat_ps=0) for _ in range(4)]
    source = ListSource([Q(0, answer=2) for _ in range(12)], closed_loop=4)
    outcome = run(source, engines=engines, router="least_outstanding_requests")
    assert [row["replica"] for row in rows(outcome)] == [0, 1, 2, 3] * 3
    assert outcome.end_ps == 60


def test_a_timeout_at_the_completion_finds_the_query_done() -> None:
    done = rows(run([Q(0, answer=3)], engines=[FakeEngine(base_ps=10, seat_ps=0)], timeout_ps=30))
    assert done[0]["status"] == Status.COMPLETED
    done = rows(run([Q(0, answer=3)], engines=[FakeEngine(base_ps=10, seat_ps=0)], timeout_ps=29))
    assert done[0]["status"] == Status.TIMED_OUT
    assert done[0]["generated"] == 3 or done[0]["finished_ps"] <= 30


def test_timed_out_queries_free_their_seats() -> None:
    engine = FakeEngine(seats=1, base_ps=10, seat_ps=0)
    outcome = run([Q(0, answer=100), Q(5, answer=2), Q(5, answer=2)], engines=[engine], timeout_ps=40)
    done = rows(outcome)
    assert [row["status"] for row in done] == [Status.TIMED_OUT, Status.TIMED_OUT, Status.TIMED_OUT]
    assert done[1]["first_scheduled_ps"] == 40
    assert query_rows(outcome)[0]["status"] == Status.TIMED_OUT


# ------------------------------------------------------------------ windows


def test_the_window_by_duration_and_its_drain() -> None:
    queries = [Q(at, answer=5) for at in range(0, 1000, 100)]
    outcome = run(queries, engines=[FakeEngine(base_ps=10)], measure=Measure(warmup_ps=100, duration_ps=200))
    assert (outcome.window_start_ps, outcome.window_end_ps) == (100, 300)
    assert outcome.end_ps == 300  # those of the window, at 100 and 200, ended before
    slow = run(queries, engines=[FakeEngine(base_ps=100)], measure=Measure(warmup_ps=100, duration_ps=200))
    assert slow.drained
    finished = [row["finished_ps"] for row in rows(slow)]
    assert slow.end_ps == max(finished[1:3])
    assert any(row["arrived_ps"] >= 300 for row in rows(slow))  # arrivals went on
    cut = run(
        queries,
        engines=[FakeEngine(base_ps=100)],
        measure=Measure(warmup_ps=100, duration_ps=200, max_drain_ps=50),
    )
    assert (cut.end_ps, cut.drained) == (350, False)
    assert {row["status"] for row in rows(cut)} >= {Status.UNFINISHED}
    assert len(query_rows(cut)) == cut.tally.queries


@given(queries_st, st.integers(0, 5), st.integers(1, 5))
def test_the_window_by_queries_never_tears_an_instant(queries: list[Q], warmup: int, count: int) -> None:
    outcome = run(queries, measure=Measure(warmup_queries=warmup, queries=count))
    inside = [q.at for q in queries if outcome.window_start_ps <= q.at < outcome.window_end_ps]
    later = [q.at for q in queries[warmup:] if q.at > (queries[warmup - 1].at if warmup else -1)]
    assert inside[:count] == later[:count]
    assert len(inside) >= min(count, len(later))
    if len(later) >= count:
        assert set(inside) == set(later[:count])


def test_a_source_that_ends_before_the_window_closes_it() -> None:
    outcome = run([Q(0), Q(50)], measure=Measure(duration_ps=1_000_000))
    assert outcome.window_end_ps == 51
    assert outcome.end_ps < 1000


# ------------------------------------------------------------------ closed loop


def test_a_closed_loop_keeps_its_slots_busy_after_think_time() -> None:
    source = ListSource([Q(7, answer=2) for _ in range(6)], closed_loop=2)
    done = rows(run(source, engines=[FakeEngine(seats=1, base_ps=10, seat_ps=0)]))
    assert [row["arrived_ps"] for row in done] == [7, 7, 34, 54, 74, 94]
    assert [row["finished_ps"] for row in done] == [27, 47, 67, 87, 107, 127]


# ------------------------------------------------------------------ strategies through the driver


@dataclass(frozen=True)
class FirstOf(Strategy):
    """Two of three samples are enough."""

    samples: int = 3

    def run(self, query: QueryView) -> Run:
        outcomes = yield Parallel(
            [Generate(sample=k) for k in range(self.samples)],
            enough=lambda known: sum(o is not None for o in known) >= 2,
        )
        return Answer(next((outcome for outcome in outcomes if outcome.ok), None))


def test_samples_stay_together_and_the_rest_is_cancelled() -> None:
    engines = [FakeEngine(seats=2, base_ps=10, seat_ps=0) for _ in range(2)]
    outcome = run([Q(0, reasoning=1, answer=3), Q(0, answer=2)], engines=engines, strategy=FirstOf())
    done = rows(outcome)
    assert [row["replica"] for row in done] == [0, 0, 0, 1, 1, 1]
    assert [Status(row["status"]).name for row in done].count("CANCELLED") == 2
    first = query_rows(outcome)[0]
    assert first["requests"] == 3
    assert first["finished_ps"] == sorted(r["finished_ps"] for r in done[:3] if r["status"] == Status.COMPLETED)[1]
    generated = sum(row["generated"] for row in done[:3])
    assert first["reasoning_tokens"] + first["answer_tokens"] == generated


@dataclass(frozen=True)
class CheckAndWait(Strategy):
    """Generate, verify elsewhere, wait, generate again."""

    def run(self, query: QueryView) -> Run:
        first = yield Generate()
        yield Verify(first, pool="verifier", output_tokens=2)
        yield Wait(100e-12)
        second = yield Generate(sample=1)
        return Answer(second)


def test_a_strategy_of_several_calls_in_a_row() -> None:
    engines = [FakeEngine(base_ps=10, seat_ps=0), FakeEngine(base_ps=10, seat_ps=0)]
    outcome = run([Q(5, answer=3)], engines=engines, pools=["main", "verifier"], strategy=CheckAndWait())
    done = rows(outcome)
    assert [row["role"] for row in done] == [Role.GENERATE, Role.VERIFY, Role.GENERATE]
    assert [row["arrived_ps"] for row in done] == [5, 35, 155]
    assert done[1]["prompt_tokens"] == 13
    query = query_rows(outcome)[0]
    assert query["verification_tokens"] == 15
    assert query["finished_ps"] == done[2]["finished_ps"] == query["first_answer_ps"]
    assert query["requests"] == 3


@given(queries_st, cluster_st, st.sampled_from([None, 60]))
@settings(max_examples=40)
def test_laws_with_samples_and_cancels(queries: list[Q], given: dict[str, int], timeout_ps: int | None) -> None:
    outcome = run(queries, engines=engines_of(given), strategy=FirstOf(4), timeout_ps=timeout_ps)
    done, asked = rows(outcome), query_rows(outcome)
    assert [row["query"] for row in asked] == list(range(len(queries)))
    assert [row["id"] for row in done] == list(range(4 * len(queries)))
    for row in asked:
        mine = [r for r in done if r["query"] == row["query"]]
        assert row["reasoning_tokens"] + row["answer_tokens"] == sum(r["generated"] for r in mine)
        assert row["requests"] == len(mine) == 4
    stepped = run(queries, engines=engines_of(given, jump=False), strategy=FirstOf(4), timeout_ps=timeout_ps)
    assert rows(stepped) == done
    assert query_rows(stepped) == asked


# ------------------------------------------------------------------ misuse and staleness


def test_a_router_that_names_a_replica_that_is_not_there_is_named() -> None:
    class Wild(Router):
        def choose(self, view: Any, request: Any) -> int:
            return 7

    with pytest.raises(PolicyError, match=r"Wild chose replica 7"):
        run([Q(0)], engines=[FakeEngine(), FakeEngine()], router=Wild())


def test_a_stale_view_sends_the_herd_to_one_replica() -> None:
    queries = [Q(at, answer=20) for at in range(10, 20)]
    engines = lambda: [FakeEngine(seats=20) for _ in range(2)]  # noqa: E731
    fresh = rows(run(queries, engines=engines(), router="least_outstanding_requests"))
    stale = rows(run(queries, engines=engines(), router="least_outstanding_requests", refresh_ps=1000))
    assert sum(row["replica"] for row in fresh) == 5
    assert sum(row["replica"] for row in stale) == 0
    assert len({tuple(np.array([row["finished_ps"] for row in rows_])) for rows_ in (fresh, stale)}) == 2
