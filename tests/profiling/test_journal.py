"""Every finished point survives a sudden death; another measurement's journal is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration import measurements
from calibration.profiler.journal import Journal
from calibration.profiler.points import Point
from calibration.profiler.run import Measured, run
from calibration.profiler.synthetic import SyntheticBench, example_cost
from sim.errors import InputError

POINTS = [Point(decodes=batch, context=context) for batch in (1, 2, 4, 8) for context in (64, 256, 1024)]


def test_points_come_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", {"device": "x"})
    journal.open()
    journal.add("a", {"time_ms": 1.5})
    journal.add("b", {"time_ms": 2.5})
    again = Journal(tmp_path / "j", {"device": "x"})
    again.open()
    assert again.records == journal.records
    assert again.resumed == 2


@given(st.integers(0, 400))
@settings(max_examples=40)
def test_a_file_cut_anywhere_loses_the_torn_line_only(cut: int) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        path = Path(folder) / "j"
        journal = Journal(path, {"device": "x"})
        journal.open()
        for index in range(8):
            journal.add(f"p{index}", {"time_ms": index + 1.0})
        whole = path.read_bytes()
        kept = whole[: max(0, len(whole) - cut)]
        path.write_bytes(kept)
        again = Journal(path, {"device": "x"})
        again.open()
        assert len(again.records) == max(0, kept.count(b"\n") - 1)
        again.add("new", {"time_ms": 9.0})
        last = Journal(path, {"device": "x"})
        last.open()
        assert list(last.records) == [*again.records]
        assert all(json.loads(line) for line in path.read_bytes().splitlines())


def test_another_measurement_is_refused_with_what_differs(tmp_path: Path) -> None:
    Journal(tmp_path / "j", {"device": "x", "dtype": "bf16"}).open()
    with pytest.raises(InputError, match=r"dtype.*'bf16'.*'fp8'") as caught:
        Journal(tmp_path / "j", {"device": "x", "dtype": "fp8"}).open()
    assert len(caught.value.problems) == 1


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_text("hello\nworld\n")
    with pytest.raises(InputError, match="not a line of a journal"):
        Journal(path, {}).open()
    path.write_text('{"key": 1}\n')
    with pytest.raises(InputError, match="not a journal"):
        Journal(path, {}).open()


class Counting(SyntheticBench):
    """Counts how often it is asked."""

    asked = 0

    def measure(self, point: Point, repeats: int) -> Measured:
        self.asked += 1
        return super().measure(point, repeats)


SLOW = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_journal import POINTS
from calibration.profiler.run import run
from calibration.profiler.synthetic import SyntheticBench, example_cost

class Slow(SyntheticBench):
    def measure(self, point, repeats):
        time.sleep(0.05)
        return super().measure(point, repeats)

run(Slow(example_cost()), POINTS, out=Path({out!r}), repeats=5)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_killed_without_warning_it_goes_on_where_it_was(tmp_path: Path) -> None:
    out = tmp_path / "m.parquet"
    journal = tmp_path / "m.parquet.journal"
    script = SLOW.format(tests=str(Path(__file__).parent), out=str(out))
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment)
    try:
        patience = time.monotonic() + 60
        while time.monotonic() < patience and process.poll() is None:
            if journal.exists() and journal.read_bytes().count(b"\n") >= 5:
                break
            time.sleep(0.005)
        assert process.poll() is None, "it ended before it could be killed"
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    there = journal.read_bytes().count(b"\n") - 1
    assert 4 <= there < len(POINTS)
    assert not out.exists()
    bench = Counting(example_cost())
    outcome = run(bench, POINTS, out=out, repeats=5)
    assert outcome.resumed == there
    assert bench.asked == len(POINTS) - there
    assert len(measurements.read(out)) == len(POINTS)
    again = Counting(example_cost())
    assert run(again, POINTS, out=out, repeats=5).finished
    assert again.asked == 0
