"""What a run says of itself: its window, its pools, its targets, where profiles were left, and what is not modelled."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from calibration.deployment import Deployment
from sim.cluster import wiring
from sim.cluster.cluster import Outcome
from sim.placement import PlacedPool
from sim.results.info import PoolInfo, RunInfo, SloTarget
from sim.results.sinks import SegmentSink

if TYPE_CHECKING:
    from sim.scenario.model import Scenario
    from workloads.quality.spec import Latent
    from workloads.source import QuerySource

PS_PER_S = 1e12
PS_PER_HOUR = 3600e12

NOT_MODELLED = (
    "the network between clients and the gateway",
    "the gateway's own processing time",
    "tokenisation and detokenisation beyond the profile's front-end time",
    "loading of weights and warm-up of engines that are on when the run begins",
)


def run_info(
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
            if keeps_probes(pool) and scenario.strategy.make("strategy").probes_in_line() is not None
        ),
        banners=_rejected(tally.rejections.values()),
    )


def _rejected(reasons: Iterable[str]) -> tuple[str, ...]:
    """The first reason of each kind; those that differ in numbers alone are of one."""
    kinds: dict[str, str] = {}
    for reason in reasons:
        kinds.setdefault(re.sub(r"\d[\d,.]*", "", reason), reason)
    return tuple(f"rejected, for example: {reason}" for reason in kinds.values())


def block_bytes(pool: PlacedPool) -> int:
    return round(pool.placed.memory.kv_bytes_per_token_replica) * pool.settings.block_size


def _latent(scenario: Scenario, pool: str) -> Latent | None:
    """How the model of *pool* reasons in latent steps; None: it reasons in tokens."""
    own = scenario.quality.pools.get(pool) if scenario.quality is not None else None
    return own.latent if own is not None else None


def keeps_probes(pool: PlacedPool) -> bool:
    """Whether tokens of probes stay in the context of *pool*."""
    return pool.settings.compression is not None or pool.settings.speculation is not None


def _looks(scenario: Scenario, pool: PlacedPool) -> tuple[int, ...]:
    """When requests decode tokens that are rolled back, as `sim.results.info.PoolInfo` has it."""
    latent = _latent(scenario, pool.name)
    if latent is not None and not latent.keeps_kv:
        return (1, 0, 1)
    if keeps_probes(pool):
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
        fidelity=profile(placed),
        out_of_range=_out_of_range(number, placed, outcome, sinks),
        deployment=placed,
        engine=settings,
    )


def _kv_words(pool: PlacedPool) -> list[str]:
    """What the sum of the memory must say of a KV cache that is compressed."""
    compression, kv = pool.settings.compression, pool.pool.engine.kv
    return [f"{compression.words()} ({kv.name})"] if compression is not None and kv is not None else []


def _left_out(pool: PlacedPool) -> str:
    if pool.pool.engine.enable_prefix_caching and pool.settings.sliding_window:
        return f"the prefix cache of pool {pool.name}: its model has sliding-window layers"
    if pool.pool.engine.enable_prefix_caching and pool.settings.reservation != "none":
        return f"the prefix cache of pool {pool.name}: its KV memory is reserved at admission"
    if pool.settings.host_blocks:
        return f"overlap of computing with loads from the host's memory, pool {pool.name}"
    return ""


def _memory(placed: Deployment) -> dict[str, Any]:
    return {**asdict(placed.memory), "kv_tokens": placed.memory.kv_tokens, "lines": placed.memory.lines()}


def profile(placed: Deployment) -> dict[str, Any]:
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
