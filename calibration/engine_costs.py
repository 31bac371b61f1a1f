"""What a serving engine adds to the kernels: one YAML file an engine, one entry a version."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from calibration.architecture import Architecture
from calibration.files import read_yaml
from calibration.parts import EngineCost
from sim.errors import InputError, Problem, nearest

ENGINES = Path(__file__).parent / "engines"


@functools.cache
def _table(name: str) -> dict[str, Any]:
    table: dict[str, Any] = read_yaml((ENGINES / f"{name}.yaml").read_text(encoding="utf-8"))
    return table


@functools.cache
def names() -> tuple[str, ...]:
    """All engines with known costs, sorted."""
    return tuple(sorted(path.stem for path in ENGINES.glob("*.yaml")))


def versions(engine: str = "vllm") -> tuple[str, ...]:
    """The versions of *engine* with known costs; raise an InputError for an unknown engine."""
    if engine not in names():
        raise InputError(
            Problem(
                f"unknown engine {engine!r}",
                key="engine",
                expected="one of " + ", ".join(names()),
                nearest=nearest(engine, names()),
            )
        )
    return tuple(str(version) for version in _table(engine)["versions"])


def default_version(engine: str = "vllm") -> str:
    """The version meant when none is said."""
    versions(engine)
    return str(_table(engine)["default"])


def nearest_version(stated: str, engine: str = "vllm") -> str:
    """The version of *engine* with known costs that is closest to one *stated* as "0.18.1" or
    "v0.19.0-cu130".

    Closest counts minor releases; a text without a release gets the default.
    """
    import re

    found = re.search(r"(\d+)\.(\d+)", stated)
    if not found:
        return default_version(engine)
    minor = int(found[1]) * 100 + int(found[2])

    def distance(version: str) -> int:
        parts = version.split(".")
        return abs(int(parts[0]) * 100 + int(parts[1]) - minor)

    return min(versions(engine), key=distance)


def engine_cost(
    arch: Architecture,
    *,
    tp: int = 1,
    dtype: str = "auto",
    engine: str = "vllm",
    version: str | None = None,
) -> EngineCost:
    """What *engine* adds to a step of *arch* over *tp* GPUs with weights of *dtype*.

    Raise an InputError naming the nearest known engine or version.
    """
    known = versions(engine)
    version = version or default_version(engine)
    if version not in known:
        raise InputError(
            Problem(
                f"unknown version {version!r} of {engine}",
                key="engine_version",
                expected="one of " + ", ".join(known),
                nearest=nearest(version, known),
            )
        )
    entry = _table(engine)["versions"][version]
    layer_us, seq_us, vocab_us = entry["layer_us"], entry["seq_us"], entry.get("vocab_us", 0.0)
    if arch.moe:
        narrow = {"fp8": "moe_fp8_layer_us", "nvfp4": "moe_fp4_layer_us"}.get(arch.dtype_or_native(dtype), "")
        layer_us = entry.get(narrow, entry["moe_layer_us"])
        seq_us = entry.get("moe_seq_us", seq_us)
        vocab_us = entry.get("moe_vocab_us", vocab_us)
    sampler_us = vocab_us * arch.vocab / 100_000  # sorting the logits takes a time that goes with the vocabulary
    return EngineCost(
        name=engine,
        version=version,
        host_s=entry["host_us"] * 1e-6,
        layer_s=_at_tp(layer_us, tp) * 1e-6,
        seq_s=(_at_tp(seq_us, tp) + sampler_us) * 1e-6,
        mixed_s=entry["mixed_us"] * 1e-6,
        front_end_s=entry["front_end_ms"] * 1e-3,
        sampler_bytes=float(entry["sampler_bytes"]),
        source=entry["source"],
        identified_by=entry["identified_by"],
    )


def _at_tp(value: float | dict[int, float], tp: int) -> float:
    """A figure at *tp*, straight between the TP sizes (in log2) that it is known at, level beyond them."""
    if not isinstance(value, dict):
        return float(value)
    import numpy as np

    sizes = sorted(value)
    return float(np.interp(np.log2(tp), np.log2(sizes), [value[size] for size in sizes]))
