"""Reasoning without tokens (latent steps) and tokens of varying depth: costs by hand, neutral settings, both modes."""

from __future__ import annotations

import numpy as np
import pytest
from short_run import POOL, run, same

from calibration.adaptive_depth import at_depths, mean_depth
from calibration.step_cost import StepCost
from sim.errors import InputError
from sim.policies.strategies.effort import Effort


@pytest.mark.parametrize("keeps_kv", [pytest.param(True, marks=pytest.mark.slow), False])
def test_latent_steps_in_both_modes(keeps_kv: bool) -> None:
    latent = {"tokens_per_step": 8, "keeps_kv": keeps_kv}
    fast, plain = run(latent=latent), run()
    assert same(fast, run(latent=latent, stepwise=True))
    requests, before = fast.tables["requests"], plain.tables["requests"]
    assert (requests["reasoning_tokens"] == -(-before["reasoning_tokens"] // 8)).all()
    assert (requests["probe_tokens"] == (0 if keeps_kv else requests["reasoning_tokens"] - 1)).all()
    assert np.array_equal(requests["ttft_s"], requests["ttfo_s"])  # no token before the answer
    assert not fast.tables["queries"]["truncated"].any()
    assert np.array_equal(fast.tables["queries"]["correct"], plain.tables["queries"]["correct"])
    alone = run(latent=latent, rate="0.01/s").tables
    assert alone["queries"]["slowdown"] == pytest.approx(np.ones(8), abs=1e-9)
    # what the cache holds at most when it is alone: prompt, answer, and one position or one a step
    steps = 1 if not keeps_kv else int(requests["reasoning_tokens"].max())
    assert alone["segments"]["reserved_blocks_last"].max() == -(-(300 + steps + 40 - 1) // 16)


def test_one_token_a_step_costs_what_a_token_does() -> None:
    plain, neutral = run(), run(latent={"tokens_per_step": 1})
    for each, table in plain.tables.items():
        for name, values in table.columns.items():
            if name not in ("ttft_s", "first_token_s", "tpot_s"):  # no token is seen before the answer
                assert values.tobytes() == neutral.tables[each].columns[name].tobytes(), name


def test_a_strategy_faces_latent_steps_as_a_plain_one_does() -> None:
    latent = {"tokens_per_step": 8, "keeps_kv": False}
    plain, driven = run(latent=latent), run(latent=latent, strategy={"name": "effort", "level": 1.0})
    for name in ("finished_s", "reasoning_tokens", "probe_tokens"):
        assert np.array_equal(plain.tables["requests"][name], driven.tables["requests"][name])


COST = StepCost(host_ps=100, linear_ps=(0, 1000, 1000, 1500, 2000), linear_slope_ps=500, kv_ps=10)


def test_depths_by_hand() -> None:
    half = at_depths(COST, ((0.5, 0.5), (1.0, 0.5)))
    # alone: all of the first half, the second one every other time; of two, three in four steps need the second half, for
    # 1.33 tokens; weights of a batch are read whatever one token leaves out
    assert half.linear(1) == round(0.5 * 1000 + 0.5 * 0.5 * 1000)
    assert half.linear(2) == round(0.5 * 1000 + 0.5 * 0.75 * 1000)
    assert half.kv_ps == round(0.75 * 10)
    assert half.linear_slope_ps == 375
    assert (half.host_ps, half.seq_ps) == (100, 0)
    twice = at_depths(COST, ((2.0, 1.0),))
    assert [twice.linear(n) for n in range(7)] == [2 * COST.linear(n) for n in range(7)]
    assert at_depths(COST, ((1.0, 1.0),)) is COST
    assert mean_depth(((0.5, 0.4), (1.0, 0.5), (4.0, 0.1))) == pytest.approx(1.1)


@pytest.mark.slow
def test_depths_in_both_modes_and_neutral() -> None:
    deep = [{"depth": 0.5, "share": 0.5}]
    fast, plain = run(depth=deep), run()
    assert same(fast, run(depth=deep, stepwise=True))
    assert fast.tables["requests"]["e2e_s"].sum() < plain.tables["requests"]["e2e_s"].sum()
    assert same(plain, run(depth=[{"depth": 0.5, "share": 0.0}, {"depth": 1.0, "share": 0.7}]))
    assert run(depth=deep, rate="0.01/s").tables["queries"]["slowdown"] == pytest.approx(np.ones(8), abs=1e-9)
    with pytest.raises(InputError, match="more than 1"):
        run(depth=[{"depth": 0.5, "share": 0.6}, {"depth": 2, "share": 0.6}])


def test_what_is_not_modelled_is_refused() -> None:
    shared = {"tokens_per_step": 4, "keeps_kv": False}
    with pytest.raises(InputError, match="probes of latent steps"):
        run(latent=shared, strategy="early_exit")
    drafts = {**POOL, "engine": {"speculative_config": {"num_speculative_tokens": 2, "acceptance": 0.5}}}
    with pytest.raises(InputError, match="latent steps that leave no KV"):
        run(latent=shared, pools={"main": drafts})
    two = {"main": POOL, "other": POOL}
    with pytest.raises(InputError, match="leaves the pool to the router"):
        run(latent=shared, pools=two)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"level": "low"}, marks=pytest.mark.slow),
        {"level": 1.4, "thinking_token_budget": 300},
        pytest.param({"level": "high", "thinking_token_budget": 300, "forced_answer": False}, marks=pytest.mark.slow),
    ],
)
def test_effort_needs_no_generator(monkeypatch: pytest.MonkeyPatch, options: dict[str, object]) -> None:
    strategy = {"name": "effort", **options}
    plain = run(strategy=strategy)
    monkeypatch.setattr(Effort, "plain", False)
    assert same(plain, run(strategy=strategy))
