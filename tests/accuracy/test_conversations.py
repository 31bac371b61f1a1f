"""Rounds of conversations found again from lengths and order, and the load that they make."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest

from sim.validation.accuracy_cases import Case
from sim.validation.accuracy_conversations import NONE, parents
from sim.validation.accuracy_loads import WARM_UP_RATE, load_of


def rounds_of(conversations: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prompts, answers and parents of conversations asked in turns, each 3 to 9 rounds long."""
    generator = np.random.default_rng(seed)
    left = generator.integers(3, 10, conversations)
    held = generator.integers(200, 1200, conversations)
    prompts: list[int] = []
    outputs: list[int] = []
    follows: list[int] = []
    last = np.full(conversations, NONE)
    while (left > 0).any():
        for one in np.flatnonzero(left > 0):
            held[one] += int(generator.lognormal(3.4, 1.0)) + 1
            follows.append(int(last[one]))
            last[one] = len(prompts)
            prompts.append(int(held[one]))
            outputs.append(int(generator.integers(20, 500)))
            held[one] += outputs[-1]
            left[one] -= 1
    return np.array(prompts), np.array(outputs), np.array(follows)


@pytest.mark.parametrize("seed", range(4))
def test_rounds_are_found_again(seed: int) -> None:
    prompts, outputs, follows = rounds_of(40, seed)
    found = parents(prompts, outputs)
    assert (found == follows).mean() > 0.95


@pytest.mark.parametrize("seed", range(4))
def test_no_rounds_are_seen_where_none_are(seed: int) -> None:
    generator = np.random.default_rng(seed)
    prompts, outputs, _ = rounds_of(40, seed)
    assert (parents(generator.permutation(prompts), outputs) == NONE).all()
    assert (parents(np.full(200, 1000), np.full(200, 20)) == NONE).all()
    assert (parents(np.array([700]), np.array([20])) == NONE).all()


def sharegpt(folder: Path, prompts: np.ndarray, outputs: np.ndarray, client: str) -> Case:
    with gzip.open(folder / "load.csv.gz", "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["arrived_at", "num_prefill_tokens", "num_decode_tokens"])
        writer.writerows((number / 2, *pair) for number, pair in enumerate(zip(prompts, outputs, strict=True)))
    cells = {"workload_kind": "open_rate_trace", "workload_desc": client, "workload_csv": "load.csv.gz"}
    return Case("x-1", cells, folder)


def test_a_load_in_rounds_warms_up_and_shares_prefixes(tmp_path: Path) -> None:
    prompts, outputs, follows = rounds_of(30, 1)
    load = load_of(sharegpt(tmp_path, prompts, outputs, "LMBench sharegpt QPS 2"), {})
    firsts = int((follows == NONE).sum())
    assert load.conversations
    assert load.discarded == firsts == 30
    assert load.prompt is not None
    assert set(load.prompt[:firsts]) == set(load.prompt[firsts:]), "each conversation is warmed up once"
    assert (load.prompt_tokens[:firsts] < load.prompt_tokens[firsts : 2 * firsts]).all()
    assert np.diff(load.sends_ps[:firsts]) == pytest.approx(1e12 / WARM_UP_RATE)
    assert np.diff(load.sends_ps[firsts:]) == pytest.approx(0.5e12), "the run keeps its own times"
    plain = load_of(sharegpt(tmp_path, prompts, outputs, "another client"), {})
    assert plain.prompt is None
    assert plain.discarded == 0
