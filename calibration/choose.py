"""Which profile a deployment is costed with: the best measured one, else the prior, and saying so.

In order: the profile asked for; one measured for these shapes, this GPU and parallelism and these formats;
the same with another vocabulary or KV format, corrected by the roofline; the roofline prior. Models of equal
shapes cost the same, so DeepSeek-R1-Distill-Llama-70B uses what was measured for Llama 3.1 70B.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from calibration import profile as profiles
from calibration.architecture import Architecture, architecture
from calibration.dtypes import KV_DTYPES
from calibration.fidelity import Fidelity
from calibration.hardware import Hardware
from calibration.parts import HardwareCost
from calibration.prior import efficiency, expected_error, hardware_cost
from sim.errors import InputError, Problem


@dataclass(frozen=True)
class Wanted:
    """What a step cost is wanted for."""

    arch: Architecture
    hardware: Hardware
    tp: int
    pp: int
    dp: int
    ep: bool
    dtype: str
    kv_dtype: str

    def prior(self, arch: Architecture | None = None, *, kv_dtype: str | None = None, pp: int = 1) -> HardwareCost:
        """The roofline of *arch* (of the wanted model) in this place."""
        return hardware_cost(
            arch or self.arch,
            self.hardware,
            tp=self.tp,
            pp=pp,
            dp=self.dp,
            ep=self.ep,
            dtype=self.dtype,
            kv_dtype=kv_dtype or self.kv_dtype,
        )


def choose(wanted: Wanted, *, profile: str | None = None, base: Path | None = None) -> tuple[HardwareCost, Fidelity]:
    """The hardware half of the cost, and where it comes from; raise an InputError for a *profile* that
    cannot serve."""
    cost, fidelity = _choose(wanted, profile, base)
    share, row_s = wanted.hardware.sustained_compute, wanted.hardware.sequence_layer_s
    if (
        share == 1.0 and row_s == 0.0
    ) or fidelity.kind == "measured":  # a measured step holds what kernels alone do not
        return cost, fidelity
    cost = replace(cost.sustained(share), seq_s=cost.seq_s + row_s * wanted.arch.layers)
    note = (
        f"kernels were timed one by one; within an engine {wanted.hardware.name} keeps {share:.0%} of that rate of "
        f"computing, and a sequence takes {row_s * 1e6:g} us a layer more"
    )
    return cost, replace(fidelity, notes=(*fidelity.notes, note))


def _choose(wanted: Wanted, profile: str | None, base: Path | None) -> tuple[HardwareCost, Fidelity]:
    if profile == "prior":
        return _prior(wanted)
    if profile is not None:
        path = (base or Path()) / profile
        found = profiles.load(path) if path.suffix in {".yaml", ".yml"} else profiles.get(profile)
        _check(wanted, found)
        return _from_profile(wanted, found)
    best = _best(wanted)
    return _from_profile(wanted, best) if best else _prior(wanted)


def _prior(wanted: Wanted) -> tuple[HardwareCost, Fidelity]:
    error = expected_error(wanted.arch, wanted.hardware.name, wanted.dtype)
    notes = []
    if efficiency(wanted.hardware.name).borrowed:
        notes.append(f"no kernel of {wanted.hardware.name} was measured: its efficiencies are those of other GPUs")
    cost = wanted.prior(pp=wanted.pp)
    if wanted.dp > 1 or wanted.ep:
        cost, note = _as_measured_in_tp(wanted, cost)
        notes += note
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


def _as_measured_in_tp(wanted: Wanted, cost: HardwareCost) -> tuple[HardwareCost, list[str]]:
    """*cost*, the prior of data or expert parallelism, times what kernels of the same model took of the prior's time
    when the same GPUs were one tensor parallel group; as it is where nothing of that was measured."""
    group = replace(wanted, tp=wanted.tp * wanted.dp, dp=1, ep=False, pp=1)
    found = _best(group)
    if found is None:
        return cost, []
    measured, expected = _from_profile(group, found)[0], group.prior()
    at = np.asarray(cost.tokens, float)
    linear = np.asarray(cost.linear_s) * measured.linear(at) / expected.linear(at)
    corrected = replace(
        cost,
        linear_s=tuple(np.maximum.accumulate(linear).tolist()),
        kv_s=cost.kv_s * measured.kv_s / expected.kv_s,
        pair_s=cost.pair_s * measured.pair_s / expected.pair_s,
        cached_s=cost.cached_s * measured.cached_s / expected.cached_s,
    )
    return corrected, [f"the prior, times what {found.name} took of its time"]


def _best(wanted: Wanted) -> profiles.Profile | None:
    """The shipped profile that fits best: same shapes before another vocabulary, same KV format before
    another."""
    ranked = []
    for name, model, gpu, tp, dp, ep, dtype in profiles.index():
        if (gpu, tp, dp, ep) != (
            wanted.hardware.name,
            wanted.tp,
            wanted.dp,
            wanted.ep and wanted.tp * wanted.dp > 1,
        ):
            continue
        if _sixteen(dtype) != _sixteen(wanted.dtype):
            continue
        other = architecture(model)
        if other.shape() == wanted.arch.shape():
            rank = 0 if model == wanted.arch.name else 1
        elif _but_vocabulary(other) == _but_vocabulary(wanted.arch):
            rank = 2
        else:
            continue
        ranked.append((rank, name))
    return profiles.get(min(ranked)[1]) if ranked else None


def _sixteen(dtype: str) -> str:
    return "bf16" if dtype == "fp16" else dtype


def _but_vocabulary(arch: Architecture) -> tuple[object, ...]:
    return replace(arch, vocab=1).shape()


def _check(wanted: Wanted, found: profiles.Profile) -> None:
    """A profile asked for by name must be of this parallelism and of a model of these shapes."""
    problems = []
    for key, have, want in (
        ("tensor_parallel_size", found.tensor_parallel_size, wanted.tp),
        ("data_parallel_size", found.data_parallel_size, wanted.dp),
    ):
        if have != want:
            problems.append(Problem(f"profile {found.name} is of {key} {have}", key="profile", expected=str(want)))
    other = found.shapes()
    if _but_vocabulary(other) != _but_vocabulary(wanted.arch):
        problems.append(
            Problem(
                f"profile {found.name} is of {found.model}, whose shapes differ from those of {wanted.arch.name}",
                key="profile",
                expected="a profile of the same shapes, or prior",
            )
        )
    if problems:
        raise InputError(problems)


def _from_profile(wanted: Wanted, found: profiles.Profile) -> tuple[HardwareCost, Fidelity]:
    cost, notes = found.cost, []
    other = found.shapes()
    median, p95, basis = found.headline()
    if found.model != wanted.arch.name and other.shape() == wanted.arch.shape():
        notes.append(f"measured for {found.model}, which has the same shapes")
    if found.hardware != wanted.hardware.name:
        notes.append(f"measured on {found.hardware}, asked for on {wanted.hardware.name}")
    if other.vocab != wanted.arch.vocab:
        ours, theirs = wanted.prior(), wanted.prior(other)
        at = np.asarray(cost.tokens, float)
        scaled = np.asarray(cost.linear_s) * ours.linear(at) / theirs.linear(at)
        cost = replace(cost, linear_s=tuple(np.maximum.accumulate(scaled).tolist()))
        notes.append(
            f"measured for {found.model}, which differs in its vocabulary only; lm_head corrected by the roofline"
        )
    if _kv_width(wanted.kv_dtype, wanted.arch) != _kv_width(found.kv_cache_dtype, other):
        theirs_kv = found.kv_cache_dtype if found.kv_cache_dtype in KV_DTYPES else "auto"
        ratio = wanted.prior().kv_s / wanted.prior(kv_dtype=theirs_kv).kv_s
        cost = replace(cost, kv_s=cost.kv_s * ratio, cached_s=cost.cached_s * ratio)
        notes.append(f"measured with KV in {found.kv_cache_dtype}; reading KV corrected by the roofline")
    if wanted.pp > 1:
        at = np.asarray(cost.tokens, float)
        more = wanted.prior(pp=wanted.pp).linear(at) - wanted.prior().linear(at)
        stretched = np.maximum.accumulate(np.asarray(cost.linear_s) + np.maximum(more, 0.0))
        cost = replace(cost, linear_s=tuple(stretched.tolist()))
        notes.append(f"measured without pipeline stages; {wanted.pp - 1} transfers a step added by the roofline")
    notes += [f"{name} taken from elsewhere: {why}" for name, why in found.borrowed.items()]
    source = found.provenance
    return cost, Fidelity(
        profile=found.name,
        kind=found.kind,
        source=f"{source.get('source', '')} {source.get('version', '')}".strip(),
        licence=str(source.get("licence", "")),
        error_median=median,
        error_p95=p95,
        error_basis=basis,
        batch_max=found.batch[1],
        context_max=found.context[1],
        tokens_max=found.tokens[1],
        sha256=found.sha256,
        notes=tuple(notes),
    )


def _kv_width(kv_dtype: str, arch: Architecture) -> float:
    return arch.kv_width(kv_dtype if kv_dtype in KV_DTYPES else "auto")
