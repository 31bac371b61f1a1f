"""Blocks of sliding-window layers, as vLLM's hybrid KV cache manager gives them out and takes them back.

Layers that look back over a window only stand in groups of their own, each of as many layers as attend to the whole context, and
a block of the pool holds tokens of one group. A request's groups take a block each whenever its tokens reach into a new one.
The blocks that lie outside the window go back when the request is next given slots, before new ones are taken
(``KVCacheManager.allocate_slots``); what is in flight by then still reads its whole window, so only processed tokens count.
A prefill therefore holds all blocks of a chunk until it has been processed and the request is served again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.engine.request import Request
    from sim.engine.settings import EngineSettings


class Windows:
    """What the windows of an engine's requests hold."""

    __slots__ = ("_cap", "_size", "_window", "groups", "most")

    def __init__(self, settings: EngineSettings) -> None:
        self._size = settings.block_size
        self._window = settings.sliding_window
        self._cap = settings.window_cap
        self.groups = settings.sliding_groups
        self.most = settings.sliding_window // settings.block_size + 1
        """Blocks of a group that a decode keeps once its context exceeds the window, where ``window_is_even``."""

    def outside(self, processed: int) -> int:
        """Blocks that nobody reads any more once *processed* tokens are computed and none is in flight."""
        first = processed - self._window + 1
        return first // self._size if first > 0 else 0

    def passed(self, request: Request, now_ps: int) -> int:
        """Blocks of a group that *request* has given back by the time it gets slots at *now_ps*."""
        flying = request.last_tokens if request.busy_until_ps > now_ps else 0
        return max(request.slid_blocks, self.outside(request.computed - flying))

    def passed_evenly(self, computed: int) -> int:
        """The same of a decode with *computed* tokens that was in the two batches before, one of them still in flight."""
        return self.outside(computed - 2)

    def settled(self, blocks: int) -> int:
        """Blocks of all groups that such a decode holds when its tokens fill *blocks*, where ``window_is_even``."""
        return self.groups * (blocks if blocks < self.most else self.most)

    def of_admission(self, request: Request, blocks: int) -> int:
        """Blocks that the full-sequence gate counts for a waiting *request* whose tokens fill *blocks*."""
        return self.groups * max(0, min(blocks, self._cap) - request.slid_blocks)
