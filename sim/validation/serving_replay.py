"""A benchmark of a running server, simulated with the same load: how far off, and which step costs would fit it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from calibration.architecture import is_shipped
from calibration.deployment import Deployment
from calibration.parts import PS, combine
from calibration.profile import Error, Profile
from sim.engine.replica import Replica, make_replica
from sim.engine.request import Request
from sim.placement import PlacedPool, place
from sim.results.sinks import SegmentSink
from sim.scenario.model import Scenario
from sim.validation.accuracy_client import Replayed, drive
from sim.validation.accuracy_statistics import segment_statistics
from sim.validation.serving_results import ServingResult, measured

SHARPEST = 8
"""Most Gauss-Newton steps of a fit."""
PROBE = 0.1
"""Step of a slope, in units of 1 ms a step, 10 µs a row and 10 ms of front end."""
ENOUGH = 0.01
"""A Gauss-Newton step that gains less of the squared error is the last."""


def placed_pool(scenario: Scenario) -> PlacedPool:
    """The first pool of *scenario*: what the benchmark ran against."""
    name, pool = next(iter(scenario.pools.items()))
    return place(name, pool, scenario)


def left_out(result: ServingResult, pool: PlacedPool) -> str:
    """That some requests of *result* are longer than the server of *pool* takes; empty where none is."""
    tokens = result.load.prompt_tokens + result.load.output_tokens
    count = int((tokens > pool.settings.max_model_len).sum())
    if not count:
        return ""
    return (
        f"{count:,} of {len(tokens):,} requests of {result.name} have up to {int(tokens.max()):,} tokens, more than "
        f"max_model_len {pool.settings.max_model_len:,}: they are not predicted"
    )


def predict(result: ServingResult, pool: PlacedPool, placed: Deployment | None = None) -> dict[str, float]:
    """The metrics of *result* as the pool would have given them; requests go to its replicas in turn."""
    placed = placed or pool.placed
    sinks = [SegmentSink(pool=0, replica=number) for number in range(pool.pool.replicas)]
    scheduler = pool.pool.engine.scheduler
    replicas = [
        make_replica(pool.settings, placed.step_cost, scheduler.make("scheduler"), segments=sink) for sink in sinks
    ]
    replayed = drive(replicas, result.load, front_end_ps=placed.front_end_ps, route=_in_turn())
    return _metrics(replayed, sinks)


def _in_turn() -> Callable[[Sequence[Replica], Request], int]:
    turn = -1

    def route(replicas: Sequence[Replica], request: Request) -> int:
        nonlocal turn
        turn = (turn + 1) % len(replicas)
        return turn

    return route


def _metrics(replayed: Replayed, sinks: Sequence[SegmentSink]) -> dict[str, float]:
    ok = replayed.ok
    if not ok.any():
        return {}
    found = measured(replayed.ttft_s[ok], replayed.e2e_s[ok], replayed.output_tokens[ok])
    span = float((replayed.sent_s[ok] + replayed.e2e_s[ok]).max() - replayed.sent_s[ok].min())
    if span > 0:
        found |= {
            "req_throughput": float(ok.sum()) / span,
            "output_tps": float(replayed.output_tokens[ok].sum()) / span,
        }
    return found | segment_statistics(sinks, replayed, None)


def compare(result: ServingResult, pool: PlacedPool) -> list[dict[str, Any]]:
    """One record a metric that both have: ``run metric measured predicted signed_error low high``.

    The last two are the prediction with every step 3 % shorter and longer.
    """
    predicted = predict(result, pool)
    ends = [predict(result, pool, pool.placed.with_step_scaled(factor)) for factor in (0.97, 1.03)]
    records = []
    for name, value in result.metrics.items():
        if name in predicted and value > 0:
            spread = [predicted[name], *(end[name] for end in ends if name in end)]
            records.append(
                {
                    "run": result.name,
                    "metric": name,
                    "measured": value,
                    "predicted": predicted[name],
                    "signed_error": predicted[name] / value - 1,
                    "low": min(spread),
                    "high": max(spread),
                }
            )
    return records


# ---------------------------------------------------------------------- fitting


@dataclass(frozen=True)
class Fitted:
    """Step costs found from benchmarks."""

    step_s: float
    """Added to every step, beside the engine's own figures (may be negative)."""
    row_s: float
    """Added to a sequence in a step; 0 where one batch size cannot tell it from the step."""
    front_end_s: float
    placed: Deployment
    before: dict[str, float]
    """Mean absolute error of ``ttft``, ``tpot`` and ``e2e`` before the fit."""
    after: dict[str, float]
    left_out: dict[str, float]
    """The same of each run by what was fitted to the others; empty for one run."""


def shifted(placed: Deployment, step_s: float, row_s: float, front_end_s: float) -> Deployment:
    """*placed* with *step_s* more a step and *row_s* more a sequence, as part of its hardware half."""
    cost = placed.hardware_cost
    # No step may become free: a tenth of the shortest stays.
    floor = 0.1 * cost.linear_s[0]
    linear = tuple(max(floor, value + step_s) for value in cost.linear_s)
    moved = replace(cost, linear_s=linear, seq_s=max(0.0, cost.seq_s + row_s))
    size = len(placed.step_cost.linear_ps) - 1
    step = combine(moved, placed.engine_cost, layers=placed.architecture.layers, table_tokens=size)
    return replace(placed, hardware_cost=moved, step_cost=step, front_end_ps=max(0, round(front_end_s * PS)))


def fit(results: Sequence[ServingResult], pool: PlacedPool, *, say: Callable[[str], None] | None = None) -> Fitted:
    """Step, row and front end such that mean TPOT and TTFT of *results* come out, by simulating each load.

    A row is told from a step by runs of different batch sizes; with one run it stays as it is. Raise a ValueError when
    no result has a TPOT.
    """
    usable = [result for result in results if "tpot_ms_mean" in result.metrics]
    if not usable:
        raise ValueError("no result states mean TPOT")
    whole = _fit(usable, pool, say)
    if len(usable) == 1:
        return whole
    found = []
    for number, left in enumerate(usable):
        if say is not None:
            say(f"without {left.name}, to predict it")
        others = _fit([*usable[:number], *usable[number + 1 :]], pool, None)
        found.append(_off([left], pool, others.placed))
    names = [name for name in whole.after if all(name in one for one in found)]
    return replace(whole, left_out={name: float(np.mean([one[name] for one in found])) for name in names})


def _fit(usable: Sequence[ServingResult], pool: PlacedPool, say: Callable[[str], None] | None) -> Fitted:
    """Gauss-Newton on all of *usable*."""
    base = pool.placed
    rows = len(usable) > 1
    with_ttft = any("ttft_ms_mean" in result.metrics for result in usable)
    scale = np.array([1e-3, 1e-5, 1e-2])[[True, rows, with_ttft]]
    start = np.array([0.0, 0.0, base.front_end_ps / PS])[[True, rows, with_ttft]] / scale
    low = np.array([-0.9 * base.hardware_cost.linear_s[0], -base.hardware_cost.seq_s, 0.0])[[True, rows, with_ttft]]

    def unpack(x: Any) -> tuple[float, float, float]:
        values = list(np.asarray(x) * scale)
        step = values.pop(0)
        row = values.pop(0) if rows else 0.0
        return float(step), float(row), float(values.pop(0)) if with_ttft else base.front_end_ps / PS

    def errors(x: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
        placed = shifted(base, *unpack(x))
        off = []
        for result in usable:
            predicted = predict(result, pool, placed)
            # TTFT is far noisier than TPOT: a tenth of its weight.
            for name, weight in (("tpot_ms_mean", 1.0), ("ttft_ms_mean", 0.1)):
                if name in result.metrics:
                    off.append(weight * (predicted.get(name, np.inf) / result.metrics[name] - 1))
        if say is not None:
            say(f"trial: mean absolute error {np.mean(np.abs(off)):.2%}")
        return np.minimum(np.array(off, dtype=np.float64), 10.0)

    x, best = start, errors(start)
    for _ in range(SHARPEST):
        # Loads are simulated, so slopes are taken over steps wide enough to outweigh single reorderings.
        moved = [errors(x + PROBE * unit) for unit in np.eye(len(x))]
        slopes = np.column_stack([(one - best) / PROBE for one in moved])
        change = np.linalg.lstsq(slopes, -best, rcond=None)[0]
        for shorter in (1.0, 0.5, 0.25):
            trial = np.maximum(x + shorter * change, low / scale)
            off = errors(trial)
            if (off**2).sum() < (best**2).sum():
                break
        else:
            break
        gained = 1 - (off**2).sum() / (best**2).sum()
        x, best = trial, off
        if gained < ENOUGH:
            break
    placed = shifted(base, *unpack(x))
    return Fitted(*unpack(x), placed, _off(usable, pool, base), _off(usable, pool, placed), {})


def _off(results: Sequence[ServingResult], pool: PlacedPool, placed: Deployment) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for result in results:
        predicted = predict(result, pool, placed)
        for name in ("ttft_ms_mean", "tpot_ms_mean", "e2e_ms_mean"):
            if name in result.metrics and name in predicted:
                found.setdefault(name, []).append(abs(predicted[name] / result.metrics[name] - 1))
    return {name: float(np.mean(values)) for name, values in found.items()}


def profile_of(fitted: Fitted, results: Sequence[ServingResult], *, name: str, command: str, date: str) -> Profile:
    """The fit as a profile; its error is that of mean TPOT on runs left out, and that of the steps it starts from."""
    placed = fitted.placed
    start, count = placed.fidelity, len(results)
    errors = {"started_from": Error(median=start.error_median, p95=start.error_p95, n=count)}
    for key, found in (("runs_fitted", fitted.after), ("runs_left_out", fitted.left_out)):
        if "tpot_ms_mean" in found:
            errors[key] = Error(median=found["tpot_ms_mean"], p95=found["tpot_ms_mean"], n=count)
    prompts = np.concatenate([result.load.prompt_tokens for result in results])
    context = int(max((result.load.prompt_tokens + result.load.output_tokens).max() for result in results))
    return Profile(
        name=name,
        model=placed.architecture.name,
        hardware=placed.hardware.name,
        tensor_parallel_size=placed.tensor_parallel_size,
        dtype=placed.dtype,
        kv_cache_dtype=placed.kv_cache_dtype,
        kind="measured",
        cost=placed.hardware_cost,
        error=errors,
        batch=(1, max(placed.fidelity.batch_max or 1, 1)),
        context=(int(prompts.min()), context),
        tokens=(1, placed.fidelity.tokens_max or int(prompts.max())),
        physics={},
        provenance={
            "source": "fitted from serving benchmarks by simulating the same load",
            "tools": sorted({result.tool for result in results}),
            "runs": [result.name for result in results],
            "from_profile": placed.fidelity.profile,
            "engine": placed.fidelity.engine,
            "step_us": round(fitted.step_s * 1e6, 2),
            "row_us": round(fitted.row_s * 1e6, 3),
            "front_end_ms": round(fitted.front_end_s * 1e3, 2),
            "licence": "",
            "command": command,
            "date": date,
        },
        architecture=None if is_shipped(placed.architecture) else placed.architecture,
        data_parallel_size=placed.data_parallel_size,
        enable_expert_parallel=placed.enable_expert_parallel,
    )
