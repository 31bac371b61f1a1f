"""Conversations of a reasoning model: what later turns find of the turns before, with reasoning dropped and kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sim import load, simulate
from sim.results.results import Results

PROMPT, THOUGHT, ANSWER, BLOCK = 100, 300, 60, 16


def talk(reasoning: str | None, *, stepwise: bool = False, turns: Any = 4, **engine: Any) -> Results:
    sessions: dict[str, Any] = {"turns": turns, "think_time": "60 s"}
    if reasoning is not None:
        sessions["reasoning"] = reasoning
    data: dict[str, Any] = {
        "name": "talk",
        "seed": 2,
        "workload": {
            "arrivals": "poisson",
            "rate": "1/s",
            "lengths": {"prompt": PROMPT, "reasoning": THOUGHT, "answer": ANSWER},
            "sessions": sessions,
        },
        "pools": {
            "main": {
                "model": "llama-3.1-8b",
                "hardware": "h100-sxm",
                "engine": {"num_gpu_blocks_override": 40_000, "max_model_len": 16384} | engine,
            }
        },
        "measure": {"queries": 200},
    }
    return simulate(load(data), stepwise=stepwise)


def cache(results: Results) -> dict[str, int]:
    found: dict[str, int] = results.summary["kv"]["pools"]["main"]["prefix_cache"]
    return found


def turn_of(results: Results) -> np.ndarray:
    """Number of the turn of each request, by its chain of parents."""
    turn: dict[int, int] = {}
    requests = results.tables["requests"]
    for request, parent in zip(requests["request"].tolist(), requests["parent"].tolist(), strict=True):
        turn[request] = 0 if parent < 0 else turn[parent] + 1
    return np.array(list(turn.values()))


@pytest.mark.parametrize(("reasoning", "grows"), [("dropped", PROMPT + ANSWER), ("kept", PROMPT + THOUGHT + ANSWER)])
def test_later_turns_by_hand(reasoning, grows):
    results = talk(reasoning)
    requests, turn = results.tables["requests"], turn_of(results)
    assert turn.max() == 3
    assert (requests["prompt_tokens"] == PROMPT + turn * grows).all()
    # All fits and every answer is there long before the next turn: all that is shared in full blocks is found.
    before = PROMPT + (turn - 1) * grows
    shared = before if reasoning == "dropped" else before + THOUGHT + ANSWER - 1
    assert (requests["cached_tokens_first"] == np.where(turn > 0, shared // BLOCK * BLOCK, 0)).all()
    figures = cache(results)
    inside = requests["in_window"].astype(bool)
    prompt = requests["prompt_tokens"][inside]
    full = (prompt + THOUGHT + ANSWER - 1) // BLOCK * BLOCK - prompt
    assert figures["left_reasoning_tokens"] == len(prompt) * THOUGHT
    assert figures["left_answer_tokens"] == (full - THOUGHT).sum()
    last = ~np.isin(requests["request"], requests["parent"])[inside]
    if reasoning == "dropped":
        assert figures["dead_reasoning_tokens"] == figures["left_reasoning_tokens"]
        assert figures["dead_answer_tokens"] == figures["left_answer_tokens"]
    else:
        assert figures["dead_reasoning_tokens"] == last.sum() * THOUGHT
        assert figures["dead_answer_tokens"] == (full - THOUGHT)[last].sum()


def test_dropped_is_the_default():
    assert talk(None).tables["requests"]["prompt_tokens"].tolist() == (
        talk("dropped").tables["requests"]["prompt_tokens"].tolist()
    )


@pytest.mark.parametrize("reasoning", ["dropped", "kept"])
def test_both_modes_are_equal_where_the_cache_is_too_small(reasoning):
    turns = {"law": "lognormal", "median": 4, "sigma": 0.5, "max": 12}
    fast, slow = (talk(reasoning, turns=turns, stepwise=mode, num_gpu_blocks_override=1_200) for mode in (False, True))
    for name in ("queries", "requests", "segments", "stalls"):
        for column, values in fast.tables[name].columns.items():
            assert values.tobytes() == slow.tables[name].columns[column].tobytes(), (name, column)
    assert fast.summary["kv"] == slow.summary["kv"]
    figures = cache(fast)
    assert 0 < figures["dead_reasoning_tokens"] <= figures["left_reasoning_tokens"]
    assert (figures["dead_reasoning_tokens"] < figures["left_reasoning_tokens"]) == (reasoning == "kept")


def test_nothing_is_left_without_a_prefix_cache():
    figures = cache(talk("kept", enable_prefix_caching=False))
    assert figures["left_reasoning_tokens"] == figures["dead_answer_tokens"] == 0
