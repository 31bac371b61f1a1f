"""KV memory: what is reserved, what goes to the host. One file a policy; the contract is in
`sim.policies.memory`."""

from __future__ import annotations

from sim.policies.memory import KvPolicy
from sim.registry import Registry

kv: Registry[KvPolicy] = Registry("kv", "sim.policies.kv")
