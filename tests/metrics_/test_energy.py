"""Energy by hand: watts by what the GPUs did, the site's overhead, and grams of CO2e."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from calibration.hardware import hardware
from sim import load, simulate
from sim.errors import InputError
from sim.metrics.energy import pool_watts
from sim.results.results import Results

DATA: dict[str, Any] = {
    "name": "energy",
    "workload": {
        "arrivals": "poisson",
        "rate": "2/s",
        "lengths": {"prompt": 300, "reasoning": 200, "answer": 50},
    },
    "pools": {"main": {"model": "llama-3.1-8b", "hardware": "h100-sxm", "engine": {"max_model_len": 8192}}},
    "measure": {"warmup": "5 s", "duration": "60 s"},
}


def test_watts_are_a_mean_over_what_the_time_went_to() -> None:
    power = {"idle_w": 70, "memory_bound_w": 480, "compute_bound_w": 700}
    parts = {"idle": 0.5, "prefill": 0.1, "weights": 0.2, "kv_read": 0.1, "host": 0.1}
    assert pool_watts(power, parts) == pytest.approx(0.5 * 70 + 0.1 * 700 + 0.4 * 480)


def test_a_runs_energy_adds_up() -> None:
    data = copy.deepcopy(DATA) | {"energy": {"pue": 1.25, "carbon_intensity": "100 g/kWh"}}
    summary = simulate(load(data)).summary
    told, parts = summary["energy"], summary["gpu"]["pools"]["main"]["parts"]
    power = hardware("h100-sxm").power
    watts = power.idle_w * parts["idle"] + power.compute_bound_w * parts["prefill"]
    watts += power.memory_bound_w * (1 - parts["idle"] - parts["prefill"])
    assert told["gpu_kwh"] == pytest.approx(watts / 1000 * 60 / 3600)
    assert told["site_kwh"] == pytest.approx(1.25 * told["gpu_kwh"])
    queries = summary["throughput"]["queries_completed"]
    assert told["kwh_per_query"] == pytest.approx(told["site_kwh"] / queries)
    assert told["co2e_g_per_query"] == pytest.approx(100 * told["kwh_per_query"])
    assert "assumed" in told["pools"]["main"]["basis"]


def test_an_idle_fleet_draws_its_idle_watts() -> None:
    data = copy.deepcopy(DATA)
    data["workload"]["rate"] = "0.001/s"
    data["measure"] = {"warmup": "1 s", "duration": "10 s"}
    told = simulate(load(data)).summary["energy"]
    assert told["mean_watts_per_gpu"] == hardware("h100-sxm").power.idle_w
    assert told["kwh_per_query"] is None


def test_energy_survives_saving(tmp_path: Any) -> None:
    results = simulate(load(copy.deepcopy(DATA)))
    assert Results.load(results.save(tmp_path / "run")).summary["energy"] == results.summary["energy"]


@pytest.mark.parametrize("wrong", [445, "445", "445 kg", "-1 g/kWh", "much"])
def test_a_carbon_intensity_needs_its_unit(wrong: Any) -> None:
    with pytest.raises(InputError, match="g/kWh"):
        load(copy.deepcopy(DATA) | {"energy": {"carbon_intensity": wrong}})
