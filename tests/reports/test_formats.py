"""Numbers and ticks as a reader expects them."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.report import formats


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.9936, "99.4 %"),
        (0.99953, "99.95 %"),
        (0.9999999999, "> 99.99 %"),
        (1e-9, "< 0.001 %"),
        (None, formats.MISSING),
        (math.nan, formats.MISSING),
    ],
)
def test_percent(share: float | None, text: str) -> None:
    assert formats.percent(share) == text


@given(st.floats(0, 1, exclude_max=True))
def test_what_is_not_all_never_reads_as_all(share: float) -> None:
    assert formats.percent(share) != "100 %"


def test_intervals_say_a_shared_unit_once() -> None:
    assert formats.span([12.5, 18.3], formats.duration) == f"[12.5{formats.DASH}18.3 s]"
    assert formats.span([0.31, 1.03], formats.duration) == f"[310 ms{formats.DASH}1.03 s]"
    assert formats.span([1.0, 1.0], formats.percent) == "[100 %]"
    assert formats.span(None, formats.percent) == ""
    assert formats.span([0.1, math.nan], formats.percent) == ""


def test_ticks_that_people_read() -> None:
    assert formats.log_ticks(0.9, 700, "seconds", most=12)[1] == (
        ["1 s", "2 s", "5 s", "10 s", "20 s", "1 min", "2 min", "5 min", "10 min"]
    )
    assert formats.log_ticks(900, 12_000, "tokens")[1] == ["1K", "2K", "5K", "10K"]
    assert formats.log_ticks(1e-3, 1, "share", most=5)[1] == ["0.1 %", "1 %", "10 %", "100 %"]
    assert formats.time_ticks(0, 1200)[1] == ["0 min", "5 min", "10 min", "15 min", "20 min"]
    assert formats.time_ticks(0, 1.03)[1] == ["0 s", "0.2 s", "0.4 s", "0.6 s", "0.8 s", "1 s"]


@given(st.floats(-6, 6), st.floats(0.05, 9), st.sampled_from(["seconds", "tokens", "share", "plain"]))
def test_log_ticks_lie_inside_and_apart(start: float, decades: float, kind: formats.Kind) -> None:
    low, high = 10**start, 10 ** (start + decades)
    values, texts = formats.log_ticks(low, high, kind, most=8)
    assert len(values) == len(texts) <= 9
    assert values == sorted(set(values))
    assert all(low * 0.998 <= value <= high * 1.002 for value in values)
    gaps = [math.log10(b / a) for a, b in itertools.pairwise(values)]
    assert all(gap >= decades / 8.5 - 1e-9 for gap in gaps)
    if decades > 1.2:
        assert len(values) >= 2


@given(st.floats(0, 1e6), st.floats(1e-5, 1e7))
def test_time_ticks_are_even_and_few(low: float, span: float) -> None:
    values, texts = formats.time_ticks(low, low + span)
    assert 1 <= len(values) <= 10 or span < 1e-4
    assert len(values) == len(texts)
    assert all(low - 1e-6 * span <= value <= low + span * (1 + 1e-6) for value in values)


def test_a_log_axis_needs_a_positive_range() -> None:
    with pytest.raises(ValueError, match="0 < low"):
        formats.log_ticks(0.0, 1.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [(850, "850"), (1200, "1.2K"), (10_000, "10K"), (3.4e6, "3.4M"), (None, formats.MISSING), (0, "0")],
)
def test_tokens(value: float | None, text: str) -> None:
    assert formats.tokens(value) == text


@pytest.mark.parametrize(
    ("usd", "text"), [(0.00281, "$0.00281"), (2.5, "$2.50"), (46.481, "$46.48"), (12_345.0, "$12,345")]
)
def test_money(usd: float, text: str) -> None:
    assert formats.money(usd) == text
