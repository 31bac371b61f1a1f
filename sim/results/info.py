"""What the metrics must know of a run beside its tables: windows, pools, targets, what was not modelled.

Plain data: everything here survives a trip through JSON (``to_dict`` / ``from_dict``), except
``PoolInfo.deployment``, which is there while the run is in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class SloTarget:
    """At least *percentile* percent of the queries must have *metric* ≤ *target_s* (seconds; plain for
    slowdown)."""

    metric: str
    percentile: float
    target_s: float
    category: str | None = None
    """Queries of this category alone; None: of every category without a target of its own for the metric."""


@dataclass(frozen=True)
class PoolInfo:
    """One pool as it stood in this run."""

    name: str
    model: str
    hardware: str
    replicas: int
    """Replicas at the start; how many were on over time is in ``gpu_hours``."""
    gpus_per_replica: int
    gpu_hours: float
    """GPU-hours that were on within the measured window, idle time included."""
    gpu_hours_run: float
    """GPU-hours that were on from the start of the run to its end."""
    price_usd_per_gpu_hour: float | None
    max_num_seqs: int
    max_num_batched_tokens: int
    block_size: int
    num_gpu_blocks: int
    """KV blocks of a replica, the null block included."""
    kv_bytes_per_token: int
    """Of a whole replica, all its GPUs together."""
    host_blocks: int = 0
    """Blocks of host memory of a replica for what the prefix cache gives up."""
    prefix_caching: bool = False
    """Full blocks of requests that have ended stay in the prefix cache, outputs too."""
    on_at_ps: tuple[int, ...] = ()
    """When replicas went on or off, ascending; empty: they all stayed."""
    on_replicas: tuple[int, ...] = ()
    """How many are on, starting ones included, from each of these times."""
    boots_ps: tuple[int, ...] = ()
    """Cold starts as start, end, start, end …"""
    served_ps: tuple[int, ...] = ()
    """Replica, from, to (-1: to the end), replica, from, to …: when each was on and started; empty: all were, always."""
    crashes: int = 0
    """Replicas lost with all that was on them."""
    power: Mapping[str, Any] = field(default_factory=dict)
    """Watts of one GPU: idle_w, memory_bound_w, compute_bound_w, and basis, in words; empty: not known."""
    role: str = "generate"
    """What it is for: generate, verify, prefill, decode."""
    link_bytes_per_s: float = 0.0
    """Of a decode pool: what the links of one replica take in, those of the other end permitting; 0: no link."""
    link_latency_ps: int = 0
    """From the order for a copy to its first byte."""
    front_end_ps: int = 0
    """Time outside the engine, in every duration that the client sees."""
    async_scheduling: bool = False
    linear_steps: bool = True
    """A request alone takes a token a step and a token of context more each; else it has no closed form."""
    latent: bool = False
    """It reasons in latent steps: its first token is the first of the answer."""
    looks: tuple[int, ...] = ()
    """Tokens that are rolled back: after so many a request decodes such tokens first, then after every so many more, and how
    many a time; empty: none."""
    memory: Mapping[str, Any] = field(default_factory=dict)
    """The capacity sum: its figures by name (bytes), and ``lines``, the same in words."""
    fidelity: Mapping[str, Any] = field(default_factory=dict)
    """profile, kind (measured, composed, prior), source, error_median, error_p95, range …"""
    out_of_range: tuple[str, ...] = ()
    """In words, where steps left the range that the profile was fitted in; empty: never."""
    deployment: Any = field(default=None, compare=False, repr=False)
    """calibration.deployment.Deployment while in memory, else None."""
    engine: Any = field(default=None, compare=False, repr=False)
    """sim.engine.settings.EngineSettings of its replicas while in memory, else None."""


@dataclass(frozen=True)
class RunInfo:
    """One replication. Times are picoseconds from the start of the run."""

    replication: int
    window_start_ps: int
    """End of the warm-up: queries that arrive from here on are measured."""
    window_end_ps: int
    """Queries that arrive at this time or later are not measured."""
    end_ps: int
    """When the simulation stopped; what is open then is unfinished."""
    pools: tuple[PoolInfo, ...]
    categories: tuple[str, ...]
    clients: tuple[str, ...]
    drained: bool = True
    """Every query of the window ended; False: `max_drain` cut it."""
    reasoning_known: bool = True
    """False: a trace without the split into reasoning and answer; then ttfo is ttft."""
    closed_loop: int | None = None
    """Slots of a closed loop, None for an open one."""
    warm_up: Mapping[str, Any] = field(default_factory=dict)
    """How the warm-up was chosen, as the scenario states it: ``{"kind": "duration", "value": "10 min"}``."""
    slo: tuple[SloTarget, ...] = ()
    not_modelled: tuple[str, ...] = ()
    """In words, what the real system does and this run leaves out."""
    value_of_correct: float = 0.0
    """US dollars that a right answer is worth."""
    cost_of_wrong: float = 0.0
    """US dollars that a wrong answer costs."""
    trace_cache: Mapping[str, int] = field(default_factory=dict)
    """What the trace cache held and dropped; empty: there is none."""
    early_exit: Mapping[str, int] = field(default_factory=dict)
    """What probes of the reasoning did, over the whole run; empty: there were none."""
    rollout: Mapping[str, Any] = field(default_factory=dict)
    """Training steps: ``prompts, max_lag, training_ps, weight_sync_ps, training_gpus`` and ``steps``, each with its
    times and counts; empty: no trainer."""
    power_usage_effectiveness: float = 1.0
    """Energy of the site over that of its machines."""
    carbon_g_per_kwh: float = 0.0
    """Grams of CO2e of a kilowatt-hour."""
    banners: tuple[str, ...] = ()
    """In words, what the run wants the reader to know (a policy's remark, a workload's)."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON data; deployments and engines are left out."""
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        data["pools"] = [
            {f.name: _plain(getattr(pool, f.name)) for f in fields(pool) if f.name not in ("deployment", "engine")}
            for pool in self.pools
        ]
        data["slo"] = [{f.name: getattr(target, f.name) for f in fields(target)} for target in self.slo]
        return {key: _plain(value) for key, value in data.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunInfo:
        """The inverse of ``to_dict``; raise a KeyError or TypeError when *data* is not of that form."""
        values = dict(data)
        lists = ("looks", "out_of_range", "on_at_ps", "on_replicas", "boots_ps", "served_ps")
        values["pools"] = tuple(PoolInfo(**_tuples(pool, *lists)) for pool in data["pools"])
        values["slo"] = tuple(SloTarget(**target) for target in data.get("slo", ()))
        return cls(**_tuples(values, "categories", "clients", "not_modelled", "banners"))


def _tuples(data: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: tuple(value) if key in keys else value for key, value in data.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        return value.item()
    return value
