"""Replications go on until the interval is as narrow as was asked, and no longer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from sim.cli.main import main
from sim.errors import InputError
from sim.planning import sweep
from sim.planning.compare import compare
from sim.planning.precision import Precision, deciding, relative_width, replicate
from sim.planning.runs import Runner, Store
from sim.results.columns import Status
from sim.scenario.load import load

CHANGES = ["measure.queries=20", "measure.warmup=0 s", "measure.replications=2", "measure.max_drain=5 min"]


class Noisy:
    """A runner and its store: the replications' times to answer are lognormal, their level varies by *spread*."""

    def __init__(self, spread: float) -> None:
        self.spread = spread
        self.store = self

    def run(self, tasks: Any) -> list[dict[str, Any]]:
        return [{"state": "done", "key": str(task.replication)} for task in tasks]

    def frame(self, key: str) -> pd.DataFrame:
        draws = np.random.default_rng([7, int(key)])
        times = np.exp(self.spread * draws.standard_normal()) * draws.lognormal(3, 0.5, 400)
        status = np.full(400, int(Status.COMPLETED))
        return pd.DataFrame({"tta_s": times, "waited_s": times, "status": status, "slo_met": times < 60})


def count(spread: float, width: float, most: int = 200) -> int:
    runner = cast(Runner, Noisy(spread))
    (records,) = replicate([load("quickstart", CHANGES)], runner, Precision(width, "p90_tta", most))
    reached = relative_width(records, runner, "p90_tta")
    assert reached is not None
    assert reached <= width or len(records) == most
    return len(records)


def test_as_many_as_the_width_needs() -> None:
    assert count(0.0, 0.2) == 3  # clear at once: the least there is
    few, many = count(0.2, 0.1), count(0.2, 0.05)
    assert 3 < few < many <= 200
    assert count(0.2, 0.001, most=20) == 20  # and never more than allowed


def test_the_deciding_figure_is_that_of_the_first_target() -> None:
    assert deciding(load("quickstart", CHANGES)) == "p90_tta"
    assert deciding(load("quickstart", [*CHANGES, "slo.tta=null"])) == "p99_tta"
    with pytest.raises(InputError, match="did you mean"):
        Precision(0.1, "p99_tto")


def test_a_comparison_goes_on_until_the_difference_is_clear(tmp_path: Path) -> None:
    first = load("quickstart", CHANGES)
    other = load("quickstart", [*CHANGES, "pools.reasoning.replicas=1"]).model_copy(update={"name": "one"})
    loose = compare([first, other], Runner(Store(tmp_path)), Precision(0.9, "p50_tta", 5))
    tight = compare([first, other], Runner(Store(tmp_path)), Precision(0.0001, "p50_tta", 5))
    assert loose["replications"] < tight["replications"] == 5
    assert loose["precision"] <= 0.9


def test_a_sweep_gives_each_point_what_it_needs(tmp_path: Path) -> None:
    found = sweep.points("quickstart", CHANGES, sweep.grid([sweep.parse_axis("workload.rate=0.2/s,0.4/s")]))
    loose = sweep.run(found, Runner(Store(tmp_path)), Precision(0.9, "p50_tta", 6))
    tight = sweep.run(found, Runner(Store(tmp_path)), Precision(0.0001, "p50_tta", 6))
    assert all(3 <= count < 6 for count in loose["replications"])
    assert tight["replications"].tolist() == [6, 6]


def test_a_share_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--precision=much", "--precision=0", "--precision-of=p50_tta"):
        assert main(["compare", "quickstart", "quickstart", option]) == 2
        assert "precision" in capsys.readouterr().err
