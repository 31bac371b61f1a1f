"""One query's life: what it waited for, what its time went to, and with whom it shared the batch.

Everything is read from the tables. Delay is what its time exceeds that of the same query alone; its causes
follow from the segments of its replica while it lived:

- *queue*: from arrival to the first step that computed a token of it;
- *stalled*: gaps in which it skipped steps (preempted, out of the token budget), beyond one step each;
- *handover*: where the prompt was computed on another replica, what the copy of its KV took beyond that over an idle link:
  no blocks for it yet, the link busy, or the step under way;
- *batch*: the rest: its steps were longer than alone, because others shared them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sim.metrics.alone import copy_ps
from sim.results.columns import Kind
from sim.results.info import PoolInfo, RunInfo
from sim.results.results import Results
from sim.results.tables import Table

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Blocked:
    """Why a request waited: seconds by reason while it stood in the queue."""

    kv_s: float
    seats_s: float
    token_budget_s: float
    step_s: float
    """Nobody was kept out: it waited for the step under way to end, or for an idle moment to pass."""


@dataclass(frozen=True)
class RequestLife:
    """One request of the query; all times in seconds, NaN where it never came so far."""

    number: int
    sample: int
    role: str
    pool: str
    replica: int
    status: str
    truncated: bool
    prompt_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    answer_tokens: int
    recomputed_tokens: int
    preemptions: int
    arrived_s: float
    first_scheduled_s: float
    first_token_s: float
    first_answer_s: float
    finished_s: float
    blocked: Blocked
    stalls: tuple[tuple[float, float], ...]
    """(when the gap began, its length), the longest first; tokens that came together are none."""
    latent: bool
    """It reasoned in latent steps, so that its first token is the answer's."""
    batch_mean: float
    """Requests running beside it, itself included, averaged over its steps' time."""
    batch_max: int
    waiting_mean: float
    transferred_tokens: int
    """Prompt tokens whose KV came from a prefill replica."""
    kv_arrived_s: float
    """When it was in place."""
    mixed_s: float
    """Time of steps in which somebody's prompt was computed, while it decoded."""


@dataclass(frozen=True)
class QueryLife:
    """One query: its row, its requests, and where its delay came from (seconds; they sum to ``delay_s``)."""

    replication: int
    query: int
    category: str
    client: str
    status: str
    arrived_s: float
    finished_s: float
    tta_s: float
    alone_s: float
    truncated: bool
    """A limit or a budget cut it short."""
    trace_cache: str
    """What it found in the trace cache: none (there is none), miss, hit or false_hit."""
    in_window: bool
    end_s: float
    """End of the run."""
    requests: tuple[RequestLife, ...] = field(default=())
    delay_s: float = float("nan")
    causes: dict[str, float] = field(default_factory=dict)


def life(results: Results, query: int, replication: int = 0) -> QueryLife | None:
    """The life of *query* in *replication*, or None when the tables do not hold it."""
    queries, requests = results.tables["queries"], results.tables["requests"]
    found = np.flatnonzero((queries["query"] == query) & (queries["replication"] == replication))
    run = next((run for run in results.runs if run.replication == replication), None)
    if not len(found) or run is None:
        return None
    row = int(found[0])
    mine = np.flatnonzero((requests["query"] == query) & (requests["replication"] == replication))
    lives = tuple(_request(results, run, int(position)) for position in mine)
    if [each.role for each in lives] == ["generate", "prefill"]:
        lives = lives[::-1]  # in the order in which they ran
    tta, alone = float(queries["tta_s"][row]), float(queries["alone_s"][row])
    delay, causes = tta - alone, {}
    if np.isfinite(delay) and len(lives) == 1:
        only = lives[0]
        queue = only.first_scheduled_s - only.arrived_s
        stalled = sum(length for _, length in only.stalls)
        steps = _mean_step_s(results, run, only)
        stalled = max(0.0, stalled - steps * len(only.stalls))
        causes = {"queue": queue, "stalled": stalled, "batch": delay - queue - stalled}
    elif np.isfinite(delay) and [each.role for each in lives] == ["prefill", "generate"]:
        first, second = lives
        queue = first.first_scheduled_s - first.arrived_s
        stalled = sum(length for _, length in second.stalls)
        stalled = max(0.0, stalled - _mean_step_s(results, run, second) * len(second.stalls))
        pool = next(each for each in run.pools if each.name == second.pool)
        copy_s = float(copy_ps(pool, np.array([second.prompt_tokens]))[0]) / 1e12
        handover = second.first_scheduled_s - first.finished_s - copy_s
        causes = {
            "queue": queue,
            "handover": handover,
            "stalled": stalled,
            "batch": delay - queue - handover - stalled,
        }
    return QueryLife(
        replication=replication,
        query=query,
        category=_name(queries, "category", row),
        client=_name(queries, "client", row),
        status=_name(queries, "status", row),
        arrived_s=float(queries["arrived_s"][row]),
        finished_s=float(queries["finished_s"][row]),
        tta_s=tta,
        alone_s=alone,
        truncated=bool(queries["truncated"][row]),
        trace_cache=_name(queries, "trace_cache", row),
        in_window=bool(queries["in_window"][row]),
        end_s=run.end_ps / 1e12,
        requests=lives,
        delay_s=delay,
        causes=causes,
    )


def _request(results: Results, run: RunInfo, row: int) -> RequestLife:
    requests, stalls = results.tables["requests"], results.tables["stalls"]

    def time(name: str) -> float:
        return float(requests[name][row])

    def count(name: str) -> int:
        return int(requests[name][row])

    pool = _name(requests, "pool", row)
    end = time("finished_s") if np.isfinite(time("finished_s")) else run.end_ps / 1e12
    started = time("first_scheduled_s")
    part = _segments(results, run, pool, count("replica"))
    gaps = (stalls["replication"] == run.replication) & (stalls["request"] == count("request"))
    listed = sorted(
        (
            (float(at - gap), float(gap))
            for at, gap in zip(stalls["at_s"][gaps], stalls["gap_s"][gaps], strict=True)
            if gap > 0
        ),
        key=lambda item: -item[1],
    )
    served = _inside(part, started, end) if np.isfinite(started) else np.zeros(len(part))
    total = float(served.sum())
    settings = next((p for p in run.pools if p.name == pool), None)
    until = started if np.isfinite(started) else end
    first = time("first_token_s")
    decoding = _inside(part, first, end) if np.isfinite(first) else np.zeros(len(part))
    return RequestLife(
        number=count("request"),
        sample=count("sample"),
        role=_name(requests, "role", row),
        pool=pool,
        replica=count("replica"),
        status=_name(requests, "status", row),
        truncated=bool(requests["truncated"][row]),
        prompt_tokens=count("prompt_tokens"),
        cached_tokens=count("cached_tokens_first"),
        reasoning_tokens=count("reasoning_tokens"),
        answer_tokens=count("answer_tokens"),
        recomputed_tokens=count("recomputed_tokens"),
        preemptions=count("preemptions"),
        transferred_tokens=count("transferred_tokens"),
        kv_arrived_s=time("kv_arrived_s"),
        arrived_s=time("arrived_s"),
        first_scheduled_s=started,
        first_token_s=first,
        first_answer_s=time("first_answer_s"),
        finished_s=time("finished_s"),
        blocked=_blocked(part, settings, time("arrived_s"), until),
        stalls=tuple(listed),
        latent=settings is not None and settings.latent,
        batch_mean=float((part["running"] * served).sum()) / total if total else float("nan"),
        batch_max=int(part["running"][served > 0].max(initial=0)),
        waiting_mean=float((part["waiting"] * served).sum()) / total if total else float("nan"),
        mixed_s=float(decoding[part["kind"] == Kind.MIXED].sum()),
    )


def _segments(results: Results, run: RunInfo, pool: str, replica: int) -> Table:
    segments = results.tables["segments"]
    rows = (
        (segments["replication"] == run.replication) & segments.equals("pool", pool) & (segments["replica"] == replica)
    )
    return segments.rows(rows)


def _inside(part: Table, low: float, high: float) -> FloatArray:
    """Seconds of each segment between the two times."""
    overlap = np.minimum(part["end_s"], high) - np.maximum(part["start_s"], low)
    inside: FloatArray = np.maximum(overlap, 0.0)
    return inside


def _blocked(part: Table, pool: PoolInfo | None, low: float, high: float) -> Blocked:
    inside = _inside(part, low, high)
    if pool is None:
        return Blocked(0.0, 0.0, 0.0, high - low)
    kept_out = part["waiting"] > 0
    seats = kept_out & (part["running"] >= pool.max_num_seqs)
    budget = kept_out & ~seats & (part["decodes"] + part["chunk_tokens"] >= pool.max_num_batched_tokens)
    by_seats, by_budget = float(inside[seats].sum()), float(inside[budget].sum())
    by_kv = float(inside[kept_out & ~seats & ~budget].sum())
    return Blocked(by_kv, by_seats, by_budget, max(0.0, high - low - by_seats - by_budget - by_kv))


def _mean_step_s(results: Results, run: RunInfo, request: RequestLife) -> float:
    """Mean step of its replica while it was served: what a gap would have been without the stall."""
    part = _segments(results, run, request.pool, request.replica)
    length = part["end_s"] - part["start_s"]
    inside = _inside(part, request.first_scheduled_s, request.finished_s)
    steps = float((part["steps"] * np.divide(inside, length, out=np.zeros_like(inside), where=length > 0)).sum())
    return float(inside.sum()) / steps if steps else 0.0


def _name(table: Table, column: str, row: int) -> str:
    code = int(table[column][row])
    return table.names[column][code] if code >= 0 else ""
