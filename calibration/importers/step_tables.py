"""Tables of decode and prefill step times in one row a step: ``decode_steps`` and ``prefill_steps`` columns.

Decode tables name ``batch_size`` and ``context_tokens_per_seq``, prefill tables ``n_seqs``,
``chunk_per_seq``, ``cached_per_seq``, ``n_decode`` and ``kv_decode``; times are milliseconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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
        raw = pd.read_csv(path, low_memory=False)
        missing = [name for name in _COMMON if name not in raw.columns]
        if missing:
            raise InputError([Problem("missing", source=str(path), key=name) for name in missing])
        raw = raw[raw["quantity"].isin(_KINDS)]
        frames.append(_decode(raw) if "batch_size" in raw.columns else _prefill(raw))
    frame = pd.concat(frames, ignore_index=True)
    frame["quantity"] = frame["quantity"].map(_KINDS)
    return check(frame, source=", ".join(map(str, paths)))


def _decode(raw: pd.DataFrame) -> pd.DataFrame:
    out = raw[_COMMON].copy()
    out["decodes"] = raw["batch_size"]
    out["context"] = raw["context_tokens_per_seq"]
    return out


def _prefill(raw: pd.DataFrame) -> pd.DataFrame:
    out = raw[_COMMON].copy()
    out["decodes"] = raw["n_decode"]
    out["context"] = raw["kv_decode"]
    out["chunks"] = raw["n_seqs"]
    out["chunk_tokens"] = raw["chunk_per_seq"]
    out["chunk_cached"] = raw["cached_per_seq"]
    return out
