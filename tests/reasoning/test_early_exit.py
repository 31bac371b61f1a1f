"""Early exit through the simulator: probes are rolled back, a reward model's verdict ends the chain, both modes agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sim import load, simulate

POOL: dict[str, Any] = {"model": "llama-3.1-8b", "hardware": "h100-sxm", "engine": {"num_gpu_blocks_override": 600}}
OWN = {"name": "early_exit", "method": "own", "every_tokens": 50, "probe_tokens": 20, "hit": 0.6, "false_exit": 0.02}


def run(strategy: Any, *, stepwise: bool = False, rate: str = "4/s", pool: Any = None, **changes: Any) -> Any:
    data: dict[str, Any] = {
        "name": "exits",
        "seed": 6,
        "workload": {
            "arrivals": "poisson",
            "rate": rate,
            "queries": 12,
            "lengths": {"prompt": 400, "reasoning": {"law": "lognormal", "median": 500, "sigma": 0.7}, "answer": 50},
        },
        "pools": {"main": pool or POOL, "verifier": {**POOL, "role": "verify"}},
        "strategy": strategy,
        "quality": {"benchmark": "b", "models": {"any": {"b": {"accuracy": 0.6, "concentration": 2.0}}}},
    }
    return simulate(load({**data, **changes}), stepwise=stepwise)


@pytest.mark.parametrize("strategy", [OWN, pytest.param({**OWN, "verifier_pool": "verifier"}, marks=pytest.mark.slow)])
def test_both_modes_give_the_same_tables(strategy: Any) -> None:
    fast, slow = (run(strategy, stepwise=stepwise) for stepwise in (False, True))
    for name, table in fast.tables.items():
        for column, values in table.columns.items():
            assert np.array_equal(values, slow.tables[name].columns[column], equal_nan=values.dtype.kind == "f"), column
    assert fast.runs[0].early_exit == slow.runs[0].early_exit
    assert fast.runs[0].early_exit["left"] > 3


def test_probes_are_rolled_back_and_counted() -> None:
    results = run(OWN)
    exits, requests, queries = results.runs[0].early_exit, results.tables["requests"], results.tables["queries"]
    probed = requests["probe_tokens"]
    assert (probed % 20 == 0).all()
    assert probed.sum() > 0
    # what is not of probes is the chain up to the exit
    assert (requests["reasoning_tokens"] - probed).sum() == exits["thought_tokens"] < exits["wanted_tokens"]
    assert probed.sum() <= 20 * exits["probes"]
    assert np.array_equal(queries["reasoning_tokens"], requests["reasoning_tokens"])
    # KV that is held at the end of the chain is that of the chain alone: the longest one needs this many blocks and no more
    most = (requests["prompt_tokens"] + requests["reasoning_tokens"] + requests["answer_tokens"] - probed).max()
    alone = run(OWN, rate="0.01/s")
    held = alone.tables["segments"]["reserved_blocks_last"].max()
    assert held <= -(-(int(most) + 20) // 16)
    assert (
        held < int((requests["prompt_tokens"] + requests["reasoning_tokens"] + requests["answer_tokens"]).max()) // 16
    )


def test_who_is_alone_takes_as_long_as_the_closed_form_says() -> None:
    queries = run(OWN, rate="0.01/s").tables["queries"]
    assert queries["slowdown"] == pytest.approx(np.ones(len(queries)), abs=1e-9)


def test_a_verifier_sees_what_probes_in_line_would_see() -> None:
    in_line, asked = run(OWN, rate="0.05/s"), run({**OWN, "verifier_pool": "verifier"}, rate="0.05/s")
    assert in_line.runs[0].early_exit["left"] == asked.runs[0].early_exit["left"]
    assert np.array_equal(in_line.tables["queries"]["correct"], asked.tables["queries"]["correct"])
    assert not asked.tables["queries"]["truncated"].any()
    requests = asked.tables["requests"]
    verify = requests.equals("role", "verify")
    assert verify.sum() == asked.runs[0].early_exit["probes"]
    # each reading finds what the one before has read in the verifier's prefix cache, and reads the chain from its beginning
    assert (requests["prompt_tokens"][verify] - 400).max() > 200
    assert (requests["prompt_tokens"][verify] - requests["cached_tokens"][verify]).max() <= 400 + 50
    assert asked.tables["queries"]["verification_tokens"].sum() > 0


@pytest.mark.slow
def test_where_nothing_can_be_rolled_back_probes_stay_and_that_is_said() -> None:
    drafts = {**POOL, "engine": {"speculative_config": {"num_speculative_tokens": 2, "acceptance": 0.5}}}
    compressed = {**POOL, "engine": {"kv": {"name": "r-kv", "kept_tokens": 256}}}
    rolled = run(OWN).tables["requests"]
    for pool in (drafts, compressed):
        results = run(OWN, pool=pool)
        assert any("rolling probes back" in words for words in results.runs[0].not_modelled)
        assert (results.tables["requests"]["probe_tokens"] == 0).all()
        assert np.array_equal(results.tables["requests"]["reasoning_tokens"], rolled["reasoning_tokens"])
    assert not any("rolling probes back" in words for words in run(OWN).runs[0].not_modelled)
