"""Every metric, defined once: name, unit, level, formula and which way is better. Docs and reports read
this table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

QUANTILES: dict[str, float] = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
"""Quantiles that every distribution is summarised by."""

STATS = ("mean", *QUANTILES, "max")
"""Statistics in ``summary.json`` for each distribution, beside ``n`` and ``unit``."""


@dataclass(frozen=True)
class Metric:
    """One metric. *level* says what one observation is; *formula* is its definition in words."""

    name: str
    unit: str
    level: Literal["query", "request", "token", "run"]
    better: Literal["lower", "higher", "neither"]
    formula: str


DISTRIBUTIONS: tuple[Metric, ...] = (
    Metric("ttft", "s", "request", "lower", "Arrival to the first generated token, reasoning or answer."),
    Metric("ttfo", "s", "query", "lower", "Arrival to the first answer token; a query of several requests: tta."),
    Metric("tpot", "s", "request", "lower", "(last token - first token) / (output tokens - 1)."),
    Metric("itl", "s", "token", "lower", "Each gap between consecutive tokens of a request."),
    Metric("e2e", "s", "request", "lower", "Arrival to the last token."),
    Metric("tta", "s", "query", "lower", "Arrival of the query to its final answer complete."),
    Metric("queue_time", "s", "request", "lower", "Arrival to the first step that computes a token."),
    Metric("slowdown", "", "query", "lower", "tta over the tta of the same query alone on an idle replica."),
)
"""Metrics with a distribution; in ``summary.json`` under ``metrics``."""

FIGURES: tuple[Metric, ...] = (
    Metric("answer_tpot", "s", "request", "lower", "tpot over the tokens of the answer alone."),
    Metric("goodput", "queries/s", "run", "higher", "Measured queries that met all targets, over the window."),
    Metric("slo_attainment", "", "run", "higher", "Share of the measured queries that met all their targets."),
    Metric("throughput", "queries/s", "run", "higher", "Queries completed within the window, over its length."),
    Metric(
        "output_tokens_per_s",
        "tokens/s",
        "run",
        "higher",
        "Tokens generated within the window, over its length.",
    ),
    Metric(
        "cost_per_query",
        "USD",
        "run",
        "lower",
        "GPU-hours of the window (all GPUs on, idle ones too) times price, over queries completed in it.",
    ),
    Metric(
        "usd_per_million_output_tokens",
        "USD",
        "run",
        "lower",
        "The same cost over tokens generated, times 1e6.",
    ),
    Metric(
        "kwh_per_query",
        "kWh",
        "run",
        "lower",
        "Energy of all GPUs on, idle ones too, times the site's overhead, over queries completed in the window.",
    ),
    Metric(
        "accuracy",
        "",
        "run",
        "higher",
        "Share of the measured queries answered right; without an answer is not right, still open is left out.",
    ),
    Metric(
        "cost_per_correct_answer",
        "USD",
        "run",
        "lower",
        "The cost of cost_per_query over right answers instead of answers.",
    ),
    Metric(
        "value_per_query",
        "USD",
        "run",
        "higher",
        "Worth of right answers less cost of wrong ones, less cost_per_query, a query completed.",
    ),
    Metric("gpu_utilisation", "", "run", "higher", "GPU time within steps over GPU time that was on."),
    Metric(
        "memory_efficiency",
        "",
        "run",
        "higher",
        "KV bytes that hold live tokens over KV bytes reserved, over time; shared blocks count once.",
    ),
    Metric("kv_use", "", "run", "neither", "KV blocks reserved over KV blocks there are, averaged over time."),
    Metric("recomputed_per_generated", "", "run", "lower", "Recomputed tokens over generated tokens."),
    Metric("preemptions_per_request", "", "run", "lower", "Preemptions over requests."),
    Metric(
        "head_blocked_share",
        "",
        "run",
        "lower",
        "Share of the window in which a request waits and is not let in.",
    ),
    Metric("seats_full_share", "", "run", "lower", "Share of the window in which max_num_seqs requests run."),
    Metric(
        "starvation_age",
        "s",
        "run",
        "lower",
        "Longest time that any request went without a token or a start: in the queue, or between tokens.",
    ),
    Metric(
        "jain_clients",
        "",
        "run",
        "higher",
        "Jain index of 1/mean slowdown over clients: 1 is even, 1/n unfair.",
    ),
    Metric("jain_queries", "", "run", "higher", "Jain index of 1/slowdown over queries."),
    Metric(
        "load_imbalance",
        "",
        "run",
        "lower",
        "Busiest replica's time in steps over the mean of its pool while it was on, less 1.",
    ),
)
"""Metrics with one figure a run."""

METRICS: dict[str, Metric] = {metric.name: metric for metric in (*DISTRIBUTIONS, *FIGURES)}
