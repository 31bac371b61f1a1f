"""How queries were answered: what the strategy asked for, what probes, drafts and interruptions came to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sim.results.columns import Role, Status

if TYPE_CHECKING:
    from sim.results.results import Results


def reasoning(results: Results) -> dict[str, Any]:
    """Means over the measured queries that were answered; of requests and pools over whole runs, all replications."""
    queries, requests = results.tables["queries"], results.tables["requests"]
    done = queries["in_window"] & (queries["status"] == Status.COMPLETED)
    n = int(done.sum())

    def mean(column: str) -> float | None:
        return float(queries[column][done].mean()) if n else None

    generate = requests["role"] == Role.GENERATE
    made = int(generate.sum())
    taken_back = generate & (requests["status"] == Status.CANCELLED)
    names = dict.fromkeys(pool.name for run in results.runs for pool in run.pools)
    return {
        "n": n,
        "requests_per_query": mean("requests"),
        "reasoning_tokens_per_query": mean("reasoning_tokens"),
        "answer_tokens_per_query": mean("answer_tokens"),
        "verification_tokens_per_query": mean("verification_tokens"),
        "cut_share": mean("truncated"),
        "taken_back_share": float(taken_back.sum() / made) if made else None,
        "early_exit": _early_exit(results),
        "pools": {name: _pool(results, name) for name in names},
    }


def _early_exit(results: Results) -> dict[str, Any] | None:
    found = [run.early_exit for run in results.runs if run.early_exit]
    if not found:
        return None
    total = {key: sum(one[key] for one in found) for key in found[0]}
    return {
        "generations": total["generations"],
        "probes": total["probes"],
        "left_share": total["left"] / total["generations"],
        "false_share": total["false"] / total["left"] if total["left"] else None,
        "kept_share": total["thought_tokens"] / total["wanted_tokens"] if total["wanted_tokens"] else None,
        "probe_tokens": int(results.tables["requests"]["probe_tokens"].sum()),
    }


def _pool(results: Results, name: str) -> dict[str, Any]:
    requests, segments, stalls = (results.tables[key] for key in ("requests", "segments", "stalls"))
    mine = requests.equals("pool", name) & (requests["role"] == Role.GENERATE)
    count = int(mine.sum())
    size = int(requests["request"].max(initial=0)) + 2
    keys = (requests["replication"] * size + requests["request"])[mine]
    waits = (stalls["gap_s"] > 0) & np.isin(stalls["replication"] * size + stalls["request"], keys)
    paused = np.unique((stalls["replication"] * size + stalls["request"])[waits])
    rows = segments.equals("pool", name)
    decodes = int(
        (segments["steps"][rows].astype(np.int64) * segments["decodes"][rows] - segments["fresh"][rows]).sum()
    )
    told = requests["reasoning_tokens"] + requests["answer_tokens"]
    follow = int(np.maximum(told[mine] - 1, 0).sum())  # the first token comes with the prompt
    dropped = int(requests["dropped_tokens"][mine].sum())
    kept = max(0, follow - decodes)
    return {
        "interrupted_share": len(paused) / count if count else None,
        "pause_max_s": float(stalls["gap_s"][waits].max()) if waits.any() else None,
        "tokens_per_decode": follow / decodes if decodes and count else None,
        "drafts_kept_share": kept / (kept + dropped) if kept else None,
    }
