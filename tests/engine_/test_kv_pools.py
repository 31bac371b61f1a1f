"""The counting KV pool equals the pool kept block by block, under operations in any order.

A scheduler serves requests in a fixed order and so meets few of the states that the pool's rules are about.
Here requests are admitted, grown and released by chance, so that an older copy starts inside a newer one, a
block in the middle of a stretch is evicted, children register before their parents, and parents before their
children.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest

from sim.engine.block_pool import BlockPool
from sim.engine.paged_kv import PagedKv
from sim.engine.request import Request


@dataclass
class Side:
    """One of the two pools with its own copies of the requests."""

    pool: Any
    requests: list[Request]

    def hold(self) -> int:
        return self.pool.total - self.pool.free


def _committed(request: Request) -> int:
    return request.computed


class Twins:
    """Does everything to both pools and compares what they answer."""

    def __init__(self, blocks: int, size: int, *, caching: bool = True) -> None:
        self.size = size
        self.sides = [
            Side(kind(blocks, size, caching=caching, committed=_committed), []) for kind in (PagedKv, BlockPool)
        ]
        self.seen: Counter[str] = Counter()

    def _same(self, answers: list[Any]) -> Any:
        assert answers[0] == answers[1], answers
        return answers[0]

    @property
    def free(self) -> int:
        free: int = self._same([side.pool.free for side in self.sides])
        return free

    def enter(self, prompt: int, **options: Any) -> int:
        """A new request; *parent* is an index."""
        parent = options.pop("parent", None)
        for side in self.sides:
            request = Request(
                len(side.requests),
                arrived_ps=0,
                prompt_tokens=prompt,
                output_tokens=10_000,
                parent=None if parent is None else side.requests[parent],
                **options,
            )
            request.owner = side
            side.pool.enter(request)
            side.requests.append(request)
        return len(self.sides[0].requests) - 1

    def known(self, index: int, tokens: int) -> None:
        """Set how many tokens the request has."""
        for side in self.sides:
            side.requests[index].known = tokens

    def admit(self, index: int, tokens: int) -> bool:
        """Admit with *tokens* to compute beyond what is cached; False when blocks are short."""
        caching = self.sides[0].pool.caching  # without it nobody asks
        found = [side.pool.lookup(side.requests[index]) if caching else ([], 0) for side in self.sides]
        hit = self._same([blocks for _, blocks in found])
        revived = self._same([side.pool.revived(hits) for side, (hits, _) in zip(self.sides, found, strict=True)])
        request = self.sides[0].requests[index]
        if caching and self.sides[0].pool.finds_unheld(request):
            assert revived == hit
            self.seen["unheld"] += hit
        computed = min(request.known, hit * self.size + tokens)
        need = -(-computed // self.size) - hit
        if need + revived > self.free:
            return False
        self.seen["hits"] += hit
        self.seen["revived"] += revived
        for side, (hits, _) in zip(self.sides, found, strict=True):
            request = side.requests[index]
            request.running = True
            side.pool.admit(request, hits, hit, need)
            request.computed = computed
            side.pool.register(request, computed // self.size)
        tenure = self.sides[0].requests[index].tenure
        self.seen["stretches"] += tenure is not None and len(tenure.hits) > 1
        return True

    def grow(self, index: int, tokens: int, *, look: bool = False) -> bool:
        """Compute *tokens* more; the counting pool registers only when *look* says so, as it does while
        decoding."""
        request = self.sides[0].requests[index]
        computed = min(request.known, request.computed + tokens)
        need = -(-computed // self.size) - -(-request.computed // self.size)
        if need > self.free:
            return False
        if any(key is not None for key in self._next_keys(need)):
            self.seen["evictions"] += 1
        for side in self.sides:
            request = side.requests[index]
            side.pool.extend(request, need)
            request.computed = computed
            if look or isinstance(side.pool, BlockPool):
                side.pool.register(request, computed // self.size)
        return True

    def _next_keys(self, need: int) -> list[Any]:
        pool = self.sides[1].pool
        return [pool._key[block] for block, _ in zip(pool._free, range(need), strict=False)]

    def release(self, index: int) -> None:
        """The request gives everything back."""
        for side in self.sides:
            request = side.requests[index]
            side.pool.release(request, -(-request.computed // self.size), request.computed)
            request.running = False
            request.computed = 0

    def check(self) -> None:
        """Both agree on what is free, and on what every waiting request would hit."""
        pool, oracle = self.sides[0].pool, self.sides[1].pool
        running = [request for request in self.sides[1].requests if request.running]
        oracle.check(len({block for request in running for block in request.table or ()}))
        pool.check(pool.total - pool.free)
        assert self.free >= 0


def _play(seed: int, steps: int) -> Counter[str]:
    rng = Random(seed)
    size = rng.choice((1, 2, 4))
    twins = Twins(rng.choice((12, 20, 40, 80)), size, caching=rng.random() < 0.95)
    running: list[int] = []
    waiting: list[int] = []
    one_family = rng.random() < 0.5
    for _ in range(steps):
        action = rng.random()
        if action < 0.2 and len(waiting) < 8:
            prompt = rng.randint(1, 8 * size)
            options: dict[str, Any] = {}
            kind = rng.random()
            if kind < 0.4:
                prefix = prompt if rng.random() < 0.5 else rng.randint(0, prompt)
                options = {"prefix_group": 0 if one_family else rng.randrange(2), "prefix_len": prefix}
            elif kind < 0.8 and (running or waiting):
                parent = min(running + waiting) if one_family else rng.choice(running + waiting)
                options = {"parent": parent, "prefix_len": rng.randint(1, prompt + 3 * size)}
                prompt = options["prefix_len"] + rng.randint(0, 2 * size)
            waiting.append(twins.enter(prompt, **options))
        elif action < 0.45 and waiting:
            index = rng.choice(waiting)
            if twins.admit(index, rng.randint(1, 4 * size)):
                waiting.remove(index)
                running.append(index)
        elif action < 0.85 and running:
            index = rng.choice(running)
            request = twins.sides[0].requests[index]
            decoding = request.computed >= request.prompt_tokens
            if decoding:
                twins.known(index, request.computed + 1 + rng.choice((0, 0, 3 * size)))
            grown = twins.grow(index, rng.randint(1, 3 * size), look=not decoding)
            twins.seen["short"] += not grown
        elif running:
            index = rng.choice(running)
            running.remove(index)
            twins.release(index)
            if rng.random() < 0.5:
                request = twins.sides[0].requests[index]
                twins.known(index, max(request.known, request.prompt_tokens))
                waiting.append(index)
        twins.check()
    return twins.seen


def _sweep(seeds: range) -> None:
    seen: Counter[str] = Counter()
    for seed in seeds:
        try:
            seen += _play(seed, 150)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
    for name in ("hits", "revived", "stretches", "evictions", "short", "unheld"):
        assert seen[name] > len(seeds) / 4, f"{name} hardly occurred: {seen}"


def test_both_pools_agree_under_operations_in_any_order() -> None:
    _sweep(range(300))


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1_000, 5_000, 1_000))
def test_both_pools_agree_often(start: int) -> None:
    _sweep(range(start, start + 1_000))
