"""Token gaps from segments equal those of a loop over all tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.metrics.gaps import Gaps, joined, token_gaps

PROGRESSIONS = st.lists(
    st.tuples(st.integers(1, 50), st.integers(0, 7), st.integers(1, 12), st.integers(1, 4)),
    min_size=1,
    max_size=15,
)


def expand(progressions) -> np.ndarray:
    return np.array(
        [
            first + i * growth
            for first, growth, count, weight in progressions
            for i in range(count)
            for _ in range(weight)
        ],
        dtype=float,
    )


def gaps_of(progressions) -> Gaps:
    return Gaps(*(np.array(column, dtype=np.int64) for column in zip(*progressions, strict=True)))


@given(PROGRESSIONS, st.floats(0, 1))
@settings(max_examples=300)
def test_quantiles_equal_those_of_all_gaps_written_out(progressions, q):
    gaps, values = gaps_of(progressions), expand(progressions)
    assert gaps.n == len(values)
    assert gaps.quantile_s(q) * 1e12 == pytest.approx(np.quantile(values, q), rel=1e-12)
    assert gaps.mean_s() * 1e12 == pytest.approx(values.mean(), rel=1e-12)
    assert gaps.max_s() * 1e12 == pytest.approx(values.max(), rel=1e-12)
    for limit in (0, values.min(), np.floor(np.median(values)), values.max()):
        assert gaps.share_at_most(limit / 1e12) == np.mean(values <= limit)


def test_memory_is_that_of_the_segments():
    """A trillion gaps, at once."""
    gaps = gaps_of([(10**10, 3, 10**6, 10**6), (2 * 10**10, 0, 1, 1)])
    assert gaps.n == 10**12 + 1
    assert gaps.quantile_s(0.5) == pytest.approx((10**10 + 3 * 500_000) / 1e12, rel=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_gaps_of_a_run_equal_those_of_its_tokens(toy, seed):
    """With chunks, one-token prompts, preemptions and a window that cuts segments."""
    work = toy.random_work(seed, 60, gap_s=0.15)
    work[3] = (work[3][0], 1, 2, 5)
    low, high = work[10][0], work[50][0]
    run = toy.simulate(work, seats=6, budget=24, blocks=40, window=(low, high))
    assert run.merged
    assert run.preemptions > 0
    for window in ((low, high), (0, 10**18)):
        inside = np.array([gap for at, gap in run.gaps if window[0] <= at < window[1]], dtype=float)
        info = run.results.runs[0]
        info = type(info)(**{**vars(info), "window_start_ps": window[0], "window_end_ps": window[1]})
        tables = run.results.tables
        gaps = token_gaps(info, tables["segments"], tables["stalls"], tables["requests"])
        assert gaps.n == len(inside) > 100
        for q in (0, 0.1, 0.5, 0.9, 0.99, 1):
            assert gaps.quantile_s(q) * 1e12 == pytest.approx(np.quantile(inside, q), rel=1e-9)
        assert gaps.mean_s() * 1e12 == pytest.approx(inside.mean(), rel=1e-9)


def test_stalls_are_longer_than_steps_and_few(toy):
    run = toy.simulate(toy.random_work(1, 60, gap_s=0.1), seats=6, budget=24, blocks=40)
    stalls, segments = run.results.stalls, run.results.segments
    assert 0 < len(stalls) < 0.2 * len(run.gaps)
    assert stalls.gap_s.min() > segments.step_s.min()


def test_joined_keeps_all():
    parts = [gaps_of([(1, 1, 2, 1)]), gaps_of([(5, 0, 1, 3)])]
    assert joined(parts).n == 5
