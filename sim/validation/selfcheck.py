"""Does the whole chain hold on the machine at hand: measured, fitted, simulated, compared?

A grid of steps is timed under the loop's conditions and a serving loop of the same decoder is run, in turns, so that
both see the same weather. The grid is fitted as any measurement is; the engine then simulates the loop with the
fitted cost and what a loop adds to it (``loop_conditions``), and its times are set beside the measured ones and
their own noise. On a synthetic device the true costs are known, and the fit must find them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.parts import EngineCost, combine
from calibration.profiler.loop import Executor, Job, LoopRun, serve
from calibration.profiler.points import Point
from calibration.profiler.run import Measured, write_table
from calibration.step_cost import StepCost
from sim.engine.replica import make_replica
from sim.engine.request import Request
from sim.engine.settings import EngineSettings
from sim.policies.schedulers.vllm import Vllm
from sim.validation.loop_conditions import Conditions, ServingBench, conditions, of_median_steps, probes, step_errors

if TYPE_CHECKING:
    from calibration.fitting import Validated

PS = 10**12
TARGET = 0.05
"""The error that is asked for where the machine is quieter than that."""
FEWEST_REPEATS = 5


@dataclass(frozen=True)
class Load:
    """What the loop serves: *jobs*, all waiting from the start, *seats* at once, *budget* tokens a step."""

    jobs: tuple[Job, ...]
    seats: int
    budget: int

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(job.prompt + job.output for job in self.jobs)

    @property
    def kv_tokens(self) -> int:
        """Slots that are enough for any seats of them, blocks of 16 rounded up."""
        most = sorted((job.prompt + job.output for job in self.jobs), reverse=True)[: self.seats]
        return sum(tokens + 256 for tokens in most)


def schedule(count: int = 14, *, seats: int = 6, budget: int = 64, scale: int = 1) -> Load:
    """A load in which the batch keeps changing: prompts of 16 to 256 tokens, outputs of 6 to 60, times
    *scale*.

    The lengths follow a fixed rule (steps of the golden ratio), so that every machine serves the same load.
    """
    jobs = []
    for index in range(count):
        one, other = (index * 0.6180339887) % 1.0, (index * 0.7548776662) % 1.0
        jobs.append(Job(prompt=scale * int(16 + 240 * one**2), output=scale * int(6 + 54 * other)))
    return Load(tuple(jobs), seats, budget)


def grid(load: Load) -> list[Point]:
    """Steps around those of *load*, chosen without looking at which of them it takes."""
    seats, longest = load.seats, load.longest
    batches = sorted({1, 2, seats // 2, seats} - {0})
    contexts = sorted({longest // 8, longest // 3, longest})
    chunks = sorted({n for n in (4, 8, 16, 32, 48, 64, 128, 256) if n < load.budget} | {load.budget})
    points = [Point(decodes=b, context=c) for b in batches for c in contexts]
    points += [Point(chunks=1, chunk_tokens=n) for n in chunks]
    points += [Point(chunks=1, chunk_tokens=n, chunk_cached=longest // 2) for n in chunks[1::2]]
    points += [
        Point(decodes=b, context=contexts[1], chunks=1, chunk_tokens=n)
        for b in sorted({max(1, seats // 2), max(1, seats - 1)})
        for n in chunks[1::2]
        if b + n <= load.budget
    ]
    return points


@dataclass(frozen=True)
class Comparison:
    """One metric of the loop, in seconds: measured (the median over repeats) and simulated."""

    metric: str
    measured_s: float
    noise: float
    """Interquartile range over the repeats as a share of the median: what two equal runs differ by."""
    simulated_s: float
    steady_s: float
    """Measured, were every step to take its median over the repeats: without bursts of noise."""

    @property
    def error(self) -> float:
        """Signed relative error of the simulation."""
        return self.simulated_s / self.measured_s - 1.0

    @property
    def steady_error(self) -> float:
        """The same against the loop without bursts of noise: what the fit leaves."""
        return self.simulated_s / self.steady_s - 1.0

    @property
    def bar(self) -> float:
        """The larger of the target and the noise."""
        return max(TARGET, self.noise)

    @property
    def within(self) -> bool:
        """Whether the error is no larger than the bar."""
        return abs(self.error) <= self.bar


@dataclass(frozen=True)
class Report:
    """What a self-check found."""

    comparisons: tuple[Comparison, ...]
    repeats: int
    grid_points: int
    grid_noise: float
    """Median over the grid of spread / time."""
    step_error: dict[str, tuple[float, int]]
    """Median absolute error of single steps of the loop and how many there were, by kind."""
    fit_error: dict[str, dict[str, float]]
    conditions: Conditions
    cost: StepCost = field(repr=False)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every metric is within its bar."""
        return all(comparison.within for comparison in self.comparisons)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "passed": self.passed,
            "repeats": self.repeats,
            "grid_points": self.grid_points,
            "grid_noise": self.grid_noise,
            "comparisons": [
                {
                    **asdict(item),
                    "error": item.error,
                    "steady_error": item.steady_error,
                    "bar": item.bar,
                    "within": item.within,
                }
                for item in self.comparisons
            ],
            "step_error": {kind: {"median": error, "n": n} for kind, (error, n) in self.step_error.items()},
            "fit_error": self.fit_error,
            "conditions": asdict(self.conditions),
            "facts": self.facts,
        }

    def lines(self) -> list[str]:
        """The report in words."""
        out = [
            f"{self.facts.get('device', 'device')}: {self.grid_points} grid points and a serving loop, "
            f"{self.repeats} repeats in turns",
            f"grid noise (median spread) {self.grid_noise:.1%}",
            "",
            f"{'metric':<14}{'measured':>12}{'noise':>8}{'simulated':>12}{'error':>9}{'bar':>8}{'steady':>9}",
        ]
        out += [
            f"{item.metric:<14}{1e3 * item.measured_s:>9.2f} ms{item.noise:>8.1%}"
            f"{1e3 * item.simulated_s:>9.2f} ms{item.error:>+9.1%}{item.bar:>8.1%}{item.steady_error:>+9.1%}"
            f"  {'within' if item.within else 'OUTSIDE'}"
            for item in self.comparisons
        ]
        out += [
            "",
            "steady: the error against the loop in which every step takes its median over the repeats, as the grid does;",
            "what the other error has beside it are bursts of noise, which a loop adds up and medians leave out",
            *self.conditions.lines(),
        ]
        for kind, (error, n) in self.step_error.items():
            out.append(f"single {kind} steps of the loop: median error {error:.1%} over {n}")
        out += [
            f"fit, {kind.replace('_', ' ')}: median {off['median']:.1%}, p95 {off['p95']:.1%}"
            for kind, off in self.fit_error.items()
        ]
        out.append(
            "within the larger of 5 % and the noise" if self.passed else "NOT within the larger of 5 % and the noise"
        )
        return out


def selfcheck(
    bench: ServingBench,
    executor: Callable[[], Executor],
    load: Load,
    *,
    out: Path,
    repeats: int = FEWEST_REPEATS,
    samples: int = 3,
    command: str = "",
    say: Callable[[str], None] = lambda text: None,
) -> Report:
    """Measure, fit, simulate and compare; the measurement table goes to *out*.

    Each of *repeats* rounds times every grid point *samples* times, few of them with caches flushed as well, and then
    runs the loop once.
    """
    from calibration import fitting, measurements

    points = [point for point in grid(load) if bench.limits.allow(point)]
    rounds: list[list[Measured]] = [[] for _ in points]
    loops: list[LoopRun] = []
    flushed = probes(points)
    pairs: list[tuple[Measured, Measured]] = []
    say("warming up")
    warm_up = serve(load.jobs[: load.seats], executor(), seats=load.seats, budget=load.budget)
    began = time.monotonic()
    for repeat in range(repeats):
        for index, point in enumerate(points):
            rounds[index].append(bench.measure_served(point, samples))
            if point in flushed:
                pairs.append((rounds[index][-1], bench.measure(point, samples)))
        loops.append(serve(load.jobs, executor(), seats=load.seats, budget=load.budget))
        spent = time.monotonic() - began
        left = spent / (repeat + 1) * (repeats - repeat - 1)
        say(f"round {repeat + 1} of {repeats}: loop {loops[-1].makespan_s:.3f} s, about {left:.0f} s left")
    rows = [
        {**bench.columns(), **point.to_dict(), **pooled(found)} for point, found in zip(points, rounds, strict=True)
    ]
    write_table(bench, rows, out, command=command, finished=True)
    found = fitting.fit(measurements.read(out), source=str(out))
    around = conditions(warm_up, pairs)
    cost = around.step_cost(found.fit.cost, found.fit.mixed_s)
    simulated = simulate_loop(load, cost, block_size=bench.limits.block_size)
    return Report(
        comparisons=tuple(compare(load, loops, simulated)),
        repeats=repeats,
        grid_points=len(points),
        grid_noise=statistics.median(row["spread_ms"] / row["time_ms"] for row in rows),
        step_error=step_errors(loops, cost),
        fit_error={
            kind: {"median": error.median, "p95": error.p95, "n": error.n} for kind, error in found.error.items()
        },
        conditions=around,
        cost=cost,
        facts={**bench.facts(), **bench.identity(), "command": command},
    )


def pooled(rounds: Sequence[Measured]) -> dict[str, Any]:
    """Columns of a point measured in several rounds: the median of the rounds' medians, and their own
    spread."""
    times = sorted(item.time_s for item in rounds)
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    flags = sorted({item.flag for item in rounds if item.flag})
    return {
        "quantity": "decoder_measured",
        "time_ms": 1e3 * middle,
        "spread_ms": 1e3 * (high - low),
        "n": sum(item.n for item in rounds),
        "clock_mhz": statistics.median(item.clock_mhz for item in rounds),
        "temperature_c": max(item.temperature_c for item in rounds),
        # One throttled round in five does not move a median; most of them do.
        "flag": flags[0] if sum(bool(item.flag) for item in rounds) * 2 > len(rounds) else "",
    }


def step_cost(found: Validated) -> StepCost:
    """The integer cost of what was fitted: a decoder without an engine around it."""
    bare = EngineCost("none", "", 0.0, 0.0, 0.0, found.fit.mixed_s, 0.0)
    return combine(found.fit.cost, bare, layers=1)


def simulate_loop(load: Load, cost: StepCost, *, block_size: int) -> LoopRun:
    """The engine of the simulator on *load*: the vLLM scheduler, synchronous, with room for every seat."""
    blocks = sum(-(-(job.prompt + job.output) // block_size) for job in load.jobs)
    settings = EngineSettings(
        num_gpu_blocks=blocks + 1,
        block_size=block_size,
        max_num_seqs=load.seats,
        max_num_batched_tokens=load.budget,
        max_model_len=load.longest + 1,
        enable_prefix_caching=False,
        async_scheduling=False,
    )
    replica = make_replica(settings, cost, Vllm())
    requests = [
        Request(number, arrived_ps=0, prompt_tokens=job.prompt, output_tokens=job.output, max_tokens=job.output)
        for number, job in enumerate(load.jobs)
    ]
    for request in requests:
        replica.submit(request, 0)
    replica.plan(0)
    while (now := replica.next_end_ps) is not None:
        replica.complete(now)
        replica.plan(now)
    return LoopRun(
        [request.first_token_ps / PS for request in requests],
        [request.finished_ps / PS for request in requests],
    )


def metrics(load: Load, run: LoopRun) -> dict[str, float]:
    """What is compared, in seconds: the whole loop, and medians over its requests."""
    tpot = [
        (last - first) / (job.output - 1)
        for job, first, last in zip(load.jobs, run.first_s, run.finished_s, strict=True)
        if job.output > 1
    ]
    return {
        "makespan": run.makespan_s,
        "tpot median": statistics.median(tpot),
        "e2e median": statistics.median(run.finished_s),
        "ttft median": statistics.median(run.first_s),
    }


def compare(load: Load, loops: Sequence[LoopRun], simulated: LoopRun) -> list[Comparison]:
    """Every metric: the median and the noise of the loops beside the simulation."""
    measured = [metrics(load, run) for run in loops]
    expected = metrics(load, simulated)
    steady = metrics(load, of_median_steps(loops))
    out = []
    for name, value in expected.items():
        values = [found[name] for found in measured]
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        out.append(Comparison(name, middle, (high - low) / middle, value, steady[name]))
    return out


def recovery(known: StepCost, fitted: StepCost, points: Sequence[Point]) -> dict[str, float]:
    """Relative error of what a fit found of *known* costs: each coefficient, and the decode steps of
    *points*.

    ``host`` and ``linear`` are one thing to a fit, so they are compared as decode steps of every batch that
    was measured.
    """
    out = {
        name: getattr(fitted, name) / getattr(known, name) - 1.0
        for name in ("kv_ps", "half_pair_ps", "cached_ps", "mixed_ps")
        if getattr(known, name)
    }
    decode = [
        fitted.decode_ps(point.decodes, point.decodes * point.context)
        / known.decode_ps(point.decodes, point.decodes * point.context)
        - 1.0
        for point in points
        if point.kind == "decode"
    ]
    out["decode_steps_worst"] = max(decode, key=abs)
    out["decode_steps_median"] = statistics.median(map(abs, decode))
    return out


def recover(bench: Any, out: Path, *, repeats: int = 25) -> dict[str, float]:
    """Measure the default grid on a synthetic device, fit it, and set what was found beside what is known.

    *bench* is a :class:`~calibration.profiler.synthetic.SyntheticBench`; the table goes to *out*.
    """
    from calibration import fitting, measurements
    from calibration.profiler.points import default_grid
    from calibration.profiler.run import run

    points = default_grid(bench.limits)
    out.with_name(out.name + ".journal").unlink(missing_ok=True)
    run(bench, points, out=out, repeats=repeats)
    found = fitting.fit(measurements.read(out), source=str(out))
    return recovery(bench.cost, step_cost(found), points)
