"""Sweeps that a scenario states, and the frontier of accuracy, cost and time that they end in."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import load
from sim.cli.main import main
from sim.errors import InputError
from sim.planning import sweep
from sim.planning.point import content
from sim.planning.runs import Runner, Store
from sim.report.figures import tradeoffs

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

SMALL: dict[str, Any] = {
    "name": "small",
    "workload": {
        "arrivals": {"process": "closed", "in_flight": 4},
        "lengths": {"prompt": 100, "reasoning": {"law": "lognormal", "median": 300, "sigma": 0.6}, "answer": 40},
    },
    "pools": {"main": {"model": "r1-distill-qwen-7b", "hardware": "h100-sxm"}},
    "quality": {"benchmark": "math-500"},
    "measure": {"queries": 40, "replications": 2},
    "sweep": {
        "over": {"pools.main.model": ["r1-distill-qwen-1.5b", "r1-distill-qwen-7b"]},
        "candidates": {
            "one": {"strategy": "single"},
            "vote of 5": {"strategy": {"name": "majority_vote", "samples": 5}},
        },
    },
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    axes, named = sweep.stated(load(SMALL))
    points = sweep.points(SMALL, [], sweep.grid(axes), named)
    return sweep.run(points, Runner(Store(tmp_path_factory.mktemp("points"))))


def test_every_candidate_meets_every_value(table):
    assert table["candidate"].tolist() == ["one", "one", "vote of 5", "vote of 5"]
    assert table["models"].tolist() == ["r1-distill-qwen-1.5b", "r1-distill-qwen-7b"] * 2
    assert table["strategy_name"].tolist() == ["single"] * 2 + ["majority_vote"] * 2
    assert table["samples"].tolist() == [1, 1, 5, 5]
    assert (table["n"] >= 80).all()
    assert (table["accuracy_low"] < table["accuracy"]).all()
    ratio = table["cost_per_query_usd"] / table["accuracy"]
    assert np.allclose(table["cost_per_correct_usd"], ratio)
    assert table["cost_per_query_usd"][2] > table["cost_per_query_usd"][0]


def test_a_sweep_changes_nothing_of_the_run_itself():
    plain = {key: value for key, value in SMALL.items() if key != "sweep"}
    assert content(load(SMALL)) == content(load(plain))
    with pytest.raises(InputError, match="sweep section"):
        sweep.stated(load(plain))
    with pytest.raises(InputError, match="over, candidates"):
        load({**plain, "sweep": {}})


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12))
def test_the_frontier_is_what_no_other_point_beats(rows):
    points = np.array(rows, float)

    def beats(one, other):
        better = [one[0] - other[0], other[1] - one[1], other[2] - one[2]]
        return min(better) >= 0 and max(better) > 0

    said = tradeoffs.undominated(points)
    assert said.tolist() == [not any(beats(other, point) for other in points) for point in points]
    assert said.any()


def test_the_figure_says_each_configuration_on_hover(table):
    data = tradeoffs.table(table, ["candidate", "pools.main.model"])
    figure = tradeoffs.figure(data)
    hovers = {point[0] for trace in figure.data for point in (trace.customdata or ())}
    assert "vote of 5, model r1-distill-qwen-7b" in hovers
    assert len(hovers) == 4
    marks = sum(len(trace.x) for trace in figure.data if trace.customdata is not None)
    assert marks == 2 * len(data)  # against cost, and against time
    assert "beaten by no other" in tradeoffs.finding(data)
    failed = table.assign(state="failed")
    assert tradeoffs.table(failed, ["candidate"]).empty
    assert "accuracy" in str(tradeoffs.figure(tradeoffs.table(failed, ["candidate"])).layout)


def test_the_command_writes_the_table_and_the_report(tmp_path, capsys):
    import yaml

    scenario = tmp_path / "small.yaml"
    scenario.write_text(yaml.safe_dump({**SMALL, "measure": {"queries": 10}}))
    out = tmp_path / "out"
    assert main(["sweep", str(scenario), "--out", str(out), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "vote of 5" in said
    assert "right" in said
    assert "tradeoffs" in (out / "report.html").read_text(encoding="utf-8")
    assert main(["sweep", str(scenario), "--out", str(out), "--resume", "--quiet", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 4


def test_the_steps_of_a_trainer_and_the_hits_of_a_cache_stand_in_the_table(tmp_path, capsys):
    import yaml

    lengths = {"prompt": 100, "reasoning": {"law": "lognormal", "median": 300, "sigma": 0.8}, "answer": 40}
    trainer = {"process": "rollout", "prompts": 4, "training": "20 s"}
    made: dict[str, Any] = {
        "name": "steps",
        "workload": {"arrivals": trainer, "lengths": lengths, "recurrence": {"problems": 6}},
        "pools": {"main": {"model": "r1-distill-qwen-7b", "hardware": "h100-sxm"}},
        "strategy": {"name": "group", "samples": 2},
        "measure": {"queries": 16},
        "sweep": {
            "over": {"workload.arrivals.max_lag": [0, 1]},
            "candidates": {"kept": {"trace_cache": {"lookup": "0 s"}}},
        },
    }
    scenario = tmp_path / "steps.yaml"
    scenario.write_text(yaml.safe_dump(made))
    assert main(["sweep", str(scenario), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "GPU-hours a step" in said
    assert "cache hits" in said
    table = pd.read_parquet(tmp_path / "out" / "table.parquet")
    waits, ahead = table.to_dict("records")
    assert waits["training_step_s"] > ahead["training_step_s"] > 0
    assert waits["gpu_hours_per_step"] > ahead["gpu_hours_per_step"]
    assert 0 < waits["hit_rate"] < 1
    assert not (tmp_path / "out" / "report.html").exists()
