"""The summary of a run: everything in ``summary.json``, computed from the tables alone.

``finish`` is called once by ``simulate``; ``summarise`` may be called again on loaded results. Key order is
fixed, floats that do not exist become null, and a balance that does not hold raises.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from sim.metrics import alone, balance
from sim.metrics.anomalies import anomalies
from sim.metrics.censored import Censored, Estimate
from sim.metrics.definitions import DISTRIBUTIONS, QUANTILES
from sim.metrics.energy import energy
from sim.metrics.fairness import fairness, pressure
from sim.metrics.fleet import fleet
from sim.metrics.gaps import gathered_once, joined, window_gaps
from sim.metrics.handover import kv_transfer
from sim.metrics.imbalance import load_imbalance
from sim.metrics.intervals import CONFIDENCE, interval
from sim.metrics.quality import quality
from sim.metrics.reasoning import reasoning
from sim.metrics.rollout import rollout
from sim.metrics.samples import sample, window_s
from sim.metrics.slo import goodput, meets_all, slo_summary
from sim.metrics.trace_cache import trace_cache
from sim.metrics.usage import cost, gpu_time, kv, throughput
from sim.metrics.verdict import verdict
from sim.metrics.warm_up import warm_up
from sim.results.results import SCHEMA_VERSION, Results, plain
from sim.results.tables import PS_PER_S


def finish(results: Results) -> Results:
    """Fill in slowdown and slo_met, check every balance, and put the summary in place; return *results*."""
    alone.fill(results)
    results.set_column("queries", "slo_met", meets_all(results))
    balance.check(results)
    results.summary = summarise(results)
    return results


def summarise(results: Results) -> dict[str, Any]:
    """The content of summary.json, as JSON data. Raise a BalanceError when the run does not add up."""
    with gathered_once(results):
        return _summarise(results)


def _summarise(results: Results) -> dict[str, Any]:
    state, reason, detail = verdict(results)
    run = results.runs[0]
    summary: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "verdict": state,
        "verdict_reason": reason,
        "verdict_detail": detail,
        "replications": len(results.runs),
        "confidence": CONFIDENCE,
        "window": {
            "start_s": run.window_start_ps / PS_PER_S,
            "end_s": run.window_end_ps / PS_PER_S,
            "total_s": sum(window_s(each) for each in results.runs),
            "drained": all(each.drained for each in results.runs),
        },
        "warm_up": warm_up(results),
        "metrics": metrics(results),
        "slo": slo_summary(results),
        "goodput": goodput(results),
        "throughput": throughput(results),
        "cost": cost(results),
        "quality": quality(results),
        "reasoning": reasoning(results),
        "trace_cache": trace_cache(results),
        "rollout": rollout(results),
        "totals": balance.totals(results),
        "gpu": gpu_time(results),
        "energy": {},
        "kv": kv(results),
        "kv_transfer": kv_transfer(results),
        "pressure": pressure(results),
        "fairness": fairness(results),
        "fleet": fleet(results),
        "load_imbalance": load_imbalance(results),
        "littles_law": balance.littles_law(results),
        "fidelity": {
            pool.name: {
                **pool.fidelity,
                "out_of_range": _unique(
                    text for each in results.runs for p in each.pools if p.name == pool.name for text in p.out_of_range
                ),
            }
            for pool in run.pools
        },
        "not_modelled": _unique(text for each in results.runs for text in each.not_modelled),
        "banners": _unique(text for each in results.runs for text in each.banners),
        "reasoning_known": run.reasoning_known,
    }
    summary["energy"] = energy(results, summary["gpu"])
    for fidelity in summary["fidelity"].values():
        fidelity["in_range"] = not fidelity["out_of_range"]
    summary = plain(summary)
    summary["anomalies"] = anomalies(results, summary)
    summary["runs"] = plain([each.to_dict() for each in results.runs])
    return summary


def metrics(results: Results) -> dict[str, Any]:
    """Every distribution: ``{mean, p50, p90, p95, p99, max, n, unit}``, ``censored``, bounds and intervals.

    A statistic that censoring hides is null and ``<stat>_at_least`` bounds it; ``<stat>_ci`` is its 95 %
    interval where there are several replications.
    """
    entries: dict[str, Any] = {}
    runs = results.runs if len(results.runs) > 1 else ()  # of a single one there is no interval
    for metric in DISTRIBUTIONS:
        if metric.name == "itl":
            entry = _itl(results)
        else:
            entry = describe(sample(results, metric.name), [sample(results, metric.name, [run]) for run in runs])
        entries[metric.name] = {**entry, "unit": metric.unit}
    return entries


def describe(whole: Censored, replicated: list[Censored] | None = None) -> dict[str, Any]:
    """Statistics of a sample, with intervals from *replicated*, the samples of its replications."""
    return _statistics(
        whole.mean(),
        whole.quantile,
        whole.maximum(),
        whole.n,
        [(part.mean().value, partial(_value, part)) for part in replicated or ()],
    ) | {"censored": len(whole.open_at)}


def _itl(results: Results) -> dict[str, Any]:
    parts = [window_gaps(results, run) for run in results.runs]
    whole = joined(parts)
    return _statistics(
        Estimate(whole.mean_s()),
        lambda q: Estimate(whole.quantile_s(q)),
        Estimate(whole.max_s()),
        whole.n,
        [(part.mean_s(), part.quantile_s) for part in parts],
    ) | {"censored": 0}


def _statistics(
    mean: Estimate,
    quantile: Callable[[float], Estimate],
    maximum: Estimate,
    n: int,
    replicated: list[tuple[float, Callable[[float], float]]],
) -> dict[str, Any]:
    estimates = {"mean": mean} | {name: quantile(q) for name, q in QUANTILES.items()} | {"max": maximum}
    entry: dict[str, Any] = {name: estimate.value for name, estimate in estimates.items()}
    entry["n"] = n
    for name, estimate in estimates.items():
        if np.isnan(estimate.value) and np.isfinite(estimate.at_least):
            entry[f"{name}_at_least"] = estimate.at_least
    if len(replicated) > 1:
        each = {"mean": [part[0] for part in replicated]}
        each |= {name: [part[1](q) for part in replicated] for name, q in QUANTILES.items()}
        for name, values in each.items():
            bounds = interval(estimates[name].value, values)
            if bounds is not None:
                entry[f"{name}_ci"] = [max(bounds[0], 0.0), bounds[1]]
    return entry


def _value(part: Censored, q: float) -> float:
    return part.quantile(q).value


def _unique(texts: Any) -> list[str]:
    return list(dict.fromkeys(texts))
