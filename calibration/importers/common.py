"""What the importers share: reading a CSV with declared columns, and names of models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sim.errors import InputError, Problem, nearest

if TYPE_CHECKING:
    import pandas as pd

LLAMA_NAMES = {
    "llama2-7b": "llama-2-7b",
    "llama2-70b": "llama-2-70b",
    "llama-2-7b-hf": "llama-2-7b",
    "llama-2-70b-hf": "llama-2-70b",
}
"""Spellings of models in published tables, and ours."""


def read_csv(path: str | Path, columns: Sequence[str], *, text: Sequence[str] = ()) -> pd.DataFrame:
    """The CSV in *path*; raise an InputError when it cannot be read, holds no rows or lacks one of *columns*.

    Columns outside *text* must hold finite numbers of at least 0 in every row.
    """
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise InputError(Problem("no such file", source=str(path)))
    try:
        frame = pd.read_csv(path, low_memory=False)
    except Exception as error:
        raise InputError(Problem(f"not readable as CSV: {error}", source=str(path))) from None
    problems = [
        Problem(
            "column is missing",
            source=str(path),
            key=name,
            nearest=nearest(name, [str(c) for c in frame.columns]),
        )
        for name in columns
        if name not in frame.columns
    ]
    if not problems and not len(frame):
        problems.append(Problem("the table has no rows", source=str(path)))
    if not problems:
        for name in columns:
            if name not in text:
                frame[name] = numbers(frame[name], str(path), problems)
    if problems:
        raise InputError(problems)
    return frame


def numbers(values: pd.Series, source: str, problems: list[Problem]) -> pd.Series:
    """*values* as numbers; a cell that is none, not finite or below 0 is named in *problems*, once a column."""
    import pandas as pd

    found = pd.to_numeric(values, errors="coerce")
    bad = ~np.isfinite(found.to_numpy(float)) | (found.to_numpy(float) < 0)
    if bad.any():
        row = int(np.argmax(bad))
        what = f"row {values.index[row]}: {values.iloc[row]} is no finite number of at least 0 ({int(bad.sum())} such rows)"
        problems.append(Problem(what, source=source, key=str(values.name)))
    return found


def line(frame: pd.DataFrame, at: str, value: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Columns *at* and *value* of *frame* as a curve: sorted, repeats by their median."""
    curve = frame.groupby(at)[value].median()
    return curve.index.to_numpy(float), curve.to_numpy(float)


def interpolate(
    curve: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]], at: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """A curve's values, straight between its points and level beyond them."""
    return np.asarray(np.interp(at, *curve))
