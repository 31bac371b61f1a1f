"""Strategies: how a query becomes generation. One file a policy; the contract: `sim.policies.reasoning`."""

from __future__ import annotations

from sim.policies.reasoning import Strategy
from sim.registry import Registry

strategy: Registry[Strategy] = Registry("strategy", "sim.policies.strategies")
