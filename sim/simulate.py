"""The whole main job: a scenario in, results out.

    >>> from sim import load, simulate                              # doctest: +SKIP
    >>> results = simulate(load("quickstart"))                      # doctest: +SKIP
    >>> results.summary["metrics"]["tta"]["p99"]                    # doctest: +SKIP

The same scenario and seed give the same tables, byte for byte, whatever else runs on the machine.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.cluster import judged as judging
from sim.cluster import split, wiring
from sim.cluster.cluster import Cluster, Outcome
from sim.cluster.gateway import GatewaySettings
from sim.cluster.shell import Engine
from sim.cluster.window import Measure
from sim.engine.replica import make_replica
from sim.errors import InputError, Problem
from sim.metrics.summary import finish
from sim.placement import PlacedPool, place, seeded
from sim.policies.routing import ReplicaInfo
from sim.results import provenance
from sim.results.columns import Lookup, Status
from sim.results.info import RunInfo
from sim.results.results import Results
from sim.results.sinks import SegmentSink
from sim.results.tables import Table, build
from sim.rng import Streams
from sim.run_info import block_bytes, keeps_probes, profile, run_info
from sim.scenario.check import check_categories
from workloads import source as workload

if TYPE_CHECKING:
    from pathlib import Path

    from calibration.step_cost import StepCost
    from sim.scenario.model import Scenario
    from workloads.source import QuerySource

PS_PER_S = 1e12
PS_PER_HOUR = 3600e12
PROGRESS_EVERY_S = 0.25

_Replication = tuple[RunInfo, dict[str, Table]]

Progress = Callable[[float, int], None]
"""Called with the simulated seconds and the queries done so far, all replications together."""


def simulate(
    scenario: Scenario,
    *,
    stepwise: bool = False,
    progress: Progress | None = None,
    replication: int | None = None,
    base: Path | None = None,
    workers: int = 1,
) -> Results:
    """Run *scenario* and return its tables and summary.

    All its replications are run, or only number *replication*; where all come to the same, as
    when nothing is drawn at random, one stands for all. *stepwise* walks every engine step by step:
    the same tables, to the last bit, at a cost that grows with tokens. Paths in the workload are looked for
    under *base* first. With several *workers* each replication is split over so many processes, with the same results
    (`sim.cluster.split`); an InputError says where it cannot be. Raise
    an InputError when a file that the scenario names is wrong, DoesNotFit when
    weights leave no room for KV.
    """
    if workers < 1:
        raise InputError(Problem(f"{workers}", key="--workers", expected="at least 1"))
    started = datetime.now(UTC)
    clock = time.perf_counter()
    pools = [place(name, pool, scenario) for name, pool in scenario.pools.items()]
    numbers = range(scenario.measure.replications) if replication is None else [replication]
    pulse = _Pulse(progress) if progress is not None else None
    runs: list[_Replication] = []
    description: dict[str, object] = {}
    for number in numbers:
        source = workload.build(scenario.workload, seed=scenario.seed, replication=number, base=base)
        if scenario.workload.preset is not None:
            check_categories(scenario, source.categories)
        description = {"name": source.name, **source.describe()}
        runs.append(run_once(scenario, pools, source, number, stepwise=stepwise, pulse=pulse, workers=workers))
    if len(runs) > 1 and all(_same(runs[0], other) for other in runs[1:]):
        runs = [_only(*runs[0], asked=len(numbers))]
    wall_s = time.perf_counter() - clock
    requests = [tables["requests"] for _, tables in runs]
    results = Results(
        scenario=scenario,
        runs=runs,
        provenance=provenance.collect(
            seed=scenario.seed,
            started=started,
            wall_s=wall_s,
            requests=sum(len(table) for table in requests),
            tokens=int(sum(t["reasoning_tokens"].sum() + t["answer_tokens"].sum() for t in requests)),
            profiles={pool.name: profile(pool.placed) for pool in pools},
            workload=description,
        ),
    )
    return finish(results)


def _same(one: _Replication, other: _Replication) -> bool:
    """Whether two replications came to the same, to the last bit."""
    return all(
        len(table) == len(other[1][name])
        and all(
            np.array_equal(column, other[1][name].columns[key], equal_nan=column.dtype.kind == "f")
            for key, column in table.columns.items()
            if key != "replication"
        )
        for name, table in one[1].items()
    )


def _only(info: RunInfo, tables: dict[str, Table], *, asked: int) -> _Replication:
    """The first of *asked* replications, which stands for all."""
    text = (
        f"all {asked} replications came to the same, to the last bit: chance decides nothing here, so one is counted, and "
        "there are no intervals"
    )
    return replace(info, banners=(*info.banners, text)), tables


def run_once(
    scenario: Scenario,
    pools: Sequence[PlacedPool],
    source: QuerySource,
    replication: int,
    *,
    stepwise: bool = False,
    pulse: _Pulse | None = None,
    workers: int = 1,
) -> _Replication:
    """One replication: its description and its tables."""
    pools = [seeded(pool, scenario.seed, replication) for pool in pools]
    sinks: list[SegmentSink] = []
    replicas: list[tuple[ReplicaInfo, Engine]] = []
    makers: list[Callable[[], Engine]] = []
    coming = wiring.coming(scenario, [pool.placed for pool in pools])
    for number, pool in enumerate(pools):
        for replica in range(wiring.size(pool.pool)):
            sink = SegmentSink(pool=number, replica=replica, blocks=pool.settings.usable_blocks)
            makers.append(partial(_engine, pool, sink, stepwise=stepwise))
            sinks.append(sink)
            replicas.append((_replica_info(pool, len(replicas), number, replica), makers[-1]()))
    strategy, streams, judged = scenario.strategy.make("strategy"), Streams(scenario.seed, replication), None
    if scenario.quality is not None:
        named = [(pool.name, pool.placed.architecture.name, pool.pool.role) for pool in pools]
        kv = [pool.pool.engine.kv.make("kv") if pool.pool.engine.kv is not None else None for pool in pools]
        judged = judging.make(scenario.quality, streams, named, source.categories, kv)
        judged.keeps_probes = [keeps_probes(pool) for pool in pools]
    traces = wiring.trace_cache(scenario, streams)
    cluster = Cluster(
        source=source,
        replicas=replicas,
        strategy=strategy,
        judged=judged,
        traces=traces,
        rollout=wiring.rollout(scenario),
        router=scenario.router.make("router"),
        admission=scenario.admission.make("admission") if scenario.admission is not None else None,
        predictor=scenario.predictor.make("predictor").begin(streams) if scenario.predictor is not None else None,
        streams=streams,
        measure=_measure(scenario),
        settings=_gateway_settings(scenario, source),
        progress=pulse.report if pulse is not None else None,
        makers=makers if coming.any else None,
        off=coming.off,
        failures=coming.failures,
        scalings=coming.scalings,
        lost=lambda index, now_ps: sinks[index].lose(now_ps),
        costs=_costs(pools, replicas),
        link=wiring.link(scenario),
        block_bytes=[block_bytes(pool) for pool in pools],
    )
    outcome = cluster.run() if workers == 1 else split.run(cluster, sinks, workers)
    if pulse is not None:
        pulse.next_run(outcome)
    info = run_info(scenario, pools, source, replication, outcome, sinks)
    if traces is not None:
        info = replace(info, trace_cache=traces.figures())
    if judged is not None and judged.exits.generations:
        info = replace(info, early_exit=vars(judged.exits))
    if cluster.gateway.rollout is not None:
        info = replace(info, rollout=cluster.gateway.rollout.figures())
    tables = build(info, queries=outcome.queries, requests=outcome.requests, segments=sinks, consume=True)
    turns = cluster.gateway.maker.turns
    if turns:
        parents = [turns.get(request, -1) for request in tables["requests"]["request"].tolist()]
        tables["requests"].columns["parent"] = np.array(parents, np.int64)
    if traces is not None:
        found = [traces.found.get(query, Lookup.NONE) for query in tables["queries"]["query"].tolist()]
        tables["queries"].columns["trace_cache"] = np.array(found, np.int32)
    if judged is not None:
        if strategy.plain and traces is None:
            judged.correct = judging.judge_plain(judged, source, outcome.requests.columns(), strategy)
        queries = tables["queries"]
        right = np.array([judged.correct.get(query, False) for query in queries["query"].tolist()], float)
        right[queries["status"] == Status.UNFINISHED] = np.nan
        right[(queries["status"] != Status.UNFINISHED) & (queries["status"] != Status.COMPLETED)] = 0.0
        queries.columns["correct"] = right
        queries.columns["prompt"] = np.array(
            [judged.prompts.get(query, -1) for query in queries["query"].tolist()], np.int64
        )
    return info, tables


def _costs(
    pools: Sequence[PlacedPool], replicas: Sequence[tuple[ReplicaInfo, Engine]]
) -> Callable[[int, float], StepCost]:
    """What the steps of a replica cost when they take a factor times as long."""

    @cache
    def of_pool(number: int, factor: float) -> StepCost:
        placed = pools[number].placed
        return placed.step_cost if factor == 1 else placed.with_step_scaled(factor).step_cost

    return lambda index, factor: of_pool(replicas[index][0].pool_index, factor)


def _engine(pool: PlacedPool, sink: SegmentSink, *, stepwise: bool) -> Engine:
    """A fresh engine of *pool*, as at the start and after every loss."""
    return make_replica(
        pool.settings,
        pool.placed.step_cost,
        pool.pool.engine.scheduler.make("scheduler"),
        stepwise=stepwise,
        segments=sink,
    )


class _Pulse:
    """Hands progress on, a few times a second at most, and adds up replications."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._before_s = 0.0
        self._before = 0
        self._next = 0.0

    def report(self, now_ps: int, queries_done: int) -> None:
        """The run under way has come so far."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + PROGRESS_EVERY_S
            self._progress(self._before_s + now_ps / PS_PER_S, self._before + queries_done)

    def next_run(self, outcome: Outcome) -> None:
        """A run is over."""
        self._before_s += outcome.end_ps / PS_PER_S
        self._before += outcome.tally.queries_done
        self._progress(self._before_s, self._before)


# ---------------------------------------------------------------------- from the scenario


def _measure(scenario: Scenario) -> Measure:
    measure = scenario.measure
    return Measure(
        warmup_ps=measure.warmup_ps,
        warmup_queries=measure.warmup_queries,
        duration_ps=measure.duration_ps,
        queries=measure.queries,
        max_drain_ps=measure.max_drain_ps,
    )


def _gateway_settings(scenario: Scenario, source: QuerySource) -> GatewaySettings:
    """Patience, freshness, and the tightest time-to-answer target of each category as its deadline."""
    slo = scenario.slo
    deadlines: list[int | None] = []
    for category in source.categories:
        own = slo.categories.get(category)
        times = (own.tta if own is not None else None) or slo.tta
        deadlines.append(min(times.values()) if times else None)
    return GatewaySettings(
        timeout_ps=scenario.gateway.timeout_ps,
        refresh_ps=scenario.gateway.refresh_interval_ps,
        backoff=wiring.backoff(scenario),
        deadlines_ps=tuple(deadlines) if any(deadline is not None for deadline in deadlines) else None,
    )


def _replica_info(pool: PlacedPool, index: int, number: int, replica: int) -> ReplicaInfo:
    placed, settings = pool.placed, pool.settings
    seats = settings.max_num_seqs
    return ReplicaInfo(
        index=index,
        pool=pool.name,
        pool_index=number,
        replica=replica,
        role=pool.pool.role,
        model=placed.architecture.name,
        hardware=placed.hardware.name,
        gpus=placed.gpus,
        price_usd_per_hour=(pool.price or 0.0) * placed.gpus,
        max_num_seqs=seats,
        kv_tokens=settings.usable_blocks * settings.block_size,
        token_ps=placed.step_cost.decode_ps(seats, 0) / seats,
    )


class _CallableModule(ModuleType):
    """``sim.simulate`` names this module and, for users, its function: whichever was bound first, it can be
    called.
    """

    def __call__(self, scenario: Scenario, **options: Any) -> Results:
        return simulate(scenario, **options)


sys.modules[__name__].__class__ = _CallableModule
