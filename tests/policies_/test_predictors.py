"""Predictors say what they promise, each query the same whoever else asks; KV policies set what they say."""

from __future__ import annotations

import numpy as np
import pytest

from sim.engine.request import Request
from sim.engine.settings import EngineSettings
from sim.policies.kv import kv
from sim.policies.memory import HostLink
from sim.policies.predictors import predictor
from sim.results.columns import Status
from sim.rng import Streams


def _requests(count: int = 3000, *, max_tokens: int = -1) -> list[Request]:
    lengths = np.random.default_rng(1).lognormal(7, 1, count).astype(int) + 1
    return [
        Request(n, arrived_ps=n, prompt_tokens=10, output_tokens=int(tokens), query=n, max_tokens=max_tokens)
        for n, tokens in enumerate(lengths)
    ]


@pytest.mark.parametrize("sigma", [0.3, 0.7, 1.0])
def test_the_error_is_as_large_as_stated(sigma: float) -> None:
    predict = predictor.make("lognormal_error", {"sigma": sigma}).begin(Streams(5))
    errors = [np.log(predict(request) / request.output_tokens) for request in _requests()]
    assert np.std(errors) == pytest.approx(sigma, rel=0.05)
    assert np.median(errors) == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("name", ["lognormal_error", "first_k_tokens"])
def test_a_prediction_belongs_to_its_query(name: str) -> None:
    requests = _requests(50)
    forward, backward = (predictor.make(name).begin(Streams(5)) for _ in range(2))
    assert [forward(r) for r in requests] == [backward(r) for r in reversed(requests)][::-1]
    other = predictor.make(name).begin(Streams(6))
    assert [other(r) for r in requests] != [forward(r) for r in requests]


def test_oracle_and_its_opposite() -> None:
    requests = _requests(200)
    oracle, wrong = (predictor.make(name).begin(Streams(1)) for name in ("oracle", "always_wrong"))
    assert [oracle(r) for r in requests] == [r.output_tokens for r in requests]
    order = np.argsort([wrong(r) for r in requests], kind="stable")
    lengths = np.array([r.output_tokens for r in requests])[order]
    assert lengths[0] == lengths.max()
    assert lengths[:20].min() > lengths[-20:].max()


def test_no_prediction_beyond_the_limit() -> None:
    for name in predictor.names():
        predict = predictor.make(name).begin(Streams(1))
        assert all(1 <= predict(request) <= 20 for request in _requests(100, max_tokens=20))


def test_better_after_k_tokens() -> None:
    predict = predictor.make("first_k_tokens", {"tokens": 8}).begin(Streams(2))
    requests = _requests()
    first = [abs(np.log(predict(r) / r.output_tokens)) for r in requests]
    later = [abs(np.log(r.refined_tokens / r.output_tokens)) for r in requests if r.output_tokens > 50]
    assert np.mean(later) < np.mean(first) / 2
    assert {r.refine_after for r in requests} == {8}


def test_categories_are_learned_from_what_is_done() -> None:
    predict = predictor.make("by_category", {"default_tokens": 77}).begin(Streams(2))
    done = Request(0, arrived_ps=0, prompt_tokens=10, output_tokens=500, category=1)
    assert predict(done) == 77
    assert predict(Request(1, arrived_ps=1, prompt_tokens=9, output_tokens=5, category=1)) == 77
    done.known, done.status = 510, Status.COMPLETED
    assert predict(Request(2, arrived_ps=2, prompt_tokens=9, output_tokens=5, category=1)) == 500
    assert predict(Request(3, arrived_ps=3, prompt_tokens=9, output_tokens=5, category=0)) == 77


def test_kv_policies() -> None:
    plain = EngineSettings(num_gpu_blocks=100)
    link = HostLink(bytes_per_s=50e9, block_bytes=1_000_000)
    made = {name: kv.make(name).apply(plain, link) for name in kv.names()}
    assert made["paged"] == plain
    assert (made["static"].reservation, made["predicted"].reservation) == ("max_tokens", "predicted")
    swap = kv.make("swap", {"space_bytes": 10**9, "efficiency": 0.5}).apply(plain, link)
    assert (swap.swap_blocks, swap.swap_block_ps) == (1000, 40_000_000)


def test_a_later_prediction_knows_what_has_come() -> None:
    """After 128 tokens nobody expects fewer than 128 in all."""
    predict = predictor.make("first_k_tokens", {"sigma_after": 1.0}).begin(Streams(5))
    requests = [Request(n, arrived_ps=0, prompt_tokens=4, output_tokens=130, max_tokens=-1, query=n) for n in range(40)]
    for request in requests:
        predict(request)
    later = [request.refined_tokens for request in requests]
    assert {request.refine_after for request in requests} == {128}
    assert min(later) == 128 < max(later)
