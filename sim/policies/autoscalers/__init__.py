"""Autoscalers: how many replicas are on. One file a policy; the contract is in `sim.policies.scaling`."""

from __future__ import annotations

from sim.policies.scaling import Autoscaler
from sim.registry import Registry

autoscaler: Registry[Autoscaler] = Registry("autoscaler", "sim.policies.autoscalers")
