"""What the tests of the engine share: laws that hold after every instant, in either mode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from sim.engine.block_pool import BlockPool
from sim.engine.fast_forward import FastForward
from sim.engine.replica import Replica
from sim.engine.request import Request
from sim.validation.modes import Trace


def check_laws(replica: Replica, trace: Trace) -> None:
    """Blocks add up, none is owned twice, and the fast mode's counts are those of its members."""
    kv, settings = replica.kv, replica.settings
    assert len(replica.running) <= settings.max_num_seqs
    if isinstance(kv, BlockPool):
        if "extend" not in vars(kv):
            _count_evictions(kv, trace)
        owners: Counter[int] = Counter()
        for request in replica.running:
            assert request.table is not None
            owners.update(request.table)
        kv.check(len(owners))
        assert all(kv._references[block] == count for block, count in owners.items())
        if not settings.enable_prefix_caching:
            assert all(count == 1 for count in owners.values())
        trace.seen["laws checked, stepwise"] += 1
        return
    assert isinstance(replica, FastForward)
    kv.check(kv.total - kv.free)
    assert 0 <= kv.free <= kv.total
    if not replica.running:
        assert kv.free == kv.total
    counted = [request for request in replica.running if request.counted]
    assert replica.decoders == len(counted)
    assert replica.context == sum(request.base + replica.counter - request.evicted for request in counted)
    assert sum(replica.crossing) == replica.growing
    by_border = Counter((request.base - request.evicted) % settings.block_size for request in counted)
    assert replica.table_blocks == sum(replica.blocks_for(r, _computed(replica, r)) for r in replica.running)
    assert replica.crossing.tolist() == [by_border[border] for border in range(settings.block_size)]
    computed = sum(
        (request.base + replica.counter if request.counted else request.computed) - request.evicted
        for request in replica.running
    )
    assert replica.computed_tokens == computed
    trace.seen["laws checked, fast"] += 1


def _computed(replica: FastForward, request: Request) -> int:
    return request.base + replica.counter if request.counted else request.computed


def _count_evictions(kv: BlockPool, trace: Trace) -> None:
    """Count cached blocks that are handed out again."""
    original = kv.extend

    def extend(request: Any, blocks: int) -> None:
        for block, _ in zip(kv._free, range(blocks), strict=False):
            trace.seen["evicted blocks"] += kv._key[block] is not None
        original(request, blocks)

    kv.extend = extend  # type: ignore[method-assign]


@pytest.fixture
def laws() -> Callable[[Replica, Trace], None]:
    """Pass it as ``watch``."""
    return check_laws
