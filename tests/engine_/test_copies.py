"""Copies of shared blocks against counting every block, over random lives of their holders."""

from __future__ import annotations

from collections import Counter
from random import Random
from types import SimpleNamespace
from typing import Any

from sim.engine.copies import Copies


def holder(space: str, shared: int) -> Any:
    pieces = [SimpleNamespace(space=space, lo=0, hi=shared), SimpleNamespace(space="own", lo=shared, hi=1 << 60)]

    class Holder:
        """Hashed by identity, as a request is."""

    made: Any = Holder()
    made.pieces, made.shared_blocks = pieces, shared
    return made


def test_duplicates_are_what_counting_every_block_says():
    seen = Counter[str]()
    for seed in range(120):
        rng = Random(seed)
        copies, held = Copies(), {}
        for _ in range(60):
            if held and rng.random() < 0.4:
                who = rng.choice(list(held))
                if rng.random() < 0.5:
                    copies.drop(who)
                    del held[who]
                else:
                    first, end = held[who]
                    more = rng.randint(end, 14)
                    copies.grow(who, more)
                    held[who] = first, max(end, min(more, who.shared_blocks))
            else:
                who, hits = holder(rng.choice("ab"), rng.randint(0, 12)), rng.randint(0, 12)
                full = rng.randint(hits, 14)
                copies.begin(who, hits, full)
                held[who] = hits, max(hits, min(full, who.shared_blocks))
            counts = Counter(
                (who.pieces[0].space, block) for who, (first, end) in held.items() for block in range(first, end)
            )
            assert copies.duplicates == sum(count - 1 for count in counts.values()), seed
            seen["twice"] += any(count > 1 for count in counts.values())
            seen["once"] += bool(counts) and all(count == 1 for count in counts.values())
    assert min(seen["twice"], seen["once"]) > 100
