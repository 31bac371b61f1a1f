"""Cells of a column as numbers or text, and the faults found on the way, each with its place in the file."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sim.errors import InputError, Problem

if TYPE_CHECKING:
    import pyarrow as pa

MOST_TOKENS = 10**9
MOST_PROBLEMS = 20
"""Faults that are told of one file."""


class Faults:
    """Problems found in one file, up to 20; ``stop`` raises them."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self.lines: Sequence[int] | None = None
        """Where the rows at hand stand, if these are numbered from 0 because their lines do not follow one another."""

    def add(self, line: int | None, column: str, message: str, expected: str | None = None) -> None:
        if line is not None and self.lines is not None:
            line = self.lines[line]
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(Problem(message, source=self.source, line=line, key=column, expected=expected))

    def full(self) -> bool:
        return len(self.problems) >= MOST_PROBLEMS

    def stop(self) -> None:
        if self.problems:
            raise InputError(self.problems)


def numbers(values: Any, *, first: int, column: str, faults: Faults, empty: float | None = None) -> Any:
    """*values* (text or Python numbers) as float64; *empty* stands for an empty cell, or none may be.

    Text and numbers must be finite; what is not is a fault with its line.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(values, pa.Array) and pa.types.is_string(values.type):
        trimmed = pc.utf8_trim_whitespace(values)
        if empty is not None:
            trimmed = pc.if_else(pc.equal(trimmed, ""), repr(empty), trimmed)
        try:
            result = pc.cast(trimmed, pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid:
            result = None
        if result is not None and np.isfinite(result).all():
            return result
        values = values.to_pylist()
    elif isinstance(values, pa.Array):
        if pa.types.is_decimal(values.type):
            values = values.cast(pa.float64())
        if not values.null_count and (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
            result = values.to_numpy(zero_copy_only=False).astype(np.float64)
            if np.isfinite(result).all():
                return result
        values = values.to_pylist()
    result = np.zeros(len(values))
    for i, value in enumerate(values):
        number = _number(value)
        if number is None and empty is not None and _is_empty(value):
            number = empty
        if number is None or not math.isfinite(number):
            shown = "is empty" if _is_empty(value) else f"{_shown(value)} is not a number"
            if number is not None:
                shown = f"{_shown(value)} is not a finite number"
            faults.add(first + i, column, shown, "a number")
            if faults.full():
                break
            continue
        result[i] = number
    return result


def integers(
    values: Any,
    *,
    first: int,
    column: str,
    faults: Faults,
    low: int = 0,
    high: int = MOST_TOKENS,
    empty: int | None = None,
) -> npt.NDArray[np.int64]:
    """*values* as whole numbers from *low* to *high*; ``12.0`` is one, ``12.5`` is a fault."""
    result: npt.NDArray[np.float64] = numbers(
        values, first=first, column=column, faults=faults, empty=None if empty is None else float(empty)
    )
    wrong = np.flatnonzero((result != np.rint(result)) | (result < low) | (result > high))
    for i in wrong[:MOST_PROBLEMS].tolist():
        kind = "a whole number" if result[i] == np.rint(result[i]) else "not a whole number"
        value = result[i]
        message = f"{value:g} is {'negative' if value < 0 else 'out of range' if kind[0] == 'a' else kind}"
        faults.add(first + i, column, message, f"a whole number from {low} to {high:,}")
    return np.clip(result, low, high).astype(np.int64)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    if isinstance(value, str):
        try:
            return float(value) if "_" not in value else None
        except ValueError:
            return None
    return None


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def texts(values: Any) -> pa.Array:
    """*values* as text; numbers in their shortest form, so that a client 7 is the same in CSV and JSON."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(values, pa.Array):
        return values if pa.types.is_string(values.type) else pc.cast(values, pa.string())
    return pa.array(
        [value if isinstance(value, str) or value is None else _text(value) for value in values], pa.string()
    )


def names_of(values: Any, first: int, column: str, faults: Faults) -> Any:
    """*values* as text; bytes that are none are a fault."""
    import pyarrow as pa

    try:
        return texts(values)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        for i, value in enumerate(values.to_pylist()):
            try:
                if isinstance(value, bytes):
                    value.decode()
            except UnicodeDecodeError:
                faults.add(first + i, column, f"{_shown(value)} is not UTF-8 text")
        if not faults.problems:
            faults.add(first, column, f"a column of {values.type} is no text", "text or numbers")
        return values


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value) if isinstance(value, list | dict | bool) else str(value)
