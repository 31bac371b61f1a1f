"""Named workloads: one preset a class, its docstring saying what it is, where its figures are from, what is
assumed.

A preset fills in what a spec leaves open; ``rate``, ``queries``, ``max_tokens``, ``priority``, ``sessions``,
``shared_prefix``, ``recurrence``, ``runaway`` and ``arrivals`` in the scenario come before its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from sim.registry import Registry
from workloads.spec import WorkloadSpec

SECTIONS = ("arrivals", "sessions", "shared_prefix", "recurrence", "runaway", "max_tokens")


class Preset(Protocol):
    """A named workload."""

    def parts(self, asked: WorkloadSpec, base: Path | None) -> Mapping[str, Any]:
        """Sections of a spelled-out spec: arrivals and lengths or categories, or clients; and ``rate``."""


preset: Registry[Preset] = Registry("preset", "workloads.presets")


def about(name: str) -> str:
    """What the preset *name* is and where its figures are from."""
    return inspect.cleandoc(preset.get(name).__doc__ or "")


def resolve(spec: WorkloadSpec, *, base: Path | None = None) -> tuple[WorkloadSpec, dict[str, object]]:
    """The spelled-out spec that a preset stands for, and what to say of it in a report."""
    assert spec.preset is not None
    parts = dict(preset.make(spec.preset).parts(spec, base))
    own_rate = parts.pop("rate", None)
    for name in SECTIONS:
        value = getattr(spec, name)
        if value is not None:
            parts[name] = value
    timed = "clients" not in parts or spec.arrivals is not None
    closed = getattr(parts.get("arrivals"), "process", None) in ("closed", "burst", "rollout")
    rate = spec.rate if spec.rate is not None else (own_rate if timed and not closed else None)
    if rate is not None:
        parts["rate"] = rate if isinstance(rate, str) else f"{rate!r}/s"
    for name in ("queries", "priority", "even_draws"):
        parts[name] = getattr(spec, name)
    if "clients" in parts and spec.arrivals is None:
        parts["profile"] = spec.profile
    full = WorkloadSpec.model_validate({name: value for name, value in parts.items() if value is not None})
    return full, {"preset": spec.preset, "source": about(spec.preset)}
