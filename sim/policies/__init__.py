"""What decides: one folder a kind, one file a policy. A policy changes nothing; it answers, and others do.

A plug-in is a frozen dataclass whose fields are its YAML options, marked by its kind's decorator::

    from sim.policies.routers import router

    @router("round_robin")
    @dataclass(frozen=True)
    class RoundRobin(Router): ...

Contracts: routers in `sim.policies.routing`, strategies in `sim.policies.reasoning`, admission in
`sim.policies.overload`, autoscalers in `sim.policies.scaling`, schedulers in `sim.engine.step`.
"""

from __future__ import annotations

import importlib
from typing import Any

from sim.registry import Registry

KINDS = {
    "scheduler": "schedulers",
    "kv": "kv",
    "predictor": "predictors",
    "router": "routers",
    "strategy": "strategies",
    "admission": "admission",
    "autoscaler": "autoscalers",
}
"""Every kind of policy, and the folder where it lives."""


def registry(kind: str) -> Registry[Any]:
    """The registry of *kind*; raise a KeyError for a kind that does not exist."""
    package = f"sim.policies.{KINDS[kind]}"
    found: Registry[Any] | None = getattr(importlib.import_module(package), kind, None)
    return Registry(kind, package) if found is None else found
