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
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.deployment import Deployment
from sim.cluster import judged as judging
from sim.cluster import wiring
from sim.cluster.cluster import Cluster, Outcome
from sim.cluster.gateway import GatewaySettings
from sim.cluster.shell import Engine
from sim.cluster.window import Measure
from sim.engine.replica import make_replica
from sim.engine.settings import EngineSettings
from sim.engine.speculation import PPM, Speculation
from sim.metrics.summary import finish
from sim.policies.memory import COPY_EFFICIENCY, HostLink
from sim.policies.routing import ReplicaInfo
from sim.results import provenance
from sim.results.columns import Lookup, Status
from sim.results.info import PoolInfo, RunInfo, SloTarget
from sim.results.results import Results
from sim.results.sinks import SegmentSink
from sim.results.tables import Table, build
from sim.rng import Streams
from sim.scenario.check import check_categories, deployment
from workloads import source as workload

if TYPE_CHECKING:
    from pathlib import Path

    from calibration.step_cost import StepCost
    from sim.scenario.model import Scenario
    from sim.scenario.pools import Pool
    from workloads.quality.spec import Latent
    from workloads.source import QuerySource

PS_PER_S = 1e12
PS_PER_HOUR = 3600e12
PROGRESS_EVERY_S = 0.25

Progress = Callable[[float, int], None]
"""Called with the simulated seconds and the queries done so far, all replications together."""

NOT_MODELLED = (
    "the network between clients and the gateway",
    "the gateway's own processing time",
    "tokenisation and detokenisation beyond the profile's front-end time",
    "loading of weights and warm-up of engines that are on when the run begins",
)


@dataclass(frozen=True)
class PlacedPool:
    """A pool of the scenario with what calibration says of it."""

    name: str
    pool: Pool
    placed: Deployment
    settings: EngineSettings
    price: float | None
    """US dollars a GPU-hour."""


def simulate(
    scenario: Scenario,
    *,
    stepwise: bool = False,
    progress: Progress | None = None,
    replication: int | None = None,
    base: Path | None = None,
) -> Results:
    """Run *scenario* and return its tables and summary.

    All its replications are run, or only number *replication*. *stepwise* walks every engine step by step:
    the same tables, to the last bit, at a cost that grows with tokens. Paths in the workload are looked for
    under *base* first. Raise an InputError when a file that the scenario names is wrong, DoesNotFit when
    weights leave no room for KV.
    """
    started = datetime.now(UTC)
    clock = time.perf_counter()
    pools = [place(name, pool, scenario) for name, pool in scenario.pools.items()]
    numbers = range(scenario.measure.replications) if replication is None else [replication]
    pulse = _Pulse(progress) if progress is not None else None
    runs: list[tuple[RunInfo, dict[str, Table]]] = []
    description: dict[str, object] = {}
    for number in numbers:
        source = workload.build(scenario.workload, seed=scenario.seed, replication=number, base=base)
        if scenario.workload.preset is not None:
            check_categories(scenario, source.categories)
        description = {"name": source.name, **source.describe()}
        runs.append(run_once(scenario, pools, source, number, stepwise=stepwise, pulse=pulse))
    wall_s = time.perf_counter() - clock
    requests = [tables["requests"] for _, tables in runs]
    results = Results(
        scenario_yaml=scenario.to_yaml(),
        runs=runs,
        provenance=provenance.collect(
            seed=scenario.seed,
            started=started,
            wall_s=wall_s,
            requests=sum(len(table) for table in requests),
            tokens=int(sum(t["reasoning_tokens"].sum() + t["answer_tokens"].sum() for t in requests)),
            profiles={pool.name: _profile(pool.placed) for pool in pools},
            workload=description,
        ),
    )
    return finish(results)


def place(name: str, pool: Pool, scenario: Scenario) -> PlacedPool:
    """The pool called *name* with its costs, its memory and the settings of its engines."""
    placed = deployment(pool)
    engine = pool.engine
    windowed = placed.memory.window_blocks_per_request > 0
    settings = EngineSettings(
        num_gpu_blocks=placed.memory.num_gpu_blocks,
        block_size=engine.block_size,
        max_num_seqs=engine.max_num_seqs or 256,
        max_num_batched_tokens=engine.max_num_batched_tokens or 8192,
        max_model_len=placed.max_model_len,
        enable_prefix_caching=engine.enable_prefix_caching and not windowed,
        window_blocks=placed.memory.window_blocks_per_request,
        enable_chunked_prefill=engine.enable_chunked_prefill,
        long_prefill_token_threshold=engine.long_prefill_token_threshold,
        long_prefill_token_threshold_adaptive=engine.long_prefill_token_threshold_adaptive,
        policy=engine.policy,
        watermark=engine.watermark,
        scheduler_reserve_full_isl=engine.scheduler_reserve_full_isl,
        async_scheduling=engine.async_scheduling,
    )
    reserves = getattr(engine.scheduler.make("scheduler"), "reservation", "none")
    if reserves != "none":
        settings = replace(settings, reservation=reserves, enable_prefix_caching=False)
    drafts = engine.speculative_config
    if drafts is not None:
        speculation = Speculation(
            draft_tokens=drafts.num_speculative_tokens,
            acceptance=drafts.acceptance,
            draft_ppm=round(drafts.draft_cost * PPM),
        )
        settings = replace(settings, speculation=speculation, async_scheduling=False)
    link = HostLink(
        bytes_per_s=placed.hardware.pcie_bytes_per_s,
        block_bytes=placed.memory.kv_bytes_per_token * engine.block_size,
    )
    if engine.kv is not None:
        settings = engine.kv.make("kv").apply(settings, link)
        if settings.compression and engine.max_model_len is not None:
            settings = replace(settings, max_model_len=engine.max_model_len)  # it may be more than the pool holds
    if engine.kv_offloading_size is not None and settings.enable_prefix_caching and not settings.compression:
        settings = replace(
            settings,
            host_blocks=link.blocks(engine.kv_offloading_size // placed.gpus),
            host_block_ps=link.block_ps(COPY_EFFICIENCY),
        )
    price = pool.price
    if price is None:
        price = scenario.cost.price
    if price is None:
        price = placed.price_per_gpu_hour
    return PlacedPool(name, pool, placed, settings, price)


def run_once(
    scenario: Scenario,
    pools: Sequence[PlacedPool],
    source: QuerySource,
    replication: int,
    *,
    stepwise: bool = False,
    pulse: _Pulse | None = None,
) -> tuple[RunInfo, dict[str, Table]]:
    """One replication: its description and its tables."""
    pools = [_seeded(pool, scenario.seed, replication) for pool in pools]
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
        judged.keeps_probes = [_keeps_probes(pool) for pool in pools]
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
        block_bytes=[_block_bytes(pool) for pool in pools],
    )
    outcome = cluster.run()
    if pulse is not None:
        pulse.next_run(outcome)
    info = _run_info(scenario, pools, source, replication, outcome, sinks)
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


# ---------------------------------------------------------------------- for the results


def _run_info(
    scenario: Scenario,
    pools: Sequence[PlacedPool],
    source: QuerySource,
    replication: int,
    outcome: Outcome,
    sinks: Sequence[SegmentSink],
) -> RunInfo:
    first = source.block(0)
    measure = scenario.measure
    if measure.warmup_queries is not None:
        warm_up: dict[str, Any] = {"kind": "queries", "value": measure.warmup_queries}
    else:
        warm_up = {"kind": "duration", "value": measure.warmup_ps / PS_PER_S}
    tally = outcome.tally
    return RunInfo(
        replication=replication,
        window_start_ps=outcome.window_start_ps,
        window_end_ps=outcome.window_end_ps,
        end_ps=outcome.end_ps,
        pools=tuple(_pool_info(number, pool, scenario, pools, outcome, sinks) for number, pool in enumerate(pools)),
        categories=source.categories,
        clients=source.clients,
        drained=outcome.drained,
        reasoning_known=first is None or first.reasoning_known,
        closed_loop=source.closed_loop,
        warm_up=warm_up,
        slo=(
            *(SloTarget(*target) for target in scenario.slo.targets()),
            *(
                SloTarget(*target, category=name)
                for name, own in scenario.slo.categories.items()
                for target in own.targets()
            ),
        ),
        value_of_correct=scenario.quality.value_of_correct if scenario.quality is not None else 0.0,
        cost_of_wrong=scenario.quality.cost_of_wrong if scenario.quality is not None else 0.0,
        power_usage_effectiveness=scenario.energy.power_usage_effectiveness,
        carbon_g_per_kwh=scenario.energy.carbon_intensity,
        not_modelled=NOT_MODELLED
        + tuple(_left_out(pool) for pool in pools if _left_out(pool))
        + tuple(
            f"rolling probes back together with KV compression or drafts: in pool {pool.name} they stay in the context"
            for pool in pools
            if _keeps_probes(pool) and scenario.strategy.make("strategy").probes_in_line() is not None
        ),
        banners=tuple(f"rejected: {reason}" for reason in tally.rejections),
    )


def _block_bytes(pool: PlacedPool) -> int:
    return round(pool.placed.memory.kv_bytes_per_token_replica) * pool.settings.block_size


def _latent(scenario: Scenario, pool: str) -> Latent | None:
    """How the model of *pool* reasons in latent steps; None: it reasons in tokens."""
    own = scenario.quality.pools.get(pool) if scenario.quality is not None else None
    return own.latent if own is not None else None


def _keeps_probes(pool: PlacedPool) -> bool:
    """Whether tokens of probes stay in the context of *pool*."""
    return pool.settings.compression is not None or pool.settings.speculation is not None


def _looks(scenario: Scenario, pool: PlacedPool) -> tuple[int, ...]:
    """When requests decode tokens that are rolled back, as `sim.results.info.PoolInfo` has it."""
    latent = _latent(scenario, pool.name)
    if latent is not None and not latent.keeps_kv:
        return (1, 0, 1)
    if _keeps_probes(pool):
        return ()
    probes = scenario.strategy.make("strategy").probes_in_line()
    return (probes.every_tokens, probes.every_tokens, probes.probe_tokens) if probes is not None else ()


def _pool_info(
    number: int,
    pool: PlacedPool,
    scenario: Scenario,
    pools: Sequence[PlacedPool],
    outcome: Outcome,
    sinks: Sequence[SegmentSink],
) -> PoolInfo:
    placed, settings = pool.placed, pool.settings
    mine = [place for place, sink in enumerate(sinks) if sink.pool == number]
    return PoolInfo(
        name=pool.name,
        model=placed.architecture.name,
        hardware=placed.hardware.name,
        replicas=pool.pool.replicas,
        gpus_per_replica=placed.gpus,
        gpu_hours=placed.gpus * sum(outcome.on_ps[place] for place in mine) / PS_PER_HOUR,
        gpu_hours_run=placed.gpus * sum(outcome.on_run_ps[place] for place in mine) / PS_PER_HOUR,
        price_usd_per_gpu_hour=pool.price,
        **wiring.history(outcome.fleet, mine),
        **wiring.linked(pool.pool, placed, scenario, pools),
        latent=_latent(scenario, pool.name) is not None,
        looks=_looks(scenario, pool),
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        block_size=settings.block_size,
        num_gpu_blocks=settings.num_gpu_blocks,
        host_blocks=settings.host_blocks,
        prefix_caching=settings.enable_prefix_caching and settings.compression is None,
        kv_bytes_per_token=round(placed.memory.kv_bytes_per_token_replica),
        power=asdict(placed.power),
        front_end_ps=placed.front_end_ps,
        async_scheduling=settings.async_scheduling,
        memory={
            **asdict(placed.memory),
            "kv_tokens": placed.memory.kv_tokens,
            "lines": [*placed.memory.lines(), *_kv_words(pool)],
        },
        linear_steps=settings.compression is None and settings.speculation is None,
        fidelity=_profile(placed),
        out_of_range=_out_of_range(number, placed, outcome, sinks),
        deployment=placed,
        engine=settings,
    )


def _seeded(pool: PlacedPool, seed: int, replication: int) -> PlacedPool:
    """*pool* with the draws of this replication for its drafts."""
    drafts = pool.settings.speculation
    if drafts is None:
        return pool
    own = replace(drafts, seed=(seed << 32) + replication)
    return replace(pool, settings=replace(pool.settings, speculation=own))


def _kv_words(pool: PlacedPool) -> list[str]:
    """What the sum of the memory must say of a KV cache that is compressed."""
    compression, kv = pool.settings.compression, pool.pool.engine.kv
    return [f"{compression.words()} ({kv.name})"] if compression is not None and kv is not None else []


def _left_out(pool: PlacedPool) -> str:
    if pool.pool.engine.enable_prefix_caching and pool.settings.window_blocks:
        return f"the prefix cache of pool {pool.name}: its model has sliding-window layers"
    if pool.pool.engine.enable_prefix_caching and pool.settings.reservation != "none":
        return f"the prefix cache of pool {pool.name}: its KV memory is reserved at admission"
    if pool.settings.host_blocks:
        return f"overlap of computing with loads from the host's memory, pool {pool.name}"
    return ""


def _memory(placed: Deployment) -> dict[str, Any]:
    return {**asdict(placed.memory), "kv_tokens": placed.memory.kv_tokens, "lines": placed.memory.lines()}


def _profile(placed: Deployment) -> dict[str, Any]:
    return {**asdict(placed.fidelity), "words": placed.fidelity.words()}


def _out_of_range(number: int, placed: Deployment, outcome: Outcome, sinks: Sequence[SegmentSink]) -> tuple[str, ...]:
    """Where the pool left what its profile was fitted on: largest batch, fullest step, longest context."""
    fullest = [sink.fullest() for sink in sinks if sink.pool == number]
    batch = max((decodes for decodes, _ in fullest), default=0)
    tokens = max((tokens for _, tokens in fullest), default=0)
    requests = outcome.requests.columns()
    mine = requests["pool"] == number
    context = int((requests["prompt_tokens"] + requests["generated"])[mine].max(initial=0))
    return tuple(placed.fidelity.warnings(batch=batch, context=context, tokens=tokens))


class _CallableModule(ModuleType):
    """``sim.simulate`` names this module and, for users, its function: whichever was bound first, it can be
    called.
    """

    def __call__(self, scenario: Scenario, **options: Any) -> Results:
        return simulate(scenario, **options)


sys.modules[__name__].__class__ = _CallableModule
