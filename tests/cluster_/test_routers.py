"""Every registered router keeps the contract; hand-computed cases for each."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from fake_engine import FakeEngine, FakeSnapshot
from small_source import Q
from test_gateway import rows, run

from sim.policies import registry
from sim.policies.routing import ReplicaInfo, Router

ROUTERS = registry("router")


@dataclass
class Asked:
    """A request as a router sees it: it has no true length at all."""

    id: int = 0
    query: int = 0
    sample: int = 0
    prompt_tokens: int = 100
    max_tokens: int = -1
    priority: int = 0
    category: int = 0
    client: int = 0
    session: int = -1
    prefix_group: Any = None
    prefix_len: int = 0
    predicted_tokens: int = -1
    deadline_ps: int = 1 << 100


@dataclass
class Scene:
    """A view written by hand."""

    outstanding: list[int]
    kv_use: list[float] = field(default_factory=list)
    token_counts: list[int] = field(default_factory=list)
    candidates: tuple[int, ...] = ()
    replicas: tuple[ReplicaInfo, ...] = ()
    categories: tuple[str, ...] = ("chat", "code", "math")
    now_ps: int = 1_000
    looked_inside: int = 0

    def __post_init__(self) -> None:
        n = len(self.outstanding)
        self.candidates = self.candidates or tuple(range(n))
        self.kv_use = self.kv_use or [0.1 * k for k in self.outstanding]
        self.token_counts = self.token_counts or [100 * k for k in self.outstanding]
        self.replicas = self.replicas or tuple(
            ReplicaInfo(index=i, pool="ab"[i % 2], pool_index=i % 2, replica=i // 2, token_ps=10.0) for i in range(n)
        )

    def state(self, index: int) -> FakeSnapshot:
        self.looked_inside += 1
        return FakeSnapshot(
            running=self.outstanding[index],
            waiting=0,
            free_blocks=round((1 - self.kv_use[index]) * 1000),
            total_blocks=1000,
            computed_tokens=self.token_counts[index],
            queued_tokens=0,
        )

    def tokens(self, index: int) -> int:
        self.looked_inside += 1
        return self.token_counts[index]

    def least_loaded(self, candidates: Any, weights: Any = None) -> int:
        return min(
            candidates,
            key=lambda i: (self.tokens(i) * (weights[i] if weights else 1), self.outstanding[i], i),
        )

    @property
    def token_ps(self) -> list[float]:
        return [info.token_ps for info in self.replicas]

    def most_loaded(self, candidates: Any, weights: Any, limit: Any) -> int | None:
        able = [(self.tokens(i) * weights[i], -i) for i in candidates if self.tokens(i) * weights[i] <= limit(i)]
        return -max(able)[1] if able else None

    def least_used(self, candidates: Any) -> int:
        return min(candidates, key=lambda i: (self.state(i).kv_use, self.outstanding[i], i))

    def among(self, candidates: Any) -> Scene:
        inner = copy.copy(self)
        inner.candidates = tuple(candidates)
        return inner


def begin(name: str, **options: Any) -> Any:
    return ROUTERS.make(name, options).begin(np.random.default_rng(3))


def requests(count: int) -> list[Asked]:
    rng = np.random.default_rng(1)
    return [
        Asked(
            id=i,
            query=i,
            category=int(rng.integers(3)),
            client=int(rng.integers(3)),
            session=int(rng.integers(-1, 5)),
            prefix_group=[None, 1, ("prompt", 2)][int(rng.integers(3))],
            predicted_tokens=int(rng.integers(1, 500)),
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("name", ROUTERS.names())
class TestContract:
    def test_it_answers_with_a_candidate_and_changes_nothing(self, name: str) -> None:
        choose = begin(name)
        rng = np.random.default_rng(2)
        for request in requests(200):
            n = int(rng.integers(1, 9))
            candidates = tuple(sorted(rng.choice(n, size=int(rng.integers(1, n + 1)), replace=False).tolist()))
            scene = Scene([int(k) for k in rng.integers(0, 5, n)], candidates=candidates)
            before = copy.deepcopy((scene.outstanding, scene.candidates, scene.kv_use, vars(request)))
            assert choose(scene, request) in candidates
            assert (scene.outstanding, scene.candidates, scene.kv_use, vars(request)) == before

    def test_the_same_seed_gives_the_same_choices(self, name: str) -> None:
        def play() -> list[int]:
            choose = begin(name)
            return [choose(Scene([3, 1, 2, 1, 0, 4]), request) for request in requests(100)]

        assert play() == play()

    def test_it_reads_no_more_than_it_says(self, name: str) -> None:
        router: Router = ROUTERS.make(name)
        choose = router.begin(np.random.default_rng(3))
        scene = Scene([3, 1, 2, 1, 0, 4])

        class Blind(list):
            def _no(self, *args: Any) -> Any:
                raise AssertionError("it looked at counts")

            __getitem__ = __iter__ = index = _no

        if router.needs() == "nothing":
            scene.outstanding = Blind(scene.outstanding)
        for request in requests(50):
            choose(scene, request)
        if router.needs() != "snapshots":
            assert scene.looked_inside == 0

    def test_it_serves_a_run(self, name: str) -> None:
        queries = [Q(at=10 * i, session=i % 4, category=i % 3, answer=3 + i % 7) for i in range(60)]
        done = rows(run(queries, engines=[FakeEngine(seats=2) for _ in range(3)], router=name))
        assert len(done) == 60
        assert {row["status"] for row in done} == {0}

    def test_one_replica_leaves_no_choice(self, name: str) -> None:
        choose = begin(name)
        assert {choose(Scene([5]), request) for request in requests(20)} == {0}


def test_random_takes_the_place_that_its_stream_draws() -> None:
    """A draw u in [0, 1) is the floor(4u)-th of four candidates."""
    choose = begin("random")
    drawn = np.random.default_rng(3).random(50)
    scene = Scene([0] * 6, candidates=(1, 2, 4, 5))
    assert [choose(scene, Asked()) for _ in drawn] == [(1, 2, 4, 5)[int(4 * u)] for u in drawn]


def test_consistent_hash_takes_the_next_place_on_the_ring() -> None:
    """One place a replica: the first at or after the key's own, and the lowest after the highest."""

    def place(text: str) -> int:
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")

    ring = sorted((place(f"replica {index} 0"), index) for index in range(3))
    choose = begin("consistent_hash", by="client", points=1)
    for client in range(40):
        after = [index for at, index in ring if at >= place(f"client {client}")]
        assert choose(Scene([0, 0, 0]), Asked(client=client)) == (after or [ring[0][1]])[0]
    choose = begin("consistent_hash", by="session", points=1)
    for session in (-1, 5):
        key = place("session 5" if session == 5 else "query 8")
        after = [index for at, index in ring if at >= key]
        assert choose(Scene([0, 0, 0]), Asked(session=session, query=8)) == (after or [ring[0][1]])[0]


def test_prefix_affinity_leaves_a_full_home() -> None:
    choose = begin("prefix_affinity", guard=1.0, slack=1)
    assert choose(Scene([1, 0]), Asked(prefix_group=4)) == 1
    assert choose(Scene([1, 3]), Asked(prefix_group=4)) == 1  # 3 <= 1 * 2 + 1
    assert choose(Scene([1, 4]), Asked(prefix_group=4)) == 0  # 4 > 1 * 2.5 + 1
    assert choose(Scene([1, 0]), Asked(prefix_group=4)) == 0  # its new home


def test_round_robin_goes_round() -> None:
    choose = begin("round_robin")
    assert [choose(Scene([9, 0, 0]), Asked()) for _ in range(5)] == [0, 1, 2, 0, 1]


def test_round_robin_takes_turns_of_each_pool() -> None:
    """A cascade asks small and large pools by turns; within each, every replica has its turn."""
    choose = begin("round_robin")
    small, large = Scene([0] * 4, candidates=(0, 2)), Scene([0] * 4, candidates=(1, 3))
    assert [choose(scene, Asked()) for scene in (small, large) * 2] == [0, 1, 2, 3]
    assert [choose(Scene([0] * 4), Asked()) for _ in range(3)] == [0, 1, 2]  # of both pools: turns of their own
    assert choose(large, Asked()) == 1


def test_least_outstanding_requests_breaks_ties_by_index() -> None:
    choose = begin("least_outstanding_requests")
    assert choose(Scene([2, 1, 1]), Asked()) == 1
    assert choose(Scene([0, 3, 2, 2], candidates=(1, 2, 3)), Asked()) == 2


def test_least_outstanding_tokens() -> None:
    choose = begin("least_outstanding_tokens")
    assert choose(Scene([1, 5, 2], token_counts=[900, 100, 500]), Asked()) == 1
    assert choose(Scene([4, 2, 3], token_counts=[100, 100, 100]), Asked()) == 1


def test_least_kv() -> None:
    assert begin("least_kv")(Scene([1, 2, 3], kv_use=[0.5, 0.4, 0.9]), Asked()) == 1


def test_shortest_predicted_wait_sends_more_to_the_faster() -> None:
    infos = (
        ReplicaInfo(0, "h100", 0, 0, token_ps=10.0),
        ReplicaInfo(1, "a100", 1, 0, token_ps=30.0),
    )
    choose = begin("shortest_predicted_wait")
    assert choose(Scene([2, 1], token_counts=[250, 100], replicas=infos), Asked()) == 0
    assert choose(Scene([4, 1], token_counts=[350, 100], replicas=infos), Asked()) == 1


def test_join_idle_queue() -> None:
    choose = begin("join_idle_queue")
    assert {choose(Scene([1, 0, 2, 0]), Asked()) for _ in range(40)} == {1, 3}
    assert {choose(Scene([1, 1, 2, 3]), Asked()) for _ in range(80)} == {0, 1, 2, 3}


def test_power_of_two_never_takes_the_worst_of_two() -> None:
    choose = begin("power_of_two")
    assert {choose(Scene([7, 3]), Asked()) for _ in range(20)} == {1}
    shares = np.bincount([choose(Scene([0, 1, 2, 3]), Asked()) for _ in range(6000)], minlength=4)
    assert shares[3] == 0
    assert shares / 6000 == pytest.approx([1 / 2, 1 / 3, 1 / 6, 0], abs=0.03)


def test_session_affinity_stays_until_the_guard_says_go() -> None:
    choose = begin("session_affinity", guard=1.5, slack=2)
    assert choose(Scene([1, 0, 1]), Asked(session=7)) == 1
    assert choose(Scene([0, 2, 0]), Asked(session=7)) == 1  # 2 <= 1.5 * 2/3 + 2
    assert choose(Scene([3, 9, 3]), Asked(session=7)) == 1  # 9 <= 1.5 * 5 + 2
    assert choose(Scene([3, 12, 3]), Asked(session=7)) == 0  # 12 > 1.5 * 6 + 2
    assert choose(Scene([3, 0, 0]), Asked(session=7)) == 0  # its new home: 3 <= 1.5 * 1 + 2


def test_prefix_affinity_binds_by_group_and_leaves_others_free() -> None:
    choose = begin("prefix_affinity")
    assert choose(Scene([1, 0]), Asked(prefix_group=4)) == 1
    assert choose(Scene([0, 3]), Asked(prefix_group=4)) == 1
    assert choose(Scene([0, 3]), Asked()) == 0


def test_consistent_hash_moves_only_the_share_of_who_left() -> None:
    choose = begin("consistent_hash", by="query")
    asked = [Asked(query=i) for i in range(3000)]
    whole = [choose(Scene([0] * 5), request) for request in asked]
    less = [choose(Scene([0] * 5, candidates=(0, 1, 3, 4)), request) for request in asked]
    assert all(a == b for a, b in zip(whole, less, strict=True) if a != 2)
    shares = np.bincount(whole, minlength=5) / 3000
    assert shares == pytest.approx([0.2] * 5, abs=0.08)


def test_by_category_and_its_default() -> None:
    choose = begin("by_category", pools={"math": "b"}, default="a")
    assert choose(Scene([5, 5, 5, 0]), Asked(category=2)) == 3
    assert choose(Scene([5, 0, 4, 0]), Asked(category=0)) == 2


def test_by_length_class() -> None:
    choose = begin("by_length_class", pools=("a", "b"), bounds=(500,))
    assert choose(Scene([1, 0, 0, 0]), Asked(prompt_tokens=499)) == 2
    assert choose(Scene([0, 1, 0, 0]), Asked(prompt_tokens=500)) == 3
    choose = begin("by_length_class", pools=("a", "b"), bounds=(500,), by="output")
    assert choose(Scene([0, 0]), Asked(predicted_tokens=10)) == 0
    assert choose(Scene([0, 0]), Asked(predicted_tokens=-1)) == 1


def test_by_difficulty() -> None:
    class Judging(Scene):
        def looks_hard(self, request: Any, *rates: float) -> bool:
            assert rates == (0.3, 0.9, 0.8)
            return request.query % 2 == 1

    options = {"hard_share": 0.3, "sensitivity": 0.9, "specificity": 0.8}
    choose = begin("by_difficulty", easy_pool="a", hard_pool="b", **options)
    assert choose(Judging([1, 0, 0, 0]), Asked(query=4)) == 2
    assert choose(Judging([0, 1, 0, 0]), Asked(query=5)) == 3
    choose = begin("by_difficulty", hard_pool="b", **options)
    assert choose(Judging([0, 0, 1, 1]), Asked(query=4)) == 0, "the others may go anywhere"
    assert choose(Judging([0, 5, 0, 1]), Asked(query=5)) == 3


def test_cost_aware_takes_the_cheapest_that_is_free_enough() -> None:
    infos = (
        ReplicaInfo(0, "h100", 0, 0, token_ps=10e9, price_usd_per_hour=10.0),
        ReplicaInfo(1, "a100", 1, 0, token_ps=20e9, price_usd_per_hour=4.0),
    )
    choose = begin("cost_aware", max_wait_s=1.0)
    assert choose(Scene([0, 0], token_counts=[0, 50], replicas=infos), Asked()) == 1
    assert choose(Scene([0, 0], token_counts=[0, 51], replicas=infos), Asked()) == 0
    assert choose(Scene([0, 0], token_counts=[200, 90], replicas=infos), Asked()) == 1


def test_slo_aware_packs_and_saves_the_idle_for_the_urgent() -> None:
    scene = Scene([2, 0], token_counts=[50, 0])
    choose = begin("slo_aware", margin=1.0)
    assert choose(scene, Asked(prompt_tokens=1, predicted_tokens=9)) == 0
    assert choose(scene, Asked(prompt_tokens=1, predicted_tokens=9, deadline_ps=1_000 + 599)) == 1
    assert choose(scene, Asked(prompt_tokens=1, predicted_tokens=9, deadline_ps=1_000 + 600)) == 0


@pytest.mark.parametrize("name", ["least_outstanding_tokens", "shortest_predicted_wait"])
def test_looking_into_few_replicas_chooses_as_looking_into_all_does(name: str) -> None:
    """The bound of `least_loaded` never changes the choice."""

    class Thorough(Router):
        sees = "snapshots"

        def choose(self, view: Any, request: Any) -> int:
            return min(view.candidates, key=lambda i: (view.tokens(i), view.outstanding[i], i))

    rng = np.random.default_rng(8)
    at = np.sort(rng.integers(0, 3000, 300))
    queries = [
        Q(int(t), prompt=int(p), answer=int(n))
        for t, p, n in zip(at, rng.integers(1, 40, 300), rng.integers(1, 60, 300), strict=True)
    ]
    engines = [[FakeEngine(seats=3, base_ps=7) for _ in range(6)] for _ in range(2)]
    fast, slow = (
        run(queries, engines=made, router=router)
        for made, router in zip(engines, (ROUTERS.make(name), Thorough()), strict=True)
    )
    assert rows(fast) == rows(slow)
    assert len({row["replica"] for row in rows(fast)}) == 6


def test_bad_options_are_refused() -> None:
    for name, options in (
        ("power_of_two", {"choices": 0}),
        ("join_idle_queue", {"idle_below": 0}),
        ("by_length_class", {"pools": ("a", "b"), "bounds": ()}),
        ("slo_aware", {"margin": 0}),
        ("by_difficulty", {"sensitivity": 1.2}),
        ("consistent_hash", {"points": 0}),
    ):
        with pytest.raises(ValueError, match=r"must|need"):
            ROUTERS.make(name, options)


@pytest.mark.parametrize("name", ROUTERS.names())
def test_choices_do_not_depend_on_what_is_hidden(name: str) -> None:
    """The same visible queries with other true lengths are routed alike until the first of them ends."""
    routed = []
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        queries = [
            Q(
                at=i,
                prompt=10 + i,
                session=i % 5 - 1,
                category=i % 3,
                reasoning=int(rng.integers(20, 90)),
                answer=int(rng.integers(20, 90)),
            )
            for i in range(30)
        ]
        engines = [FakeEngine(seats=50, base_ps=100) for _ in range(4)]
        done = rows(run(queries, engines=engines, router=name))
        assert min(row["finished_ps"] for row in done) > 30
        routed.append([row["replica"] for row in done])
    assert routed[0] == routed[1]
