"""Intervals of accuracy where prompts recur: they must cover the truth as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from sim.metrics.quality import share_interval, wilson


def drawn(rng: np.random.Generator, queries: int, prompts: int) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong answers to *queries* that ask *prompts* again and again; a prompt is easy or hard."""
    chance = rng.beta(0.6, 0.4, prompts)
    prompt = rng.integers(0, prompts, queries)
    return (rng.random(queries) < chance[prompt]).astype(float), prompt


def covered(interval, truth: float) -> bool:
    return interval[0] <= truth <= interval[1]


@pytest.mark.parametrize(("queries", "prompts"), [(400, 30), (1000, 100), (150, 15)])
def test_recurring_prompts_are_covered_and_plain_wilson_is_not_enough(queries, prompts):
    rng = np.random.default_rng(5)
    runs = [drawn(rng, queries, prompts) for _ in range(600)]
    ours = np.mean([covered(share_interval(right, prompt), 0.6) for right, prompt in runs])
    naive = np.mean([covered(wilson(right.sum(), queries), 0.6) for right, prompt in runs])
    assert 0.92 <= ours <= 0.985
    assert naive < 0.75


def test_prompts_of_their_own_give_wilsons_interval():
    right = np.array([1.0] * 8 + [0.0] * 2)
    assert share_interval(right, np.arange(10)) == wilson(8, 10)


def test_asking_one_prompt_again_says_nothing_new():
    right, prompt = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0]), np.arange(6)
    once = share_interval(right, prompt)
    again = share_interval(np.repeat(right, 50), np.repeat(prompt, 50))
    assert again[0] <= once[0]
    assert again[1] >= once[1]
    assert share_interval(np.ones(300), np.repeat(prompt, 50)) == wilson(6, 6)
    assert share_interval(np.ones(5), np.zeros(5)) == [0.0, 1.0]
