"""A pool of a scenario with what calibration says of it: costs, memory, and the settings of its engines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from calibration.deployment import Deployment
from sim.engine.settings import EngineSettings
from sim.engine.speculation import PPM, Speculation
from sim.policies.memory import COPY_EFFICIENCY, HostLink
from sim.scenario.check import deployment

if TYPE_CHECKING:
    from sim.scenario.model import Scenario
    from sim.scenario.pools import Pool


@dataclass(frozen=True)
class PlacedPool:
    """A pool of the scenario with what calibration says of it."""

    name: str
    pool: Pool
    placed: Deployment
    settings: EngineSettings
    price: float | None
    """US dollars a GPU-hour."""


def place(name: str, pool: Pool, scenario: Scenario) -> PlacedPool:
    """The pool called *name* with its costs, its memory and the settings of its engines."""
    placed = deployment(pool)
    engine = pool.engine
    windowed = placed.memory.sliding_window > 0
    settings = EngineSettings(
        num_gpu_blocks=placed.memory.num_gpu_blocks,
        block_size=engine.block_size,
        max_num_seqs=engine.max_num_seqs or 256,
        max_num_batched_tokens=engine.max_num_batched_tokens or 8192,
        max_model_len=placed.max_model_len,
        enable_prefix_caching=engine.enable_prefix_caching and not windowed,
        sliding_window=placed.memory.sliding_window,
        sliding_groups=placed.memory.sliding_groups,
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


def seeded(pool: PlacedPool, seed: int, replication: int) -> PlacedPool:
    """*pool* with the draws of this replication for its drafts."""
    drafts = pool.settings.speculation
    if drafts is None:
        return pool
    own = replace(drafts, seed=(seed << 32) + replication)
    return replace(pool, settings=replace(pool.settings, speculation=own))
