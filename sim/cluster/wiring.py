"""What a scenario says of a fleet, in the terms of the cluster: failures, autoscaling, back-off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sim.cluster.failures import Failures, Outage, RollingRestart, Slowdown
from sim.cluster.handover import Link
from sim.cluster.retries import Backoff
from sim.cluster.rollout import RolloutSettings
from sim.cluster.scaling import Scaling, cold_start_ps
from sim.cluster.trace_cache import TraceCache, TraceCacheSettings

if TYPE_CHECKING:
    from calibration.deployment import Deployment
    from sim.cluster.fleet import Fleet
    from sim.placement import PlacedPool
    from sim.rng import Streams
    from sim.scenario.model import Scenario
    from sim.scenario.pools import Pool

PS_PER_S = 1e12


def size(pool: Pool) -> int:
    """How many replicas *pool* ever has."""
    scaling = pool.autoscaling
    return pool.replicas if scaling is None else max(pool.replicas, scaling.max_replicas)


@dataclass(frozen=True)
class Coming:
    """What makes replicas come and go, as `sim.cluster.cluster.Cluster` takes it."""

    off: tuple[int, ...] = ()
    failures: Failures | None = None
    scalings: tuple[Scaling, ...] = ()

    @property
    def any(self) -> bool:
        """Some replica may come or go."""
        return bool(self.off or self.scalings) or self.failures is not None


def coming(scenario: Scenario, placed: Sequence[Deployment]) -> Coming:
    """Failures and autoscaling of *scenario*, whose pools are *placed* in this order."""
    off: list[int] = []
    scalings = []
    firsts = {}
    first = 0
    for (name, pool), there in zip(scenario.pools.items(), placed, strict=True):
        firsts[name] = first
        off += range(first + pool.replicas, first + size(pool))
        first += size(pool)
        own = pool.autoscaling
        if own is not None:
            start_ps = cold_start_ps(
                there.memory.weights_bytes * there.gpus, own.load_bandwidth, own.engine_start_ps / PS_PER_S
            )
            scalings.append(
                Scaling(
                    pool=name,
                    autoscaler=own.policy.make("autoscaler"),
                    minimum=own.min_replicas,
                    maximum=own.max_replicas,
                    interval_ps=own.interval_ps,
                    cold_start_ps=start_ps,
                    cooldown_ps=own.cooldown_ps,
                )
            )
    said: Any = scenario.failures
    failures = None
    if said.any:
        failures = Failures(
            outages=tuple(
                Outage(firsts[one.pool] + one.replica, one.at_ps, one.for_ps, one.notice_ps) for one in said.outages
            ),
            mtbf_ps=said.mtbf_ps,
            mttr_ps=said.mttr_ps or 0,
            slowdowns=tuple(
                Slowdown(firsts[one.pool] + one.replica, one.factor, one.at_ps, one.for_ps) for one in said.slowdowns
            ),
            restart=RollingRestart(said.restart.at_ps, said.restart.down_ps) if said.restart else None,
            max_retries=said.max_retries,
        )
    return Coming(tuple(off), failures, tuple(scalings))


def backoff(scenario: Scenario) -> Backoff | None:
    """How clients behave that are turned away."""
    own = scenario.gateway.backoff
    if own is None:
        return None
    return Backoff(
        attempts=own.attempts,
        first_ps=own.first_ps,
        factor=own.factor,
        jitter=own.jitter,
        after_timeouts=own.after_timeouts,
    )


def link(scenario: Scenario) -> Link | None:
    """The links between prefill and decode pools; None where there are none."""
    if not any(pool.role == "prefill" for pool in scenario.pools.values()):
        return None
    return Link(scenario.kv_transfer.bandwidth, scenario.kv_transfer.latency_ps)


def linked(pool: Pool, placed: Deployment, scenario: Scenario, pools: Sequence[PlacedPool]) -> dict[str, Any]:
    """Role and links of *pool*, as `sim.results.info.PoolInfo` has them."""
    if pool.role != "decode":
        return {"role": pool.role}
    sources = [
        other.placed.gpus
        for other in pools
        if other.pool.role == "prefill" and other.placed.architecture.name == placed.architecture.name
    ]
    gpus = min(placed.gpus, max(sources))
    transfer = scenario.kv_transfer
    return {"role": pool.role, "link_bytes_per_s": transfer.bandwidth * gpus, "link_latency_ps": transfer.latency_ps}


def history(fleet: Fleet | None, mine: Sequence[int]) -> dict[str, Any]:
    """How the replicas *mine* came and went, as `sim.results.info.PoolInfo` has it; empty without a *fleet*."""
    if fleet is None:
        return {}
    members = set(mine)
    on: dict[int, int] = {}
    count = 0
    for time_ps, index, change in fleet.changes():
        if index in members:
            count += change
            on[time_ps] = count
    on.setdefault(0, 0)
    times = sorted(on)
    boots = [
        time_ps for index, start_ps, end_ps in sorted(fleet.boots) if index in members for time_ps in (start_ps, end_ps)
    ]
    return {
        "on_at_ps": tuple(times),
        "on_replicas": tuple(on[time_ps] for time_ps in times),
        "boots_ps": tuple(boots),
        "served_ps": tuple(served(fleet, mine)),
        "crashes": sum(index in members for _, index in fleet.losses),
    }


def served(fleet: Fleet, mine: Sequence[int]) -> list[int]:
    """Of the replicas *mine*, numbered from 0: replica, from, to (-1: to the end), replica … while each was on and started."""
    ready = {(index, start_ps): end_ps for index, start_ps, end_ps in fleet.boots}
    since: dict[int, int] = {}
    found: list[int] = []
    number = {index: place for place, index in enumerate(mine)}
    for time_ps, index, change in fleet.changes():
        if index not in number:
            continue
        if change > 0:
            since[index] = ready.get((index, time_ps), time_ps)
        else:
            start_ps = since.pop(index)
            if time_ps > start_ps:
                found += [number[index], start_ps, time_ps]
    for index in sorted(since):
        found += [number[index], since[index], -1]
    return found


def trace_cache(scenario: Scenario, streams: Streams) -> TraceCache | None:
    """The trace cache of one run of *scenario*, if it has one."""
    own = scenario.trace_cache
    if own is None:
        return None
    settings = TraceCacheSettings(
        capacity=own.capacity,
        shortens=own.use == "shorten",
        lookup_ps=own.lookup_ps,
        recall=own.recall,
        false_hit=own.false_hit,
        keep_share=own.keep_share,
        trace_tokens=own.trace_tokens,
        expires_ps=own.expires_ps,
    )
    return TraceCache(settings, streams)


def rollout(scenario: Scenario) -> RolloutSettings | None:
    """The training steps of *scenario*, if its queries are a trainer's."""
    from workloads.arrival_spec import RolloutArrivals

    own = scenario.workload.arrivals
    if not isinstance(own, RolloutArrivals):
        return None
    return RolloutSettings(
        prompts=own.prompts,
        max_lag=own.max_lag,
        training_ps=round(own.training * PS_PER_S),
        weight_sync_ps=round(own.weight_sync * PS_PER_S),
        training_gpus=own.training_gpus,
    )
