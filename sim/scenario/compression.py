"""What must hold between how KV memory is kept (compressed, sent to the host) and the rest of a scenario."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sim.errors import Problem

if TYPE_CHECKING:
    from sim.scenario.model import Scenario
    from sim.scenario.pools import Pool
    from sim.scenario.yaml_file import Document


def compresses(pool: Pool) -> bool:
    """Whether *pool* compresses its KV cache: then requests may be longer than the cache."""
    return pool.engine.kv is not None and hasattr(pool.engine.kv.make("kv"), "compression")


def _caches_nothing(pool: Pool) -> str | None:
    """Why *pool* has no prefix cache that a host tier could take from, although it may ask for one; None: it has."""
    from calibration.architecture import architecture

    engine = pool.engine
    if architecture(pool.model).sliding_window:
        return f"a prefix cache of sliding-window layers ({pool.model}) is not modelled"
    if getattr(engine.scheduler.make("scheduler"), "reservation", "none") != "none":
        return f"scheduler {engine.scheduler.name} reserves memory, which has none"
    if engine.kv is not None and engine.kv.name != "paged":
        return f"with kv: {engine.kv.name} that is not modelled" if engine.kv.name != "swap" else None
    return None


def check_compression(scenario: Scenario, document: Document) -> list[Problem]:
    """Problems with pools that compress their KV cache, or whose scheduler sends it to the host."""
    from calibration.architecture import architecture

    problems = []
    strategy: Any = scenario.strategy.make("strategy")
    generating = [pool for pool in scenario.pools.values() if pool.role == "generate"]
    for name, pool in scenario.pools.items():
        chunks = getattr(pool.engine.scheduler.make("scheduler"), "swaps", None)
        if chunks is not None and chunks != (pool.engine.kv is not None and pool.engine.kv.name == "swap"):
            problems.append(
                document.problem(
                    ("pools", name, "engine", "scheduler"),
                    "checkpoints chunks to the host, and nothing says how"
                    if chunks
                    else "keeps chunks or computes them again, and kv: swap sends what is preempted to the host",
                    expected="between_chunks: host together with kv: swap",
                )
            )
        if pool.engine.speculative_config is not None:
            spot = ("pools", name, "engine", "speculative_config")
            if architecture(pool.model).sliding_window:
                problems.append(
                    document.problem(spot, f"drafts for sliding-window layers ({pool.model}) are not modelled")
                )
            if compresses(pool):
                problems.append(document.problem(spot, "drafts together with KV compression are not modelled"))
        if pool.engine.kv_offloading_size is not None and (why := _caches_nothing(pool)):
            problems.append(
                document.problem(
                    ("pools", name, "engine", "kv_offloading_size"),
                    f"what the prefix cache gives up goes to the host, and {why}",
                    expected="paged memory with a prefix cache, or no kv_offloading_size",
                )
            )
        if not compresses(pool) or pool.engine.kv is None:
            continue
        path = ("pools", name, "engine", "kv")
        if architecture(pool.model).sliding_window:
            problems.append(
                document.problem(path, f"KV compression of sliding-window layers ({pool.model}) is not modelled")
            )
        if getattr(pool.engine.scheduler.make("scheduler"), "reservation", "none") != "none":
            problems.append(
                document.problem(
                    path, f"scheduler {pool.engine.scheduler.name} reserves memory, and compression frees none"
                )
            )
        if pool.engine.kv.make("kv").lengthens == 1.0:
            continue
        if scenario.quality is None:
            problems.append(
                document.problem(
                    (*path, "lengthens"),
                    "makes reasoning longer, and lengths by pool need a quality section",
                    expected="quality: {benchmark: math-500}, or no lengthens",
                )
            )
        elif strategy.plain and len(generating) > 1:
            problems.append(
                document.problem(
                    (*path, "lengthens"),
                    f"lengths differ by pool, and {scenario.strategy.name} leaves the pool to the router",
                    expected="a strategy that names pools, such as difficulty_routing or cascade",
                )
            )
    return problems
