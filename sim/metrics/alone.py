"""How long a query takes alone on an idle replica: the denominator of slowdown, in closed form.

Its prompt is computed in chunks of ``max_num_batched_tokens`` (the prefix cache is empty), the last of
which yields the first token; then it decodes alone, g - 1 steps that each read one more token of context:
k·a + b·k(k - 1)/2. Asynchronous scheduling adds nothing here: the next batch of an idle replica is always
ready when the one under way ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.step_cost import StepCost
from sim.engine.request import Request
from sim.engine.settings import EngineSettings
from sim.results.columns import Role, Status
from sim.results.info import PoolInfo, RunInfo
from sim.results.results import Results
from sim.results.tables import PS_PER_S

IntArray = NDArray[np.int64]


def alone_ps(cost: StepCost, prompt_tokens: IntArray, output_tokens: IntArray, max_num_batched_tokens: int) -> IntArray:
    """Picoseconds from arrival to the last of *output_tokens* ≥ 1, for each request; engine time, no front
    end."""
    prompt, output = (np.asarray(array, dtype=np.int64) for array in (prompt_tokens, output_tokens))
    return _prefill_ps(cost, prompt, max_num_batched_tokens) + _decode_ps(cost, prompt, output - 1)


def fill(results: Results) -> None:
    """Fill ``alone_s`` and ``slowdown`` of the queries in, where every request stands on a pool that knows
    its cost.

    One whose prompt is computed elsewhere takes its prefill there, the copy of all its KV over an idle link, and its decodes.
    Where steps are not alike (KV compression, drafts) its steps are gone through one by one, on an idle replica. A query that
    needed several samples or verification, or both of the above, keeps NaN; one sent again after a failure is taken as sent
    once. What is unfinished is taken to its natural end, or to its limit.
    """
    queries, requests = results.tables["queries"], results.tables["requests"]
    size = int(queries["query"].max(initial=0)) + 2
    place = np.searchsorted(
        queries["replication"] * size + queries["query"], requests["replication"] * size + requests["query"]
    )
    simple = np.ones(len(queries), dtype=bool)
    leg = requests["role"] == Role.PREFILL
    simple[place[((requests["role"] != Role.GENERATE) & ~leg) | (requests["sample"] > 0)]] = False
    alone = np.full(len(queries), np.nan)
    for run in results.runs:
        for number, pool in enumerate(run.pools):
            cost = getattr(pool.deployment, "step_cost", None)
            if cost is None or not (pool.linear_steps or pool.engine is not None):
                continue
            name = requests.names["pool"].index(pool.name) if pool.name in requests.names["pool"] else number
            mine = np.flatnonzero(
                (requests["replication"] == run.replication)
                & (requests["pool"] == name)
                & (requests["status"] != Status.REJECTED)
                & simple[place]
                & ~leg
            )
            tokens = _output_tokens(results, pool, mine)
            if not pool.linear_steps:
                walked = _walked_ps(results, pool, cost, mine, tokens)
                alone[place[mine]] = (walked + pool.front_end_ps) / PS_PER_S
                continue
            time: NDArray[Any] = alone_ps(cost, requests["prompt_tokens"][mine], tokens, pool.max_num_batched_tokens)
            if pool.role != "generate":
                time = np.where(
                    requests["transferred_tokens"][mine] > 0,
                    _two_legs_ps(results, run, pool, mine, tokens),
                    np.nan if pool.role == "prefill" else time,
                )
            if pool.looks:
                time = time - _spared_ps(cost, pool.looks, tokens, requests["probe_tokens"][mine])
            alone[place[mine]] = (time + pool.front_end_ps) / PS_PER_S
    results.set_column("queries", "alone_s", alone)
    results.set_column("queries", "slowdown", queries["tta_s"] / alone)


def _walked_ps(
    results: Results, pool: PoolInfo, cost: StepCost, rows: IntArray, tokens: IntArray
) -> NDArray[np.float64]:
    """The same on a pool that compresses its KV cache or verifies drafts; NaN where the prefill is done elsewhere."""
    requests = results.tables["requests"]
    if pool.role != "generate":
        return np.full(len(rows), np.nan)
    names = ("request", "query", "sample", "prompt_tokens", "max_tokens")
    asked = zip(*(requests[name][rows].tolist() for name in names), tokens.tolist(), strict=True)
    settings = replace(pool.engine, enable_prefix_caching=False, host_blocks=0, async_scheduling=False)
    how = _drafted_ps if settings.speculation is not None else _alone_on
    made = how(settings, cost, asked)
    return np.fromiter(made, dtype=np.float64, count=len(rows))


def _alone_on(settings: EngineSettings, cost: StepCost, asked: Iterable[tuple[int, ...]]) -> Iterator[int]:
    """One request after the other on a replica of its own."""
    from sim.engine.replica import make_replica
    from sim.policies.schedulers.vllm import Vllm

    replica, now_ps = make_replica(settings, cost, Vllm()), 0
    for number, query, sample, prompt, limit, tokens in asked:
        request = Request(
            number,
            arrived_ps=now_ps,
            prompt_tokens=prompt,
            output_tokens=tokens,
            max_tokens=limit,
            query=query,
            sample=sample,
        )
        start_ps = now_ps
        replica.submit(request, now_ps)
        end_ps = replica.plan(now_ps)
        while end_ps is not None:
            now_ps = end_ps
            replica.complete(now_ps)
            end_ps = replica.plan(now_ps)
        yield request.finished_ps - start_ps


def _drafted_ps(settings: EngineSettings, cost: StepCost, asked: Iterable[tuple[int, ...]]) -> Iterator[int]:
    """Prefill, then bursts of its own token and of what is right of its draft, by the draws that it faced in the run."""
    drafts, most = settings.speculation, settings.max_num_batched_tokens
    assert drafts is not None
    each = [
        cost.step_ps(decodes=1, context=0, chunks=0, chunk_tokens=0, pairs=0, cached=0, drafted=drafted)
        + (drafts.draft_ps(1, cost) if drafted else 0)
        for drafted in range(drafts.draft_tokens + 1)
    ]
    for number, query, sample, prompt, limit, tokens in asked:
        request = Request(number, arrived_ps=0, prompt_tokens=prompt, output_tokens=tokens, query=query, sample=sample)
        foreseen = settings.max_model_len if limit < 0 else min(settings.max_model_len, prompt + limit)
        total, computed, end = int(_prefill_ps(cost, np.array([prompt]), most)[0]), prompt, prompt + tokens
        request.known = prompt + 1
        while request.known < end:
            drafted = max(0, min(drafts.draft_tokens, most - 1, foreseen - computed - 2))
            burst = 1 + min(drafted, drafts.accepted(request), end - request.known - 1)
            total += each[drafted] + cost.kv_ps * computed
            computed += burst
            request.known += burst
        yield total


def copy_ps(pool: PoolInfo, prompt_tokens: IntArray) -> IntArray:
    """Picoseconds that the KV of each prompt takes over an idle link into *pool*, its blocks rounded up."""
    blocks = -(-np.asarray(prompt_tokens, dtype=np.int64) // pool.block_size)
    size = blocks * pool.block_size * pool.kv_bytes_per_token
    busy = np.rint(size / pool.link_bytes_per_s * PS_PER_S).astype(np.int64) if pool.link_bytes_per_s else 0 * size
    time: IntArray = np.maximum(1, busy + pool.link_latency_ps)
    return time


def _two_legs_ps(
    results: Results, run: RunInfo, pool: PoolInfo, rows: IntArray, tokens: IntArray
) -> NDArray[np.float64]:
    """The same for requests that decode on *pool* after a prefill elsewhere; NaN where that cannot be said."""
    cost = pool.deployment.step_cost
    prompt = results.tables["requests"]["prompt_tokens"][rows]
    sources = [other for other in run.pools if other.role == "prefill" and other.model == pool.model]
    prefill = sources[0].deployment if len(sources) == 1 else None
    if prefill is None:
        return np.full(len(rows), np.nan)
    first = _prefill_ps(prefill.step_cost, prompt, sources[0].max_num_batched_tokens)
    whole = first + copy_ps(pool, prompt) + _decode_ps(cost, prompt - 1, tokens)
    return whole.astype(np.float64)


def _spared_ps(cost: StepCost, looks: tuple[int, ...], tokens: IntArray, rolled_back: IntArray) -> IntArray:
    """By how much sooner *tokens* have come when so many of them were rolled back: what comes later reads less.

    A step reads what was decoded before it but for what was rolled back by then, *each* tokens after every look.
    """
    first, every, each = looks
    count = rolled_back // each
    # the last token of look k = 1 … count is token first + (k - 1) every + k each; each token behind it reads *each* less
    behind = count * (tokens - first + every) - (every + each) * (count * (count + 1) // 2)
    spared: IntArray = cost.kv_ps * each * behind
    return spared


def _output_tokens(results: Results, pool: PoolInfo, rows: IntArray) -> IntArray:
    """Generated tokens of the completed; of all others, those up to the natural end or a limit."""
    requests = results.tables["requests"]
    generated = (requests["reasoning_tokens"] + requests["answer_tokens"])[rows]
    natural, limit = requests["natural_tokens"][rows], requests["max_tokens"][rows]
    wanted = np.where(limit >= 0, np.minimum(natural, limit), natural)
    longest = getattr(pool.deployment, "max_model_len", None)
    if longest is not None:
        wanted = np.minimum(wanted, longest - requests["prompt_tokens"][rows])
    completed = requests["status"][rows] == Status.COMPLETED
    tokens: IntArray = np.maximum(np.where(completed, generated, np.maximum(wanted, generated)), 1)
    return tokens


def _prefill_ps(cost: StepCost, prompt: IntArray, chunk: int) -> IntArray:
    whole = (prompt - 1) // chunk  # chunks before the last
    first = whole * chunk
    last = prompt - first
    pairs_before = whole * chunk**2 + 2 * chunk * chunk * (whole * (whole - 1) // 2)
    cached_before = chunk * (whole * (whole - 1) // 2)
    fixed = cost.host_ps + cost.seq_ps
    if chunk == 1:  # a sequence with one token is a decode
        before = whole * (fixed + cost.linear(1)) + cost.kv_ps * cached_before
    else:
        before = (
            whole * (fixed + cost.linear(chunk)) + cost.half_pair_ps * pairs_before + cost.cached_ps * cached_before
        )
    as_chunk = cost.half_pair_ps * (last * last + 2 * last * first) + cost.cached_ps * first
    rest = np.where(last == 1, cost.kv_ps * first, as_chunk)
    total: IntArray = before + fixed + linear_ps(cost, last) + rest
    return total


def _decode_ps(cost: StepCost, prompt: IntArray, steps: IntArray) -> IntArray:
    each = cost.host_ps + cost.seq_ps + cost.linear(1)
    total: IntArray = steps * (each + cost.kv_ps * prompt) + cost.kv_ps * (steps * (steps - 1) // 2)
    return total


def linear_ps(cost: StepCost, tokens: IntArray) -> IntArray:
    """``cost.linear`` of an array."""
    table = np.array(cost.linear_ps, dtype=np.int64)
    last = len(table) - 1
    beyond = np.maximum(tokens - last, 0)
    result: IntArray = table[np.minimum(tokens, last)] + cost.linear_slope_ps * beyond
    return result
