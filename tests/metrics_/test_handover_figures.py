"""What the way of KV between pools takes, against the tables and by hand; and where the page shows it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sim import load, simulate
from sim.metrics.handover import first_legs
from sim.report import serving
from sim.report.figures import phases
from sim.results.results import Results


def apart(rate: str, **sections: Any) -> Results:
    pool = {"model": "llama-3.1-8b", "hardware": "h100-sxm", "engine": {"enable_prefix_caching": False}}
    data: dict[str, Any] = {
        "name": "apart",
        "seed": 2,
        "workload": {
            "arrivals": {"process": "constant"},
            "rate": rate,
            "queries": 30,
            "lengths": {"prompt": 1600, "reasoning": 20, "answer": 10},
        },
        "pools": {"prefill": pool | {"role": "prefill"}, "decode": pool | {"role": "decode", "replicas": 2}},
        "kv_transfer": {"bandwidth": "1 GB/s", "latency": "5 ms"},
        "measure": {},
    }
    return simulate(load(data | sections))


def test_copies_over_an_idle_link_by_hand() -> None:
    """1,600 tokens of 128 KiB are 100 blocks of 2 MiB: 0.2097 s at 1 GB/s, and 5 ms; one query every two seconds."""
    results = apart("0.5/s")
    pools = results.summary["kv_transfer"]["pools"]
    copy_s = 1600 * 131_072 / 1e9
    for name in ("prefill", "decode"):
        assert pools[name]["copies"] == 29  # the window closes when the thirtieth comes
        assert pools[name]["bytes"] == 29 * 1600 * 131_072
        assert pools[name]["copy_mean_s"] == pytest.approx(copy_s + 0.005)
        assert pools[name]["handover_mean_s"] == pytest.approx(copy_s + 0.005, abs=1e-6)
        assert pools[name]["waiting_mean_s"] == pytest.approx(0, abs=1e-6)
    (run,) = results.runs
    window_s = (run.window_end_ps - run.window_start_ps) / 1e12
    assert pools["prefill"]["link_use"] == pytest.approx(29 * copy_s / window_s)
    assert pools["decode"]["link_use"] == pytest.approx(14.5 * copy_s / window_s)
    means = phases.table(results.queries, results.requests, results.stalls).set_index("phase")["mean_s"]
    assert means["handover"] == pytest.approx(copy_s + 0.005, abs=1e-6)  # an idle replica begins at once
    assert means["queue"] == pytest.approx(0, abs=1e-6)
    assert means.sum() == pytest.approx(results.queries["tta_s"].mean() - run.pools[1].front_end_ps / 1e12)
    (line,) = serving.lines(results)
    assert line.startswith("KV of 29 prompts was copied to pool decode: from prefill to decode it was 215 ms under way")


def test_links_that_are_the_limit_are_seen() -> None:
    """Ten a second ask for 2.1 s of link a second: the link is always taken, and nearly all of the way is waiting."""
    pools = apart("10/s").summary["kv_transfer"]["pools"]
    assert pools["prefill"]["link_use"] > 0.9
    assert pools["prefill"]["waiting_mean_s"] > 2 * pools["prefill"]["copy_mean_s"]
    assert pools["prefill"]["handover_max_s"] > pools["prefill"]["handover_p95_s"] > pools["prefill"]["handover_p50_s"]


def test_without_two_pools_there_is_nothing_to_say() -> None:
    plain = apart("1/s", pools={"main": {"model": "llama-3.1-8b", "hardware": "h100-sxm"}}, kv_transfer={})
    assert plain.summary["kv_transfer"] is None
    assert serving.lines(plain) == []


def test_each_attempt_goes_on_from_its_own_first_leg() -> None:
    keys = (np.zeros(7, int), np.array([1, 1, 1, 1, 2, 2, 3]), np.zeros(7, int))
    leg = np.array([True, False, True, False, False, True, False])
    at_s = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 4.5, np.nan])
    assert first_legs(keys, leg, at_s).tolist() == [-1, 0, -1, 2, 5, -1, -1]
    never = np.where(leg, np.nan, at_s)
    assert first_legs(keys, leg, never).tolist() == [-1] * 7
    empty = np.zeros(0)
    assert first_legs((empty, empty, empty), empty.astype(bool), empty).tolist() == []
