"""Who is served how evenly, and the signs of pressure: tables of a run's report, from its summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sim.metrics.anomalies import RECOMPUTED_LIMIT
from sim.report import formats
from sim.report.html import Table

CLIENTS = 10
"""Clients listed, those with most service."""


def evenness(summary: Mapping[str, Any]) -> list[Table]:
    """How evenly queries and clients are served, and each client's share of the service where there are several."""
    fairness, pressure = summary["fairness"], summary["pressure"]
    clients = fairness["clients"] > 1
    wait = formats.duration(fairness["longest_wait_s"])
    passed_over = pressure["passed_over_by"]
    rows = [
        (
            "evenness over queries",
            formats.number(fairness["jain_queries"]),
            "Jain's index of 1/slowdown: 1 where all are slowed alike, near 0 where few are served well",
        )
    ]
    if clients:
        rows.append(
            (
                "evenness over clients",
                formats.number(fairness["jain_clients"]),
                "the same of the clients' mean slowdown",
            )
        )
    rows += [
        (
            "longest wait",
            f"over {wait}" if fairness["longest_wait_open"] else wait,
            "to the first step"
            + (", and still waiting at the end" if fairness["longest_wait_open"] else "")
            + (
                f"; {passed_over:,} that came later went before"
                if passed_over
                else "; nobody who came later went before"
            ),
        ),
        (
            "starvation age",
            formats.duration(pressure["starvation_age_s"]),
            "the longest that a request went without a start or a token",
        ),
    ]
    made = [Table(("fairness", "", "meaning"), rows, frozenset({1}), prose=True)]
    if clients:
        made.append(_clients(fairness))
    return made


def _clients(fairness: Mapping[str, Any]) -> Table:
    shown = fairness["by_client"][:CLIENTS]
    rows = [
        (
            entry["client"],
            f"{entry['n']:,}",
            formats.percent(entry["share_of_service"]),
            formats.number(entry["slowdown_mean"]),
            formats.number(entry["slowdown_p95"]),
        )
        for entry in shown
    ]
    left = fairness["clients"] - len(shown)
    return Table(
        ("client", "answered", "share of service", "mean slowdown", "p95"),
        rows,
        frozenset({1, 2, 3, 4}),
        "Clients with most service first. Service: tokens computed, those of preempted requests again."
        + (f" {left:,} more are not listed." if left else ""),
    )


def signs_of_pressure(summary: Mapping[str, Any]) -> Table:
    """Does the engine thrash, and what keeps the queue out: where nothing is preempted or kept out, the zeros say so."""
    pressure, pools = summary["pressure"], summary["verdict_detail"]["pools"]
    rows = [
        (
            "recomputed tokens",
            formats.percent(pressure["recomputed_per_generated"]),
            f"of as many as were generated, thrown away by preemptions; above {formats.percent(RECOMPUTED_LIMIT)} it thrashes",
        ),
        (
            "preemptions a request",
            formats.number(pressure["preemptions_per_request"]),
            f"{formats.percent(pressure['preempted_requests_share'])} of the requests were preempted at least once",
        ),
        (
            "longest gap in an answer",
            formats.duration(pressure["longest_stall_s"]),
            "between two tokens of a request that was preempted or paused",
        ),
    ]
    for name, shares in pools.items():
        place = f" in pool {name}" if len(pools) > 1 else ""
        causes = [
            (shares[key], cause)
            for key, cause in (
                ("blocked_by_kv_share", "KV memory"),
                ("blocked_by_seats_share", "max_num_seqs"),
                ("blocked_by_token_budget_share", "max_num_batched_tokens"),
            )
            if shares[key]
        ]
        why = ", ".join(f"{formats.percent(share, 2)} by {cause}" for share, cause in sorted(causes, reverse=True))
        rows += [
            (
                f"head of the queue kept out{place}",
                formats.percent(shares["head_blocked_share"]),
                "of the window, and all behind it with it" + (f": {why}" if why else ""),
            ),
            (f"all seats taken{place}", formats.percent(shares["seats_full_share"]), "of the window (max_num_seqs)"),
        ]
    return Table(("pressure", "", "meaning"), rows, frozenset({1}), prose=True)
