"""What a reader should know before she believes the figures: each finding named, with what to do about it.

A finding is ``{"name", "severity", "what", "do"}``; severity ``warning`` means that figures mislead or
users suffer, ``note`` that something is worth knowing. Limits stand here, in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sim.metrics.definitions import QUANTILES
from sim.results.results import Results

RECOMPUTED_LIMIT = 0.10
"""Recomputed over generated tokens beyond which a run thrashes."""
BLOCKED_LIMIT = 0.20
STALL_LIMIT_S = 10.0
"""A pause between two tokens that any user notices."""
STARVED_LIMIT_S = 30.0
STARVED_FACTOR = 10.0
"""A request starves when it goes so long, and so many times the mean wait in the queue, without any progress."""
UNUSED_LIMIT = 0.25
DUPLICATE_LIMIT = 0.05
DECILE_LIMIT = 3.0
"""Shortest queries slowed down so many times more than the longest."""
IMBALANCE_LIMIT = 0.25
IDLE_LIMIT = 0.10
TRUNCATED_LIMIT = 0.01
ANOMALIES: dict[str, str] = {
    "overloaded": "The verdict is overloaded.",
    "saturated": "The verdict is saturated.",
    "idle": "GPUs of a pool are in use less than 10 % of the time.",
    "load_imbalance": "The busiest replica of a pool works over 25 % more than the mean while it was on.",
    "thrashing": "Recomputed tokens exceed 10 % of generated ones.",
    "head_of_line_blocking": "The head of a pool's queue is kept out over 20 % of the window.",
    "stalled_stream": "A request stood still for over 10 s between two tokens.",
    "starving": "A request got nothing for over 30 s and 10 times the mean wait, in the queue while others passed it, or "
    "between tokens.",
    "reserved_in_vain": "Over 25 % of a pool's KV memory is set aside for tokens that have not come.",
    "duplicate_prefixes": "Over 5 % of a pool's KV memory holds once more what another request holds.",
    "rejected": "Queries were refused.",
    "timed_out": "Clients gave up.",
    "failed": "Queries were lost with a replica.",
    "truncated": "Over 1 % of the queries were cut by a limit.",
    "target_not_judged": "A target cannot be judged from what is recorded.",
    "unfair_to_short": "The shortest tenth is slowed down over 3 times as much as the longest.",
    "censored": "`max_drain` ended the run with measured queries open.",
    "warm_up_short": "The system was still filling up when measuring began.",
    "cost_of_few": "Fewer than half of the measured queries ended within the window that the cost is of.",
    "few_queries": "Fewer than 10 observations lie beyond a quantile of tta.",
    "nothing_measured": "No query arrived in the window.",
    "extrapolated": "Steps left the range that their profile was measured in.",
    "prior": "Step times are an estimate, not measured.",
}
"""Every finding that there is, and when it is made."""

Add = Callable[[str, str, str, str], None]

TAIL_COUNT = 10
"""Observations that a quantile needs beyond it to be worth quoting."""


def anomalies(results: Results, summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """Findings of a run whose *summary* holds all other sections already, the gravest first."""
    found: list[dict[str, str]] = []

    def add(name: str, severity: str, what: str, do: str) -> None:
        assert name in ANOMALIES, name
        found.append({"name": name, "severity": severity, "what": what, "do": do})

    _load(summary, add)
    _memory(summary, add)
    _service(summary, add)
    _measurement(results, summary, add)
    _calibration(summary, add)
    return sorted(found, key=lambda finding: finding["severity"] != "warning")


def _load(summary: Mapping[str, Any], add: Add) -> None:
    if summary["verdict"] == "overloaded":
        add(
            "overloaded",
            "warning",
            f"{summary['verdict_reason']}; times depend on the length of the run, not on the system alone",
            "add replicas, lower the rate, or set admission limits; read goodput, not percentiles",
        )
    elif summary["verdict"] == "saturated":
        add(
            "saturated",
            "warning",
            summary["verdict_reason"],
            "no room is left for a burst: more replicas or KV memory, or more max_num_seqs if seats are full",
        )
    for name, pool in summary["gpu"]["pools"].items():
        use = pool["utilisation"]
        if use is not None and use < IDLE_LIMIT:
            add(
                "idle",
                "note",
                f"the GPUs of pool {name} are in use {100 * use:.1f} % of the time",
                "fewer or smaller replicas would serve this load",
            )
    for name, pool in summary["load_imbalance"]["pools"].items():
        if pool["busy"] > IMBALANCE_LIMIT:
            add(
                "load_imbalance",
                "warning",
                f"the busiest replica of pool {name} works {100 * pool['busy']:.0f} % more than the mean while it is on",
                "try router least_outstanding_tokens, or refresh the router's state more often",
            )


def _memory(summary: Mapping[str, Any], add: Add) -> None:
    pressure = summary["pressure"]
    ratio = pressure["recomputed_per_generated"]
    if ratio is not None and ratio > RECOMPUTED_LIMIT:
        add(
            "thrashing",
            "warning",
            f"{100 * ratio:.0f} % as many tokens were recomputed after preemptions as were generated, "
            f"{_of(pressure['preemptions_per_request'])} preemptions a request",
            "give KV more memory (more GPUs a replica, fp8 KV), lower max_num_seqs, or raise the watermark; under a "
            "scheduler that preempts for who waits (srpt, mlfq, edf, pascal) kv: swap keeps what was computed",
        )
    for name, shares in summary["verdict_detail"]["pools"].items():
        if shares["head_blocked_share"] > BLOCKED_LIMIT:
            reasons = {
                "KV memory": shares["blocked_by_kv_share"],
                "max_num_seqs": shares["blocked_by_seats_share"],
                "max_num_batched_tokens": shares["blocked_by_token_budget_share"],
            }
            cause = max(reasons, key=lambda reason: reasons[reason])
            remedy = {
                "KV memory": "more KV memory or replicas, or kv: paged where it is reserved",
                "max_num_seqs": "raise max_num_seqs as long as KV memory is left, or more replicas",
                "max_num_batched_tokens": "raise max_num_batched_tokens, or more replicas",
            }[cause]
            add(
                "head_of_line_blocking",
                "warning",
                f"in pool {name} the first of the queue was kept out {100 * shares['head_blocked_share']:.0f} % of "
                f"the window, mostly by {cause}, and all behind it waited too",
                f"{remedy}; where queries are served by arrival, a scheduler that lets short work pass (srpt, mlfq)",
            )
    if pressure["longest_stall_s"] > STALL_LIMIT_S:
        add(
            "stalled_stream",
            "warning",
            f"an answer stood still for {pressure['longest_stall_s']:.1f} s between two tokens",
            "preemptions or the scheduler's pauses cause this: more KV memory or a watermark makes them fewer; where they "
            "recompute, kv: swap makes them shorter",
        )
    age, mean_wait = pressure["starvation_age_s"], summary["metrics"]["queue_time"]["mean"]
    passed_over = pressure["passed_over_by"] > 0 or age == pressure["longest_stall_s"]
    if (
        age is not None
        and mean_wait is not None
        and passed_over
        and age > max(STARVED_LIMIT_S, STARVED_FACTOR * mean_wait)
    ):
        add(
            "starving",
            "warning",
            f"a request got nothing for {age:.0f} s, where the mean wait in the queue is {mean_wait:.2g} s",
            "the scheduler passes it over: one that promises progress (vllm, vtc, mlfq with starvation_s), or more KV memory",
        )
    for name, pool in summary["kv"]["pools"].items():
        waste = pool["waste"]
        if (waste["reserved_unused"] or 0) > UNUSED_LIMIT:
            add(
                "reserved_in_vain",
                "warning",
                f"{100 * waste['reserved_unused']:.0f} % of the KV memory of pool {name} is reserved for tokens that have not "
                "come",
                "take blocks as tokens come (kv: paged, and a scheduler that does not reserve), or lower max_tokens",
            )
        if (waste["duplicate_prefixes"] or 0) > DUPLICATE_LIMIT:
            add(
                "duplicate_prefixes",
                "note",
                f"{100 * waste['duplicate_prefixes']:.0f} % of the KV memory of pool {name} holds copies of common prefixes",
                "keep one copy for all (enable_prefix_caching: true)",
            )


def _service(summary: Mapping[str, Any], add: Add) -> None:
    totals = summary["totals"]
    for status, do in (
        (
            "rejected",
            "raise max_model_len or KV memory if they can never fit, else the admission limits",
        ),
        ("timed_out", "more capacity, or longer client deadlines"),
        ("failed", "more retries, or more replicas than the load needs"),
    ):
        if totals[status]:
            add(
                status,
                "warning",
                f"{totals[status]:,} of {totals['queries']:,} queries were {_words(status)}",
                do,
            )
    if totals["truncated"] > TRUNCATED_LIMIT * totals["queries"]:
        add(
            "truncated",
            "warning",
            f"{100 * totals['truncated'] / totals['queries']:.1f} % of the queries were cut by a limit",
            "raise max_tokens, max_model_len or the thinking budget, or accept the loss of accuracy",
        )
    for target in summary["slo"]["targets"]:
        if target["met"] is None:
            add(
                "target_not_judged",
                "warning",
                f"the target for {target['metric']} of category {target['category']} cannot be judged: "
                "the tokens of one step are not told apart by category",
                "set a target for tpot of the category, or for itl of all queries",
            )
    deciles = summary["fairness"]["by_length_decile"]
    if len(deciles) == 10:
        short, long = deciles[0]["slowdown_mean"], deciles[-1]["slowdown_mean"]
        if short is not None and long is not None and short > DECILE_LIMIT * long:
            add(
                "unfair_to_short",
                "warning",
                f"the shortest tenth of the queries takes {short:.1f} times as long as alone, "
                f"the longest {long:.1f} times",
                "short queries wait behind long ones: try srpt, mlfq, or a pool of their own",
            )


def _measurement(results: Results, summary: Mapping[str, Any], add: Add) -> None:
    if not all(run.drained for run in results.runs):
        add(
            "censored",
            "warning",
            f"{summary['totals']['unfinished']:,} queries were still open when max_drain ended the run; "
            "they count as at least so long, and high percentiles may be unknown",
            "raise measure.max_drain, or read the verdict: an overloaded run never drains",
        )
    if summary["warm_up"]["adequate"] is False:
        add(
            "warm_up_short",
            "warning",
            f"the system was still filling up when measuring began ({summary['warm_up']['seconds']:.0f} s; "
            f"about {summary['warm_up']['suggested_s']:.0f} s are needed)",
            "raise measure.warmup",
        )
    n = summary["metrics"]["tta"]["n"]
    cost, overloaded = summary["cost"], summary["verdict"] == "overloaded"
    if cost["basis"] == "window" and 0 < cost["queries_completed"] < n / 2 and not overloaded:
        add(
            "cost_of_few",
            "warning",
            f"only {cost['queries_completed']:,} queries ended within the window, though {n:,} came: what a query costs holds "
            "the GPUs that worked on the others",
            "measure longer than queries take, after a warm-up",
        )
    weak = [name for name, q in QUANTILES.items() if n * (1 - q) < TAIL_COUNT]
    if n and weak:
        add(
            "few_queries",
            "note",
            f"{n:,} measured queries leave fewer than {TAIL_COUNT} beyond {' and '.join(weak)} of tta",
            "measure longer, or with more replications",
        )
    if not summary["slo"]["n"]:
        add(
            "nothing_measured",
            "warning",
            "no query arrived in the measured window",
            "check rate, warm-up and duration",
        )


def _calibration(summary: Mapping[str, Any], add: Add) -> None:
    for name, fidelity in summary["fidelity"].items():
        for what in fidelity["out_of_range"]:
            add(
                "extrapolated",
                "warning",
                f"pool {name}: {what}",
                "profile the missing range, or read times as rough",
            )
        if fidelity.get("kind") == "prior":
            add(
                "prior",
                "warning",
                f"pool {name}: step times are a roofline estimate, this model on this GPU was not measured",
                "profile the model, or choose a measured one (`thinkcap list profiles`)",
            )


def _of(value: float | None) -> str:
    return "no" if value is None else f"{value:.2g}"


def _words(status: str) -> str:
    return status.replace("_", " ")
