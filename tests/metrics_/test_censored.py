"""Kaplan-Meier: equal to numpy without censoring, right by hand with it, never a number where nothing is
known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.metrics import Censored

TIMES = st.lists(st.floats(0.001, 1e6, allow_nan=False), min_size=1, max_size=60)


@given(TIMES, st.floats(0, 1))
def test_quantile_equals_numpy_without_censoring(times, q):
    sample = Censored(times)
    expected = np.quantile(times, q)
    assert sample.quantile(q).value == expected
    # the road that censored samples take gives the same
    assert sample._general(q).value == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(TIMES)
def test_mean_maximum_and_shares_equal_numpy_without_censoring(times):
    sample = Censored(times)
    assert sample.mean().value == pytest.approx(np.mean(times), rel=1e-12)
    assert sample.maximum().value == max(times)
    assert sample.below(times[0]) == np.mean(np.array(times) <= times[0])
    assert sample._cumulative == pytest.approx(np.arange(1, len(times) + 1) / len(times), rel=1e-9)


@given(TIMES, TIMES, st.floats(0, 1))
def test_censoring_never_makes_times_shorter(events, open_at, q):
    """Against the same sample with the open ones taken as ended: every known quantile is at least as long."""
    censored = Censored(events, open_at).quantile(q)
    ended = Censored(events + open_at).quantile(q)
    if math.isfinite(censored.value):
        assert censored.value >= ended.value * (1 - 1e-9) - 1e-9
    else:
        assert censored.at_least == max(events + open_at)


def test_kaplan_meier_by_hand():
    """Freireich's leukaemia data (6-MP arm), a textbook example: S(6) = 0.857, S(10) = 0.753, S(23) =
    0.448."""
    events = [6, 6, 6, 7, 10, 13, 16, 22, 23]
    open_at = [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
    sample = Censored(events, open_at)
    survival = {time: 1 - sample.below(time) for time in (6, 7, 10, 13, 16, 22, 23)}
    expected = {6: 0.857, 7: 0.807, 10: 0.753, 13: 0.690, 16: 0.627, 22: 0.538, 23: 0.448}
    assert survival == pytest.approx(expected, abs=5e-4)
    beyond = sample.quantile(0.9)
    assert math.isnan(beyond.value)
    assert beyond.at_least == 35
    assert math.isnan(sample.mean().value)
    assert sample.maximum().at_least == 35


def test_all_open_and_empty():
    sample = Censored([], [3.0, 5.0])
    assert math.isnan(sample.quantile(0.5).value)
    assert sample.quantile(0.5).at_least == 5.0
    assert sample.mean().at_least >= 5.0 - 1e-12
    empty = Censored([])
    assert math.isnan(empty.quantile(0.5).value)
    assert math.isnan(empty.quantile(0.5).at_least)
    assert math.isnan(empty.below(1.0))


def test_never_counts_as_longer_than_everything():
    sample = Censored([1.0, 2.0, math.inf, math.inf])
    assert sample.below(2.0) == 0.5
    assert sample.quantile(0.2).value == pytest.approx(1.6)
    assert math.isnan(sample.quantile(0.9).value)
    assert sample.quantile(0.9).at_least == 2.0


def test_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        Censored([1.0, math.nan])
    with pytest.raises(ValueError, match="between 0 and 1"):
        Censored([1.0]).quantile(1.1)
