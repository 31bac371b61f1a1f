"""In which regime a run was, by what was measured: never by what is predicted.

In this order, with N the requests in flight as measured (the concurrency of a closed loop, the mean batch of a burst,
else Little's law on measured rate and E2E) and D = N x (prompt + half the output), the KV tokens that they need:

* overloaded, where more than 1 % of the requests failed;
* kv_limited, where D is at least 90 % of the pool while seats are left, or a burst's mean batch stays below 97 % of
  its seats;
* overloaded, where mean TTFT is more than 10 % of mean E2E (requests wait in a queue), and bursts, which are a queue;
* knee, where TTFT shows a queue now and then: p99 at least 4 times and mean at least 1.25 times the median, or, where
  the median is not stated, p99 at least 6 times the mean;
* below_knee, the rest.
"""

from __future__ import annotations

from sim.validation.accuracy_cases import Case

REGIMES = ("below_knee", "knee", "kv_limited", "overloaded")
FAILED = 0.01
POOL = 0.9
SEATS = 0.97
QUEUE_SHARE = 0.10


def regime_of(case: Case, *, pool_tokens: int | None = None, shared_prompts: bool = False) -> str:
    """One of `REGIMES`; *pool_tokens* is the KV pool where the row does not state it."""
    requests, ok = case.number("n_requests"), case.number("n_ok")
    if requests and ok is not None and ok < requests * (1 - FAILED):
        return "overloaded"
    kind = case.text("workload_kind").lower()
    burst = not kind.startswith("open") and ("burst" in kind or "offline" in kind)
    seats, batch = case.number("max_num_seqs"), case.number("batch_mean")
    if burst:
        return "kv_limited" if seats and batch and batch < SEATS * seats else "overloaded"
    blocks, block_size = case.number("num_kv_blocks"), case.number("block_size") or 16
    pool = blocks * block_size if blocks else pool_tokens
    flight = in_flight(case)
    prompt, output = case.number("input_len_mean"), case.number("output_len_mean")
    if pool and flight and output:
        held = min(flight, seats) if seats else flight
        own = 0.0 if shared_prompts else (prompt or 0.0)
        replicas = case.number("n_replicas") or 1
        if held / replicas * (own + output / 2) >= POOL * pool:
            return "kv_limited"
    ttft, e2e = mean_ttft_ms(case), mean_e2e_ms(case)
    if ttft and e2e and ttft > QUEUE_SHARE * e2e and flight and not _long_prompts(case):
        return "overloaded"
    median, p99 = case.number("ttft_ms_p50"), case.number("ttft_ms_p99")
    if ttft and p99 and ((median and p99 >= 4 * median and ttft >= 1.25 * median) or (not median and p99 >= 6 * ttft)):
        return "knee"
    return "below_knee"


def in_flight(case: Case) -> float | None:
    """Mean requests in flight as measured or as the client held them."""
    stated = case.number("in_flight_mean") or case.number("concurrency")
    if stated:
        return stated
    rate, e2e = case.number("req_throughput") or case.number("rate_rps"), mean_e2e_ms(case)
    return rate * e2e / 1e3 if rate and e2e else None


def mean_ttft_ms(case: Case) -> float | None:
    """Mean TTFT, or the statistic stated instead."""
    return case.number("ttft_ms_mean") or case.number("ttft_ms_stat") or case.number("ttft_ms_p50")


def mean_e2e_ms(case: Case) -> float | None:
    """Mean E2E, or what TTFT and TPOT make of it."""
    stated = case.number("e2e_ms_mean") or case.number("e2e_ms_p50")
    if stated:
        return stated
    tpot = case.number("tpot_ms_mean") or case.number("tpot_ms_stat") or case.number("tpot_ms_p50")
    ttft, output = mean_ttft_ms(case), case.number("output_len_mean")
    return ttft + tpot * (output - 1) if ttft and tpot and output else None


def _long_prompts(case: Case) -> bool:
    """Prefill alone can be a tenth of the time where prompts are much longer than outputs."""
    prompt, output = case.number("input_len_mean"), case.number("output_len_mean")
    return bool(prompt and output and prompt >= 4 * output)
