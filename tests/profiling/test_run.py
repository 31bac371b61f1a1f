"""Walking a grid: budget, failures, interrupts, medians and spread, telemetry."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration import measurements
from calibration.profiler.points import Limits, Point, default_grid
from calibration.profiler.run import MINIMUM, Measured, Progress, run, summarise
from calibration.profiler.synthetic import SyntheticBench, example_cost
from calibration.profiler.telemetry import Reading, Telemetry, parse_smi

GRID = default_grid(Limits(100_000, 8192, 4096))


class Clock:
    """Time that passes as the synthetic device spends it."""

    def __init__(self, bench: SyntheticBench) -> None:
        self.bench = bench

    def __call__(self) -> float:
        return self.bench.elapsed_s


def test_all_points_end_in_a_valid_table(tmp_path: Path) -> None:
    bench = SyntheticBench(example_cost())
    seen: list[Progress] = []
    outcome = run(bench, GRID, out=tmp_path / "m.parquet", repeats=5, say=seen.append, command="test")
    frame = measurements.read(tmp_path / "m.parquet")
    assert len(frame) == len(GRID) == len(outcome.rows)
    assert outcome.finished
    assert frame.attrs["command"] == "test"
    assert [progress.done for progress in seen] == [0, *range(1, len(GRID) + 1)]
    assert seen[-1].left_s == 0
    assert seen[len(seen) // 2].left_s is not None
    expected = [bench.exact_ps(point) / 1e9 for point in GRID]
    assert frame["time_ms"].to_numpy() == pytest.approx(expected, rel=0.1)
    assert (frame["spread_ms"] > 0).all()


def test_time_left_is_about_right(tmp_path: Path) -> None:
    bench = SyntheticBench(example_cost(), noise=0.0, bursts=0.0)
    seen: list[tuple[float, float]] = []

    def say(progress: Progress) -> None:
        if progress.left_s is not None:
            seen.append((bench.elapsed_s, progress.left_s))

    run(bench, GRID, out=tmp_path / "m.parquet", repeats=5, say=say, now=Clock(bench))
    at, left = seen[len(seen) // 3]
    assert at + left == pytest.approx(bench.elapsed_s, rel=0.3)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6])
def test_a_budget_is_kept_and_the_rest_can_follow(tmp_path: Path, share: float) -> None:
    free = SyntheticBench(example_cost())
    run(free, GRID, out=tmp_path / "all.parquet", repeats=5, now=Clock(free))
    bench = SyntheticBench(example_cost())
    budget = share * free.elapsed_s
    out = tmp_path / "m.parquet"
    outcome = run(bench, GRID, out=out, repeats=5, budget_s=budget, now=Clock(bench))
    assert outcome.left_out
    assert len(outcome.rows) >= MINIMUM
    if share:
        assert bench.elapsed_s <= 1.1 * budget
        assert bench.elapsed_s >= 0.5 * budget, "the budget is there to be used"
    rest = run(SyntheticBench(example_cost()), GRID, out=out, repeats=5)
    assert rest.resumed == len(outcome.rows)
    assert len(measurements.read(out)) == len(GRID)


class Small(SyntheticBench):
    """Runs out of memory on large batches."""

    def measure(self, point: Point, repeats: int) -> Measured:
        if point.decodes >= 64:
            raise RuntimeError("CUDA out of memory. Tried to allocate 3 GiB")
        return super().measure(point, repeats)


def test_a_point_that_does_not_fit_memory_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    outcome = run(Small(example_cost()), GRID, out=tmp_path / "m.parquet", repeats=5)
    large = [point for point in GRID if point.decodes >= 64]
    assert {point for point, _ in outcome.failed} == set(large)
    assert len(outcome.rows) == len(GRID) - len(large)


class Broken(SyntheticBench):
    """Fails in a way that is a bug, or is interrupted, at the fifth point."""

    error: BaseException = RuntimeError("illegal memory access")
    asked = 0

    def measure(self, point: Point, repeats: int) -> Measured:
        self.asked += 1
        if self.asked == 5:
            raise self.error
        return super().measure(point, repeats)


@pytest.mark.parametrize("error", [RuntimeError("illegal memory access"), KeyboardInterrupt()])
def test_what_was_measured_before_an_end_is_written(tmp_path: Path, error: BaseException) -> None:
    bench = Broken(example_cost())
    bench.error = error
    with pytest.raises(type(error)):
        run(bench, GRID, out=tmp_path / "m.parquet", repeats=5)
    frame = measurements.read(tmp_path / "m.parquet")
    assert len(frame) == 4
    assert frame.attrs["finished"] is False


times = st.lists(st.floats(0.001, 10), min_size=5, max_size=20)


@given(times, st.floats(0.1, 10), st.floats(0, 3))
def test_medians_scale_and_shift(stack: list[float], factor: float, shift: float) -> None:
    middle, spread = summarise([stack], [1.0])
    moved, wider = summarise([[factor * time + shift for time in stack]], [1.0])
    assert moved == pytest.approx(factor * middle + shift)
    assert wider == pytest.approx(factor * spread, abs=1e-9)
    assert spread >= 0
    assert min(stack) <= middle <= max(stack)


def test_extrapolation_widens_the_spread_and_a_burst_moves_nothing() -> None:
    short, long = [1.0, 1.01, 0.99, 1.0, 1.0], [2.0, 2.02, 1.98, 2.01, 1.99]
    middle, spread = summarise([short, long], [-9.0, 10.0])
    assert middle == pytest.approx(11.0)
    assert spread > summarise([long], [1.0])[1]
    burst, _ = summarise([[1.0, 1.01, 50.0, 1.0, 1.0], long], [-9.0, 10.0])
    assert burst == pytest.approx(11.0)


def test_nvidia_smi_is_read() -> None:
    reading = parse_smi("1980, 54, 312.20, 0x0000000000000004\n")
    assert (reading.clock_mhz, reading.temperature_c, reading.power_w) == (1980, 54, 312.2)
    assert reading.reasons == 4
    assert parse_smi("[N/A], 54, [N/A], [N/A]") == Reading(0.0, 54.0, 0.0, 0)


def test_what_counts_as_throttled() -> None:
    telemetry = Telemetry("none")
    telemetry.kind = "cuda"
    fine = Reading(1980, 60)
    assert telemetry.verdict([fine, fine]) == ""
    assert telemetry.verdict([]) == ""
    assert "hw_thermal" in telemetry.verdict([fine, Reading(1980, 91, reasons=0x40)])
    assert telemetry.verdict([Reading(1700, 60)]) == ""
    assert "1400 of 1980" in telemetry.verdict([Reading(1400, 60)])
    assert telemetry.verdict([Reading(1400, 60, reasons=0x04)]) == "", "the power cap is part of serving"
