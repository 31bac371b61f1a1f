"""Points are content-addressed, durable, and the same whoever computes them."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sim.errors import InputError
from sim.planning import sweep
from sim.planning.compare import compare
from sim.planning.point import Task, Twist, content
from sim.planning.runs import Runner, Store
from sim.scenario.load import load

CHANGES = ["measure.queries=20", "measure.warmup=0 s", "measure.replications=2", "measure.max_drain=5 min"]
RATES = "workload.rate=0.2/s,0.3/s,0.4/s"


def _table(folder: Path, **options: Any) -> str:
    found = sweep.points("quickstart", CHANGES, sweep.grid([sweep.parse_axis(RATES)]))
    return sweep.as_json(sweep.run(found, Runner(Store(folder), **options)))


def test_two_workers_make_the_table_of_one(tmp_path: Path) -> None:
    one = _table(tmp_path / "one")
    assert one == _table(tmp_path / "two", workers=2)
    assert len(json.loads(one)) == 3


def test_equal_points_are_computed_once_and_reused(tmp_path: Path) -> None:
    scenario = load("quickstart", CHANGES)
    runner = Runner(Store(tmp_path))
    renamed = scenario.model_copy(update={"name": "other"})
    first = runner.run([Task(scenario), Task(renamed), Task(scenario)])
    assert runner.computed == 1
    again = Runner(Store(tmp_path))
    assert again.run([Task(scenario)]) == first[:1]
    assert (again.computed, again.reused) == (0, 1)


def test_what_changes_a_result_changes_the_key() -> None:
    scenario = load("quickstart", CHANGES)
    keys = {
        Task(scenario).key,
        Task(scenario, 1).key,
        Task(scenario, 0, Twist(step=1.1)).key,
        Task(scenario, 0, Twist(tail=1.1)).key,
        Task(load("quickstart", [*CHANGES, "workload.rate=2/s"])).key,
    }
    assert len(keys) == 5
    assert content(scenario) == content(load(scenario.resolved()))


def test_a_failing_point_is_reported_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sim.planning.point as point

    simulate = point.simulate_twisted

    def fails(task: Task) -> Any:
        if task.replication == 1:
            raise ZeroDivisionError("a bug")
        return simulate(task)

    monkeypatch.setattr(point, "simulate_twisted", fails)
    records = Runner(Store(tmp_path)).run([Task(load("quickstart", CHANGES), number) for number in range(3)])
    assert [record["state"] for record in records] == ["done", "failed", "done"]
    assert "a bug" in records[1]["error"]


def test_a_torn_journal_is_mended(tmp_path: Path) -> None:
    runner = Runner(Store(tmp_path))
    key = runner.run([Task(load("quickstart", CHANGES))])[0]["key"]
    journal = tmp_path / "journal.jsonl"
    journal.write_text(journal.read_text()[:20])
    assert [line["key"] for line in Store(tmp_path).journal()] == [key]
    assert [line["key"] for line in Store(tmp_path).journal()] == [key]


def test_slower_steps_take_longer_and_mean_lengths_have_no_tail(tmp_path: Path) -> None:
    scenario = load("quickstart", CHANGES)
    runner = Runner(Store(tmp_path))
    plain, slow, mean = runner.run(
        [Task(scenario), Task(scenario, 0, Twist(step=1.5)), Task(scenario, 0, Twist(mean_lengths=True))]
    )
    frames = [runner.store.frame(record["key"]) for record in (plain, slow, mean)]
    assert (frames[1]["tta_s"] > frames[0]["tta_s"] * 1.2).all()
    assert frames[2]["output_tokens"].nunique() == 1
    assert frames[0]["output_tokens"].nunique() > 10


def test_a_scenario_against_itself_differs_in_nothing(tmp_path: Path) -> None:
    scenario = load("quickstart", CHANGES)
    found = compare([scenario, scenario.model_copy(update={"name": "same"})], Runner(Store(tmp_path)))
    assert found["paired"]
    assert all(figure["difference"] == 0 and not figure["clear"] for figure in found["differences"][0]["figures"])


def test_axes() -> None:
    assert sweep.parse_axis("a.b=1..2:3/s").values == ("1/s", "1.5/s", "2/s")
    assert sweep.parse_axis("a={x: 1, y: 2},[3, 4]").values == ("{x: 1, y: 2}", "[3, 4]")
    drawn = sweep.drawn([sweep.parse_axis("a=1,2,3,4"), sweep.parse_axis("b=1,2,3,4")], 5, seed=3)
    assert len(set(drawn)) == 5
    with pytest.raises(InputError, match="as many values"):
        sweep.listed([sweep.parse_axis("a=1,2"), sweep.parse_axis("b=1")])


@pytest.mark.slow
def test_killed_at_random_twenty_times_nothing_is_lost_or_repeated(tmp_path: Path) -> None:
    """Killed at any time: while it starts, while a point is computed, between a record and the journal's line."""
    whole = tmp_path / "whole"
    command = [sys.executable, "-m", "sim.cli", "sweep", "quickstart", "--over", "seed=1..60:60", "--quiet"]
    for change in [*CHANGES[:2], "measure.replications=1", "measure.max_drain=5 min"]:
        command += ["--set", change]
    subprocess.run([*command, "--out", str(whole)], check=True, capture_output=True)
    folder, dice, before, in_the_middle = tmp_path / "killed", random.Random(4), set[str](), 0
    for number in range(20):
        process = subprocess.Popen(
            [*command, "--out", str(folder), "--resume"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        if number % 4:  # three in four are killed while they compute, however long the start takes here
            _wait_for_more(folder, len(before), process)
        time.sleep(dice.uniform(0.0, 0.08))
        in_the_middle += process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        now = {path.stem for path in folder.glob("points/*/*.json")}
        assert before <= now
        before = now
    assert in_the_middle >= 15
    assert 15 <= len(before) < 60
    subprocess.run([*command, "--out", str(folder), "--resume"], check=True, capture_output=True)
    done = [line["key"] for line in Store(folder).journal() if line["state"] == "done"]
    assert len(done) == len(set(done)) == 60
    assert (folder / "table.csv").read_bytes() == (whole / "table.csv").read_bytes()


def _wait_for_more(folder: Path, known: int, process: subprocess.Popen[bytes]) -> None:
    """Until a point has been finished beyond the *known* ones."""
    while process.poll() is None and sum(1 for _ in folder.glob("points/*/*.json")) <= known:
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_a_cluster_gives_the_same_table(tmp_path: Path, backend: str) -> None:
    if importlib.util.find_spec("distributed" if backend == "dask" else "ray") is None:
        pytest.skip(f"{backend} is not installed (extra: cluster)")
    assert _table(tmp_path / "cluster", workers=2, backend=backend) == _table(tmp_path / "here")
