"""Admission: which requests are let in. One file a policy; the contract is in `sim.policies.overload`."""

from __future__ import annotations

from sim.policies.overload import Admission
from sim.registry import Registry

admission: Registry[Admission] = Registry("admission", "sim.policies.admission")
