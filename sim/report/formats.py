"""How a report says a number, and where it puts the ticks of an axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from sim.units import format_bytes, format_count, format_duration, format_number

MISSING = "—"
DASH = "\u2013"
"""Between the ends of a range."""


def number(value: float | None, digits: int = 3) -> str:
    """*value* with *digits* significant digits (`sim.units.format_number`); a dash where there is none."""
    return MISSING if value is None or not math.isfinite(value) else format_number(value, digits)


def count(value: float | None) -> str:
    """A whole number, exact and thousands separated."""
    return MISSING if value is None or not math.isfinite(value) else format_count(value)


def duration(seconds: float | None) -> str:
    """A time as people say it (`sim.units.format_duration`); a dash where there is none."""
    return MISSING if seconds is None or not math.isfinite(seconds) else format_duration(seconds)


def percent(share: float | None, digits: int = 3) -> str:
    """A share of one as a percentage; what is not all is never rounded to 100 %.

    >>> percent(0.993), percent(0.99953), percent(0.5), percent(0.00012)
    ('99.3 %', '99.95 %', '50 %', '0.012 %')
    """
    if share is None or not math.isfinite(share):
        return MISSING
    value = 100 * share
    if 0 < value < 1e-3:
        return "< 0.001 %"
    text = number(value, digits)
    while value < 100 <= float(text) and digits < 4:
        digits += 1
        text = number(value, digits)
    return "> 99.99 %" if value < 100 <= float(text) else f"{_trim(text)} %"


def _trim(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def span(bounds: Sequence[float] | None, say: Callable[[float], str]) -> str:
    """An interval in brackets, each end in the words of *say*; a shared unit is said once; empty for None.

    >>> span([0.99, 0.995], percent) == f"[99{DASH}99.5 %]"
    True
    >>> span([20.0, 180.0], duration) == f"[20 s{DASH}3.0 min]"
    True
    """
    if bounds is None or any(bound is None or not math.isfinite(bound) for bound in bounds):
        return ""
    low, high = (say(bound) for bound in bounds)
    if low == high:
        return f"[{low}]"
    unit = high.rpartition(" ")[2]
    if low.endswith(f" {unit}") and unit != high:
        low = low.removesuffix(f" {unit}")
    return f"[{low}{DASH}{high}]"


def money(usd: float | None) -> str:
    """US dollars with three significant digits."""
    if usd is None or not math.isfinite(usd):
        return MISSING
    if usd >= 100:
        return f"${usd:,.0f}"
    return f"${usd:,.2f}" if usd >= 1 else f"${number(usd)}"


def size(bytes_: float | None) -> str:
    """Bytes in decimal units: 45 GB."""
    return MISSING if bytes_ is None or not math.isfinite(bytes_) else format_bytes(bytes_)


def tokens(value: float | None) -> str:
    """A number of tokens as axes say it: 850, 1.2K, 10K, 3.4M (powers of ten)."""
    if value is None or not math.isfinite(value):
        return MISSING
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= size:
            return f"{_trim(number(value / size))}{unit}"
    return _trim(number(value))


Kind = Literal["seconds", "tokens", "share", "plain"]

_MINUTES = (60, 120, 300, 600, 1200, 1800)
_HOURS = (3600, 7200, 18000, 36000)
_DAYS = tuple(86400 * digit * 10**power for power in range(9) for digit in (1, 2, 5))


def log_ticks(low: float, high: float, kind: Kind = "plain", *, most: int = 9) -> tuple[list[float], list[str]]:
    """Ticks that people read on a log axis: 1, 2, 5, 10 s, 1, 10 min; 1K, 10K; 1 %, 10 %.

    At most about *most* of them, none closer to another than labels allow; the 1s stay first, then the 5s.
    Where there would be fewer than three, finer ones come in between.
    """
    if not (0 < low <= high):
        raise ValueError(f"a log axis needs 0 < low <= high, got {low} and {high}")
    ranked: list[tuple[int, float]] = []
    first, last = math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1
    for power in range(first, last + 1):
        for rank, digit in ((0, 1.0), (1, 5.0), (2, 2.0), (3, 3.0), (4, 1.5), (4, 7.0), (5, 1.2)):
            value = float(f"{digit * 10:.0f}e{power - 1}")
            if kind != "seconds" or value < 50:
                ranked.append((rank, value))
    if kind == "seconds":
        ranked += [(0 if v in (60, 600) else 1 if v in (300, 1800) else 2, float(v)) for v in _MINUTES]
        ranked += [(0 if v in (3600, 36000) else 1, float(v)) for v in _HOURS]
        ranked += [(0 if str(v // 86400).startswith("1") else 1, float(v)) for v in _DAYS]
    inside = [(rank, value) for rank, value in ranked if low * 0.999 <= value <= high * 1.001]
    apart = math.log10(high / low) / (most + 0.5)
    chosen: list[float] = []
    for rank, value in sorted(inside):
        if rank > 2 and len(chosen) >= 3:
            break
        if all(abs(math.log10(value / other)) >= apart for other in chosen):
            chosen.append(value)
    values = sorted(chosen)
    return values, [tick_text(value, kind) for value in values]


def tick_text(value: float, kind: Kind) -> str:
    """One tick's label."""
    if kind == "seconds":
        for length, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")):
            if value >= length * 0.9999:
                return f"{_trim(number(value / length))} {unit}"
        return f"{_trim(number(value * 1e6))} µs"
    if kind == "tokens":
        return tokens(value)
    if kind == "share":
        return f"{_trim(number(value * 100))} %"
    return _trim(number(value))


def time_ticks(low_s: float, high_s: float, *, most: int = 8) -> tuple[list[float], list[str]]:
    """Ticks for a linear axis of simulated time, in whole seconds, minutes or hours."""
    span = max(high_s - low_s, 1e-9)
    steps = [m * 10.0**p for p in range(-6, 1) for m in (1, 2, 5)]
    steps += [10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 21600, 43200]
    steps += [86400.0 * m * 10**p for p in range(6) for m in (1, 2, 5)]
    step = next((step for step in steps if span / step <= most), steps[-1])
    length, unit = next(
        (length, unit)
        for length, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (0.0, "µs"))
        if step >= length or (length <= 1 and high_s >= length)
    )
    length = length or 1e-6
    start, end = math.ceil(low_s / step - 1e-9), math.floor(high_s / step + 1e-9)
    values = [index * step for index in range(start, end + 1)]
    return values, [f"{_trim(number(value / length, 4))} {unit}" for value in values]
