"""What limits a configuration, read from the time that requests were kept waiting: KV, seats, compute, router."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def limit(now: Sequence[Mapping[str, Any]], breaking: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What limits the plan as it is, and what gives out first under more traffic."""
    return {"now": _cause(now), "first_to_break": _cause(breaking)}


def _cause(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    shares: dict[str, float] = {"kv": 0.0, "seats": 0.0, "tokens": 0.0}
    use = imbalance = 0.0
    for record in records:
        if record["state"] != "done":
            continue
        for pool in record["summary"]["verdict_detail"]["pools"].values():
            for name, key in (
                ("kv", "blocked_by_kv_share"),
                ("seats", "blocked_by_seats_share"),
                ("tokens", "blocked_by_token_budget_share"),
            ):
                shares[name] = max(shares[name], pool[key] or 0.0)
        for pool in record["summary"]["kv"]["pools"].values():
            use = max(use, pool["use_max"] or 0.0)
        imbalance = max(imbalance, record["summary"]["load_imbalance"]["value"] or 0.0)
    name = max(shares, key=lambda key: shares[key])
    if shares[name] > 0.005:
        words = {
            "kv": f"KV memory: it keeps requests waiting {shares['kv']:.1%} of the time",
            "seats": f"the queue: all max_num_seqs seats are taken and requests wait {shares['seats']:.1%} of the time",
            "tokens": f"compute for prompts: max_num_batched_tokens is used up {shares['tokens']:.1%} of the time",
        }[name]
        return {"what": {"kv": "KV", "seats": "queue", "tokens": "compute"}[name], "words": words, "kv_use_max": use}
    if imbalance > 0.3:
        words = f"the router: replicas are busy to different degrees (largest over mean {1 + imbalance:.2f})"
        return {"what": "router", "words": words, "kv_use_max": use}
    words = f"compute: nothing waits, but each step of a fuller batch takes longer; KV is {use:.0%} full at its peak"
    return {"what": "compute", "words": words, "kv_use_max": use}
