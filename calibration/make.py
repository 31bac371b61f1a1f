"""From a measurement table of one (model, GPU, parallelism, formats) to a profile, checked against
physics."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.architecture import Architecture, architecture, is_shipped
from calibration.dtypes import dtype_name
from calibration.fitting import Validated, fit
from calibration.hardware import Hardware, hardware
from calibration.measurements import STEPS, contradiction
from calibration.physics import least_costs, shares
from calibration.prior import hardware_cost
from calibration.profile import Profile, name_of
from sim.errors import InputError, Problem

if TYPE_CHECKING:
    import pandas as pd

KEYS = ("gpu", "model", "dtype", "kv_dtype", "tp")
"""A profile is of one value of each."""


def make(
    frame: pd.DataFrame,
    *,
    provenance: dict[str, Any] | None = None,
    arch: Architecture | None = None,
    gpu: Hardware | None = None,
    dp: int = 1,
    ep: bool = False,
    source: str = "measurements",
) -> tuple[Profile, Validated]:
    """Fit *frame* and put the figures into a profile, with the fit and its rows beside it.

    *arch* and *gpu* replace what the table's names say, for a model or device that is not shipped. Raise an
    InputError when the table mixes several keys, holds too little, or its figures exceed the GPU's peaks.
    """
    key = _one_key(frame, source)
    arch = arch or architecture(key["model"])
    _consistent(frame, source)
    known = gpu or _hardware(key["gpu"], source)
    dtype = dtype_name(key["dtype"])
    tp = int(key["tp"])
    kv_dtype = key["kv_dtype"] or "bf16"
    prior = hardware_cost(arch, known, tp=tp, dp=dp, ep=ep, dtype=dtype, kv_dtype=kv_dtype) if known else None
    least = least_costs(arch, known, tp=tp, dp=dp, kv_dtype=kv_dtype) if known else None
    done = fit(frame, prior=prior, least=least, source=source)
    cost, rows = done.fit.cost, done.rows
    physics: dict[str, float] = {}
    if known:
        found = shares(arch, known, cost, tp=tp, dp=dp, dtype=dtype, kv_dtype=kv_dtype)
        physics = asdict(found)
        if wrong := found.impossible():
            raise InputError(
                [
                    Problem(
                        f"the fitted figures are not possible on {known.name}: {what}",
                        source=source,
                        expected="at most 100 % of a peak; check units, dtype, tp and model",
                    )
                    for what in wrong
                ]
            )
    decode = rows.decode
    quantities = sorted(set(frame["quantity"]))
    composed = "iteration_composed" in quantities
    profile = Profile(
        name=name_of(arch.name, known.name if known else _slug(key["gpu"]), tp, dtype, dp=dp, ep=ep),
        model=arch.name,
        hardware=known.name if known else key["gpu"],
        tensor_parallel_size=tp,
        dtype=dtype,
        kv_cache_dtype=kv_dtype,
        kind="composed" if composed else "measured",
        cost=cost,
        error=done.error,
        batch=_span(rows.batch[decode]),
        context=_span(rows.each_context[decode]),
        tokens=_span(rows.tokens[~decode] if (~decode).any() else rows.tokens),
        physics=physics,
        provenance={"quantity": ", ".join(quantities), "rows": len(rows), **(provenance or {})},
        data_parallel_size=dp,
        enable_expert_parallel=ep,
        borrowed=done.fit.borrowed,
        architecture=None if is_shipped(arch) else arch,
    )
    return profile, done


def _span(values: Any) -> tuple[int, int]:
    return int(np.min(values)), int(np.max(values))


def _one_key(frame: pd.DataFrame, source: str) -> dict[str, str]:
    problems = []
    for name in KEYS:
        found = sorted({str(value) for value in frame[name]})
        if len(found) != 1:
            problems.append(
                Problem(
                    f"the table holds {len(found)} of them: {', '.join(found[:12])}"
                    + (" …" if len(found) > 12 else ""),
                    source=source,
                    key=name,
                    expected="one (choose with --only " + name + "=VALUE)",
                )
            )
    if problems:
        raise InputError(problems)
    return {name: str(frame[name].iloc[0]) for name in KEYS}


def _consistent(frame: pd.DataFrame, source: str) -> None:
    """Raise an InputError where some steps must have been written in another unit than others."""
    steps = frame[frame["quantity"].isin(STEPS) & (frame["flag"] == "")]
    found = contradiction(steps)
    if found is None:
        return
    slow, quick = (steps.iloc[place] for place in found)
    raise InputError(
        Problem(
            f"row {steps.index[found[0]]} ({_step(slow)}) takes {slow['time_ms']:,.4g} ms, "
            f"{slow['time_ms'] / quick['time_ms']:,.0f} times as long as row {steps.index[found[1]]} "
            f"({_step(quick)}, {quick['time_ms']:,.4g} ms), which does no less",
            source=source,
            key="time_ms",
            expected="every row in milliseconds",
        )
    )


def _step(row: Any) -> str:
    words = []
    if row["decodes"]:
        words.append(f"decodes {row['decodes']:,} of {row['context']:,}")
    if row["chunks"]:
        words.append(f"{row['chunks']:,} x {row['chunk_tokens']:,} new on {row['chunk_cached']:,}")
    return " + ".join(words)


def _slug(device: str) -> str:
    """A device's own name as part of a file's name."""
    return re.sub(r"[^a-z0-9.]+", "-", device.lower()).strip("-")


def _hardware(name: str, source: str) -> Hardware | None:
    try:
        return hardware(name)
    except InputError:
        return None
