"""A line each on what befell the fleet and on what lies between a client and an engine, for the page and the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sim.report import formats

if TYPE_CHECKING:
    from sim.results.results import Results


def lines(results: Results) -> list[str]:
    """Replicas that came and went, what was sent again, KV that was copied; empty where there was nothing of it."""
    summary, said = results.summary, results.scenario
    made = []
    for name, pool in summary["fleet"]["pools"].items():
        made += _scaled(name, pool, (said.get("pools") or {}).get(name) or {}, summary)
    made += _lost(summary, said)
    made += _tried_again(summary, said)
    made += _copied(results)
    return made


def _scaled(name: str, pool: Mapping[str, Any], said: Mapping[str, Any], summary: Mapping[str, Any]) -> list[str]:
    if not said.get("autoscaling"):
        return []
    low, high = pool["replicas_min"], pool["replicas_max"]
    size = (
        f"{formats.count(low)} to {formats.count(high)} replicas, {formats.number(pool['replicas_mean'])} in the mean"
    )
    if low == high:
        size = f"{_times(high, 'replica')} all along"
    text = f"Autoscaling of pool {name}: {size}; {_times(pool['cold_starts'], 'cold start')}"
    if pool["cold_starts"]:
        fleet = summary["fleet"]
        text += f" took {formats.number(pool['cold_start_gpu_hours'])} GPU-hours"
        if fleet["slo_missed"]:
            share = fleet["slo_missed_while_starting"] / fleet["slo_missed"]
            text += f"; {formats.percent(share)} of the missed targets are of queries that came while a replica was starting"
    return [text + "."]


def _lost(summary: Mapping[str, Any], said: Mapping[str, Any]) -> list[str]:
    fleet = summary["fleet"]
    crashes = sum(pool["crashes"] for pool in fleet["pools"].values())
    failures = said.get("failures") or {}
    slow = len(failures.get("slowdowns") or ())
    if not crashes:
        return [f"{_times(slow, 'straggler')}; no replica was lost."] if slow else []
    text = f"{_times(crashes, 'loss of a replica', 'losses of replicas')} in the run"
    if slow:
        text += f", {_times(slow, 'straggler')}"
    backed_off = (said.get("gateway") or {}).get("backoff") is not None
    if not backed_off:
        text += f": {_queries(fleet['queries_retried'])} sent again"
    if fleet["queries_failed"]:
        text += f", {_queries(fleet['queries_failed'])} lost for good"
    if fleet["slo_missed_with_retry"] and not backed_off:
        text += f"; {formats.count(fleet['slo_missed_with_retry'])} of them missed a target"
    return [text + "."]


def _tried_again(summary: Mapping[str, Any], said: Mapping[str, Any]) -> list[str]:
    if (said.get("gateway") or {}).get("backoff") is None:
        return []
    fleet, n = summary["fleet"], summary["slo"]["n"]
    if not n:
        return []
    return [
        f"Clients that were turned away or waited in vain came again: {formats.percent(fleet['queries_retried'] / n)} of "
        f"the queries were tried more than once, {formats.number(1 + fleet['requests_retried'] / n)} times in the mean of all."
    ]


def _copied(results: Results) -> list[str]:
    pools = (results.summary["kv_transfer"] or {"pools": {}})["pools"]
    made = []
    for each in results.runs[0].pools:
        pool = pools.get(each.name)
        if each.role != "decode" or not pool or not pool["copies"]:
            continue
        busiest = max(pools, key=lambda name: pools[name]["link_use"] or 0.0)
        made.append(
            f"KV of {formats.count(pool['copies'])} prompts was copied to pool {each.name}: from prefill to decode it was "
            f"{formats.duration(pool['handover_mean_s'])} under way in the mean, {formats.duration(pool['waiting_mean_s'])} "
            f"of it waiting, p95 {formats.duration(pool['handover_p95_s'])}; the links of pool {busiest} were taken "
            f"{formats.percent(pools[busiest]['link_use'])} of the time."
        )
    return made


def _times(count: int, one: str, many: str = "") -> str:
    return f"{formats.count(count)} {one if count == 1 else many or one + 's'}"


def _queries(count: int) -> str:
    return f"{_times(count, 'query', 'queries')} {'was' if count == 1 else 'were'}"
