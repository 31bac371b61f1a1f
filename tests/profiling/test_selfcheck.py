"""Measured, fitted, simulated, compared: exact where nothing is noisy, within 1 % where costs are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.profiler.loop import Job, Work, serve
from calibration.profiler.points import Point
from calibration.profiler.run import Measured
from calibration.profiler.synthetic import SyntheticBench, SyntheticExecutor, example_cost
from calibration.step_cost import StepCost
from sim.validation.loop_conditions import of_median_steps
from sim.validation.selfcheck import Comparison, Load, grid, recover, schedule, selfcheck, simulate_loop

COST = example_cost()


def quiet() -> SyntheticBench:
    return SyntheticBench(COST, noise=0.0, bursts=0.0)


jobs = st.lists(st.builds(Job, st.integers(1, 300), st.integers(1, 60)), min_size=1, max_size=25)


@given(jobs, st.integers(1, 12), st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_the_loop_and_the_engine_take_the_same_steps(found: list[Job], seats: int, extra: int) -> None:
    load = Load(tuple(found), seats, seats + extra)
    looped = serve(load.jobs, SyntheticExecutor(quiet()), seats=seats, budget=load.budget)
    simulated = simulate_loop(load, COST, block_size=16)
    assert looped.finished_s == pytest.approx(simulated.finished_s, rel=1e-12)
    assert looped.first_s == pytest.approx(simulated.first_s, rel=1e-12)


class Watching(SyntheticExecutor):
    """Checks every step of a loop."""

    def __init__(self, load: Load) -> None:
        super().__init__(quiet())
        self.load = load
        self.computed: dict[int, int] = {}
        self.sizes: set[int] = set()

    def begin(self, job: int, tokens: int) -> None:
        assert job not in self.computed
        self.computed[job] = 0

    def end(self, job: int) -> None:
        assert self.computed[job] == self.load.jobs[job].prompt + self.load.jobs[job].output - 1

    def execute(self, work: Sequence[Work]) -> float:
        assert sum(item.new for item in work) <= self.load.budget
        assert len(work) <= self.load.seats
        for item in work:
            assert item.cached == self.computed[item.job]
            self.computed[item.job] += item.new
        self.sizes.add(len(work))
        return super().execute(work)


def test_the_batch_changes_all_the_time() -> None:
    load = schedule()
    watching = Watching(load)
    run = serve(load.jobs, watching, seats=load.seats, budget=load.budget)
    assert len(watching.sizes) >= 5
    assert {step.chunks > 0 for step in run.steps} == {True, False}
    assert any(step.chunks and step.decodes for step in run.steps)
    assert sum(step.decodes for step in run.steps) > 300
    assert all(0 < first <= last for first, last in zip(run.first_s, run.finished_s, strict=True))


def test_without_noise_the_chain_is_exact(tmp_path: Path) -> None:
    bench = quiet()
    report = selfcheck(bench, lambda: SyntheticExecutor(bench), schedule(), out=tmp_path / "m.parquet")
    assert report.passed
    assert {item.metric for item in report.comparisons} >= {"makespan", "tpot median", "e2e median"}
    for item in report.comparisons:
        assert abs(item.error) < 1e-3
        assert item.noise < 1e-9
    assert max(error for error, _ in report.step_error.values()) < 2e-3
    assert "OUTSIDE" not in "\n".join(report.lines())


def test_known_costs_are_recovered_within_one_percent(tmp_path: Path) -> None:
    found = recover(SyntheticBench(COST, noise=0.01, bursts=0.02, seed=11), tmp_path / "m.parquet")
    assert set(found) == {
        *("kv_ps", "half_pair_ps", "cached_ps", "mixed_ps", "decode_steps_worst", "decode_steps_median")
    }
    for name, error in found.items():
        assert abs(error) < 0.01, name


def test_a_wrong_cost_is_found_out(tmp_path: Path) -> None:
    bench = quiet()

    class Slower(SyntheticExecutor):
        """A loop that runs a tenth slower than the grid said."""

        def execute(self, work: Sequence[Work]) -> float:
            return 1.1 * super().execute(work)

    report = selfcheck(bench, lambda: Slower(bench), schedule(), out=tmp_path / "m.parquet")
    assert not report.passed
    assert all(item.error == pytest.approx(1 / 1.1 - 1, abs=0.01) for item in report.comparisons)
    assert "OUTSIDE" in "\n".join(report.lines())


def test_bursts_of_noise_are_told_from_a_wrong_cost(tmp_path: Path) -> None:
    bench = SyntheticBench(COST, noise=0.0, bursts=0.03, seed=3)
    report = selfcheck(bench, lambda: SyntheticExecutor(bench), schedule(), out=tmp_path / "m.parquet")
    makespan = report.comparisons[0]
    assert makespan.error < -0.015, "a loop adds up bursts, which no median of a step has"
    assert abs(makespan.steady_error) < 3e-3
    assert f"{makespan.steady_error:+.1%}" in report.lines()[4]


def test_work_around_the_step_is_taken_from_the_warm_up(tmp_path: Path) -> None:
    bench = quiet()

    class Around(SyntheticExecutor):
        """Spends two milliseconds a step outside of the device's step."""

        outside_s = 2e-3

        def execute(self, work: Sequence[Work]) -> float:
            return super().execute(work) + self.outside_s

    report = selfcheck(bench, lambda: Around(bench), schedule(6, seats=3, budget=32), out=tmp_path / "m.parquet")
    assert report.conditions.host_s == 2e-3
    assert all(abs(item.error) < 1e-3 for item in report.comparisons)


def test_flushed_caches_are_stated_and_not_in_the_prediction(tmp_path: Path) -> None:
    class Flushed(SyntheticBench):
        """Steps take a fifth longer when caches are flushed."""

        def measure(self, point: Point, repeats: int) -> Measured:
            found = super().measure(point, repeats)
            return replace(found, time_s=1.2 * found.time_s)

        def measure_served(self, point: Point, repeats: int) -> Measured:
            return super().measure(point, repeats)

    bench = Flushed(COST, noise=0.0, bursts=0.0)
    report = selfcheck(
        bench, lambda: SyntheticExecutor(bench), schedule(6, seats=3, budget=32), out=tmp_path / "m.parquet"
    )
    assert report.conditions.flushed == pytest.approx(0.2)
    assert report.conditions.pairs == 4 * report.repeats
    assert all(abs(item.error) < 1e-3 for item in report.comparisons)
    assert any("+20.0%" in line for line in report.lines())


@given(jobs, st.integers(1, 12), st.integers(1, 200))
@settings(max_examples=5, deadline=None)
def test_the_loop_of_median_steps_is_the_loop_itself_without_noise(found: list[Job], seats: int, extra: int) -> None:
    runs = [serve(found, SyntheticExecutor(quiet()), seats=seats, budget=seats + extra) for _ in range(2)]
    steady = of_median_steps(runs)
    assert steady.first_s == pytest.approx(runs[0].first_s, rel=1e-12)
    assert steady.finished_s == pytest.approx(runs[0].finished_s, rel=1e-12)


def test_the_bar_is_the_larger_of_five_percent_and_the_noise() -> None:
    assert Comparison("m", 1.0, 0.01, 1.049, 1.0).within
    assert not Comparison("m", 1.0, 0.01, 1.051, 1.0).within
    assert Comparison("m", 1.0, 0.08, 1.07, 1.0).within
    assert not Comparison("m", 1.0, 0.08, 0.91, 0.91).within, "the bar is for what was measured, bursts included"


def test_the_grid_surrounds_the_load() -> None:
    load = schedule()
    points = grid(load)
    decode = [point for point in points if point.kind == "decode"]
    assert {point.kind for point in points} == {"decode", "prefill", "mixed"}
    assert min(point.decodes for point in decode) == 1
    assert max(point.decodes for point in decode) == load.seats
    assert max(point.context for point in decode) >= load.longest
    assert all(point.tokens <= load.budget for point in points)


def test_costs_that_differ_are_told_apart(tmp_path: Path) -> None:
    from sim.validation.selfcheck import recovery

    other: StepCost = replace(COST, kv_ps=2 * COST.kv_ps)
    found = recovery(COST, other, [Point(decodes=64, context=4096)])
    assert found["kv_ps"] == 1.0
    assert found["decode_steps_worst"] > 0.3
