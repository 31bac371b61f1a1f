"""What the trace cache found, what it cost and what it got wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sim.metrics.quality import wilson
from sim.results.columns import Lookup, Status

if TYPE_CHECKING:
    from sim.results.results import Results


def trace_cache(results: Results) -> dict[str, Any] | None:
    """Shares of look-ups by what they found, over the measured queries of all replications; None: no cache."""
    if not results.runs[0].trace_cache:
        return None
    queries = results.tables["queries"]
    looked = queries["in_window"] & (queries["trace_cache"] != Lookup.NONE)
    hit, false = (looked & (queries["trace_cache"] == kind) for kind in (Lookup.HIT, Lookup.FALSE_HIT))
    n, hits, false_hits = (int(rows.sum()) for rows in (looked, hit, false))
    wrong = (hit | false) & (queries["correct"] == 0)
    done = looked & (queries["status"] == Status.COMPLETED)
    spared = done & (queries["requests"] == 0)
    modelled = bool(np.isfinite(queries["correct"]).any())
    runs = [run.trace_cache for run in results.runs]
    return {
        "lookups": n,
        "hits": hits,
        "hit_rate": hits / n if n else None,
        "hit_rate_ci": wilson(hits, n) if n else None,
        "false_hits": false_hits,
        "false_hit_rate": false_hits / n if n else None,
        "false_hit_rate_ci": wilson(false_hits, n) if n else None,
        "answered_without_generation": int(spared.sum()),
        "wrong_after_hit": int(wrong.sum()) if modelled else None,
        "tta_mean_hit_s": _mean(queries["tta_s"][done & (hit | false)]),
        "tta_mean_miss_s": _mean(queries["tta_s"][done & ~(hit | false)]),
        "capacity": runs[0]["capacity"],
        **{name: max(run[name] for run in runs) for name in ("held_most", "held_tokens_most")},
        **{name: sum(run[name] for run in runs) for name in ("evicted", "expired")},
    }


def _mean(values: Any) -> float | None:
    return float(values.mean()) if len(values) else None
