"""A fit recovers what it was made from, says how well, and refuses what cannot be fitted or cannot be
true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration import measurements, profile
from calibration.architecture import architecture
from calibration.fitting import fit, rows_of
from calibration.hardware import hardware
from calibration.make import make
from calibration.parts import HardwareCost
from calibration.prior import hardware_cost
from sim.errors import InputError

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTEXTS = (16, 128, 1024, 4096, 16384)


def measured(cost: HardwareCost, *, noise: float = 0.0, mixed_s: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Steps that *cost* would give, times a little noise."""
    rows = [(b, c, 0, 0, 0) for b in BATCHES for c in CONTEXTS]
    rows += [(0, 0, 1, n, c) for n in (64, 256, 1024, 4096, 8192) for c in (0, 2048, 16384)]
    rows += [(b, 2048, 1, n, 0) for b in (8, 64) for n in (256, 2048)] if mixed_s else []
    frame = pd.DataFrame(rows, columns=["decodes", "context", "chunks", "chunk_tokens", "chunk_cached"])
    frame = frame.assign(
        source="made",
        gpu="h100-sxm",
        model="llama-3.1-8b",
        dtype="bf16",
        tp=1,
        quantity="iteration_measured",
        time_ms=1.0,
    )
    r = rows_of(measurements.check(frame))
    time_s = (
        cost.linear(r.tokens)
        + cost.seq_s * r.batch
        + cost.kv_s * r.context
        + cost.pair_s * r.pairs
        + cost.cached_s * r.cached
        + mixed_s * r.mixed
    )
    rng = np.random.default_rng(seed)
    frame["time_ms"] = 1e3 * time_s * np.exp(noise * rng.standard_normal(len(frame)))
    return measurements.check(frame)


TRUE = HardwareCost(
    tokens=(1, 64, 256, 1024, 8192, 16384),
    linear_s=(5e-3, 5.3e-3, 7e-3, 25e-3, 190e-3, 380e-3),
    kv_s=4.5e-8,
    pair_s=0.9e-9,
    cached_s=6e-8,
    seq_s=8e-6,
)


@settings(max_examples=25, deadline=None)
@given(
    kv=st.floats(4.2e-8, 2e-7),
    pair=st.floats(0.6e-9, 4e-9),
    cached=st.floats(1e-8, 3e-7),
    seq=st.floats(0, 5e-5),
    base=st.floats(4e-3, 3e-2),
)
def test_known_costs_are_recovered_within_one_percent(
    kv: float, pair: float, cached: float, seq: float, base: float
) -> None:
    true = HardwareCost(TRUE.tokens, tuple(base + t for t in TRUE.linear_s), kv, pair, cached, seq)
    found = fit(measured(true)).fit.cost
    assert found.kv_s == pytest.approx(kv, rel=0.01)
    assert found.pair_s == pytest.approx(pair, rel=0.01)
    assert found.cached_s == pytest.approx(cached, rel=0.01)
    at = np.asarray(BATCHES, float)
    np.testing.assert_allclose(found.linear(at) + found.seq_s * at, true.linear(at) + seq * at, rtol=0.01)


def test_noise_averages_out_and_shows_in_the_stated_error() -> None:
    done = fit(measured(TRUE, noise=0.02))
    assert done.fit.cost.kv_s == pytest.approx(TRUE.kv_s, rel=0.03)
    assert 0.005 < done.error["decode"].median < 0.03
    assert 0.005 < done.error["decode_unseen_contexts"].median < 0.04


def test_one_wild_row_does_not_steer_the_fit() -> None:
    frame = measured(TRUE)
    frame["time_ms"] = frame["time_ms"] * np.where(np.arange(len(frame)) == 10, 3.0, 1.0)
    assert fit(frame).fit.cost.kv_s == pytest.approx(TRUE.kv_s, rel=0.01)


def test_mixed_surcharge_is_found() -> None:
    done = fit(measured(TRUE, mixed_s=1.2e-4))
    assert done.fit.mixed_s == pytest.approx(1.2e-4, rel=0.02)


def test_mixed_steps_do_not_steer_what_pure_ones_show() -> None:
    """A kernel that serves a prompt and decodes together may read KV at half the rate, in ten times as many rows."""
    slow = measured(replace(TRUE, kv_s=2 * TRUE.kv_s), mixed_s=1.2e-4)
    mixed = slow[(slow["chunks"] > 0) & (slow["decodes"] > 0)]
    pure = measured(TRUE)
    found = fit(pd.concat([pure, *[mixed] * (10 * len(pure) // len(mixed))], ignore_index=True))
    assert found.fit.cost.kv_s == pytest.approx(TRUE.kv_s, rel=0.01)
    assert found.error["decode"].p95 < 0.01


def test_pair_is_not_taken_from_short_prompts() -> None:
    frame = measured(TRUE)
    frame = frame[(frame["chunk_tokens"] <= 1024) & (frame["chunk_cached"] == 0)]
    arch, gpu = architecture("llama-3.1-8b"), hardware("h100-sxm")
    prior = hardware_cost(arch, gpu)
    done = fit(frame, prior=prior)
    assert done.fit.cost.pair_s == prior.pair_s
    assert set(done.fit.borrowed) == {"pair", "cached"}


def test_flagged_rows_and_single_operators_are_left_out() -> None:
    frame = measured(TRUE)
    odd = frame.head(3).assign(flag="throttled", time_ms=999.0)
    single = frame.head(3).assign(quantity="attention_op", time_ms=999.0)
    assert len(rows_of(pd.concat([frame, odd, single]))) == len(frame)


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        (lambda f: f["decodes"] == 8, "two batch sizes"),
        (lambda f: f["context"] == 128, "two contexts"),
        (lambda f: f["decodes"] < 0, "no rows|no whole steps"),
    ],
)
def test_too_little_data_is_said(keep: Callable[[pd.DataFrame], Any], words: str) -> None:
    frame = measured(TRUE)
    with pytest.raises(InputError, match=words):
        fit(frame[keep(frame)])


def test_a_cost_above_the_peak_is_refused() -> None:
    fast = HardwareCost(TRUE.tokens, tuple(t / 4 for t in TRUE.linear_s), TRUE.kv_s, TRUE.pair_s)
    with pytest.raises(InputError, match="of the peak"):
        make(measured(fast))


def test_kv_is_never_faster_than_memory() -> None:
    slow_memory = HardwareCost(TRUE.tokens, TRUE.linear_s, 1e-8, TRUE.pair_s)  # 16 KiB in 10 ns: 4 x the H100's
    made, _ = make(measured(slow_memory))
    assert made.physics["kv"] <= 1.0


def test_tables_of_several_models_are_refused() -> None:
    frame = measured(TRUE)
    other = frame.assign(model="qwen3-8b")
    with pytest.raises(InputError, match="--only model"):
        make(pd.concat([frame, other]))


def test_profile_round_trip(tmp_path: Path) -> None:
    made, _ = make(measured(TRUE, noise=0.01), provenance={"source": "made", "licence": "none", "date": "2026-01-01"})
    path = tmp_path / "p.yaml"
    profile.dump(made, path)
    back = profile.load(path)
    assert back.name == "llama-3.1-8b_h100-sxm_tp1_bf16"
    assert back.cost.tokens == made.cost.tokens
    np.testing.assert_allclose(back.cost.linear_s, made.cost.linear_s, rtol=1e-4)
    assert back.cost.kv_s == pytest.approx(made.cost.kv_s, rel=1e-4)
    assert back.provenance["date"] == "2026-01-01"
    assert back.error["decode"].n == made.error["decode"].n
    assert len(back.sha256) == 64


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("schema_version: 1", "schema_version: 9", "schema_version"),
        ("kind: measured", "kind: guessed", "measured or composed"),
        ("kv_ns:", "kv_nss:", "kv_ns"),
        ("kv_ns: ", "kv_ns: -", "at least 0"),
        ("model:", "modle:", "model"),
        ("tokens: [1,", "tokens: [9999999,", "increase"),
    ],
)
def test_a_broken_profile_is_one_clear_error(tmp_path: Path, old: str, new: str, words: str) -> None:
    made, _ = make(measured(TRUE))
    text = profile.text(made)
    assert old in text
    path = tmp_path / "p.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=words):
        profile.load(path)
