"""Dates and clocks turned into seconds from the first row."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from workloads.formats.columns import Faults, numbers, texts

if TYPE_CHECKING:
    from workloads.formats import Report

_ZONE = r"\s*(Z|[+-]\d{2}:?\d{2})$"


class StampReader:
    """Reads time stamps of one column, batch by batch: all dates, or all numbers of seconds (or *unit* of
    one).

    Time starts at the first row, or with numbers of seconds at their zero where *shift* is off or the first one is
    below *shift_from*. Rows before the start come out negative, which is for the caller to refuse.
    """

    def __init__(self, report: Report, *, unit: float = 1.0, shift: bool = True, shift_from: float = -np.inf) -> None:
        self._report = report
        self._unit = unit
        self._shift = shift
        self._shift_from = shift_from
        self._dates: bool | None = None
        self._origin: float | None = None
        self._origin_ns: int | None = None

    def seconds(self, values: Any, first: int, column: str, faults: Faults) -> npt.NDArray[np.float64]:
        """*values* as seconds from the first stamp read."""
        import pyarrow as pa

        if isinstance(values, pa.Array) and pa.types.is_timestamp(values.type):
            return self._from_ns(values.cast(pa.timestamp("ns")).to_numpy(zero_copy_only=False).astype(np.int64))
        listed = values if isinstance(values, pa.Array) else texts(values)
        if self._dates is None:
            sample = str(listed[0].as_py() or "").strip()
            self._dates = re.match(r"\d{4}-\d{2}-\d{2}", sample) is not None
        if self._dates:
            return self._from_ns(_nanoseconds(texts(values), first, column, faults))
        plain = numbers(values, first=first, column=column, faults=faults) * self._unit
        faults.stop()
        if self._shift and self._origin is None and len(plain):
            self._origin = float(plain[0]) if plain[0] >= self._shift_from else 0.0
            if self._origin != 0.0:
                self._report.note(f"time starts at the first row ({column} {values[0]})")
        return np.asarray(plain - (self._origin or 0.0))

    def _from_ns(self, ns: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        if self._origin_ns is None and len(ns):
            self._origin_ns = int(ns[0])
            self._report.note(f"time starts at the first row ({np.datetime64(self._origin_ns, 'ns')})")
        return (ns - (self._origin_ns or 0)) / 1e9


def _nanoseconds(values: Any, first: int, column: str, faults: Faults) -> npt.NDArray[np.int64]:
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
            if text is None or re.match(r"\s*\d{4}-\d{2}-\d{2}", text) is None:
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
