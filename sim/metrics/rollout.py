"""Training steps: how long they take, how many GPU-hours, and how much of it is a bubble."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sim.metrics.intervals import interval
from sim.results.tables import PS_PER_S

if TYPE_CHECKING:
    from sim.results.info import RunInfo
    from sim.results.results import Results


def rollout(results: Results) -> dict[str, Any] | None:
    """Figures over the measured steps of all replications: those that started groups in the window; None: no trainer.

    A step lasts from one version of the weights to the next. The bubble share of its generation is 1 - the mean number
    of running requests over the most that a replica ever ran, the share of seats that the long tail leaves empty
    (asynchronous rollouts generate all the time). GPU-hours are those of the generating pools and of the trainer.
    """
    if not results.runs[0].rollout:
        return None
    each = [_figures(results, run) for run in results.runs]
    total = {name: sum(figures[name] for figures in each) for name in each[0]}
    prompts = results.runs[0].rollout["prompts"]
    batches = total["trained"] / prompts
    hours = [figures["gpu_s"] / 3600 / (figures["trained"] / prompts) for figures in each if figures["trained"]]
    per_step = total["gpu_s"] / 3600 / batches if batches else None
    bounds = interval(per_step, hours) if per_step is not None and len(hours) == len(each) else None
    seat_s = total["seat_s"]
    return {
        "steps": total["steps"],
        "groups_trained": total["trained"],
        "step_s": total["step_s"] / total["steps"] if total["steps"] else None,
        "generation_s": total["generation_s"] / total["steps"] if total["steps"] else None,
        "waiting_share": total["waiting_s"] / total["step_s"] if total["step_s"] else None,
        "bubble_share": 1 - total["running_s"] / seat_s if seat_s else None,
        "idle_share": 1 - total["busy_s"] / total["on_s"] if total["on_s"] else None,
        "gpu_hours_per_step": per_step,
        "gpu_hours_per_step_ci": [max(bounds[0], 0.0), bounds[1]] if bounds is not None else None,
        "output_tokens_per_s": total["tokens"] / total["step_s"] if total["step_s"] else None,
        "resumed_groups": total["resumed"],
        "lag_mean": total["lag"] / total["trained"] if total["trained"] else None,
        "lag_max": max(max((step["lag_most"] for step in measured(run)), default=0) for run in results.runs),
    }


def measured(run: RunInfo) -> list[dict[str, Any]]:
    """Steps that started groups within the window, and are over."""
    low, high = run.window_start_ps, run.window_end_ps
    return [step for step in run.rollout["steps"] if low <= step["start_ps"] < high and step["started"]]


def _figures(results: Results, run: RunInfo) -> dict[str, Any]:
    """Sums over the measured steps of one replication, seconds."""
    steps, how = measured(run), run.rollout
    generating = [pool.name for pool in run.pools]
    whole = [(step["start_ps"] / PS_PER_S, step["updated_ps"] / PS_PER_S) for step in steps]
    phases = whole if how["max_lag"] else [(s["start_ps"] / PS_PER_S, s["generated_ps"] / PS_PER_S) for s in steps]
    step_s = sum(high - low for low, high in whole)
    gpus = sum(pool.replicas * pool.gpus_per_replica for pool in run.pools)
    sums = {"running_s": 0.0, "seat_s": 0.0, "busy_s": 0.0, "on_s": 0.0, "tokens": 0.0}
    segments = results.tables["segments"]
    of_run = segments["replication"] == run.replication
    for name in generating:
        of_pool = of_run & segments.equals("pool", name)
        pool = next(pool for pool in run.pools if pool.name == name)
        for replica in range(pool.replicas):
            rows = segments.rows(of_pool & (segments["replica"] == replica))
            start, end = rows["start_s"], rows["end_s"]
            peak = float(rows["running"].max(initial=0))
            in_steps = np.array(whole).reshape(-1, 2)
            for low, high in phases:
                inside = np.clip(np.minimum(end, high) - np.maximum(start, low), 0.0, None)
                sums["running_s"] += float((inside * rows["running"]).sum())
                sums["seat_s"] += peak * (high - low)
            for low, high in in_steps:
                inside = np.clip(np.minimum(end, high) - np.maximum(start, low), 0.0, None)
                length = np.maximum(end - start, 1e-12)
                sums["busy_s"] += float(inside.sum())
                sums["tokens"] += float((inside / length * (rows["steps"] * rows["decodes"])).sum())
            sums["on_s"] += step_s
    return {
        **sums,
        "steps": len(steps),
        "trained": sum(step["trained"] for step in steps),
        "resumed": sum(step["resumed"] for step in steps),
        "lag": sum(step["lag_sum"] for step in steps),
        "step_s": step_s,
        "generation_s": sum(step["generated_ps"] - step["start_ps"] for step in steps) / PS_PER_S,
        "waiting_s": 0.0
        if how["max_lag"]
        else sum(step["updated_ps"] - step["generated_ps"] for step in steps) / PS_PER_S,
        "gpu_s": step_s * (gpus + how["training_gpus"]),
    }
