"""What a GPU can do at most, what it draws and what it costs: data sheet facts, one YAML file a GPU.

Peaks are dense (no structured sparsity). What part of a peak a kernel reaches belongs to a profile or to the prior;
the measured figures here, ``sustained_compute`` and ``sequence_layer_us``, say what kernels timed one by one leave out on
this GPU, whatever the model.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from calibration.files import read_yaml
from sim.errors import InputError, Problem, nearest

GPUS = Path(__file__).parent / "gpus"


@dataclass(frozen=True)
class Power:
    """Watts of one GPU: doing nothing, while memory binds (decode), while compute binds (prefill)."""

    idle_w: float
    memory_bound_w: float
    compute_bound_w: float
    basis: str = ""
    """How the figures were come by."""


@dataclass(frozen=True)
class Price:
    """US dollars an hour of one GPU, with the *date* and *source* it was seen at; a scenario may override
    it."""

    usd_per_gpu_hour: float
    date: str
    source: str


@dataclass(frozen=True)
class Hardware:
    """One GPU type and how many of them a node links together."""

    name: str
    title: str
    memory_bytes: int
    """Total memory that CUDA (or HIP) reports, which ``gpu_memory_utilization`` multiplies."""
    bandwidth_bytes_per_s: float
    flops: dict[str, float]
    """Dense peak by number format, FLOP/s."""
    gpus_per_node: int
    link_bytes_per_s: float
    """GPU to GPU within a node, one direction, of one GPU."""
    link: str
    """NVLink, Infinity Fabric or PCIe."""
    pcie_bytes_per_s: float
    """Host to device, one direction."""
    network_bytes_per_s: float
    """GPU to GPU of another node, one direction, of one GPU."""
    power: Power
    price: Price | None = None
    aliases: tuple[str, ...] = ()
    source: str = ""
    sustained_compute: float = 1.0
    """Share of the rate at which kernels compute when timed one by one that they keep within a serving engine, whose
    long steps run into the power limit; 1 where nothing is known."""
    sequence_layer_s: float = 0.0
    """Seconds that a sequence takes in each layer of a step beside what its kernels, timed one by one, say."""

    def peak_flops(self, dtype: str) -> float:
        """Dense peak of multiplications in *dtype*, falling back to the next wider format the GPU
        multiplies in."""
        order = ("nvfp4", "mxfp4", "fp8", "int8", "bf16", "fp32")
        dtype = {"fp16": "bf16", "int4": "bf16"}.get(dtype, dtype)
        for name in order[order.index(dtype) :]:
            if name in self.flops:
                return self.flops[name]
        raise InputError(Problem(f"{self.name} has no peak for {dtype!r}", key="dtype", expected=", ".join(self.flops)))


def hardware(name: str, *, base: Path | None = None) -> Hardware:
    """The GPU called *name* (or one of its aliases), or that of a YAML file; raise an InputError naming
    the nearest."""
    wanted = name.strip().lower()
    aliases = _aliases()
    if wanted in aliases:
        return _shipped(aliases[wanted])
    path = (base or Path()) / name
    if path.suffix in {".yaml", ".yml"}:
        return _from_yaml(path)
    raise InputError(
        Problem(
            f"unknown hardware {name!r}",
            key="hardware",
            expected="one of " + ", ".join(names()) + ", or a path to a YAML file",
            nearest=nearest(wanted, aliases),
        )
    )


@functools.cache
def names() -> tuple[str, ...]:
    """All shipped GPUs, sorted."""
    return tuple(sorted(path.stem for path in GPUS.glob("*.yaml")))


@functools.cache
def _aliases() -> dict[str, str]:
    found = {alias.lower(): name for name in names() for alias in _shipped(name).aliases}
    return found | {name: name for name in names()}


@functools.cache
def _shipped(name: str) -> Hardware:
    return _from_yaml(GPUS / f"{name}.yaml")


def _from_yaml(path: Path) -> Hardware:
    import yaml

    try:
        raw = read_yaml(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputError(Problem("no such hardware file", source=str(path), key="hardware")) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(Problem(f"not valid YAML: {error}", source=str(path))) from None
    if not isinstance(raw, dict):
        raise InputError(Problem("not a mapping", source=str(path), expected="the keys of a GPU"))
    return _build(raw, path)


_YAML_KEYS = {
    "title": str,
    "memory_gib": float,
    "bandwidth_gb_per_s": float,
    "tflops": dict,
    "gpus_per_node": int,
    "link": str,
    "link_gb_per_s": float,
    "pcie_gb_per_s": float,
    "network_gb_per_s": float,
    "power": dict,
    "price": dict,
    "aliases": list,
    "source": str,
    "sustained_compute": float,
    "sequence_layer_us": float,
    "beyond_kernels_basis": str,
}
_OPTIONAL = {"price", "aliases", "source", "sustained_compute", "sequence_layer_us", "beyond_kernels_basis"}


def _build(raw: dict[str, Any], path: Path) -> Hardware:
    source = str(path)
    problems = [
        Problem("unknown key", source=source, key=str(key), nearest=nearest(str(key), _YAML_KEYS))
        for key in raw
        if key not in _YAML_KEYS
    ]
    for key, kind in _YAML_KEYS.items():
        value = raw.get(key)
        if value is None:
            if key not in _OPTIONAL:
                problems.append(Problem("missing", source=source, key=key))
            continue
        if kind in (int, float):
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                problems.append(Problem(f"{value!r}", source=source, key=key, expected="a number more than 0"))
        elif not isinstance(value, kind):
            problems.append(Problem(f"{value!r}", source=source, key=key, expected=f"a {kind.__name__}"))
    share = raw.get("sustained_compute")
    if isinstance(share, int | float) and share > 1:
        problems.append(Problem(f"{share!r}", source=source, key="sustained_compute", expected="a share, at most 1"))
    for key, record in (("power", Power), ("price", Price)):
        known = {item.name for item in fields(record)}
        inner = raw.get(key)
        if isinstance(inner, dict):
            problems += [
                Problem("unknown key", source=source, key=f"{key}.{name}", nearest=nearest(str(name), known))
                for name in inner
                if name not in known
            ]
    if problems:
        raise InputError(problems)
    try:
        power = Power(**raw["power"])
        price = Price(**{**raw["price"], "date": str(raw["price"]["date"])}) if raw.get("price") else None
        flops = {str(name): float(value) * 1e12 for name, value in raw["tflops"].items()}
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(Problem(f"incomplete: {error}", source=source)) from None
    return Hardware(
        name=path.stem,
        title=raw["title"],
        memory_bytes=round(raw["memory_gib"] * 2**30),
        bandwidth_bytes_per_s=raw["bandwidth_gb_per_s"] * 1e9,
        flops=flops,
        gpus_per_node=int(raw["gpus_per_node"]),
        link=raw["link"],
        link_bytes_per_s=raw["link_gb_per_s"] * 1e9,
        pcie_bytes_per_s=raw["pcie_gb_per_s"] * 1e9,
        network_bytes_per_s=raw["network_gb_per_s"] * 1e9,
        power=power,
        price=price,
        aliases=tuple(str(alias) for alias in raw.get("aliases", ())),
        source=raw.get("source", ""),
        sustained_compute=float(raw.get("sustained_compute", 1.0)),
        sequence_layer_s=float(raw.get("sequence_layer_us", 0.0)) * 1e-6,
    )
