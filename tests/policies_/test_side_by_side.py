"""Schedulers on the same queries: figures, paired differences and winners; and the page that tells them."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from sim import load, simulate
from sim.policies.schedulers import scheduler
from sim.validation import side_by_side
from sim.validation.side_by_side import BASE, METRICS, difference, figures, same, winners

DOCS = Path(__file__).parents[2] / "docs"


def _runs(**by_name: list[float]) -> dict[tuple[float, str], dict[str, Any]]:
    return {(1.0, name): {metric.key: values for metric in METRICS} for name, values in by_name.items()}


def test_a_difference_is_paired() -> None:
    one, other = [10.0, 20.0, 31.0, 44.0], [9.0, 18.0, 30.0, 41.0]
    found = difference(one, other)
    assert found is not None
    low, high = stats.ttest_rel(one, other).confidence_interval(0.95)
    assert found.mean - found.half == pytest.approx(low)
    assert found.mean + found.half == pytest.approx(high)
    assert found.clear
    assert not stats.ttest_ind(one, other).pvalue < 0.5, "unpaired nothing would be seen"


def test_what_was_not_seen_gives_no_difference() -> None:
    assert difference([1.0, math.inf], [1.0, 2.0]) is None
    assert difference([1.0, 2.0], [1.0, math.inf]) is None
    assert difference([1.0], [2.0]) is None


def test_the_winner_and_who_cannot_be_told_from_it() -> None:
    runs = _runs(vllm=[5.0, 6.0, 7.0], fast=[1.0, 2.0, 3.0], near=[1.5, 1.9, 3.1], lost=[0.0, 0.0, math.inf])
    less, more = METRICS[0], next(metric for metric in METRICS if not metric.lower_is_better)
    assert winners(runs, less, 1.0) == ["fast", "near"]
    assert winners(runs, more, 1.0) == ["vllm"]
    assert winners(_runs(lost=[math.inf, 1.0]), less, 1.0) == []
    assert same(runs, BASE)
    assert not same(runs, "fast")


def _small(drain: str) -> Any:
    return simulate(
        load(
            {
                "name": "small",
                "seed": 3,
                "workload": {"arrivals": "poisson", "rate": "2/s", "lengths": {"prompt": 300, "output": 400}},
                "pools": {"p": {"model": "r1-distill-llama-8b", "hardware": "h100-sxm"}},
                "measure": {"duration": "10 s", "max_drain": drain, "replications": 2},
            }
        )
    )


def test_figures_are_those_of_each_replication() -> None:
    results = _small("5 min")
    found = figures(results)
    queries = results.queries[results.queries["in_window"]]
    for number in (0, 1):
        times = queries[queries["replication"] == number]["tta_s"].to_numpy()
        assert found["n"][number] == len(times) > 5
        assert found["tta_p99"][number] == pytest.approx(np.quantile(times, 0.99))
        assert found["tta_p50"][number] == pytest.approx(np.quantile(times, 0.5))
    assert found["open"] == [0, 0]


def test_there_is_no_evenness_among_those_that_were_answered() -> None:
    found = figures(_small("0 s"))
    assert all(found["open"])
    assert found["jain"] == [math.inf, math.inf]
    assert all(map(math.isfinite, found["tta_p50"]))


def test_what_was_kept_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def run(name: str, rate: float, replications: int) -> Any:
        ran.append(name)
        return name

    monkeypatch.setattr(side_by_side, "run", run)
    monkeypatch.setattr(side_by_side, "saturated_rate", lambda: 0.5)
    monkeypatch.setattr(side_by_side, "figures", lambda results: {"n": [len(results)]})
    file = tmp_path / "runs.jsonl"
    first = side_by_side.gather(1, loads=(1.0,), kept=file)
    assert sorted(ran) == scheduler.names()
    assert [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] == list(first.values())
    ran.clear()
    assert side_by_side.gather(1, loads=(1.0,), kept=file) == first
    assert not ran
    side_by_side.gather(1, loads=(1.0,), kept=file, anew=["mlfq"])
    assert ran == ["mlfq"]


def test_the_page_tells_of_every_scheduler_and_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    sys.modules.pop("write_schedulers", None)
    import write_schedulers

    text = (DOCS / "schedulers.md").read_text(encoding="utf-8")
    told = text[text.index(write_schedulers.BEGIN) : text.index(write_schedulers.END)]
    assert all(f"`{name}`" in told for name in scheduler.names())
    assert all(f"**{metric.name.capitalize()}, {metric.unit}**" in told for metric in METRICS)
    runs = {
        (share, name): {
            **{metric.key: [1.0 + number, 2.0] for metric in METRICS},
            "n": [3, 3],
            "open": [0, 1],
            "preemptions": [6.0, 0.0],
            "rate": 0.5,
        }
        for share in side_by_side.LOADS
        for number, name in enumerate((BASE, "other"))
    }
    made = write_schedulers.written(runs)
    assert "| `vllm` | 1.5 (± 6.4) |" in made
    assert "| `other` | +0.5 ± 6.4 |" in made
    assert "| `other` | 1.00; 16.7 |" in made
