"""Fit the roofline prior's efficiencies to measured steps, and measure its error on models it did not see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from calibration.architecture import Architecture
from calibration.fitting import Rows, error_of, rows_of
from calibration.hardware import Hardware
from calibration.prior import Efficiency, hardware_cost
from calibration.profile import Error

if TYPE_CHECKING:
    import pandas as pd

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """Measured steps of one model, GPU and parallelism."""

    arch: Architecture
    hardware: Hardware
    tp: int
    dtype: str
    rows: Rows

    def predicted(self, eff: Efficiency) -> Array:
        """Seconds of each row by the prior with *eff*."""
        cost = hardware_cost(self.arch, self.hardware, tp=self.tp, dtype=self.dtype, top=16_384, using=eff)
        rows = self.rows
        return np.asarray(
            cost.linear(rows.tokens)
            + cost.seq_s * rows.batch
            + cost.kv_s * rows.context
            + cost.pair_s * rows.pairs
            + cost.cached_s * rows.cached
        )

    def error(self, eff: Efficiency) -> Error:
        """Error of the prior with *eff* on the decode steps."""
        decode = self.rows.decode
        return error_of(self.predicted(eff)[decode], self.rows.time_s[decode])


def case(arch: Architecture, hardware: Hardware, tp: int, dtype: str, frame: pd.DataFrame, *, most: int = 160) -> Case:
    """A case of at most *most* rows of *frame*, evenly taken."""
    rows = rows_of(frame)
    if len(rows) > most:
        mask = np.zeros(len(rows), dtype=bool)
        mask[np.unique(np.linspace(0, len(rows) - 1, most).astype(int))] = True
        rows = rows.take(mask)
    return Case(arch, hardware, tp, dtype, rows)


DENSE = ("weights", "kv", "compute", "attention", "softness", "kernel_us")
NARROW = ("fp8_weights", "fp8_compute", "fp8_kernel_us")
EXPERTS = ("experts", "experts_compute")
NARROW_EXPERTS = ("fp8_experts_compute",)
LATENT = ("mla_us", "mla_compute")
_BOUNDS = {
    "weights": (0.2, 1.0),
    "kv": (0.2, 1.0),
    "compute": (0.1, 1.0),
    "attention": (0.05, 1.0),
    "softness": (1.0, 12.0),
    "kernel_us": (0.0, 80.0),
    "experts": (0.1, 1.0),
    "experts_compute": (0.05, 1.0),
    "fp8_weights": (0.2, 1.0),
    "fp8_compute": (0.1, 1.0),
    "fp8_kernel_us": (0.0, 80.0),
    "fp8_experts_compute": (0.02, 1.0),
    "mla_us": (0.0, 400.0),
    "mla_compute": (0.05, 1.0),
}


_FIRST = {"fp8_weights": 0.6, "fp8_compute": 0.55, "kernel_us": 20.0, "fp8_kernel_us": 10.0, "mla_us": 60.0}


def fit_allreduce(message_bytes: Array, time_s: Array, gpus: int, hardware: Hardware) -> tuple[float, float]:
    """Microseconds of latency and share of the link that fit measured all-reduces best, by relative error."""
    from scipy.optimize import nnls

    traffic = 2.0 * message_bytes * (gpus - 1) / gpus / hardware.link_bytes_per_s
    columns = np.column_stack([np.full_like(traffic, 1e-6), traffic]) / time_s[:, None]
    scale = columns.max(axis=0)
    (latency_us, inverse), _ = nnls(columns / scale, np.ones_like(time_s))
    return float(latency_us / scale[0]), float(min(1.0, scale[1] / inverse)) if inverse else 1.0


def fit_efficiency(cases: Sequence[Case], start: Efficiency, names: Sequence[str]) -> Efficiency:
    """*start* with the figures called *names* made such that the prior is closest to *cases*, by
    median-like error."""
    from scipy.optimize import least_squares

    low, high = (np.asarray([_BOUNDS[name][i] for name in names]) for i in (0, 1))

    def build(values: Array) -> Efficiency:
        return replace(start, **dict(zip(names, values.tolist(), strict=True)))

    def residuals(values: Array) -> Array:
        eff = build(values)
        return np.concatenate([np.log(one.predicted(eff) / one.rows.time_s) for one in cases])

    first = np.clip([getattr(start, name) or _FIRST.get(name, 0.5) for name in names], low * 1.01 + 1e-6, high * 0.99)
    found = least_squares(
        residuals, first, bounds=(low, high), loss="soft_l1", f_scale=0.03, x_scale=np.maximum(first, 0.1)
    )
    return build(np.asarray(found.x))
