"""Dates and clocks turned into seconds from the first row."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from workloads.formats.cells import Faults, numbers, texts
from workloads.formats.columns import SORT

if TYPE_CHECKING:
    from workloads.formats import Report

_FAR_S = 1e11
"""Seconds since 1970 beyond which lies no trace: three thousand years."""
_UNITS = {1e-3: "milliseconds", 1e-6: "microseconds", 1e-9: "nanoseconds"}


class StampReader:
    """Reads time stamps of one column, batch by batch: all dates, or all numbers of seconds (or *unit* of
    one).

    Time starts at the first row, or with numbers of seconds at their zero where the first one is below *shift_from*; a
    row before it is a fault unless the report lets rows stand in any order. Numbers so large that they would lie
    thousands of years ahead are taken for thousandths, millionths or billionths of the unit, which the report says.
    """

    def __init__(self, report: Report, *, unit: float = 1.0, shift_from: float = -np.inf) -> None:
        self._report = report
        self._unit = unit
        self._shift_from = shift_from
        self._dates: bool | None = None
        self._origin: float | int | None = None
        self._origin_ns: int | None = None

    def seconds(self, values: Any, first: int, column: str, faults: Faults) -> npt.NDArray[np.float64]:
        """*values* as seconds from the first stamp read, before which is none where rows must be in order."""
        found = self._read(values, first, column, faults)
        if not self._report.any_order and (self._origin or self._origin_ns is not None):
            for i in np.flatnonzero(found < 0)[:1].tolist():
                message = f"{-found[i]:.6g} s before the first row: rows are not in order of arrival"
                faults.add(first + i, column, message, SORT)
        return found

    def _read(self, values: Any, first: int, column: str, faults: Faults) -> npt.NDArray[np.float64]:
        import pyarrow as pa

        if isinstance(values, pa.Array) and pa.types.is_timestamp(values.type):
            return self._from_ns(values.cast(pa.timestamp("ns")).to_numpy(zero_copy_only=False).astype(np.int64))
        if self._dates is None:
            listed = values if isinstance(values, pa.Array) else texts(values[:1])
            self._dates = is_date(str(listed[0].as_py() or ""))
        if self._dates:
            return self._from_ns(nanoseconds(texts(values), first, column, faults))
        plain = numbers(values, first=first, column=column, faults=faults)
        faults.stop()
        if self._origin is None and len(plain):
            self._start(plain[0], values[0], column)
        whole = _whole(values)
        if whole is not None and isinstance(self._origin, int):
            # Nanoseconds since 1970 are more than a float can tell apart.
            return np.asarray((whole - self._origin).astype(np.float64) * self._unit)
        return np.asarray((plain - (self._origin or 0)) * self._unit)

    def _start(self, plain: float, value: Any, column: str) -> None:
        """Settle unit and origin by the first stamp."""
        given = self._unit
        while plain * self._unit >= _FAR_S and self._unit > 1e-9:
            self._unit = round(self._unit / 1000, 9)
        if self._unit != given:
            self._report.note(f"time stamps are taken as {_UNITS[self._unit]}")
        self._origin = 0
        if plain * self._unit >= self._shift_from:
            whole = _whole([value])
            self._origin = float(plain) if whole is None else int(whole[0])
            if self._origin:
                self._report.note(f"time starts at the first row ({column} {value})")

    def _from_ns(self, ns: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        if self._origin_ns is None and len(ns):
            self._origin_ns = int(ns[0])
            self._report.note(f"time starts at the first row ({np.datetime64(self._origin_ns, 'ns')})")
        return (ns - (self._origin_ns or 0)) / 1e9


def is_date(text: str) -> bool:
    """Whether *text* begins as a date does."""
    return re.match(r"\s*\d{4}-\d{2}-\d{2}", text) is not None


def _whole(values: Any) -> npt.NDArray[np.int64] | None:
    """*values* exactly, where all of them are whole numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        column = values if isinstance(values, pa.Array) else pa.array(values)
        if pa.types.is_string(column.type):
            column = pc.cast(pc.utf8_trim_whitespace(column), pa.int64())
        if not pa.types.is_integer(column.type) or column.null_count:
            return None
        return np.asarray(column.cast(pa.int64()).to_numpy(zero_copy_only=False))
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return None


def nanoseconds(values: Any, first: int, column: str, faults: Faults) -> npt.NDArray[np.int64]:
    """Dates as nanoseconds since 1970; a zone is honoured, none is taken as UTC."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    plain = pc.replace_substring_regex(values, pattern=r"(\s*Z|\+00:?00)\s*$", replacement="")
    try:
        cast = pc.cast(plain, pa.timestamp("ns"))
        if not cast.null_count:
            return np.asarray(cast.to_numpy(zero_copy_only=False).astype("datetime64[ns]").astype(np.int64))
    except pa.ArrowInvalid:
        pass
    result = np.zeros(len(values), np.int64)
    for i, text in enumerate(values.to_pylist()):
        try:
            if text is None or not is_date(text):
                raise ValueError
            stamp = pd.Timestamp(text)
        except (ValueError, OverflowError):
            faults.add(
                first + i,
                column,
                f"{text!r} is not a date",
                "2023-11-16 18:17:03.9799600, as in the rows before",
            )
            if faults.full():
                break
            continue
        result[i] = stamp.tz_convert("UTC").as_unit("ns").value if stamp.tz is not None else stamp.as_unit("ns").value
    return result
