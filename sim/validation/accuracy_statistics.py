"""The statistics of a replay, computed as the sources computed theirs.

TPOT is a request's mean gap, ITL one gap of one token; failed requests are left out, as their clients left them out.
Offline bursts report throughput, batch and ITL of a steady window only: from the moment when so many requests as there
are seats have their first token, until all but so many have ended.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim.results.sinks import SEGMENT_ROW, SegmentSink
from sim.validation.accuracy_cases import Case, FloatArray
from sim.validation.accuracy_client import PS_PER_S, Replayed

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}
PIECES = 16
"""Parts that a long run of like steps is cut into for percentiles of gaps."""


def windowed(case: Case) -> bool:
    """Whether the source reports throughput and gaps of a steady window only."""
    return "steady-state window" in case.text("notes")


def window_of(case: Case, replayed: Replayed, seats: int) -> tuple[float, float] | None:
    """The steady window in seconds, where the source reports one."""
    if not windowed(case):
        return None
    first = np.sort((replayed.sent_s + replayed.ttft_s)[replayed.ok])
    ended = np.sort((replayed.sent_s + replayed.e2e_s)[replayed.ok])
    last = len(ended) - seats - 1
    if last < 1 or len(first) < seats:
        return None
    start, end = float(first[seats - 1]), float(ended[last - 1])
    return (start, end) if end > start else None


def request_statistics(
    case: Case, replayed: Replayed, mask: np.ndarray[tuple[int], np.dtype[np.bool_]] | None = None
) -> dict[str, float]:
    """TTFT, TPOT, E2E and throughput of the requests in *mask* that succeeded."""
    ok = replayed.ok if mask is None else replayed.ok & mask
    if not ok.any():
        return {}
    ttft, e2e, tokens = replayed.ttft_s[ok], replayed.e2e_s[ok], replayed.output_tokens[ok]
    many = tokens > 1
    tpot = (e2e - ttft)[many] / (tokens[many] - 1)
    found: dict[str, float] = {}
    for name, values in (("ttft", ttft), ("tpot", tpot), ("e2e", e2e)):
        if not len(values):
            continue
        found[f"{name}_ms_mean"] = found[f"{name}_ms_stat"] = float(values.mean()) * 1e3
        for label, q in PERCENTILES.items():
            found[f"{name}_ms_{label}"] = float(np.percentile(values, q)) * 1e3
    span = float((replayed.sent_s[ok] + e2e).max() - replayed.sent_s[ok].min())
    if span > 0:
        found["req_throughput"] = float(ok.sum()) / span
        found["output_tps"] = float(tokens.sum()) / span
    concurrency = case.number("concurrency")
    mean_output = case.number("output_len_mean")
    if concurrency and mean_output and mean_output > 1 and "tpot_ms_mean" in found:
        slot_s = (found["ttft_ms_mean"] + found["tpot_ms_mean"] * (mean_output - 1)) / 1e3
        found["derived_output_tps"] = concurrency * mean_output / slot_s
    return found


def segment_statistics(
    sinks: Sequence[SegmentSink], replayed: Replayed, window: tuple[float, float] | None
) -> dict[str, float]:
    """ITL of all tokens, and with a *window* (seconds) also throughput and mean batch, of the steps within it."""
    gaps: list[FloatArray] = []
    weights: list[FloatArray] = []
    low, high = (w * PS_PER_S for w in window) if window else (-np.inf, np.inf)
    made = batch = busy = 0.0
    for sink in sinks:
        rows = sink.segments()
        col = {name: rows[:, place].astype(float) for place, name in enumerate(SEGMENT_ROW)}
        start, steps, step, growth = col["start_ps"], col["steps"], col["step_ps"], col["step_growth_ps"]
        length = steps * step + growth * steps * (steps - 1) / 2
        inside = np.clip((np.minimum(start + length, high) - np.maximum(start, low)) / np.maximum(length, 1), 0, 1)
        count = col["decodes"] * steps * inside
        if window:
            made += float(count.sum() - (col["dropped"] * inside).sum())
            batch += float(((col["decodes"] + col["chunks"]) * length * inside).sum())
            busy += float((length * inside).sum())
        for piece in range(PIECES):
            at = (steps - 1) * (piece + 0.5) / PIECES
            gaps.append(step + growth * at)
            weights.append(count / PIECES)
        stalls = sink.stalls()
        if len(stalls):
            at_ps, gap_ps = stalls[:, 1].astype(float), stalls[:, 2].astype(float)
            kept = (at_ps >= low) & (at_ps < high)
            gaps.append(gap_ps[kept])
            weights.append(np.ones(int(kept.sum())))
    found: dict[str, float] = {}
    if gaps:
        gap, weight = np.concatenate(gaps) / PS_PER_S * 1e3, np.concatenate(weights)
        if weight.sum() > 0:
            found["itl_ms_mean"] = float(np.average(gap, weights=weight))
            order = np.argsort(gap)
            cumulative = np.cumsum(weight[order]) / weight.sum()
            for label, q in PERCENTILES.items():
                place = min(int(np.searchsorted(cumulative, q / 100)), len(order) - 1)
                found[f"itl_ms_{label}"] = float(gap[order][place])
    if window and high > low:
        # The first token of a prompt is none of the decodes.
        first = replayed.sent_s + replayed.ttft_s
        made += float(((first >= window[0]) & (first < window[1])).sum())
        found["output_tps"] = made / ((high - low) / PS_PER_S)
        if busy:
            found["batch_mean"] = batch / busy
    return found
