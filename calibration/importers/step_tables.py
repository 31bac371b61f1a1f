"""Tables of decode and prefill step times in one row a step: ``decode_steps`` and ``prefill_steps`` columns.

Decode tables name ``batch_size`` and ``context_tokens_per_seq``, prefill tables ``n_seqs``,
``chunk_per_seq``, ``cached_per_seq``, ``n_decode`` and ``kv_decode``; times are milliseconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from calibration.importers.common import read_csv
from calibration.measurements import check
from sim.errors import InputError, Problem

if TYPE_CHECKING:
    import pandas as pd

_COMMON = [
    "source",
    "gpu",
    "model",
    "dtype",
    "kv_dtype",
    "tp",
    "engine",
    "quantity",
    "time_ms",
    "spread_ms",
    "n",
    "flag",
]
_DECODE = {"decodes": "batch_size", "context": "context_tokens_per_seq"}
_PREFILL = {
    "decodes": "n_decode",
    "context": "kv_decode",
    "chunks": "n_seqs",
    "chunk_tokens": "chunk_per_seq",
    "chunk_cached": "cached_per_seq",
}
"""Our columns, and what the two kinds of tables call them."""
_KINDS = {
    "iteration_measured": "iteration_measured",
    "prefill_measured": "iteration_measured",
    "iteration_composed": "iteration_composed",
    "prefill_composed": "iteration_composed",
    "mixed_composed": "iteration_composed",
}


def read(*paths: str | Path) -> pd.DataFrame:
    """Every whole step of the tables in *paths*; single operators are left out."""
    import pandas as pd

    frames = []
    for path in paths:
        raw = read_csv(path, _COMMON, text=_COMMON)  # what the cells hold is checked below, for all importers alike
        kind = _DECODE if "batch_size" in raw.columns else _PREFILL
        missing = [name for name in kind.values() if name not in raw.columns]
        if missing:
            raise InputError([Problem("column is missing", source=str(path), key=name) for name in missing])
        raw = raw[raw["quantity"].isin(_KINDS)]
        if raw.empty:
            expected = "a row with one of " + ", ".join(_KINDS)
            raise InputError(Problem("no whole step in it", source=str(path), key="quantity", expected=expected))
        kept = [*_COMMON, *(name for name in ("licence",) if name in raw.columns)]
        frames.append(raw[kept].assign(**{ours: raw[theirs] for ours, theirs in kind.items()}))
    frame = pd.concat(frames, ignore_index=True)
    frame["quantity"] = frame["quantity"].map(_KINDS)
    return check(frame, source=", ".join(map(str, paths)))
