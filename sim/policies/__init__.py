"""What decides: one folder a kind, one file a policy. A policy changes nothing; it answers, and others do.

A plug-in is a frozen dataclass whose fields are its YAML options, marked by its kind's decorator::

    from sim.policies import router

    @router("round_robin")
    @dataclass(frozen=True)
    class RoundRobin: ...

Contracts: routers in `sim.policies.routing`, strategies in `sim.policies.reasoning`, admission in
`sim.policies.overload`, schedulers, KV policies and predictors with the engine.
"""

from __future__ import annotations

from typing import Any

from sim.registry import Registry

scheduler: Registry[Any] = Registry("scheduler", "sim.policies.schedulers")
kv: Registry[Any] = Registry("kv", "sim.policies.kv")
predictor: Registry[Any] = Registry("predictor", "sim.policies.predictors")
router: Registry[Any] = Registry("router", "sim.policies.routers")
strategy: Registry[Any] = Registry("strategy", "sim.policies.strategies")
admission: Registry[Any] = Registry("admission", "sim.policies.admission")
autoscaler: Registry[Any] = Registry("autoscaler", "sim.policies.autoscalers")

REGISTRIES: dict[str, Registry[Any]] = {
    registry.kind: registry
    for registry in (scheduler, kv, predictor, router, strategy, admission, autoscaler)
}
"""Every kind of policy by its name."""
