"""Grids hold only what fits, each point once, the most telling first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.profiler.points import (
    Limits,
    Point,
    custom_grid,
    default_grid,
    parse_counts,
    within_budget,
)
from sim.errors import InputError

limits = st.builds(
    Limits,
    kv_tokens=st.integers(1_000, 2_000_000),
    max_context=st.integers(256, 131_072),
    max_tokens=st.integers(64, 16_384),
    block_size=st.sampled_from([16, 128, 256]),
)


@given(limits)
def test_every_point_of_the_default_grid_fits_and_is_there_once(bounds: Limits) -> None:
    grid = default_grid(bounds)
    assert len(grid) == len(set(grid)) == len({point.key for point in grid})
    for point in grid:
        blocks = point.decodes * -(-(point.context + 1) // bounds.block_size)
        blocks += point.chunks * -(-(point.chunk_tokens + point.chunk_cached) // bounds.block_size)
        assert blocks * bounds.block_size <= bounds.kv_tokens
        assert point.longest <= bounds.max_context
        assert point.tokens <= bounds.max_tokens


@given(limits, limits)
def test_more_room_never_loses_a_point(one: Limits, other: Limits) -> None:
    both = Limits(
        max(one.kv_tokens, other.kv_tokens),
        max(one.max_context, other.max_context),
        max(one.max_tokens, other.max_tokens),
        16,
    )
    small = Limits(one.kv_tokens, one.max_context, one.max_tokens, 16)
    assert set(default_grid(small)) <= set(default_grid(both))


def test_the_first_points_alone_can_be_fitted() -> None:
    first = default_grid(Limits(10**6, 131_072, 16_384))[:9]
    decode = [point for point in first if point.kind == "decode"]
    assert len({point.decodes for point in decode}) >= 2
    assert len({point.context for point in decode}) >= 2
    assert any(point.kind == "prefill" for point in first)


def test_a_full_grid_reaches_far() -> None:
    grid = default_grid(Limits(3_000_000, 131_072, 16_384))
    assert {point.kind for point in grid} == {"decode", "prefill", "mixed"}
    assert max(point.decodes for point in grid) >= 512
    assert max(point.context for point in grid if point.decodes) == 32_768
    assert {256, 257} <= {point.decodes for point in grid}, "both sides of a tile edge"


@given(
    st.lists(st.floats(0.01, 10), min_size=0, max_size=60),
    st.floats(0, 100),
    st.integers(0, 12),
)
def test_a_budget_is_kept_apart_from_the_points_that_a_fit_needs(
    costs: list[float], budget_s: float, keep: int
) -> None:
    points = [Point(decodes=1, context=index) for index in range(len(costs))]
    chosen, left = within_budget(points, lambda point: costs[point.context], budget_s, keep=keep)
    assert sorted(chosen + left) == points
    assert set(points[:keep]) <= set(chosen)
    beyond = [costs[point.context] for point in chosen if point.context >= keep]
    if beyond:
        assert sum(costs[point.context] for point in chosen) <= budget_s + 1e-9
    spent = sum(costs[point.context] for point in chosen)
    assert all(costs[point.context] + spent > budget_s for point in left), "what is left out does not fit"


def test_lists_of_numbers() -> None:
    assert parse_counts("1:8,3,2K", key="--x") == [1, 2, 3, 4, 8, 2048]
    assert parse_counts("6:20", key="--x") == [6, 12, 20]
    assert parse_counts("0,2", key="--x", low=0) == [0, 2]
    for bad in ("", "1,,2", "a", "0", "1:b", "-3", "1.5"):
        with pytest.raises(InputError, match="--x"):
            parse_counts(bad, key="--x")


def test_a_grid_that_cannot_fit_says_what_does() -> None:
    with pytest.raises(InputError, match="KV pool holds 64 tokens"):
        custom_grid(Limits(64, 4096, 512), batches=[4], contexts=[128])
