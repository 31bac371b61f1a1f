"""Integer cost: exact sums, closed form equal to one by one, parts that add up, and never less for more
work."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.architecture import architecture
from calibration.deployment import deploy
from calibration.hardware import hardware
from calibration.parts import EngineCost, HardwareCost, combine, knots
from calibration.prior import hardware_cost
from calibration.step_parts import PARTS, bound, duration_s, parts

COST = deploy(model="r1-distill-llama-70b", hardware="h100-sxm", tensor_parallel_size=4).step_cost


@given(batch=st.integers(1, 4000), context=st.integers(0, 10**7), steps=st.integers(1, 5000))
def test_many_steps_in_closed_form_equal_one_by_one(batch: int, context: int, steps: int) -> None:
    steps = min(steps, 300)
    one_by_one = sum(COST.decode_ps(batch, context + i * batch) for i in range(steps))
    growth = COST.decode_growth_ps(batch)
    closed = steps * COST.decode_ps(batch, context) + growth * (steps * (steps - 1) // 2)
    assert one_by_one == closed
    assert isinstance(closed, int)


segments = st.lists(
    st.fixed_dictionaries(
        {
            "steps": st.integers(1, 1000),
            "decodes": st.integers(0, 2000),
            "context": st.integers(0, 10**7),
            "chunks": st.integers(0, 4),
            "n": st.integers(1, 4096),
            "c": st.integers(0, 30_000),
        }
    ),
    min_size=1,
    max_size=20,
)


@given(rows=segments)
def test_parts_of_segments_add_up_to_the_engines_integers(rows: list[dict[str, int]]) -> None:
    table, exact = [], []
    for row in rows:
        chunks, n, c = row["chunks"], row["n"], row["c"]
        decodes = row["decodes"] if row["decodes"] + chunks else 1
        steps = 1 if chunks else row["steps"]
        context = row["context"] if decodes else 0
        pairs, cached = chunks * (n * n + 2 * n * c), chunks * c
        table.append((steps, decodes, context, chunks, chunks * n, pairs, cached))
        exact.append(
            sum(
                COST.step_ps(
                    decodes=decodes,
                    context=context + i * decodes,
                    chunks=chunks,
                    chunk_tokens=chunks * n,
                    pairs=pairs,
                    cached=cached,
                )
                for i in range(steps)
            )
        )
    names = ["steps", "decodes", "context", "chunks", "chunk_tokens", "pairs", "cached"]
    frame = pd.DataFrame(table, columns=names)
    found = parts(COST, frame)
    assert set(found) == set(PARTS)
    np.testing.assert_allclose(duration_s(COST, frame), np.asarray(exact, float) * 1e-12, rtol=1e-12)
    assert sum(bound(COST, frame).values()) == pytest.approx(1.0)


def test_a_table_without_chunks_has_no_prefill_parts() -> None:
    frame = pd.DataFrame({"steps": [10], "decodes": [4], "context": [4000]})
    found = parts(COST, frame)
    assert found["attention"] == 0
    assert found["mixed"] == 0
    assert found["kv"][0] == pytest.approx((10 * 4000 + 4 * 45) * COST.kv_ps * 1e-12)


@settings(max_examples=60)
@given(
    tokens=st.integers(1, 20_000),
    more=st.integers(1, 3000),
    name=st.sampled_from(["llama-3.1-8b", "qwen3-30b-a3b", "gpt-oss-120b"]),
    tp=st.sampled_from([1, 2, 4]),
)
def test_more_tokens_never_cost_less(tokens: int, more: int, name: str, tp: int) -> None:
    cost = hardware_cost(architecture(name), hardware("h200"), tp=tp)
    assert cost.linear(float(tokens + more)) >= cost.linear(float(tokens))


def test_rounding_is_done_once_and_stays_within_half_a_picosecond() -> None:
    half = HardwareCost((1, 10), (1e-3, 2e-3), kv_s=2.5e-8 + 0.4e-12, pair_s=1e-9)
    engine = EngineCost("test", "0", 1e-4, 1e-5, 2e-5, 0.0, 5e-3)
    cost = combine(half, engine, layers=10)
    assert cost.host_ps == 200_000_000
    assert cost.kv_ps == 25_000
    assert cost.half_pair_ps == 500
    assert cost.linear(1) == 10**9
    assert cost.linear(10) == 2 * 10**9
    # past the last knot the mean slope to it goes on
    assert cost.linear(12_000_000) == pytest.approx(2e9 + 1e9 / 9 * 11_999_990, rel=1e-6)


def test_knots_see_tile_edges_and_powers_of_two() -> None:
    dense, experts = knots(4096), knots(4096, moe=True)
    assert {16, 128, 256, 257, 512, 513, 4096} <= set(dense)
    assert {3, 6, 12, 24} <= set(experts)
    assert list(dense) == sorted(dense)


@pytest.mark.parametrize(
    ("tokens", "times"),
    [((1,), (1.0,)), ((2, 1), (1.0, 2.0)), ((1, 2), (2.0, 1.0)), ((1, 2), (1.0,))],
)
def test_impossible_tables_are_refused(tokens: tuple[int, ...], times: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"knots|fall"):
        HardwareCost(tokens, times, 0.0, 0.0)
