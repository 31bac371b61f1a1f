"""Where the hash says."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

import numpy as np

from sim.policies.routers import router
from sim.policies.routing import Choose, RoutedRequest, Router, View


@router("consistent_hash")
@dataclass(frozen=True)
class ConsistentHash(Router):
    """A key of the request picks a place on a ring of the replicas (Karger et al., 1997): the same key meets
    the same replica, and a replica that comes or goes moves only its own share of the keys."""

    by: Literal["session", "prefix", "client", "query"] = "session"
    """What is hashed; a request without it is hashed by its query."""
    points: int = 100
    """Places of each replica on the ring: the more, the more even."""

    def __post_init__(self) -> None:
        if self.points < 1:
            raise ValueError(f"points must be at least 1, not {self.points}")

    def begin(self, rng: np.random.Generator) -> Choose:
        rings: dict[tuple[int, ...], tuple[list[int], list[int]]] = {}

        def choose(view: View, request: RoutedRequest) -> int:
            candidates = tuple(view.candidates)
            ring = rings.get(candidates)
            if ring is None:
                placed = sorted(
                    (_hash(f"replica {index} {point}"), index) for index in candidates for point in range(self.points)
                )
                ring = rings[candidates] = [place for place, _ in placed], [index for _, index in placed]
            places, indices = ring
            at = bisect_left(places, _hash(self._key(request)))
            return indices[at % len(indices)]

        return choose

    def _key(self, request: RoutedRequest) -> str:
        if self.by == "session" and request.session >= 0:
            return f"session {request.session}"
        if self.by == "prefix" and request.prefix_group is not None:
            return f"prefix {request.prefix_group}"
        if self.by == "client":
            return f"client {request.client}"
        return f"query {request.query}"


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
