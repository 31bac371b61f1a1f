"""Profiling tables of Vidur (``data/profiling``, MIT): ``mlp.csv`` and ``attention.csv`` of one model and
GPU.

Times are medians of single operators in ms. A step is their sum over the layers: projections, MLP, norms,
activation, rotary embedding and residual additions for its tokens, attention for its sequences. lm_head,
sampling and all-reduces are not in these tables and are not in the steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.architecture import Architecture
from calibration.importers.common import interpolate, line, numbers, read_csv
from calibration.measurements import check
from sim.errors import InputError, Problem

if TYPE_CHECKING:
    import pandas as pd

_LAYER = (
    "input_layernorm",
    "attn_pre_proj",
    "attn_rope",
    "attn_post_proj",
    "post_attention_layernorm",
    "mlp_up_proj",
    "mlp_act",
    "mlp_down_proj",
)
_MLP_KEYS = ("num_tokens", "num_tensor_parallel_workers", "n_head", "n_embd")
_ATTENTION_KEYS = (
    "n_embd",
    "n_q_head",
    "num_tensor_parallel_workers",
    "batch_size",
    "prefill_chunk_size",
    "kv_cache_size",
    "is_prefill",
)


def read(
    mlp: str | Path, attention: str | Path, arch: Architecture, *, gpu: str, tp: int = 1, dtype: str = "fp16"
) -> pd.DataFrame:
    """Steps of *arch* over *tp* GPUs of type *gpu*, composed from the two tables.

    Raise an InputError when the tables hold no rows of these shapes and this TP.
    """
    import pandas as pd

    linear = _linear(mlp, arch, tp)
    steps = _attention(attention, arch, tp)
    tokens = np.where(steps["is_prefill"], steps["prefill_chunk_size"] * steps["batch_size"], steps["batch_size"])
    within = (tokens >= linear[0][0]) & (tokens <= linear[0][-1])
    steps, tokens = steps[within], tokens[within]
    time_ms = arch.layers * (interpolate(linear, tokens.astype(float)) + steps["attention_ms"].to_numpy(float))
    prefill = steps["is_prefill"].to_numpy(bool)
    frame = pd.DataFrame(
        {
            "source": "vidur",
            "gpu": gpu,
            "model": arch.name,
            "dtype": dtype,
            "kv_dtype": dtype,
            "tp": tp,
            "engine": "sarathi kernels (2024)",
            "quantity": "iteration_composed",
            "decodes": np.where(prefill, 0, steps["batch_size"]),
            "context": np.where(prefill, 0, steps["kv_cache_size"]),
            "chunks": np.where(prefill, steps["batch_size"], 0),
            "chunk_tokens": np.where(prefill, steps["prefill_chunk_size"], 0),
            "chunk_cached": np.where(prefill, steps["kv_cache_size"], 0),
            "time_ms": time_ms,
        }
    )
    return check(frame, source=f"{mlp}, {attention}")


def _linear(path: str | Path, arch: Architecture, tp: int) -> Any:
    names = [f"time_stats.{name}.median" for name in _LAYER]
    raw = read_csv(path, (*names, *_MLP_KEYS), text=names)
    rows = raw[
        (raw["num_tensor_parallel_workers"] == tp) & (raw["n_embd"] == arch.hidden) & (raw["n_head"] == arch.heads)
    ]
    if rows.empty:
        raise InputError(Problem(f"no rows of {arch.name} at tensor parallel size {tp}", source=str(path)))
    problems: list[Problem] = []
    total = sum(numbers(rows[name], str(path), problems) for name in names if not _not_run(rows, name))
    if "time_stats.add.median" in rows:
        # two residual additions a layer; the table holds one
        total = total + 2 * numbers(rows["time_stats.add.median"], str(path), problems)
    if problems:
        raise InputError(problems)
    return line(rows.assign(total=total), "num_tokens", "total")


def _not_run(rows: pd.DataFrame, name: str) -> bool:
    """Whether a model has no such operator: parallel attention and MLP share one norm, and its column is empty."""
    return "post_attention_layernorm" in name and bool(rows[name].isna().all())


def _attention(path: str | Path, arch: Architecture, tp: int) -> pd.DataFrame:
    import pandas as pd

    raw = read_csv(path, _ATTENTION_KEYS, text=("is_prefill",))
    rows = raw[
        (raw["num_tensor_parallel_workers"] == tp) & (raw["n_embd"] == arch.hidden) & (raw["n_q_head"] == arch.heads)
    ]
    if rows.empty:
        raise InputError(Problem(f"no rows of {arch.name} at tensor parallel size {tp}", source=str(path)))
    prefill = rows["is_prefill"].astype(str).str.lower() == "true"
    kept = (rows["batch_size"] > 0) & (~prefill | (rows["prefill_chunk_size"] > 0))
    rows, prefill = rows[kept], prefill[kept]
    problems: list[Problem] = []
    time_ms = pd.Series(0.0, index=rows.index)
    for kind, mask in (("attn_prefill", prefill), ("attn_decode", ~prefill)):
        name = f"time_stats.{kind}.median"
        if mask.any() and name not in rows:
            problems.append(Problem("column is missing", source=str(path), key=name))
        elif mask.any():
            time_ms = time_ms.where(~mask, numbers(rows[name][mask], str(path), problems))
    for kind in ("attn_input_reshape", "attn_output_reshape"):
        name = f"time_stats.{kind}.median"
        if name in rows:
            time_ms = time_ms + numbers(rows[name].fillna(0.0), str(path), problems)
    if problems:
        raise InputError(problems)
    return rows.assign(attention_ms=time_ms, is_prefill=prefill)
