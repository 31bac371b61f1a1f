"""Clients: what they hold back, what they give up on, and that a plain open load is what the whole job simulates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calibration.step_cost import StepCost
from sim import load as load_scenario
from sim import simulate
from sim.engine.replica import Replica, make_replica
from sim.engine.settings import EngineSettings
from sim.policies.schedulers.vllm import Vllm
from sim.validation.accuracy_client import PS_PER_S, Load, at_random, drive
from sim.validation.serving_replay import placed_pool

MS = PS_PER_S // 1000


def engine(**options: object) -> Replica:
    """Steps of 10 ms and 1 µs a token; nothing cached, one batch in flight."""
    cost = StepCost(host_ps=10 * MS, linear_ps=(0, MS // 1000), linear_slope_ps=MS // 1000)
    defaults: dict[str, object] = {"async_scheduling": False, "enable_prefix_caching": False, "num_gpu_blocks": 10_000}
    return make_replica(EngineSettings(**{**defaults, **options}), cost, Vllm())  # type: ignore[arg-type]


def load(count: int, *, gap_s: float = 0.0, prompt: int = 100, output: int = 11, **options: object) -> Load:
    sends = np.round(np.arange(count) * gap_s * PS_PER_S).astype(np.int64)
    return Load(sends, np.full(count, prompt), np.full(count, output), **options)  # type: ignore[arg-type]


def test_one_request_by_hand() -> None:
    seen = drive([engine()], load(1), front_end_ps=7 * MS)
    # A prompt of 100 tokens takes 10.1 ms, ten more tokens 10.001 ms each.
    assert seen.ttft_s[0] == pytest.approx(0.007 + 0.0101)
    assert seen.e2e_s[0] == pytest.approx(0.007 + 0.0101 + 10 * 0.010001)
    assert seen.ok.all()


def test_closed_loop_keeps_its_concurrency() -> None:
    seen = drive([engine()], load(60, in_flight_cap=4))
    start, end = seen.sent_s, seen.sent_s + seen.e2e_s
    in_flight = [int(((start <= t) & (end > t + 1e-9)).sum()) for t in start]
    assert max(in_flight) == 4
    assert in_flight[10:50] == [4] * 40
    assert seen.sent_s[:4].tolist() == [0.0] * 4


def test_cap_delays_the_send_not_the_clock() -> None:
    free = drive([engine()], load(50, gap_s=0.01))
    held = drive([engine()], load(50, gap_s=0.01, in_flight_cap=2))
    assert (held.sent_s >= free.sent_s - 1e-12).all()
    assert held.sent_s[-1] > free.sent_s[-1]
    # What waits at the client does not wait in the engine: time to first token stays short.
    assert held.ttft_s.max() < 0.03


def test_impatient_clients_leave_their_work_behind() -> None:
    patient = drive([engine(max_num_seqs=2)], load(10, output=50))
    hurried = drive([engine(max_num_seqs=2)], load(10, output=50, timeout_ps=round(1.2 * PS_PER_S)))
    assert patient.ok.all()
    assert 0 < hurried.ok.sum() < 10
    assert hurried.e2e_s[hurried.ok].max() <= 1.2
    assert hurried.end_s <= 1.2 + 1e-9
    # The first ones are served as if nobody had given up.
    assert hurried.e2e_s[:2].tolist() == patient.e2e_s[:2].tolist()


def test_warm_up_is_over_before_the_run_begins() -> None:
    seen = drive([engine()], load(20, in_flight_cap=4, discarded=8))
    assert len(seen.ttft_s) == 12
    assert len(set(seen.sent_s[:4].tolist())) == 1
    # Two rounds of four have ended: 20.4 ms of prompts beside tokens, and no overlap with the run.
    assert seen.sent_s[0] > 2 * 0.1


def test_requests_that_never_fit_fail() -> None:
    seen = drive([engine(max_model_len=64)], load(3))
    assert not seen.ok.any()
    assert np.isnan(seen.e2e_s).all()


def test_random_routing_uses_all_replicas_and_repeats() -> None:
    one = drive([engine(), engine()], load(40, gap_s=0.05), route=at_random(3))
    two = drive([engine(), engine()], load(40, gap_s=0.05), route=at_random(3))
    assert set(one.replica.tolist()) == {0, 1}
    assert one.e2e_s.tolist() == two.e2e_s.tolist()


def test_an_open_load_is_what_the_whole_job_simulates(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    count = 300
    at = np.cumsum(rng.exponential(0.1, count))
    prompts, outputs = rng.integers(50, 2000, count), rng.integers(2, 300, count)
    lines = ["arrived_at,num_prefill_tokens,num_decode_tokens"]
    lines += [f"{a:.6f},{p},{o}" for a, p, o in zip(at, prompts, outputs, strict=True)]
    (tmp_path / "trace.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    scenario = load_scenario(
        {
            "name": "open",
            "workload": {"trace": str(tmp_path / "trace.csv")},
            "pools": {"only": {"model": "qwen3-14b", "hardware": "h100-sxm"}},
        }
    )
    requests = simulate(scenario).tables["requests"]
    pool = placed_pool(scenario)
    replica = make_replica(pool.settings, pool.placed.step_cost, Vllm())
    times = np.array([float(line.partition(",")[0]) for line in lines[1:]])
    sends = np.round(times * PS_PER_S).astype(np.int64)
    seen = drive([replica], Load(sends, prompts, outputs, max_tokens=-1), front_end_ps=pool.placed.front_end_ps)
    # The trace's clock starts at its first arrival.
    np.testing.assert_allclose(seen.ttft_s, requests["ttft_s"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(seen.e2e_s, requests["e2e_s"], rtol=0, atol=1e-6)
