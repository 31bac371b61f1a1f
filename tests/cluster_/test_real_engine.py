"""The cluster around the real engine: both modes alike, and queueing theory where it has an exact answer."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from small_source import Q
from test_gateway import FirstOf, query_rows, rows, run

from calibration.step_cost import StepCost
from sim.cluster.cluster import Outcome
from sim.cluster.failures import Failures
from sim.cluster.window import Measure
from sim.engine.replica import Replica, make_replica
from sim.engine.settings import EngineSettings
from sim.policies import registry
from sim.policies.routing import Router
from sim.results.columns import Status
from sim.results.sinks import SegmentSink


def engine(cost: StepCost, *, stepwise: bool = False, **options: Any) -> tuple[Replica, SegmentSink]:
    sink = SegmentSink()
    defaults = {"num_gpu_blocks": 100_000, "async_scheduling": False, "enable_prefix_caching": False}
    made = make_replica(
        EngineSettings(**{**defaults, **options}),
        cost,
        registry("scheduler").make("vllm"),
        stepwise=stepwise,
        segments=sink,
    )
    return made, sink


def poisson(rng: np.random.Generator, mean_gap_ps: float, lengths: np.ndarray) -> list[Q]:
    at = np.cumsum(rng.exponential(mean_gap_ps, len(lengths))).astype(np.int64)
    return [Q(int(a), prompt=1, answer=int(n)) for a, n in zip(at, lengths, strict=True)]


# ------------------------------------------------------------------ both modes alike

CASES = 150
BASE_SEED = 20_000


def case(seed: int) -> dict[str, Any]:
    """A small random cluster under pressure of one kind or another."""
    rng = random.Random(seed)
    span_ps = rng.choice([100, 1_000, 3_000])
    drain_ps = rng.choice([0, 300, 900])
    queries = []
    for at in sorted(rng.randrange(span_ps) for _ in range(rng.randint(1, 25))):
        prompt = rng.randint(1, 40)
        group = rng.choice([-1, -1, 0])
        queries.append(
            Q(
                at,
                prompt=prompt,
                reasoning=rng.randint(0, 40),
                answer=rng.randint(1, 20),
                max_tokens=rng.choice([-1, 15]),
                group=group,
                prefix=min(prompt, 9) if group >= 0 else 0,
            )
        )
    return {
        "queries": queries,
        "cost": StepCost(
            rng.randint(1, 40),
            (0,),
            rng.randint(0, 5),
            kv_ps=rng.randint(0, 2),
            half_pair_ps=rng.randint(0, 1),
        ),
        "replicas": rng.randint(1, 3),
        "options": {
            "num_gpu_blocks": rng.choice([14, 30, 1000]),
            "block_size": 4,
            "max_num_seqs": rng.choice([2, 6]),
            "max_num_batched_tokens": 24,
            "max_model_len": 120,
            "async_scheduling": rng.random() < 0.5,
            "enable_prefix_caching": rng.random() < 0.5,
        },
        "timeout_ps": rng.choice([None, 700]),
        "measure": rng.choice([Measure(), Measure(duration_ps=1_500, max_drain_ps=drain_ps)]),
        "strategy": FirstOf(3) if rng.random() < 0.3 else None,
        "router": rng.choice(["round_robin", "least_outstanding_requests"]),
    }


def play(given: dict[str, Any], *, stepwise: bool) -> tuple[Outcome, list[list[list[int]]]]:
    made = [engine(given["cost"], stepwise=stepwise, **given["options"]) for _ in range(given["replicas"])]
    outcome = run(
        given["queries"],
        engines=[one for one, _ in made],  # type: ignore[arg-type]
        strategy=given["strategy"],
        router=given["router"],
        timeout_ps=given["timeout_ps"],
        measure=given["measure"],
    )
    # A run in closed form knows of tokens that the end of the run cut off; the stalls table drops them, and
    # so does this.
    stalls = [sorted(stall for stall in sink.stalls().tolist() if stall[1] <= outcome.end_ps) for _, sink in made]
    return outcome, stalls


def test_step_by_step_equals_fast_forward() -> None:
    """Rows of queries and requests, and stalls, are equal to the last bit; every kind of end occurred."""
    seen: dict[str, int] = {}
    for seed in range(BASE_SEED, BASE_SEED + CASES):
        given = case(seed)
        stepped, stalls = play(given, stepwise=True)
        jumped, others = play(given, stepwise=False)
        assert rows(stepped) == rows(jumped), f"seed {seed}"
        assert query_rows(stepped) == query_rows(jumped), f"seed {seed}"
        assert (stepped.end_ps, stalls) == (jumped.end_ps, others), f"seed {seed}"
        for row in rows(stepped):
            name = Status(row["status"]).name
            seen[name] = seen.get(name, 0) + 1
            seen["preempted"] = seen.get("preempted", 0) + bool(row["preemptions"])
    ends = ("COMPLETED", "REJECTED", "TIMED_OUT", "CANCELLED", "UNFINISHED", "preempted")
    assert all(seen.get(name, 0) > 5 for name in ends), seen


class Thorough(Router):
    """Looks into every replica, every time."""

    sees = "snapshots"

    def choose(self, view: Any, request: Any) -> int:
        return min(view.candidates, key=lambda i: (view.tokens(i), view.outstanding[i], i))


def test_fewest_tokens_found_by_bounds_are_those_found_by_looking_everywhere() -> None:
    spread = set()
    for seed in range(BASE_SEED, BASE_SEED + 60):
        given = {**case(seed), "replicas": 4}
        by_bounds, _ = play({**given, "router": "least_outstanding_tokens"}, stepwise=False)
        thorough, _ = play({**given, "router": Thorough()}, stepwise=False)
        assert rows(by_bounds) == rows(thorough), f"seed {seed}"
        spread |= {row["replica"] for row in rows(by_bounds)}
    assert spread >= {0, 1, 2, 3}


# ------------------------------------------------------------------ theory


def test_one_seat_is_lindleys_recursion() -> None:
    """M/G/1, exactly: each request starts when it arrives or when the one before it ends."""
    rng = np.random.default_rng(5)
    lengths = rng.integers(1, 60, 3000)
    step_ps = 1000
    queries = poisson(rng, 40 * step_ps, lengths)
    one, _ = engine(StepCost(step_ps, (0,), 0), max_num_seqs=1)
    done = rows(run(queries, engines=[one]))
    free_ps = 0
    for query, row in zip(queries, done, strict=True):
        start_ps = max(free_ps, query.at)
        free_ps = start_ps + query.answer * step_ps
        assert row["first_scheduled_ps"] == start_ps
        assert row["finished_ps"] == free_ps


@pytest.mark.slow
@pytest.mark.parametrize("law", ["constant", "geometric", "two-point"])
def test_one_seat_waits_as_pollaczek_and_khinchine_say(law: str) -> None:
    """Mean wait of M/G/1: lambda E[S^2] / 2(1 - rho)."""
    rng = np.random.default_rng(11)
    count, step_ps, mean = 60_000, 1000, 30
    lengths = {
        "constant": np.full(count, mean),
        "geometric": rng.geometric(1 / mean, count),
        "two-point": rng.choice([10, 210], size=count, p=[0.9, 0.1]),
    }[law]
    gap_ps = mean * step_ps / 0.7
    queries = poisson(rng, gap_ps, lengths)
    one, _ = engine(StepCost(step_ps, (0,), 0), max_num_seqs=1)
    done = run(queries, engines=[one]).requests.columns()
    wait_ps = float(np.mean(done["first_scheduled_ps"] - done["arrived_ps"]))
    service = lengths * float(step_ps)
    rate = count / queries[-1].at
    expected_ps = rate * float(np.mean(service**2)) / (2 * (1 - rate * float(np.mean(service))))
    assert wait_ps == pytest.approx(expected_ps, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("law", ["constant", "geometric", "two-point"])
def test_cost_proportional_to_the_batch_is_processor_sharing(law: str) -> None:
    """M/G/1-PS: the mean time in the system is E[S] / (1 - rho), whatever the law of the lengths."""
    rng = np.random.default_rng(7)
    count, token_ps, mean = 40_000, 1000, 200
    lengths = {
        "constant": np.full(count, mean),
        "geometric": rng.geometric(1 / mean, count),
        "two-point": rng.choice([100, 1100], size=count, p=[0.9, 0.1]),
    }[law]
    queries = poisson(rng, mean * token_ps / 0.6, lengths)
    one, _ = engine(StepCost(0, (0,), token_ps), max_num_seqs=10_000, max_num_batched_tokens=20_000)
    done = run(queries, engines=[one]).requests.columns()
    time_ps = float(np.mean(done["finished_ps"] - done["arrived_ps"]))
    rho = count * mean * token_ps / queries[-1].at
    assert time_ps == pytest.approx(mean * token_ps / (1 - rho), rel=0.06)


def test_cost_without_a_batch_is_m_g_infinity() -> None:
    """Nobody waits for anybody: each takes its own steps, and the number present is Poisson."""
    rng = np.random.default_rng(3)
    count, step_ps = 6_000, 1000
    lengths = rng.geometric(1 / 50, count)
    queries = poisson(rng, 5 * step_ps, lengths)
    one, _ = engine(StepCost(step_ps, (0,), 0), max_num_seqs=100_000, max_num_batched_tokens=200_000)
    done = run(queries, engines=[one]).requests.columns()
    took_ps = done["finished_ps"] - done["arrived_ps"]
    own_ps = lengths[done["id"]] * step_ps  # rows come in order of completion
    assert ((took_ps >= own_ps) & (took_ps < own_ps + step_ps)).all()
    starts, ends = np.sort(done["arrived_ps"]), np.sort(done["finished_ps"])
    sample_at = np.linspace(starts[500], starts[-1], 1500)
    present = np.searchsorted(starts, sample_at) - np.searchsorted(ends, sample_at)
    expected = (lengths.mean() + 0.5) / 5  # half a step of waiting for a boundary
    assert present.mean() == pytest.approx(expected, rel=0.1)
    assert present.var() == pytest.approx(expected, rel=0.4)


def test_random_routing_splits_as_the_binomial_says() -> None:
    """Replicas' shares under random routing: mean n/k, variance n/k (1 - 1/k)."""
    count, replicas = 8_000, 8
    queries = [Q(i * 10, answer=1) for i in range(count)]
    engines = [engine(StepCost(1, (0,), 0))[0] for _ in range(replicas)]
    done = run(queries, engines=engines, router="random").requests.columns()  # type: ignore[arg-type]
    shares = np.bincount(done["replica"], minlength=replicas)
    variance = count / replicas * (1 - 1 / replicas)
    assert shares.sum() == count
    chi2 = float(((shares - count / replicas) ** 2).sum() / variance)
    assert 0.5 < chi2 < 25  # 8 replicas, 7 degrees of freedom: 99.9 % below 24.3


def test_turns_of_a_session_find_their_cache_where_they_were() -> None:
    """The third turn hits the KV of the second; sent elsewhere, it finds nothing."""
    turns = [
        Q(0, prompt=64, answer=32, session=1),
        Q(100_000, prompt=128, answer=32, session=1, parent=0, prefix=96),
        Q(200_000, prompt=192, answer=32, session=1, parent=1, prefix=160),
    ]
    cached = {}
    for router in ("session_affinity", "round_robin"):
        engines = [engine(StepCost(10, (0,), 1), enable_prefix_caching=True)[0] for _ in range(2)]
        done = rows(run(turns, engines=engines, router=router))  # type: ignore[arg-type]
        cached[router] = [row["cached_tokens_first"] for row in done]
    assert cached["session_affinity"] == [
        0,
        80,
        144,
    ]  # full blocks of 16, the newest token's block not among them
    assert cached["round_robin"] == [0, 0, 0]


def test_samples_of_one_query_share_the_kv_of_the_prompt() -> None:
    one, _ = engine(StepCost(10, (0,), 1), enable_prefix_caching=True)
    done = rows(run([Q(0, prompt=160, answer=40)], engines=[one], strategy=FirstOf(4)))  # type: ignore[list-item]
    assert [row["cached_tokens_first"] for row in done] == [0, 144, 144, 144]


def test_crashes_give_the_same_rows_in_both_modes() -> None:
    for seed in range(BASE_SEED, BASE_SEED + 40):
        given = case(seed)
        outcomes = []
        for stepwise in (True, False):

            def make(stepwise: bool = stepwise, given: dict[str, Any] = given) -> Any:
                options = {**given["options"], "async_scheduling": False}
                return engine(given["cost"], stepwise=stepwise, **options)[0]

            outcome = run(
                given["queries"],
                engines=[make() for _ in range(2)],
                router=given["router"],
                around={"makers": [make] * 2, "failures": Failures(mtbf_ps=600, mttr_ps=200)},
            )
            outcomes.append((rows(outcome), query_rows(outcome), outcome.tally.retried))
        assert outcomes[0] == outcomes[1], f"seed {seed}"
