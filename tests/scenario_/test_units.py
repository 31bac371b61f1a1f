"""Quantities: exact, refused without a unit, written so that reading gives the same value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim import units
from sim.units import UnitError

READ = [
    (units.parse_seconds, "30 s", 30.0),
    (units.parse_seconds, "200ms", 0.2),
    (units.parse_seconds, "7 ms", 0.007),
    (units.parse_seconds, "10 min", 600.0),
    (units.parse_seconds, "1 h 30 min", 5400.0),
    (units.parse_seconds, "2 h", 7200.0),
    (units.parse_seconds, "1e3 s", 1000.0),
    (units.parse_seconds, "1,500 s", 1500.0),
    (units.parse_ps, "7 ms", 7_000_000_000),
    (units.parse_ps, "1 ps", 1),
    (units.parse_bytes, "45 GB", 45_000_000_000),
    (units.parse_bytes, "20 GiB", 20 * 2**30),
    (units.parse_bytes_per_second, "400 Gbit/s", 50e9),
    (units.parse_per_second, "4/s", 4.0),
    (units.parse_per_second, "120/min", 2.0),
    (units.parse_per_second, "4 queries / s", 4.0),
    (units.parse_per_second, "36/h", 0.01),
    (units.parse_usd_per_hour, "2.50 USD/h", 2.5),
    (units.parse_usd_per_hour, "60 USD/day", 2.5),
    (units.parse_tokens, 16000, 16000),
    (units.parse_tokens, "16K tokens", 16000),
    (units.parse_tokens, "16Ki tokens", 16384),
    (units.parse_engine_count, "16K", 16384),
    (units.parse_engine_count, "16k", 16000),
    (units.parse_engine_count, "25.6k", 25600),
    (units.parse_share, "95 %", 0.95),
]


@pytest.mark.parametrize(("read", "text", "value"), READ)
def test_reads(read, text, value):
    assert read(text) == value


REFUSED = [
    (units.parse_seconds, 30, "30 has no unit", "30 s"),
    (units.parse_seconds, "30", "no unit", "30 s"),
    (units.parse_seconds, "30 sex", "not a unit", "30 sec"),
    (units.parse_seconds, "5 GB", "not a unit", "10 min"),
    (units.parse_seconds, True, "not a duration", "30 s"),
    (units.parse_seconds, None, "not a duration", "30 s"),
    (units.parse_seconds, float("nan"), "not a duration", "30 s"),
    (units.parse_seconds, "1 h 30", "not a unit", "10 min"),
    (units.parse_seconds, "1,50 s", "not a duration", "30 s"),
    (units.parse_per_second, 4, "no unit", "4/s"),
    (units.parse_per_second, "4 s", "not a unit", "4/s"),
    (units.parse_bytes, "45 gb", "not a unit", "45 GB"),
    (units.parse_usd_per_hour, 2.5, "no unit", "2.5 USD/h"),
    (units.parse_usd_per_hour, "2.5 EUR/h", "not a unit", "USD/h"),
    (units.parse_tokens, "16K", "two ways", "16000 or 16384"),
    (units.parse_tokens, "1.5 tokens", "whole number", "16000"),
    (units.parse_engine_count, "16Q", "whole number", "16K"),
    (units.parse_engine_count, 1.5, "whole number", "16K"),
]


@pytest.mark.parametrize(("read", "value", "message", "hint"), REFUSED)
def test_refuses_and_says_what_to_write(read, value, message, hint):
    with pytest.raises(UnitError) as caught:
        read(value)
    assert message in caught.value.message
    assert hint in str(caught.value)


@given(st.floats(min_value=0, max_value=1e9, allow_nan=False))
def test_seconds_survive_writing(seconds):
    assert units.parse_seconds(units.write_seconds(seconds)) == seconds


@given(st.integers(min_value=0, max_value=10**18))
def test_picoseconds_survive_writing(time_ps):
    assert units.parse_ps(units.write_ps(time_ps)) == time_ps


@given(st.floats(min_value=1e-9, max_value=1e9), st.integers(min_value=1, max_value=10**15))
def test_rates_prices_and_sizes_survive_writing(value, size):
    assert units.parse_per_second(units.write_per_second(value)) == value
    assert units.parse_usd_per_hour(units.write_usd_per_hour(value)) == value
    assert units.parse_bytes(units.write_bytes(size)) == size
    assert units.parse_bytes_per_second(units.write_bytes_per_second(value)) == value


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.85, "850 ms"),
        (12.34, "12.3 s"),
        (246, "4.1 min"),
        (9000, "2.5 h"),
        (1e-5, "10 µs"),
        (0.9999, "1.00 s"),
        (864_000, "10.0 days"),
    ],
)
def test_durations_for_people(seconds, text):
    assert units.format_duration(seconds) == text


@given(st.floats(min_value=1e-5, max_value=1e12))
def test_numbers_keep_three_significant_digits(value):
    shown = float(units.format_number(value).replace(",", ""))
    assert shown == pytest.approx(value, rel=5.1e-3)
