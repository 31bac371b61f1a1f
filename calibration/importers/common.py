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


def read_csv(path: str | Path, columns: Sequence[str]) -> pd.DataFrame:
    """The CSV in *path*; raise an InputError when it cannot be read or lacks one of *columns*."""
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
    if problems:
        raise InputError(problems)
    return frame


def line(frame: pd.DataFrame, at: str, value: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Columns *at* and *value* of *frame* as a curve: sorted, repeats by their median."""
    curve = frame.groupby(at)[value].median()
    return curve.index.to_numpy(float), curve.to_numpy(float)


def interpolate(
    curve: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]], at: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """A curve's values, straight between its points and level beyond them."""
    return np.asarray(np.interp(at, *curve))
