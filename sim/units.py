"""How quantities are written and read: ``30 s``, ``45 GB``, ``4/s``, ``2.50 USD/h``, ``16K tokens``.

A number without its unit is refused wherever a dimension is needed, and the error shows what to write
instead. Reading is exact decimal arithmetic, rounded once, so ``7 ms`` is the float 0.007, 7·10⁹ ps.

>>> parse_seconds("200 ms"), parse_ps("1 h 30 min"), parse_bytes("20 GiB"), parse_per_second("120/min")
(0.2, 5400000000000000, 21474836480, 2.0)

Binary and decimal prefixes keep to their definitions: ``KiB`` is 1,024 bytes, ``KB`` 1,000. Token counts take
``K tokens`` (1,000) and ``Ki tokens`` (1,024); a bare ``16K`` is refused with both readings, except in engine
settings, which read as vLLM reads them (``16k`` = 16,000, ``16K`` = 16,384).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from sim.errors import nearest

PS_PER_S = 10**12
"""Picoseconds in a second."""


class UnitError(ValueError):
    """A quantity that cannot be read: *message* says why, *expected* what to write, *nearest* a guess."""

    def __init__(self, message: str, *, expected: str | None = None, nearest: str | None = None) -> None:
        self.message = message
        self.expected = expected
        self.nearest = nearest
        text = message
        if expected:
            text += f"; expected {expected}"
        if nearest:
            text += f"; did you mean {nearest!r}?"
        super().__init__(text)


# -- units -------------------------------------------------------------------------------------------------

_BEYOND_ALL = Decimal(1).scaleb(24)
"""In seconds, bytes or per second: no quantity of a scenario comes near it."""

_DURATIONS: dict[str, Decimal] = {
    "ps": Decimal(1).scaleb(-12),
    "ns": Decimal(1).scaleb(-9),
    "us": Decimal(1).scaleb(-6),
    "µs": Decimal(1).scaleb(-6),
    "ms": Decimal(1).scaleb(-3),
    "s": Decimal(1),
    "sec": Decimal(1),
    "second": Decimal(1),
    "seconds": Decimal(1),
    "min": Decimal(60),
    "minute": Decimal(60),
    "minutes": Decimal(60),
    "h": Decimal(3600),
    "hour": Decimal(3600),
    "hours": Decimal(3600),
    "d": Decimal(86_400),
    "day": Decimal(86_400),
    "days": Decimal(86_400),
}
_PREFIXES: dict[str, int] = {
    "": 1,
    "k": 10**3,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}
_BYTES = {f"{prefix}B": Decimal(size) for prefix, size in _PREFIXES.items()}
_BANDWIDTHS = {f"{unit}/s": size for unit, size in _BYTES.items()} | {
    f"{prefix}bit/s": Decimal(size) / 8 for prefix, size in _PREFIXES.items()
}
_RATES = {f"/{unit}": 1 / size for unit, size in _DURATIONS.items() if unit in ("ms", "s", "min", "h", "d", "day")}
_TOKENS = {
    f"{prefix} {noun}".strip(): Decimal(size) for prefix, size in _PREFIXES.items() for noun in ("token", "tokens")
}
_VLLM_COUNTS = {
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "K": 2**10,
    "M": 2**20,
    "G": 2**30,
    "T": 2**40,
}

_NUMBER = re.compile(r"([-+]?(?:\d[\d_,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*)", re.DOTALL)


def _split(text: str) -> tuple[Decimal, str] | None:
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        return None
    digits = match[1]
    if "," in digits and not re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?", digits):
        return None
    return Decimal(digits.replace(",", "").replace("_", "")), " ".join(match[2].split())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read(value: Any, units: Mapping[str, Decimal], what: str, example: str, bare: str) -> Decimal:
    """*value* as a number times one of *units*; *bare* is what a number alone most likely meant."""
    if _is_number(value) and math.isfinite(value):
        raise UnitError(f"{value!r} has no unit", expected=f"{what}, such as {value:g}{bare}")
    if not isinstance(value, str):
        raise UnitError(f"{value!r} is not {what}", expected=f"{what}, such as {example}")
    parts = _split(value)
    if parts is None:
        raise UnitError(f"{value!r} is not {what}", expected=f"{what}, such as {example}")
    number, unit = parts
    if not unit:
        raise UnitError(f"{value!r} has no unit", expected=f"{what}, such as {value.strip()}{bare}")
    if unit not in units:
        close = nearest(unit, units) or next((name for name in units if name.lower() == unit.lower()), None)
        raise UnitError(
            f"{value!r}: {unit!r} is not a unit of {what.removeprefix('a ').removeprefix('an ')}",
            expected=f"{what}, such as {example}",
            nearest=None if close is None else f"{_plain(number)}{'' if close.startswith('/') else ' '}{close}",
        )
    if not abs(number) * units[unit] < _BEYOND_ALL:
        raise UnitError(f"{value!r} is beyond everything that could be meant", expected=f"{what}, such as {example}")
    return number * units[unit]


def _plain(number: Decimal) -> str:
    return f"{number:f}"


# -- reading -----------------------------------------------------------------------------------------------


_TERM = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zµ]+)\s*")


def _duration(value: Any) -> Decimal:
    if isinstance(value, str):
        terms = _TERM.findall(value.strip())
        sizes = [_DURATIONS.get(unit) for _, unit in terms]
        if len(terms) > 1 and not _TERM.sub("", value.strip()) and None not in sizes:
            return sum((Decimal(number) * _DURATIONS[unit] for number, unit in terms), Decimal(0))
    return _read(value, _DURATIONS, "a duration", "30 s, 200 ms or 10 min", " s")


def parse_seconds(value: Any) -> float:
    """A duration in seconds; raise a UnitError for anything without a unit of time."""
    return float(_duration(value))


def parse_ps(value: Any) -> int:
    """A duration in picoseconds, rounded to the nearest."""
    return round(_duration(value) * PS_PER_S)


def parse_bytes(value: Any) -> int:
    """A size in bytes: ``45 GB`` (10⁹) or ``20 GiB`` (2³⁰)."""
    return round(_read(value, _BYTES, "a size in bytes", "45 GB or 20 GiB", " GB"))


def parse_gibibytes(value: Any) -> int:
    """A size in bytes that vLLM reads in GiB: ``64`` is 64 GiB; with a unit as `parse_bytes`."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return round(value * 2**30)
    return parse_bytes(value)


def parse_bytes_per_second(value: Any) -> float:
    """A bandwidth in bytes per second: ``50 GB/s``, ``400 Gbit/s``."""
    return float(_read(value, _BANDWIDTHS, "a bandwidth", "50 GB/s or 400 Gbit/s", " GB/s"))


def parse_per_second(value: Any) -> float:
    """A rate in 1/s: ``4/s``, ``120/min``; ``4 queries/s`` says the same."""
    if isinstance(value, str):
        value = re.sub(r"(?<=[\d\s])(?:queries|query)\s*(?=/)", "", value)
        value = re.sub(r"\s*/\s*", "/", value)
    return float(_read(value, _RATES, "a rate", "4/s or 120/min", "/s"))


def parse_usd(value: Any) -> float:
    """Money in US dollars: ``0.02 USD``."""
    return float(_read(value, {"USD": Decimal(1)}, "an amount of money", "0.02 USD", " USD"))


def parse_usd_per_hour(value: Any) -> float:
    """A price in US dollars an hour: ``2.50 USD/h``, ``60 USD/day``."""
    units = {f"USD/{unit}": 3600 / size for unit, size in _DURATIONS.items() if unit in ("s", "h", "hour", "d", "day")}
    return float(_read(value, units, "a price an hour", "2.50 USD/h", " USD/h"))


def parse_grams_per_kwh(value: Any) -> float:
    """A carbon intensity in grams of CO2e a kilowatt-hour: ``445 g/kWh``, ``0.4 kg/kWh``."""
    scales = {"g/kWh": Decimal(1), "kg/kWh": Decimal(1000)}
    return float(_read(value, scales, "a carbon intensity", "445 g/kWh", " g/kWh"))


def parse_tokens(value: Any) -> int:
    """A whole number of tokens: ``16000``, ``16K tokens`` (16,000), ``16Ki tokens`` (16,384).

    A bare ``16K`` is refused with both readings.
    """
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    example = "a number of tokens, such as 16000 or 16K tokens"
    parts = _split(value) if isinstance(value, str) else None
    if parts is None:
        raise UnitError(f"{value!r} is not a number of tokens", expected=example)
    number, unit = parts
    if unit in ("k", "K", "M", "G"):
        decimal = round(number * _PREFIXES[unit])
        binary = round(number * _PREFIXES[unit.upper() + "i"])
        raise UnitError(f"{value!r} can be read in two ways", expected=f"{decimal} or {binary}")
    count = number if not unit else _read(value, _TOKENS, "a number of tokens", "16000 or 16K tokens", "")
    if count != int(count):
        raise UnitError(f"{value!r} is not a whole number of tokens", expected=example)
    return int(count)


def parse_engine_count(value: Any) -> int:
    """A whole number as vLLM's command line reads it: ``8192``, ``16k`` = 16,000, ``16K`` = 16,384."""
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    example = "a whole number, or 16k (16,000) or 16K (16,384) as vLLM reads them"
    parts = _split(value) if isinstance(value, str) else None
    if parts is None or (parts[1] and parts[1] not in _VLLM_COUNTS):
        raise UnitError(f"{value!r} is not a whole number", expected=example)
    count = parts[0] * _VLLM_COUNTS.get(parts[1], 1)
    if count != int(count):
        raise UnitError(f"{value!r} is not a whole number", expected=example)
    return int(count)


def parse_share(value: Any) -> float:
    """A share of one: ``0.95`` or ``95 %``; the caller checks the range."""
    if _is_number(value):
        return float(value)
    parts = _split(value) if isinstance(value, str) else None
    if parts is None or parts[1] not in ("", "%"):
        raise UnitError(f"{value!r} is not a share", expected="a number from 0 to 1, or 95 %")
    return float(parts[0] / 100 if parts[1] else parts[0])


# -- writing so that reading gives the same value ----------------------------------------------------------


def exact(value: float) -> str:
    """*value* in the fewest digits that read back as the same float.

    >>> exact(30.0), exact(0.007), exact(1e-07)
    ('30', '0.007', '0.0000001')
    """
    return _plain(Decimal(repr(float(value)))).removesuffix(".0")


def write_seconds(seconds: float) -> str:
    """A duration that `parse_seconds` reads back exactly."""
    for unit in ("h", "min", "ms", "us"):
        text = f"{exact(float(Decimal(repr(float(seconds))) / _DURATIONS[unit]))} {unit}"
        whole = "." not in text
        if seconds and whole and len(text) < len(f"{exact(seconds)} s") and parse_seconds(text) == seconds:
            return text
    return f"{exact(seconds)} s"


def write_ps(time_ps: int) -> str:
    """A duration in picoseconds that `parse_ps` reads back exactly."""
    for unit in ("h", "min", "s", "ms", "us", "ns"):
        length = int(_DURATIONS[unit] * PS_PER_S)
        if time_ps and time_ps % length == 0 and (unit in ("s", "ms", "us", "ns") or time_ps // length < 1000):
            return f"{time_ps // length} {unit}"
    return f"{time_ps} ps" if time_ps else "0 s"


def write_per_second(rate: float) -> str:
    """A rate that `parse_per_second` reads back exactly."""
    return f"{exact(rate)}/s"


def write_bytes(size: int) -> str:
    """A size that `parse_bytes` reads back exactly."""
    for unit in ("TiB", "GiB", "MiB", "TB", "GB", "MB"):
        if size and size % int(_BYTES[unit]) == 0:
            return f"{size // int(_BYTES[unit])} {unit}"
    return f"{size} B"


def write_usd_per_hour(price: float) -> str:
    """A price that `parse_usd_per_hour` reads back exactly."""
    return f"{exact(price)} USD/h"


def write_grams_per_kwh(grams: float) -> str:
    """A carbon intensity that `parse_grams_per_kwh` reads back exactly."""
    return f"{exact(grams)} g/kWh"


def write_bytes_per_second(bandwidth: float) -> str:
    """A bandwidth that `parse_bytes_per_second` reads back exactly."""
    text = f"{exact(bandwidth / 1e9)} GB/s"
    return text if parse_bytes_per_second(text) == bandwidth else f"{exact(bandwidth)} B/s"


# -- writing for people ------------------------------------------------------------------------------------


def to_ps(seconds: float) -> int:
    """Seconds as picoseconds, rounded to the nearest."""
    return round(Decimal(repr(float(seconds))) * PS_PER_S)


def format_number(value: float, digits: int = 3) -> str:
    """*value* with *digits* significant digits, thousands separated; small whole numbers stay as they are.

    >>> format_number(0.012345), format_number(1234.5), format_number(98765), format_number(12)
    ('0.0123', '1,230', '98,800', '12')
    """
    if not math.isfinite(value):
        return "—" if math.isnan(value) else ("∞" if value > 0 else "-∞")
    if value == 0:
        return "0"
    if value == int(value) and abs(value) < 10**digits:
        return f"{int(value):,}"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, places)
    if math.floor(math.log10(abs(rounded))) > math.floor(math.log10(abs(value))):
        places -= 1
    return f"{rounded:.{digits - 1}e}" if abs(rounded) < 1e-6 else f"{rounded:,.{max(places, 0)}f}"


def format_duration(seconds: float) -> str:
    """A time as people say it.

    >>> format_duration(0.85), format_duration(12.34), format_duration(246), format_duration(9000)
    ('850 ms', '12.3 s', '4.1 min', '2.5 h')
    """
    if not math.isfinite(seconds):
        return format_number(seconds)
    size = abs(seconds)
    if size == 0:
        return "0 s"
    if size < 0.9995e-3:
        return f"{format_number(seconds * 1e6)} µs"
    if size < 0.9995:
        return f"{format_number(seconds * 1e3)} ms"
    if size <= 120:
        return f"{format_number(seconds)} s"
    for unit, length, until in (("min", 60, 7200.0), ("h", 3600, 172_800.0)):
        if size < until:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds / 86_400:,.1f} days"


def format_bytes(size: float) -> str:
    """A size in decimal units.

    >>> format_bytes(45e9), format_bytes(327_680)
    ('45 GB', '328 KB')
    """
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if abs(size) >= length * 0.9995:
            return f"{format_number(size / length)} {unit}"
    return f"{format_number(size)} B"


def format_count(value: float) -> str:
    """A whole number, exact, thousands separated."""
    return f"{round(value):,}"
