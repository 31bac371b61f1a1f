"""KV on its way from prefill to decode replicas: how much is copied, how long it takes, who waits for a link."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.metrics.alone import copy_ps
from sim.results.columns import Role
from sim.results.info import RunInfo
from sim.results.results import Results
from sim.results.tables import PS_PER_S

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


def first_legs(keys: tuple[NDArray[Any], ...], leg: NDArray[np.bool_], at_s: FloatArray) -> IntArray:
    """For each row of `requests` the row of the first leg that it went on from, -1 where there is none.

    Rows with equal *keys* (replication, query, sample) belong together; *leg* says which are first legs, *at_s* when each
    first leg had ended and when the KV of each other request was in place (NaN: it never was). A request that was sent
    again has several of both, and goes on from the latest first leg before it.
    """
    order = np.lexsort((~leg, at_s, *reversed(keys)))
    known = np.isfinite(at_s[order])
    place = np.arange(len(order))
    latest = np.maximum.accumulate(np.where(leg[order] & known, place, -1)) if len(order) else place
    found = np.full(len(order), -1, dtype=np.int64)
    together = latest >= 0
    for key in keys:
        sorted_key = key[order]
        together &= sorted_key[latest] == sorted_key
    mine = together & known & ~leg[order]
    found[order[mine]] = order[latest[mine]]
    return found


def kv_transfer(results: Results) -> dict[str, Any] | None:
    """The ``kv_transfer`` section of a summary: the copies that arrived within the windows, by the prefill pool that they
    came from and by the decode pool that they went to, and how busy the links of each were; None where there are no such."""
    ends = [pool.name for pool in results.runs[0].pools if pool.role in ("decode", "prefill")]
    if not ends:
        return None
    copies = [_copies(results, run) for run in results.runs]
    return {"pools": {name: _of_pool(results.runs, copies, name) for name in ends}}


@dataclass(frozen=True)
class _Copies:
    """The copies of one run, an entry each."""

    source: list[str]
    target: list[str]
    tokens: IntArray
    size: FloatArray
    way_s: FloatArray
    """From the end of the prefill to the arrival."""
    copy_s: FloatArray
    """What that takes over idle links."""
    busy_s: FloatArray
    """Time that the links are taken."""


def _copies(results: Results, run: RunInfo) -> _Copies:
    requests = results.tables["requests"]
    leg = requests["role"] == Role.PREFILL
    arrived_s = requests["kv_arrived_s"]
    at_s = np.where(leg, requests["finished_s"], arrived_s)
    found = first_legs((requests["replication"], requests["query"], requests["sample"]), leg, at_s)
    inside = (arrived_s >= run.window_start_ps / PS_PER_S) & (arrived_s < run.window_end_ps / PS_PER_S)
    mine = (requests["replication"] == run.replication) & (requests["transferred_tokens"] > 0)
    rows = np.flatnonzero((found >= 0) & mine & inside)
    names = requests.names["pool"]
    target = [names[code] for code in requests["pool"][rows]]
    tokens = requests["transferred_tokens"][rows]
    size, copy_s, busy_s = (np.zeros(len(rows)) for _ in range(3))
    for pool in run.pools:
        here = np.flatnonzero(np.array([name == pool.name for name in target], dtype=bool))
        if len(here):
            size[here] = -(-tokens[here] // pool.block_size) * pool.block_size * pool.kv_bytes_per_token
            copy_s[here] = copy_ps(pool, tokens[here]) / PS_PER_S
            busy_s[here] = np.maximum(copy_s[here] - pool.link_latency_ps / PS_PER_S, 0.0)
    return _Copies(
        source=[names[code] for code in requests["pool"][found[rows]]],
        target=target,
        tokens=tokens,
        size=size,
        way_s=arrived_s[rows] - requests["finished_s"][found[rows]],
        copy_s=copy_s,
        busy_s=busy_s,
    )


def _of_pool(runs: Sequence[RunInfo], copies: list[_Copies], name: str) -> dict[str, Any]:
    here = [
        np.array([name in ends for ends in zip(moved.source, moved.target, strict=True)], dtype=bool)
        for moved in copies
    ]

    def all_of(values: list[NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate([part[mine] for part, mine in zip(values, here, strict=True)])

    way_s, copy_s = all_of([moved.way_s for moved in copies]), all_of([moved.copy_s for moved in copies])
    n, on_s = len(way_s), 0.0
    for run in runs:
        pool = next(each for each in run.pools if each.name == name)
        on_s += pool.gpu_hours * 3600 / pool.gpus_per_replica
    return {
        "copies": n,
        "tokens": int(all_of([moved.tokens for moved in copies]).sum()),
        "bytes": int(all_of([moved.size for moved in copies]).sum()),
        "handover_mean_s": float(way_s.mean()) if n else None,
        "handover_p50_s": float(np.quantile(way_s, 0.5)) if n else None,
        "handover_p95_s": float(np.quantile(way_s, 0.95)) if n else None,
        "handover_max_s": float(way_s.max()) if n else None,
        "copy_mean_s": float(copy_s.mean()) if n else None,
        "waiting_mean_s": float(np.maximum(way_s - copy_s, 0.0).mean()) if n else None,
        "link_use": float(all_of([moved.busy_s for moved in copies]).sum()) / on_s if on_s > 0 else None,
    }
