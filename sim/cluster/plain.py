"""Rows of queries whose strategy makes one generation each: taken from their requests, all at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sim.results.columns import Role, Status
from sim.results.sinks import QUERY_ROW, IntArray, RowSink


class PlainQueries(RowSink):
    """One row a query, from the last of its requests; earlier ones are attempts that were lost or turned
    away.
    """

    __slots__ = ("_given_up_ps", "_requests")

    def __init__(self, requests: RowSink, given_up_ps: Mapping[int, int]) -> None:
        """*given_up_ps* says when clients left that did not wait for the end of their request."""
        super().__init__(QUERY_ROW)
        self._requests = requests
        self._given_up_ps = given_up_ps

    def columns(self) -> dict[str, IntArray]:
        rows = _without_prefill_legs(self._requests.columns())
        order = np.lexsort((rows["id"], rows["query"]))
        query = rows["query"][order]
        last = np.append(query[1:] != query[:-1], True) if len(query) else np.zeros(0, dtype=bool)
        rows = {name: column[order] for name, column in rows.items()}
        ends = np.flatnonzero(last)
        starts = np.concatenate(([0], ends[:-1] + 1)) if len(ends) else ends
        attempts = ends - starts + 1
        reasoning = np.minimum(rows["generated"], rows["reasoning_tokens"])
        finished = rows["finished_ps"][ends]
        status, answered = rows["status"][ends], rows["first_answer_ps"][ends]
        for place, number in enumerate(query[ends].tolist()) if self._given_up_ps else ():
            if number in self._given_up_ps:
                finished[place] = self._given_up_ps[number]
                status[place] = Status.TIMED_OUT
                if answered[place] > finished[place]:
                    answered[place] = -1
        zeros = np.zeros(len(ends), dtype=np.int64)
        picked = {
            "finished_ps": finished,
            "status": status,
            "first_answer_ps": answered,
            "requests": attempts,
            "retries": attempts - 1,
            "arrived_ps": rows["arrived_ps"][starts],
            "pool": _first_known(rows["pool"], starts, ends),
            "reasoning_tokens": _sums(reasoning, starts),
            "answer_tokens": _sums(rows["generated"] - reasoning, starts),
            "verification_tokens": zeros,
            "truncated": np.maximum.reduceat(rows["truncated"], starts) if len(ends) else zeros,
        }
        return {name: picked[name] if name in picked else rows[name][ends] for name in QUERY_ROW}

    def __len__(self) -> int:
        return len(np.unique(self._requests.columns()["query"]))


def _without_prefill_legs(rows: dict[str, IntArray]) -> dict[str, IntArray]:
    legs = rows["role"] == Role.PREFILL
    return {name: column[~legs] for name, column in rows.items()} if legs.any() else rows


def _sums(values: IntArray, starts: IntArray) -> IntArray:
    return np.add.reduceat(values, starts) if len(starts) else values


def _first_known(pool: IntArray, starts: IntArray, ends: IntArray) -> IntArray:
    """Pool of each query's first request that had one, -1 when none had."""
    found = pool[starts].copy()
    for row in np.flatnonzero((found < 0) & (ends > starts)):
        known = pool[starts[row] : ends[row] + 1]
        found[row] = next((code for code in known if code >= 0), -1)
    return found
