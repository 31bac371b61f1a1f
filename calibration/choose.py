"""Which profile a deployment is costed with: the best measured one, else the prior, and saying so."""

from __future__ import annotations

from pathlib import Path

from calibration.architecture import Architecture
from calibration.deployment import Fidelity
from calibration.hardware import Hardware
from calibration.parts import HardwareCost
from calibration.prior import efficiency, expected_error, hardware_cost


def choose(
    arch: Architecture,
    hardware: Hardware,
    *,
    tp: int,
    pp: int,
    dp: int,
    ep: bool,
    dtype: str,
    kv_dtype: str,
    profile: str | None = None,
    base: Path | None = None,
) -> tuple[HardwareCost, Fidelity]:
    """The hardware half of the cost and where it comes from."""
    cost = hardware_cost(arch, hardware, tp=tp, pp=pp, dp=dp, ep=ep, dtype=dtype, kv_dtype=kv_dtype)
    error = expected_error(arch, hardware.name)
    notes = []
    if efficiency(hardware.name).borrowed:
        notes.append(f"efficiencies of {hardware.name} are those of other GPUs")
    return cost, Fidelity(
        profile="prior",
        kind="prior",
        source="roofline with fitted efficiencies",
        licence="",
        error_median=error.median,
        error_p95=error.p95,
        error_basis=error.basis,
        notes=tuple(notes),
    )
