"""What every table holds: each column with its type, its unit and what it means.

Code, validation, docs and reports read these declarations, so a column that is not declared here does not
exist. Times in tables are float64 seconds from the start of the run, made once from the integer picoseconds
of the simulation; differences (``ttft_s``, ``e2e_s`` …) are taken in picoseconds, before the conversion. A
time or figure that does not exist is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Status(IntEnum):
    """How a query or a request ended. Everything ends in exactly one of these; the names stand in the
    tables."""

    COMPLETED = 0
    """Its last token was generated (also when a limit cut it: see ``truncated``)."""
    REJECTED = 1
    """Refused before any work: it can never fit, or admission control turned it away."""
    TIMED_OUT = 2
    """The client's deadline passed."""
    CANCELLED = 3
    """Its strategy or its client no longer wanted it."""
    FAILED = 4
    """Lost with its replica and not tried again."""
    UNFINISHED = 5
    """Still open when the run ended: right-censored."""


class Role(IntEnum):
    """What a request is for. Only GENERATE counts in the token-latency metrics."""

    GENERATE = 0
    VERIFY = 1
    PROBE = 2
    PREFILL = 3
    """First leg of a GENERATE request whose prompt is computed on another replica than its output."""


class Kind(IntEnum):
    """Kind of a segment's steps."""

    DECODE = 0
    """Decodes only."""
    MIXED = 1
    """At least one prefill chunk."""


class Lookup(IntEnum):
    """What a query found in the trace cache."""

    NONE = 0
    """It was not looked up: there is no trace cache."""
    MISS = 1
    HIT = 2
    """The trace of its own problem."""
    FALSE_HIT = 3
    """The trace of another one."""


STATUSES = tuple(status.name.lower() for status in Status)
ROLES = tuple(role.name.lower() for role in Role)
KINDS = tuple(kind.name.lower() for kind in Kind)
LOOKUPS = tuple(lookup.name.lower() for lookup in Lookup)


@dataclass(frozen=True)
class Column:
    """One column: *dtype* is a numpy dtype or ``category`` (names, stored as codes); *unit* is empty for
    names and flags."""

    name: str
    dtype: str
    unit: str
    meaning: str


def _c(name: str, dtype: str, unit: str, meaning: str) -> Column:
    return Column(name, dtype, unit, meaning)


_REPLICATION = _c("replication", "int32", "", "Replication (0, 1, …): the same scenario with other random draws.")

QUERIES: tuple[Column, ...] = (
    _REPLICATION,
    _c(
        "query",
        "int64",
        "",
        "Number of the query in order of arrival, from 0; pairs with the same query of another run.",
    ),
    _c("category", "category", "", "Kind of query."),
    _c("client", "category", "", "Who sent it."),
    _c("arrived_s", "float64", "s", "When it arrived."),
    _c(
        "finished_s",
        "float64",
        "s",
        "When its answer was complete, or when it ended in another way; NaN: still open.",
    ),
    _c("status", "category", "", "completed, rejected, timed_out, cancelled, failed or unfinished."),
    _c("tta_s", "float64", "s", "Time to answer: arrival to the final answer complete; NaN: no answer."),
    _c(
        "ttfo_s",
        "float64",
        "s",
        "Arrival to the first answer token; the same as tta_s where an answer needs several requests.",
    ),
    _c(
        "requests",
        "int32",
        "requests",
        "Requests made for it: samples, branches, verifications, escalations, retries; prefill legs apart.",
    ),
    _c(
        "retries",
        "int32",
        "requests",
        "Of these, requests sent again after a failure, a rejection or a timeout.",
    ),
    _c("pool", "category", "", "Pool of its first request; missing: none was made."),
    _c("prompt_tokens", "int64", "tokens", "Tokens of its prompt, counted once."),
    _c("reasoning_tokens", "int64", "tokens", "Reasoning tokens generated for it, all requests together."),
    _c(
        "answer_tokens",
        "int64",
        "tokens",
        "Answer tokens generated for it, all generation requests together.",
    ),
    _c(
        "verification_tokens",
        "int64",
        "tokens",
        "Tokens computed for verification and probes: prompts and outputs of those requests.",
    ),
    _c("in_window", "bool", "", "It arrived in the measured window."),
    _c(
        "truncated",
        "bool",
        "",
        "A limit (max_tokens, max_model_len, a thinking budget) cut at least one of its generations.",
    ),
    _c(
        "alone_s",
        "float64",
        "s",
        "Time to answer of the same query alone on an idle replica, prefix cache empty; NaN: it cannot be said.",
    ),
    _c(
        "slowdown",
        "float64",
        "",
        "tta_s over alone_s; NaN: no answer, or alone_s cannot be said.",
    ),
    _c(
        "slo_met",
        "bool",
        "",
        "It was completed and met every target of the scenario (completed alone where there is none).",
    ),
    _c(
        "correct",
        "float64",
        "",
        "1: answered right, 0: answered wrong or not at all; NaN: no quality model, or still open.",
    ),
    _c(
        "prompt",
        "int64",
        "",
        "Prompt or problem that it shares with other queries, and with it their difficulty; -1: its own, or no "
        "quality model.",
    ),
    _c(
        "trace_cache", "category", "", "What it found in the trace cache: none (there is none), miss, hit or false_hit."
    ),
)

REQUESTS: tuple[Column, ...] = (
    _REPLICATION,
    _c("request", "int64", "", "Number of the request, in order of submission, from 0."),
    _c("query", "int64", "", "Query that it belongs to."),
    _c("sample", "int32", "", "Which sample of its query (0, 1, …)."),
    _c(
        "role",
        "category",
        "",
        "generate, verify, probe, or prefill: the first leg of a request that decodes on another replica.",
    ),
    _c("pool", "category", "", "Pool that served it; missing: none."),
    _c("replica", "int32", "", "Replica of that pool that served it last; -1: none."),
    _c("category", "category", "", "Category of its query."),
    _c("client", "category", "", "Client of its query."),
    _c("priority", "int64", "", "Priority as the engine reads it: the smaller, the sooner."),
    _c("arrived_s", "float64", "s", "When it was submitted."),
    _c("first_scheduled_s", "float64", "s", "Start of the first step that computed a token of it."),
    _c("first_token_s", "float64", "s", "When its first token appeared, reasoning or answer."),
    _c("first_answer_s", "float64", "s", "When its first answer token appeared."),
    _c("finished_s", "float64", "s", "When it ended, whatever its status; NaN: still open."),
    _c("status", "category", "", "completed, rejected, timed_out, cancelled, failed or unfinished."),
    _c("prompt_tokens", "int64", "tokens", "Tokens that entered with it."),
    _c("max_tokens", "int64", "tokens", "The client's visible limit; -1: what max_model_len leaves."),
    _c("reasoning_tokens", "int64", "tokens", "Reasoning tokens generated."),
    _c("answer_tokens", "int64", "tokens", "Answer tokens generated."),
    _c(
        "natural_tokens",
        "int64",
        "tokens",
        "Output tokens to its natural end: the hidden truth that no policy sees. A limit may come first.",
    ),
    _c("ttft_s", "float64", "s", "arrived_s to first_token_s, with the front end's share."),
    _c("ttfo_s", "float64", "s", "arrived_s to first_answer_s, with the front end's share."),
    _c(
        "tpot_s",
        "float64",
        "s",
        "(last token - first token) / (generated tokens - 1); NaN: fewer than two tokens, or not completed.",
    ),
    _c("answer_tpot_s", "float64", "s", "The same over the answer's tokens alone."),
    _c(
        "e2e_s",
        "float64",
        "s",
        "arrived_s to the last token, with the front end's share; NaN: not completed.",
    ),
    _c("queue_s", "float64", "s", "arrived_s to first_scheduled_s."),
    _c("preemptions", "int32", "", "How often it lost its place and its KV cache."),
    _c(
        "cached_tokens_first",
        "int64",
        "tokens",
        "Prompt tokens found in the prefix cache when it was first admitted.",
    ),
    _c("cached_tokens", "int64", "tokens", "Tokens found in the prefix cache over all its admissions."),
    _c("host_tokens", "int64", "tokens", "Of cached_tokens, those loaded from the host's memory."),
    _c(
        "probe_tokens",
        "int64",
        "tokens",
        "Of reasoning_tokens, those rolled back: of probes, or latent steps that leave no KV.",
    ),
    _c("scheduled_tokens", "int64", "tokens", "Tokens computed for it, recomputation included."),
    _c("steps", "int64", "steps", "Steps that computed something for it."),
    _c(
        "recomputed_tokens",
        "int64",
        "tokens",
        "Of scheduled_tokens, those that had been computed before a preemption or a lost replica.",
    ),
    _c(
        "dropped_tokens",
        "int64",
        "tokens",
        "Of scheduled_tokens, those whose result was thrown away: a step too far, cancelled.",
    ),
    _c("transferred_tokens", "int64", "tokens", "Prompt tokens whose KV came from a prefill replica."),
    _c("kv_arrived_s", "float64", "s", "When that KV was in place; NaN: none came."),
    _c("truncated", "bool", "", "A limit cut it before its natural end."),
    _c("parent", "int64", "", "Request that it goes on from: the turn before it in its session; -1: none."),
    _c("in_window", "bool", "", "Its query arrived in the measured window."),
)

SEGMENTS: tuple[Column, ...] = (
    _REPLICATION,
    _c("pool", "category", "", "Pool."),
    _c("replica", "int32", "", "Replica of the pool."),
    _c("start_s", "float64", "s", "Start of the first step."),
    _c("end_s", "float64", "s", "End of the last step."),
    _c("kind", "category", "", "decode: decodes only; mixed: with prefill chunks."),
    _c(
        "steps",
        "int64",
        "steps",
        "Steps in the run, one after the other without a gap, each with the same requests.",
    ),
    _c("step_s", "float64", "s", "Duration of the first step."),
    _c("step_growth_s", "float64", "s", "By how much each step is longer than the one before."),
    _c("decodes", "int32", "", "Sequences that decode, in each step."),
    _c(
        "fresh",
        "int32",
        "",
        "Decodes of the first step whose gap is not the step: a first token, no token, or a gap in stalls.",
    ),
    _c(
        "dropped",
        "int32",
        "",
        "Decodes of the last step whose token was dropped: asynchronous scheduling had not foreseen the end.",
    ),
    _c(
        "context",
        "int64",
        "tokens",
        "Context that the decodes of the first step read; it grows by `decodes` a step.",
    ),
    _c("chunks", "int32", "", "Prefill chunks in the step."),
    _c("chunk_tokens", "int64", "tokens", "Tokens of these chunks, and of drafts that decodes verify."),
    _c("pairs", "int64", "", "Sum of n² + 2nc over the chunks: n new tokens on c cached ones."),
    _c("cached", "int64", "tokens", "Sum of c over the chunks."),
    _c(
        "reserved_blocks",
        "int64",
        "blocks",
        "KV blocks with a reference during the first step, shared ones once.",
    ),
    _c("reserved_blocks_last", "int64", "blocks", "The same during the last step."),
    _c(
        "live_tokens",
        "int64",
        "tokens",
        "Tokens held in the KV cache after the first step, shared ones once; grows by `decodes` a step.",
    ),
    _c("running", "int32", "", "Requests running after the first step was planned."),
    _c("waiting", "int32", "", "Requests waiting (preempted ones too) after the first step was planned."),
    _c("preempted", "int32", "", "Requests preempted by the plan of the first step."),
    _c("reserved_block_s", "float64", "block·s", "KV blocks with a reference, summed over the time of the run."),
    _c(
        "cached_block_s",
        "float64",
        "block·s",
        "The same of blocks without a reference that the prefix cache keeps.",
    ),
    _c(
        "unused_block_s",
        "float64",
        "block·s",
        "Of reserved_block_s, blocks set aside for tokens that have not come (static or predicted reservation).",
    ),
    _c("window_block_s", "float64", "block·s", "Of reserved_block_s, blocks of sliding-window layers."),
    _c(
        "duplicate_block_s",
        "float64",
        "block·s",
        "Of reserved_block_s, blocks of a common prefix that several requests hold a copy of, the first left out.",
    ),
)

STALLS: tuple[Column, ...] = (
    _REPLICATION,
    _c("request", "int64", "", "Request."),
    _c("at_s", "float64", "s", "When the token after the gap appeared."),
    _c(
        "gap_s",
        "float64",
        "s",
        "Time since the request's token before it: preempted, out of the token budget, moved.",
    ),
)

TABLES: dict[str, tuple[Column, ...]] = {
    "queries": QUERIES,
    "requests": REQUESTS,
    "segments": SEGMENTS,
    "stalls": STALLS,
}

ORDER: dict[str, tuple[str, ...]] = {
    "queries": ("replication", "query"),
    "requests": ("replication", "request"),
    "segments": ("replication", "pool", "replica", "start_s"),
    "stalls": ("replication", "at_s", "request"),
}
"""Order of the rows of each table."""
