"""Figures that are counted as rows pass by are those of the whole column, however it is cut into parts."""

import numpy as np
import pytest

from sim.report.trace_figures import daily
from workloads import curves
from workloads.bursts import CountMeter, GapMeter, Moments
from workloads.held import Chunk
from workloads.portrait import Portrait
from workloads.tally import EXACT, Tally

LEVELS = np.array([0.0, 0.013, 0.25, 0.5, 0.9, 0.999, 1.0])


def parts_of(values, rng):
    return np.split(values, np.sort(rng.integers(0, len(values) + 1, 7)))


@pytest.mark.parametrize("size", [1, 2, 37, 20_000])
def test_a_tally_has_the_figures_of_the_sorted_column(size):
    rng = np.random.default_rng(size)
    values = np.rint(rng.lognormal(6, 1.4, size)).astype(np.int64)
    tally = Tally()
    for part in parts_of(values, rng):
        tally.add(part)
    ordered = np.sort(values)[::-1]
    np.testing.assert_allclose(tally.quantile(LEVELS), np.quantile(values, LEVELS), rtol=1e-12)
    assert tally.mean == pytest.approx(values.mean(), rel=1e-12)
    assert tally.max == values.max()
    count = np.arange(1, size + 1)
    np.testing.assert_allclose(tally.largest(count), np.cumsum(ordered), rtol=1e-9)
    assert tally.top_share(0.1) == pytest.approx(ordered[: max(1, round(size / 10))].sum() / values.sum())
    np.testing.assert_allclose(tally.share_above(LEVELS * 900), [(values > at).mean() for at in LEVELS * 900])
    if size > 40:
        top = np.sort(values)[-round(0.05 * size) - 1 :].astype(float)
        assert tally.hill() == pytest.approx(1 / np.mean(np.log(top[1:] / top[0])), rel=1e-9)


def test_values_beyond_the_table_keep_eighteen_digits():
    values = np.array([5, EXACT - 1, EXACT, 3 * EXACT + 1, 10**9])
    tally = Tally(values)
    np.testing.assert_allclose(tally.quantile([0, 0.25, 0.5, 0.75, 1]), values, rtol=4e-6)
    assert tally.sum == values.sum()


def test_distance_of_two_columns():
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 50, 300), rng.integers(5, 60, 400)
    at = np.arange(70)
    plain = max(abs((a <= x).mean() - (b <= x).mean()) for x in at)
    assert Tally(a).distance(Tally(b)) == pytest.approx(plain)


@pytest.mark.parametrize("scale", [0.5, 10.0, 400.0])
def test_counts_over_intervals_pass_by(scale):
    rng = np.random.default_rng(4)
    arrived = 7 + np.cumsum(rng.gamma(0.2, 5, 4000) * np.where(np.arange(4000) < 2000, 1, 4))
    meter = CountMeter(scale)
    for part in parts_of(arrived, rng):
        meter.add(part)
    place = ((arrived - arrived[0]) / scale).astype(int)
    counts = np.bincount(place)[:-1].astype(float)
    assert meter.intervals == len(counts)
    assert meter.dispersion() == pytest.approx(counts.var() / counts.mean(), rel=1e-9)
    off = counts - counts.mean()
    plain = (off[1:] * off[:-1]).mean() / counts.var()
    assert meter.autocorrelation() == pytest.approx(plain, rel=1e-9)


def test_gaps_of_clients_by_window_pass_by():
    rng = np.random.default_rng(5)
    arrived = np.cumsum(rng.gamma(0.3, 1, 5000))
    client = rng.choice(4, 5000, p=[0.6, 0.3, 0.09, 0.01])
    meter = GapMeter(100.0, tables=True)
    for begin in range(0, 5000, 617):
        meter.add(arrived[begin : begin + 617], client[begin : begin + 617])
    cvs, sizes = [], []
    for window in range(int(arrived[-1] / 100) + 1):
        for code in range(4):
            mine = arrived[(client == code) & ((arrived / 100).astype(int) == window)]
            if len(mine) >= 3:
                cvs.append(np.diff(mine).std() / np.diff(mine).mean())
                sizes.append(len(mine))
    assert meter.cv() == pytest.approx(np.average(cvs, weights=sizes), rel=1e-9)
    window, whose, size, _ = meter.groups()
    assert size.sum() == 5000
    assert len(set(zip(window.tolist(), whose.tolist(), strict=True))) == len(window)


def test_moments():
    values = np.random.default_rng(6).gamma(0.5, 3, 1000)
    moments = Moments()
    for part in np.split(values, [3, 500]):
        moments.add(part)
    assert moments.cv == pytest.approx(values.std() / values.mean())


def test_hours_of_the_day_over_whole_and_broken_days():
    day = 86_400
    # A query a minute from 8 h to 18 h, of three days and a half; the trace starts at 6 h with one of its own.
    minutes = np.arange(6 * 3600, 3.5 * day, 60)
    hour = minutes % day // 3600
    times = minutes[((hour >= 8) & (hour < 18)) | (minutes == minutes[0])].astype(float)
    size = len(times)
    of = Portrait(600.0, [60.0], names=("all",), grouped_by="nothing", split_known=False)
    for part in np.array_split(np.arange(size), 3):
        ones = np.ones(len(part), int)
        of.add(Chunk(times[part], ones, ones, None, np.zeros(len(part), int)))
    rates = of.hourly_rates
    assert rates is not None
    np.testing.assert_allclose(rates[8:18], 1 / 60, rtol=0.01)
    assert rates[18:].sum() == rates[:6].sum() == 0
    table = curves.daily(of)
    assert list(table["rate"][:24]) == list(rates)
    assert "The busiest hour of the day has 0.0167/s, the quietest 0/s" in daily(table).layout.meta["title"]
    of.last_s = of.first_s + day
    assert of.hourly_rates is None
    assert curves.daily(of).empty
