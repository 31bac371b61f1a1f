"""How much energy a query takes, and what that emits.

A GPU that is on draws its idle watts while it has nothing to do, its compute-bound watts while prompts are computed, and
its memory-bound watts in all other time of steps (weights, KV reads, and the host's share, in which clocks do not drop).
Watts come from the hardware's file, with the basis that stands there. Servers' CPUs and networks are not counted; the
site's overhead is the scenario's ``energy.pue``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sim.metrics.samples import window_s
from sim.metrics.usage import completions, output_tokens
from sim.results.results import Results

NAN = float("nan")


def pool_watts(power: Mapping[str, Any], parts: Mapping[str, float]) -> float:
    """Mean watts of a GPU that is on, from the shares of its time (``gpu.pools.<pool>.parts``)."""
    busy = 1 - parts["idle"]
    return float(
        power["idle_w"] * parts["idle"]
        + power["compute_bound_w"] * parts["prefill"]
        + power["memory_bound_w"] * (busy - parts["prefill"])
    )


def energy(results: Results, gpu: Mapping[str, Any]) -> dict[str, Any]:
    """The ``energy`` section of a summary, over the windows of all replications; *gpu* is its ``gpu`` section.

    Figures are NaN where a pool's watts or the split of its time are not at hand.
    """
    pools: dict[str, Any] = {}
    total = hours_all = 0.0
    for pool in results.runs[0].pools:
        entry = gpu["pools"][pool.name]
        parts, hours = entry.get("parts"), entry["gpu_hours"]
        watts = pool_watts(pool.power, parts) if pool.power and parts else NAN
        pools[pool.name] = {
            "mean_watts_per_gpu": watts,
            "gpu_kwh": watts * hours / 1000 if hours else 0.0,
            "basis": pool.power.get("basis", ""),
        }
        total += pools[pool.name]["gpu_kwh"]
        hours_all += hours
    run = results.runs[0]
    queries = sum(completions(results, each) for each in results.runs)
    tokens = sum(output_tokens(results, each) for each in results.runs)
    site = total * run.power_usage_effectiveness
    per_query = site / queries if queries else NAN
    seconds = sum(window_s(each) for each in results.runs)
    return {
        "gpu_kwh": total,
        "site_kwh": site,
        "mean_watts_per_gpu": 1000 * total / hours_all if hours_all else NAN,
        "mean_site_kilowatts": site / seconds * 3600 if seconds else NAN,
        "kwh_per_query": per_query,
        "co2e_g_per_query": per_query * run.carbon_g_per_kwh,
        "kwh_per_million_output_tokens": 1e6 * site / tokens if tokens else NAN,
        "power_usage_effectiveness": run.power_usage_effectiveness,
        "carbon_intensity_g_per_kwh": run.carbon_g_per_kwh,
        "pools": pools,
    }
