"""Layer tables of LLMServingSim 2 (``profiler/perf/GPU/MODEL/DTYPE/tpN``, MIT): one folder of CSV files in
microseconds.

``dense.csv`` holds a layer's operators by tokens, ``per_sequence.csv`` lm_head and the sampler by sequences,
``attention.csv`` the attention kernel by chunk, cached context, decodes and their context, ``moe.csv`` the
experts by tokens and activated experts. Kernels were run eagerly, one layer at a time; a step is their sum,
without all-reduces.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.architecture import Architecture
from calibration.importers.common import interpolate, line, read_csv
from calibration.measurements import check
from sim.errors import InputError, Problem

if TYPE_CHECKING:
    import pandas as pd

_ONCE = {"embedding", "final_layernorm"}
"""Operators that a step runs once; all others run in each layer."""
_TWICE = {"layernorm"}
"""Operators that a layer runs twice."""


def read(folder: str | Path, arch: Architecture, *, gpu: str, tp: int = 1, dtype: str = "bf16") -> pd.DataFrame:
    """Steps of *arch* on *gpu* composed from the tables in *folder*; raise an InputError for a missing table.

    Steps over several GPUs lack their all-reduces and are flagged ``no_allreduce``.
    """
    import pandas as pd

    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(Problem("no such folder", source=str(folder), expected="a folder tpN of layer tables"))
    attention = read_csv(folder / "attention.csv", ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"))
    chunk, cached, decodes, context = (
        attention[name].to_numpy(float) for name in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
    )
    tokens, sequences = chunk + decodes, (chunk > 0) + decodes
    total_us = arch.layers * attention["time_us"].to_numpy(float)
    total_us = total_us + _dense(folder, arch, tokens) + _per_sequence(folder, sequences)
    if arch.moe:
        total_us = total_us + _experts(folder, arch, tokens)
    frame = pd.DataFrame(
        {
            "source": "LLMServingSim",
            "gpu": gpu,
            "model": arch.name,
            "dtype": dtype,
            "kv_dtype": dtype if dtype in ("bf16", "fp16") else "bf16",
            "tp": tp,
            "engine": "vLLM per-layer, eager",
            "quantity": "iteration_composed",
            "decodes": decodes,
            "context": context,
            "chunks": (chunk > 0).astype(int),
            "chunk_tokens": chunk,
            "chunk_cached": np.where(chunk > 0, cached, 0),
            "time_ms": total_us * 1e-3,
            "flag": "no_allreduce" if tp > 1 else "",
        }
    )
    return check(frame[tokens > 0], source=str(folder))


def _dense(folder: Path, arch: Architecture, tokens: Any) -> Any:
    table = read_csv(folder / "dense.csv", ("layer", "tokens", "time_us"), text=("layer",))
    total = np.zeros_like(tokens)
    for name, rows in table.groupby("layer"):
        times = 1 if name in _ONCE else arch.layers * (2 if name in _TWICE else 1)
        total = total + times * interpolate(line(rows, "tokens", "time_us"), tokens)
    return total


def _per_sequence(folder: Path, sequences: Any) -> Any:
    table = read_csv(folder / "per_sequence.csv", ("layer", "sequences", "time_us"), text=("layer",))
    total = np.zeros_like(sequences)
    for _, rows in table.groupby("layer"):
        total = total + interpolate(line(rows, "sequences", "time_us"), sequences)
    return total


def _experts(folder: Path, arch: Architecture, tokens: Any) -> Any:
    """The experts' time at the number of experts that so many tokens touch, routed uniformly."""
    table = read_csv(folder / "moe.csv", ("tokens", "activated_experts", "time_us"))
    if "ep" in table:
        table = table[table["ep"] == table["ep"].min()]
    grid = table.groupby(["tokens", "activated_experts"])["time_us"].median()
    out = np.empty_like(tokens)
    known = np.unique(table["tokens"].to_numpy(float))
    for i, count in enumerate(tokens):
        touched = arch.experts_touched(count)
        at = []
        for size in known:
            curve = grid.loc[size]
            at.append(float(np.interp(touched, curve.index.to_numpy(float), curve.to_numpy(float))))
        out[i] = float(np.interp(count, known, at))
    return arch.moe_layers * out
