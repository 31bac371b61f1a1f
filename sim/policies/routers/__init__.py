"""Routers: which replica serves a request. One file a policy; the contract is in `sim.policies.routing`."""

from __future__ import annotations

from sim.policies.routing import Router
from sim.registry import Registry

router: Registry[Router] = Registry("router", "sim.policies.routers")
