"""Schedulers: which requests each step computes. One file a policy; see ``docs/schedulers.md``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.registry import Registry

if TYPE_CHECKING:
    from sim.engine.step import Scheduler

scheduler: Registry[Scheduler] = Registry("scheduler", "sim.policies.schedulers")
