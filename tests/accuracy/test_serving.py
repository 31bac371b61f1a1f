"""Results of load generators: read, compared with a simulation of the same load, and fitted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.profile import load as load_profile
from sim import load as load_scenario
from sim.cli.main import main
from sim.engine.replica import make_replica
from sim.errors import InputError
from sim.policies.schedulers.vllm import Vllm
from sim.validation.accuracy_client import Load, Replayed, drive
from sim.validation.serving_replay import compare, fit, left_out, placed_pool, profile_of, shifted
from sim.validation.serving_results import read_results

SCENARIO = {
    "name": "server",
    "workload": {"arrivals": "poisson", "rate": "1/s", "lengths": {"prompt": 500, "answer": 100}, "queries": 100},
    "pools": {"only": {"model": "qwen3-14b", "hardware": "h100-sxm"}},
}
YAML = (
    "name: server\n"
    "workload: {arrivals: poisson, rate: 1/s, lengths: {prompt: 500, answer: 100}, queries: 100}\n"
    "pools: {only: {model: qwen3-14b, hardware: h100-sxm}}\n"
)


@pytest.fixture(scope="module")
def pool() -> Any:
    return placed_pool(load_scenario({**SCENARIO}))


def real_run(pool: Any, concurrency: int, *, step_s: float = 0.0, row_s: float = 0.0) -> tuple[Load, Replayed]:
    """A closed loop on an engine whose steps take *step_s* and *row_s* longer than the profile says."""
    rng = np.random.default_rng(concurrency)
    count = 6 * concurrency
    load = Load(
        np.zeros(count, dtype=np.int64), rng.integers(200, 800, count), rng.integers(50, 150, count), None, concurrency
    )
    placed = shifted(pool.placed, step_s, row_s, 0.012)
    replica = make_replica(pool.settings, placed.step_cost, Vllm())
    return load, drive([replica], load, front_end_ps=placed.front_end_ps)


def as_vllm(load: Load, seen: Replayed, *, detailed: bool = True) -> dict[str, Any]:
    tpot = (seen.e2e_s - seen.ttft_s) / (seen.output_tokens - 1)
    row = {
        "date": "20260101-000000",
        "model_id": "Qwen/Qwen3-14B",
        "num_prompts": len(load),
        "completed": len(load),
        "request_rate": "inf",
        "burstiness": 1.0,
        "max_concurrency": load.in_flight_cap,
        "total_input_tokens": int(load.prompt_tokens.sum()),
        "total_output_tokens": int(load.output_tokens.sum()),
        "mean_ttft_ms": float(seen.ttft_s.mean()) * 1e3,
        "mean_tpot_ms": float(tpot.mean()) * 1e3,
    }
    if detailed:
        itls = [[gap] * (n - 1) for gap, n in zip(tpot.tolist(), seen.output_tokens.tolist(), strict=True)]
        row |= {
            "input_lens": load.prompt_tokens.tolist(),
            "output_lens": load.output_tokens.tolist(),
            "ttfts": seen.ttft_s.tolist(),
            "itls": itls,
            "start_times": (1000 + seen.sent_s).tolist(),
        }
    return row


def as_guidellm(load: Load, seen: Replayed) -> dict[str, Any]:
    good = [
        {
            "request_start_time": 1000 + start,
            "request_end_time": 1000 + start + e2e,
            "time_to_first_token_ms": ttft * 1e3,
            "prompt_tokens": prompt,
            "output_tokens": output,
        }
        for start, e2e, ttft, prompt, output in zip(
            seen.sent_s.tolist(),
            seen.e2e_s.tolist(),
            seen.ttft_s.tolist(),
            load.prompt_tokens.tolist(),
            load.output_tokens.tolist(),
            strict=True,
        )
    ]
    run = {
        "config": {"strategy": {"type_": "concurrent", "streams": load.in_flight_cap}},
        "requests": {"successful": good, "errored": [], "incomplete": []},
    }
    return {"benchmarks": [run]}


def as_aiperf(load: Load, seen: Replayed) -> list[dict[str, Any]]:
    return [
        {
            "metadata": {"request_start_ns": int((1000 + start) * 1e9), "benchmark_phase": "profiling"},
            "metrics": {
                "request_latency": {"value": e2e * 1e3, "unit": "ms"},
                "time_to_first_token": {"value": ttft * 1e3, "unit": "ms"},
                "input_sequence_length": {"value": prompt, "unit": "tokens"},
                "output_sequence_length": {"value": output, "unit": "tokens"},
            },
            "error": None,
        }
        for start, e2e, ttft, prompt, output in zip(
            seen.sent_s.tolist(),
            seen.e2e_s.tolist(),
            seen.ttft_s.tolist(),
            load.prompt_tokens.tolist(),
            load.output_tokens.tolist(),
            strict=True,
        )
    ]


def as_inference_perf(load: Load, seen: Replayed) -> list[dict[str, Any]]:
    return [
        {
            "start_time": 1000 + start,
            "end_time": 1000 + start + e2e,
            "info": {"input_tokens": prompt, "output_tokens": output, "output_token_times": [1000 + start + ttft]},
            "error": None,
        }
        for start, e2e, ttft, prompt, output in zip(
            seen.sent_s.tolist(),
            seen.e2e_s.tolist(),
            seen.ttft_s.tolist(),
            load.prompt_tokens.tolist(),
            load.output_tokens.tolist(),
            strict=True,
        )
    ]


@pytest.mark.parametrize("tool", ["vllm", "guidellm", "aiperf", "inference-perf"])
def test_every_tool_gives_the_same_run(pool: Any, tmp_path: Path, tool: str) -> None:
    load, seen = real_run(pool, 4)
    path = tmp_path / "result.json"
    if tool == "vllm":
        path.write_text(json.dumps(as_vllm(load, seen)), encoding="utf-8")
    elif tool == "guidellm":
        path.write_text(json.dumps(as_guidellm(load, seen)), encoding="utf-8")
    elif tool == "aiperf":
        path.write_text("\n".join(json.dumps(row) for row in as_aiperf(load, seen)), encoding="utf-8")
    else:
        path.write_text(json.dumps(as_inference_perf(load, seen)), encoding="utf-8")
    (result,) = read_results(path)
    assert result.exact
    assert sorted(result.load.prompt_tokens.tolist()) == sorted(load.prompt_tokens.tolist())
    assert result.load.in_flight_cap == (4 if tool in ("vllm", "guidellm") else None)
    assert result.metrics["ttft_ms_mean"] == pytest.approx(float(seen.ttft_s.mean()) * 1e3, rel=1e-3)
    assert result.metrics["e2e_ms_p99"] == pytest.approx(float(np.percentile(seen.e2e_s, 99)) * 1e3, rel=1e-3)
    records = {record["metric"]: record for record in compare(result, pool)}
    # The engine is the profile's own but for its front end.
    assert abs(records["tpot_ms_mean"]["signed_error"]) < 0.03
    assert records["tpot_ms_mean"]["low"] < records["tpot_ms_mean"]["predicted"] < records["tpot_ms_mean"]["high"]


def test_aggregates_alone_give_a_load_of_means(pool: Any, tmp_path: Path) -> None:
    load, seen = real_run(pool, 4)
    path = tmp_path / "result.json"
    path.write_text(json.dumps(as_vllm(load, seen, detailed=False)), encoding="utf-8")
    (result,) = read_results(path)
    assert not result.exact
    assert len(result.load) == len(load)
    assert int(result.load.prompt_tokens.sum()) == pytest.approx(int(load.prompt_tokens.sum()), rel=0.01)


@pytest.mark.parametrize(
    "text", ["", "{}", "[1, 2]", "not json", '{"ttfts": [0.1]}', '{"benchmarks": [{"requests": {}}]}']
)
def test_anything_else_is_refused_with_what_was_expected(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError):
        read_results(path)


def test_known_costs_are_found_from_two_loads(pool: Any, tmp_path: Path) -> None:
    results = []
    for concurrency in (2, 24):
        path = tmp_path / f"c{concurrency}.json"
        load, seen = real_run(pool, concurrency, step_s=2e-3, row_s=80e-6)
        path.write_text(json.dumps(as_vllm(load, seen)), encoding="utf-8")
        results += read_results(path)
    found = fit(results, pool)
    assert found.before["tpot_ms_mean"] > 0.1
    assert found.after["tpot_ms_mean"] < 0.005
    assert found.step_s == pytest.approx(2e-3, rel=0.05)
    assert found.row_s == pytest.approx(80e-6, rel=0.10)
    assert found.front_end_s == pytest.approx(0.012, abs=0.004)


def test_commands(pool: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario, result, profile = tmp_path / "s.yaml", tmp_path / "r.json", tmp_path / "mine.yaml"
    scenario.write_text(YAML, encoding="utf-8")
    load, seen = real_run(pool, 8, step_s=3e-3)
    result.write_text(json.dumps(as_vllm(load, seen)), encoding="utf-8")
    assert main(["compare-run", str(result), str(scenario), "--json"]) == 0
    before = {row["metric"]: row["signed_error"] for row in json.loads(capsys.readouterr().out)}
    assert before["tpot_ms_mean"] < -0.1
    command = ["calibrate", "serving", str(result), "--scenario", str(scenario), "--out", str(profile)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "before" in said
    assert "<" not in said
    assert "one run: nothing is left out" in said
    assert load_profile(profile).provenance["tools"] == ["vllm bench serve"]
    change = f"pools.only.profile={profile}"
    assert main(["compare-run", str(result), str(scenario), "--set", change, "--json"]) == 0
    after = {row["metric"]: row["signed_error"] for row in json.loads(capsys.readouterr().out)}
    assert abs(after["tpot_ms_mean"]) < 0.01
    assert main(["compare-run", str(result), str(scenario)]) == 0
    assert "tpot_ms_mean" in capsys.readouterr().out


def test_what_later_versions_nest_is_found(pool: Any, tmp_path: Path) -> None:
    """inference-perf's response_metrics, guidellm's timings and usage without its computed fields, aiperf's plain
    numbers and cancelled requests: the same runs."""
    load, seen = real_run(pool, 2)
    nested = [
        {
            **{key: row[key] for key in ("start_time", "end_time", "error")},
            "info": {
                "request_metrics": {"text": {"input_tokens": row["info"]["input_tokens"]}},
                "response_metrics": {key: row["info"][key] for key in ("output_tokens", "output_token_times")},
            },
        }
        for row in as_inference_perf(load, seen)
    ]
    timed = as_guidellm(load, seen)
    run = timed["benchmarks"][0]
    run["requests"]["successful"] = [
        {
            "info": {
                "timings": {
                    "request_start": row["request_start_time"],
                    "request_end": row["request_end_time"],
                    "first_token_iteration": row["request_start_time"] + row["time_to_first_token_ms"] / 1e3,
                }
            },
            "input_metrics": {"total_tokens": row["prompt_tokens"]},
            "output_metrics": {"total_tokens": row["output_tokens"]},
        }
        for row in run["requests"]["successful"]
    ]
    plain = as_aiperf(load, seen)
    for row in plain:
        row["metrics"] = {name: metric["value"] for name, metric in row["metrics"].items()}
    plain.append({**plain[0], "metadata": {**plain[0]["metadata"], "was_cancelled": True}})
    texts = (json.dumps(nested), json.dumps(timed), "\n".join(json.dumps(row) for row in plain))
    path = tmp_path / "result.json"
    for text in texts:
        path.write_text(text, encoding="utf-8")
        (result,) = read_results(path)
        assert len(result.load) == len(load)
        assert int(result.load.prompt_tokens.sum()) == int(load.prompt_tokens.sum())
        assert result.metrics["ttft_ms_mean"] == pytest.approx(float(seen.ttft_s.mean()) * 1e3, rel=1e-3)
        assert result.metrics["e2e_ms_p50"] == pytest.approx(float(np.median(seen.e2e_s)) * 1e3, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"output_lens": [0] * 12}, "every request failed"),
        ({"input_lens": [5]}, "lists of different length: 12 of output_lens, 1 of input_lens"),
        ({"ttfts": [-1.0] * 12}, "a negative time to the first token"),
        ({"ttfts": [0.2, float("nan")] + [0.2] * 10}, "a time to the first token is no number: entry 1"),
        ({"ttfts": [60.0] * 12, "mean_ttft_ms": 60.0}, "contradictory units"),
        ({"request_rate": -3}, "a rate above zero or inf is expected"),
        ({"completed": 0, "num_prompts": 0}, "no completed request"),
        ({"total_input_tokens": None, "ttfts": None}, "not in the form its tool writes"),
    ],
)
def test_results_that_cannot_be_right(pool: Any, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    row = as_vllm(*real_run(pool, 2))
    path = tmp_path / "r.json"
    path.write_text(json.dumps({**row, **change}), encoding="utf-8")
    with pytest.raises(InputError, match=said):
        read_results(path)


def test_a_missing_field_is_named(pool: Any, tmp_path: Path) -> None:
    lines = as_aiperf(*real_run(pool, 2))
    del lines[3]["metrics"]["time_to_first_token"]
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    with pytest.raises(InputError, match="time_to_first_token: missing"):
        read_results(path)


def test_requests_too_long_for_the_server_are_named(pool: Any, tmp_path: Path) -> None:
    row = as_vllm(*real_run(pool, 2))
    row["input_lens"][0] = 500_000
    path = tmp_path / "long.json"
    path.write_text(json.dumps(row), encoding="utf-8")
    (result,) = read_results(path)
    assert left_out(result, pool).startswith("1 of 12 requests of long have up to 500,")
    row["input_lens"][0] = 500
    path.write_text(json.dumps(row), encoding="utf-8")
    assert left_out(read_results(path)[0], pool) == ""


@pytest.mark.slow
def test_a_fits_error_is_that_of_runs_left_out(pool: Any, tmp_path: Path) -> None:
    results = []
    for concurrency in (2, 16):
        path = tmp_path / f"c{concurrency}.json"
        path.write_text(json.dumps(as_vllm(*real_run(pool, concurrency, step_s=5e-4))), encoding="utf-8")
        results += read_results(path)
    found = fit(results, pool)
    assert found.after["tpot_ms_mean"] < 0.005
    assert found.left_out["tpot_ms_mean"] < 0.03, "a step that both runs share is found on either"
    made = profile_of(found, results, name="x", command="", date="")
    assert made.error["runs_left_out"].median == found.left_out["tpot_ms_mean"]
    median, _, basis = made.headline()
    assert median >= pool.placed.fidelity.error_median
    assert "fitted from" in basis
    alone = fit(results[:1], pool)
    assert alone.left_out == {}
    assert "runs_left_out" not in profile_of(alone, results[:1], name="x", command="", date="").error
