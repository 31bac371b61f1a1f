"""A profile: the measured and fitted cost of one model on one hardware and parallelism, with its provenance.

One YAML file holds the hardware part of one (model, GPU, parallelism, number formats); the engine part
stands in ``calibration/engines``. A profile is valid for every model of the same shapes.
"""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calibration.architecture import Architecture, from_dict
from calibration.architecture import architecture as architecture_of
from calibration.files import read_yaml
from calibration.parts import HardwareCost
from sim.errors import InputError, Problem, nearest

PROFILES = Path(__file__).parent / "profiles"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Error:
    """Absolute relative error over *n* rows; *bias* is the median signed one."""

    median: float
    p95: float
    n: int
    bias: float = 0.0


@dataclass(frozen=True)
class Profile:
    """What a profile's file says."""

    name: str
    model: str
    hardware: str
    tensor_parallel_size: int
    dtype: str
    kv_cache_dtype: str
    kind: str
    """"measured": whole engine or decoder steps; "composed": sums of measured kernels."""
    cost: HardwareCost = field(repr=False)
    error: dict[str, Error]
    """By what was predicted: decode, decode_unseen_contexts, decode_unseen_batches, prefill, cached,
    mixed."""
    batch: tuple[int, int]
    """Decode batches measured, least and most."""
    context: tuple[int, int]
    """Contexts of a sequence measured, tokens."""
    tokens: tuple[int, int]
    """Tokens of a prefill step measured."""
    physics: dict[str, float]
    provenance: dict[str, Any]
    """source, licence, version, quantity, rows, date, command, data_sha256 …"""
    data_parallel_size: int = 1
    enable_expert_parallel: bool = False
    borrowed: dict[str, str] = field(default_factory=dict)
    """Coefficients that the data could not identify, and where each comes from instead."""
    architecture: Architecture | None = None
    """The model's shapes, where its name does not tell them: a model that is not shipped."""
    sha256: str = ""

    def shapes(self) -> Architecture:
        """The architecture of the model; raise an InputError where neither file nor name tell it."""
        return self.architecture or architecture_of(self.model)

    def headline(self) -> tuple[float, float, str]:
        """Median and 95th percentile to state for this profile, and what they were measured on.

        The worse of the decode errors on contexts and batches left out of the fit, where there are such.
        """
        keys = ("decode_unseen_contexts", "decode_unseen_batches")
        unseen = [self.error[key] for key in keys if key in self.error]
        what = "decode steps left out of the fit"
        if not unseen and "started_from" in self.error:
            unseen, what = [self.error["started_from"]], "steps of the profile it was fitted from"
            if "runs_left_out" in self.error:
                unseen.append(self.error["runs_left_out"])
                what += ", or mean TPOT of runs left out, whichever is worse"
        if not unseen:
            unseen = list(self.error.values())
            what = "the fitted rows"
        worst = max(unseen, key=lambda error: error.median)
        return worst.median, worst.p95, what


def load(path: str | Path) -> Profile:
    """The profile in *path*; raise an InputError with every problem."""
    import yaml

    path = Path(path)
    try:
        text = path.read_bytes()
    except OSError:
        raise InputError(Problem("no such profile", source=str(path), key="profile")) from None
    try:
        raw = read_yaml(text)
    except yaml.YAMLError as error:
        raise InputError(Problem(f"not valid YAML: {error}", source=str(path))) from None
    if not isinstance(raw, dict):
        raise InputError(Problem("not a mapping", source=str(path), expected="a profile"))
    return _build(raw, source=str(path), sha256=hashlib.sha256(text).hexdigest())


_KEYS = {
    "schema_version",
    "name",
    "model",
    "hardware",
    "tensor_parallel_size",
    "data_parallel_size",
    "enable_expert_parallel",
    "dtype",
    "kv_cache_dtype",
    "kind",
    "hardware_part",
    "error",
    "range",
    "physics",
    "provenance",
    "borrowed",
    "architecture",
}


def _build(raw: dict[str, Any], *, source: str, sha256: str) -> Profile:
    problems = [
        Problem("unknown key", source=source, key=str(key), nearest=nearest(str(key), _KEYS))
        for key in raw
        if key not in _KEYS
    ]
    optional = {"data_parallel_size", "enable_expert_parallel", "borrowed", "architecture"}
    problems += [Problem("missing", source=source, key=key) for key in sorted(_KEYS - optional) if key not in raw]
    if not problems and raw["schema_version"] != SCHEMA_VERSION:
        got = repr(raw["schema_version"])
        problems.append(Problem(got, source=source, key="schema_version", expected=str(SCHEMA_VERSION)))
    if not problems and raw["kind"] not in ("measured", "composed"):
        problems.append(Problem(repr(raw["kind"]), source=source, key="kind", expected="measured or composed"))
    if problems:
        raise InputError(problems)
    part = raw["hardware_part"]
    try:
        times = [float(value) * 1e-6 for value in part["linear_us"]]
        scalars = {key: float(part[key]) * unit for key, unit in _UNITS.items()}
        if not all(math.isfinite(value) and value >= 0 for value in [*times, *scalars.values()]):
            raise ValueError("times must be finite and at least 0")
        cost = HardwareCost(
            tokens=tuple(int(value) for value in part["tokens"]),
            linear_s=tuple(times),
            kv_s=scalars["kv_ns"],
            pair_s=scalars["pair_ns"],
            cached_s=scalars["cached_ns"],
            seq_s=scalars["seq_us"],
        )
        ranges = {key: (int(low), int(high)) for key, (low, high) in raw["range"].items()}
        return Profile(
            name=str(raw["name"]),
            model=str(raw["model"]),
            hardware=str(raw["hardware"]),
            tensor_parallel_size=int(raw["tensor_parallel_size"]),
            dtype=str(raw["dtype"]),
            kv_cache_dtype=str(raw["kv_cache_dtype"]),
            kind=str(raw["kind"]),
            cost=cost,
            error={key: Error(**value) for key, value in raw["error"].items()},
            batch=ranges["batch"],
            context=ranges["context"],
            tokens=ranges["tokens"],
            physics=dict(raw["physics"]),
            provenance=dict(raw["provenance"]),
            data_parallel_size=int(raw.get("data_parallel_size", 1)),
            enable_expert_parallel=bool(raw.get("enable_expert_parallel", False)),
            borrowed=dict(raw.get("borrowed") or {}),
            architecture=from_dict(raw["architecture"], source=source) if raw.get("architecture") else None,
            sha256=sha256,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            Problem(f"incomplete or wrong: {type(error).__name__} {error}", source=source, key="hardware_part")
        ) from None


_UNITS = {"kv_ns": 1e-9, "pair_ns": 1e-9, "cached_ns": 1e-9, "seq_us": 1e-6}


def dump(profile: Profile, path: str | Path) -> None:
    """Write *profile* as YAML, figures to five digits."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text(profile), encoding="utf-8")
    part.replace(path)


def text(profile: Profile) -> str:
    """The YAML of *profile*."""
    import yaml

    cost = profile.cost
    out: list[str] = []
    head: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "name": profile.name,
        "model": profile.model,
        "hardware": profile.hardware,
        "tensor_parallel_size": profile.tensor_parallel_size,
    }
    if profile.data_parallel_size > 1:
        head["data_parallel_size"] = profile.data_parallel_size
    if profile.enable_expert_parallel:
        head["enable_expert_parallel"] = True
    head |= {"dtype": profile.dtype, "kv_cache_dtype": profile.kv_cache_dtype, "kind": profile.kind}
    out.append(yaml.safe_dump(head, sort_keys=False, allow_unicode=True))
    if profile.architecture is not None:
        shapes = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in profile.architecture.to_dict().items()
        }
        out.append(yaml.safe_dump({"architecture": shapes}, sort_keys=False, allow_unicode=True, width=110))
    out.append(
        "# linear(tokens of a step), then what a context token, a (query, key) pair, a cached token under a\n"
        "# prefill chunk and a sequence add; no host, no sampling (those stand in calibration/engines)\n"
    )
    out.append("hardware_part:\n")
    out.append(f"  tokens: [{', '.join(map(str, cost.tokens))}]\n")
    out.append(f"  linear_us: [{', '.join(_figure(value * 1e6) for value in cost.linear_s)}]\n")
    for key, value in (
        ("kv_ns", cost.kv_s * 1e9),
        ("pair_ns", cost.pair_s * 1e9),
        ("cached_ns", cost.cached_s * 1e9),
        ("seq_us", cost.seq_s * 1e6),
    ):
        out.append(f"  {key}: {_figure(value)}\n")
    if profile.borrowed:
        out.append(yaml.safe_dump({"borrowed": profile.borrowed}, sort_keys=False, allow_unicode=True))
    out.append("error:  # absolute relative error; bias is the median signed one\n")
    for key, error in profile.error.items():
        figures = f"median: {error.median:.4f}, p95: {error.p95:.4f}, n: {error.n}, bias: {error.bias:.4f}"
        out.append(f"  {key}: {{{figures}}}\n")
    ranges = {"batch": profile.batch, "context": profile.context, "tokens": profile.tokens}
    spans = ", ".join(f"{key}: [{low}, {high}]" for key, (low, high) in ranges.items())
    out.append(f"range: {{{spans}}}\n")
    physics = ", ".join(f"{key}: {value:.3f}" for key, value in profile.physics.items())
    out.append(f"physics: {{{physics}}}  # shares of the GPU's peaks that the figures imply\n")
    out.append(yaml.safe_dump({"provenance": profile.provenance}, sort_keys=False, allow_unicode=True, width=110))
    return "".join(out)


def _figure(value: float) -> str:
    if value == 0:
        return "0"
    digits = max(0, 4 - math.floor(math.log10(abs(value))))
    return f"{round(value, digits):.{digits}f}".rstrip("0").rstrip(".") if digits else f"{round(value):d}"


# ---- what there is
# ------------------------------------------------------------------------------------------


@functools.cache
def shipped() -> dict[str, Path]:
    """Name and file of every shipped profile."""
    return {path.stem: path for path in sorted(PROFILES.rglob("*.yaml"))}


@functools.cache
def get(name: str) -> Profile:
    """The shipped profile called *name*; raise an InputError naming the nearest."""
    known = shipped()
    if name not in known:
        raise InputError(
            Problem(
                f"unknown profile {name!r}",
                key="profile",
                expected="a name of `thinkcap list profiles`, a path to a YAML file, or prior",
                nearest=next((other for other in known if other.startswith(name)), nearest(name, known)),
            )
        )
    return load(known[name])


def name_of(model: str, hardware: str, tp: int, dtype: str, *, dp: int = 1, ep: bool = False) -> str:
    """The name that a profile of these is filed under."""
    spread = f"dp{dp}" if dp > 1 else ""
    spread += "ep" if ep else ""
    return "_".join(part for part in (model, hardware, f"tp{tp}", spread, dtype) if part)


def index() -> list[tuple[str, str, str, int, int, bool, str]]:
    """(name, model, hardware, tp, dp, ep, dtype) of every shipped profile, read from its name alone."""
    found = []
    for name in shipped():
        model, hardware, tp, *rest = name.split("_")
        dtype = rest[-1]
        spread = rest[0] if len(rest) > 1 else ""
        dp = int(spread[2:].removesuffix("ep")) if spread.startswith("dp") else 1
        found.append((name, model, hardware, int(tp[2:]), dp, spread.endswith("ep"), dtype))
    return found
