"""Cases read, loads built, regimes decided, errors compared."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.cli.main import main
from sim.errors import InputError
from sim.report.accuracy import listed, page
from sim.report.html import render
from sim.validation import accuracy
from sim.validation.accuracy_cases import METRICS, Case, read_cases
from sim.validation.accuracy_loads import load_of, stages_of
from sim.validation.accuracy_regime import regime_of
from sim.validation.accuracy_settings import Skipped, batch_defaults, dtype_of, gpu_name, release_of, setup
from sim.validation.accuracy_summary import bar_tables, lines, skips, summarise

SHARED = Path(__file__).parents[3] / "shared" / "external" / "validation"

BASE = {
    "gpu": "H100-SXM5-80GB",
    "n_gpus": "1",
    "model": "Qwen/Qwen3-14B",
    "dtype": "bf16",
    "tp": "1.0",
    "n_replicas": "1.0",
    "engine": "vLLM",
    "engine_version": "0.23.0",
    "max_num_seqs": "64",
    "max_num_batched_tokens": "2048",
    "num_kv_blocks": "20000",
    "block_size": "16",
}


def case(folder: Path = Path("."), **cells: Any) -> Case:
    return Case(str(cells.pop("id", "x-1")), {**BASE, **{key: str(value) for key, value in cells.items()}}, folder)


def closed(**cells: Any) -> Case:
    text = "in ~U[0.8,1]x1024, out ~U[0.8,1]x256, 2x warm-ups"
    return case(**{"workload_kind": "closed_loop", "workload_desc": text, "concurrency": 8, "n_requests": 80, **cells})


def write_cases(folder: Path, rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (folder / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


# ------------------------------------------------------------------ reading


def test_cells_are_read_leniently() -> None:
    one = case(max_num_batched_tokens="8192 (see config)", ttft_ms_mean="nan", tpot_ms_mean="12.5", e2e_ms_mean="0")
    assert one.whole("max_num_batched_tokens") == 8192
    assert one.number("no_such_column") is None
    assert one.measured() == {"tpot_ms_mean": 12.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no cases.csv"),
        ("name,x\n1,2\n", "no column id"),
        ("id\na\na\n", "stands twice"),
        ("id,x\n,1\n", "no id"),
    ],
)
def test_a_broken_table_says_what_is_wrong(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "cases.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_cases(tmp_path)


@pytest.mark.parametrize(
    ("stated", "name"),
    [
        ("H100-80GB-HBM3", "h100-sxm"),
        ("NVIDIA H100-PCIe", "h100-pcie"),
        ("b200_sxm", "b200"),
        ("NVIDIA GB200", "gb200"),
        ("RTX4090-24GB", "rtx-4090"),
        ("RTXPRO6000-96GB", "rtx-pro-6000"),
        ("A100-SXM4-80GB", "a100"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("Gaudi 3", None),
    ],
)
def test_gpus_as_sources_spell_them(stated: str, name: str | None) -> None:
    assert gpu_name(stated) == name


def test_formats_and_releases() -> None:
    assert [dtype_of(text) for text in ("fp16/bf16 (FP16 in manifest)", "FP8", "fp4", "mxfp4", "")] == [
        "bf16",
        "fp8",
        "nvfp4",
        "mxfp4",
        "auto",
    ]
    assert release_of(case(engine_version="v0.19.0-cu130")) == ("0.19", None)
    assert release_of(case(engine_version="unstated (V1, Feb-Mar 2026)"))[0] == "0.15"
    assert release_of(case(engine_version="nan", notes="wip=False; 2025-10-29"))[0] == "0.11"
    assert release_of(case(engine_version=""))[0] is None


def test_settings_are_those_of_the_run() -> None:
    found = setup(case(prefix_caching="off"))
    assert found.settings.num_gpu_blocks == 20_000
    assert found.settings.max_num_seqs == 64
    assert not found.settings.enable_prefix_caching
    assert found.settings.async_scheduling
    assert not setup(case(engine_version="0.11.0")).settings.async_scheduling
    assert setup(case(engine_version="0.11.1", other_settings="async-scheduling")).settings.async_scheduling
    assert setup(case(notes="arrived_at = engine queued_ts")).front_end_ps == 0


@pytest.mark.parametrize(
    ("gpu", "release", "seqs", "tokens"),
    [
        ("h100-sxm", "0.15", 1024, 8192),
        ("rtx-pro-6000", None, 1024, 8192),
        ("a100", "0.8.5", 1024, 8192),
        ("a100", "0.9", 256, 2048),
        ("a100", None, 256, 2048),
        ("a100-40", "0.8", 256, 2048),
        ("l40s", "0.19", 256, 2048),
        ("rtx-4090", "0.19", 256, 2048),
    ],
)
def test_defaults_are_those_of_the_release_on_the_gpu(gpu: str, release: str | None, seqs: int, tokens: int) -> None:
    assert batch_defaults(gpu, release) == (seqs, tokens)


def test_routing_by_chance_is_drawn_several_times(tmp_path: Path) -> None:
    one = {**closed().row, "id": "x-1", "n_gpus": "2", "n_replicas": "2", "n_requests": "20", "tpot_ms_mean": "10"}
    write_cases(tmp_path, [one])
    (record,) = accuracy.run(tmp_path, band=False).records
    chosen, load = setup(read_cases(tmp_path)[0]), load_of(read_cases(tmp_path)[0], {})
    draws = [accuracy.predict(chosen, load, routing=draw).replayed for draw in range(accuracy.ROUTINGS)]
    tpots = [1e3 * ((d.e2e_s - d.ttft_s) / (d.output_tokens - 1)).mean() for d in draws]
    assert len({round(tpot, 9) for tpot in tpots}) > 1
    assert record["predicted"] == pytest.approx(np.median(tpots))


def test_recipes_fill_in_what_a_source_states_elsewhere() -> None:
    dated = "statistic not stated; image/date: wip=False; 2025-11-02T00:00:00.000Z"
    cells = {"gpu": "b200_sxm", "model": "meta-llama/Llama-3.1-70B", "dtype": "fp8", "tp": 4, "num_kv_blocks": ""}
    plain = setup(closed(engine_version="", notes=dated, **cells))
    assert plain.placed.kv_cache_dtype == "auto"
    assert plain.placed.engine_cost.version == "0.11.1"
    assert not plain.settings.async_scheduling
    cells["workload_desc"] = "InferenceX random: in ~U[0.8,1]x1024, out ~U[0.8,1]x1024, 2x warm-ups"
    found = setup(closed(engine_version="", notes=dated, **cells))
    assert found.placed.kv_cache_dtype == "fp8"
    assert found.settings.num_gpu_blocks > 1.9 * plain.settings.num_gpu_blocks
    assert found.placed.engine_cost.version == "0.19"
    assert found.settings.async_scheduling
    assert any("InferenceX, Llama 70B on B200" in words for words in found.assumed)
    experts = {**cells, "gpu": "h200_sxm", "model": "openai/gpt-oss-120b", "dtype": "fp4"}
    timed = setup(closed(engine_version="", notes=dated, **experts))
    marlin = setup(closed(**{**experts, "engine_version": "0.18.0"}))
    assert any("marlin" in words for words in marlin.assumed)
    steps = [found.placed.hardware_cost.linear(8192) for found in (timed, marlin)]
    assert 1.2 < steps[1] / steps[0] < 1.5
    stated = setup(closed(**{**cells, "engine_version": "0.15.1"}))
    assert stated.placed.engine_cost.version == "0.15", "a release that the row states is kept"


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"engine": "sglang"}, "another engine: sglang"),
        ({"gpu": "TPU v6"}, "no profile: GPU"),
        ({"model": "nobody/Nothing-7B"}, "no profile"),
        ({"tp": ""}, "tensor parallel size"),
        ({"model": "meta-llama/Llama-3.1-405B", "num_kv_blocks": ""}, "no deployment"),
    ],
)
def test_what_cannot_be_predicted_says_why(cells: dict[str, str], reason: str) -> None:
    with pytest.raises(Skipped, match=reason):
        setup(case(**cells))


# ------------------------------------------------------------------ loads


def test_stages_in_both_spellings() -> None:
    json_like = stages_of('stages [{"duration": 600, "rate": 5}, {"duration": 300, "rate": 10}]; sys 100')
    tuples = stages_of("stages(rate,dur) [(5.0, 600), (10.0, 300)]; sys 100")
    assert json_like == tuples
    assert [stage.rate_per_s for stage in tuples] == [5, 10]


def test_closed_loop_lengths_are_uniform() -> None:
    load = load_of(closed(), {})
    assert (len(load), load.discarded, load.in_flight_cap) == (96, 16, 8)
    measured = load.output_tokens[16:]
    assert 204 <= measured.min() <= 207
    assert 253 <= measured.max() <= 256
    assert measured.mean() == pytest.approx(0.9 * 256, rel=0.003)


def test_bursts_follow_their_histogram() -> None:
    histogram = {"x-1": (np.array([0.0, 100.0, 200.0]), np.array([30.0, 10.0]))}
    row = case(workload_kind="offline_burst", workload_desc="GPQA Diamond", n_requests=400)
    load = load_of(row, histogram)
    assert (load.output_tokens <= 100).sum() == pytest.approx(300, abs=2)
    assert load.prompt is not None
    assert len(np.unique(load.prompt)) == 198
    with pytest.raises(Skipped, match="histogram"):
        load_of(row, {})


def test_a_cap_replays_what_was_meant(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "w.csv.gz", "wt") as file:
        file.write("arrived_at,num_prefill_tokens,num_decode_tokens,intended_arrival\n5,10,20,1\n2,11,21,0.5\n")
    capped = load_of(
        case(tmp_path, workload_csv="w.csv.gz", workload_kind="open", notes="client caps in-flight at 256"), {}
    )
    assert capped.in_flight_cap == 256
    assert (capped.sends_ps / 1e12).tolist() == [0, 0.5]
    free = load_of(case(tmp_path, workload_csv="w.csv.gz", workload_kind="open"), {})
    assert (free.sends_ps / 1e12).tolist() == [0, 3]
    assert free.prompt_tokens.tolist() == [11, 10]


# ------------------------------------------------------------------ regimes


@pytest.mark.parametrize(
    ("cells", "regime"),
    [
        ({"n_requests": 100, "n_ok": 90}, "overloaded"),
        ({"workload_kind": "offline_burst", "batch_mean": 63.9}, "overloaded"),
        ({"workload_kind": "offline_burst", "batch_mean": 50}, "kv_limited"),
        ({"in_flight_mean": 60, "input_len_mean": 5000, "output_len_mean": 1000, "e2e_ms_mean": 9e4}, "kv_limited"),
        ({"in_flight_mean": 60, "ttft_ms_mean": 5e3, "e2e_ms_mean": 9e3, "output_len_mean": 50}, "overloaded"),
        ({"ttft_ms_mean": 200, "ttft_ms_p50": 70, "ttft_ms_p99": 900, "e2e_ms_mean": 9e3}, "knee"),
        ({"ttft_ms_mean": 72, "ttft_ms_p50": 70, "ttft_ms_p99": 900, "e2e_ms_mean": 9e3}, "below_knee"),
        ({}, "below_knee"),
    ],
)
def test_regime_is_decided_by_what_was_measured(cells: dict[str, Any], regime: str) -> None:
    assert regime_of(case(**cells)) == regime


# ------------------------------------------------------------------ the whole chain


def truth(row: Case, factor: float = 1.0) -> dict[str, float]:
    """What our own engine gives for *row*, as if it had been measured."""
    chosen = setup(row)
    prediction = accuracy.predict(chosen, load_of(row, {}), factor=factor)
    found = accuracy.request_statistics(row, prediction.replayed)
    return {name: value for name, value in found.items() if name in METRICS}


def test_a_run_of_our_own_is_predicted_exactly(tmp_path: Path) -> None:
    row = closed(id="own-1", output_len_mean=230)
    write_cases(tmp_path, [{"id": "own-1", **row.row, **truth(row)}])
    report = accuracy.run(tmp_path)
    compared = [record for record in report.records if record["signed_error"] is not None]
    assert {"ttft_ms_mean", "tpot_ms_p99", "e2e_ms_mean", "derived_output_tps"} <= {r["metric"] for r in compared}
    assert all(abs(record["signed_error"]) < 1e-9 for record in compared)
    assert all(low <= r["measured"] <= high for r in compared for low, high in (r["band"],))


def test_an_error_of_the_step_shows(tmp_path: Path) -> None:
    row = closed(id="own-1", output_len_mean=230)
    write_cases(tmp_path, [{"id": "own-1", **row.row, **truth(row, factor=1.1)}])
    records = {record["metric"]: record for record in accuracy.run(tmp_path).records}
    assert records["tpot_ms_mean"]["signed_error"] == pytest.approx(1 / 1.1 - 1, abs=0.01)
    assert records["tpot_ms_mean"]["within_bar"]  # a recipe's bar is 10 %
    low, high = records["tpot_ms_mean"]["band"]
    assert high < records["tpot_ms_mean"]["measured"]
    assert low < high


def test_records_of_skipped_and_empty_cases(tmp_path: Path) -> None:
    row = closed(tpot_ms_mean=10).row
    write_cases(
        tmp_path,
        [{"id": "a-1", **row, "engine": "trtllm"}, {"id": "a-2", **row, "tpot_ms_mean": ""}, {"id": "a-3"}],
    )
    records = accuracy.run(tmp_path, band=False).records
    assert [record["id"] for record in records] == ["a-1", "a-2", "a-3"]
    assert records[0]["skipped"] == "another engine: trtllm"
    assert records[0]["measured"] == 10
    assert records[1]["skipped"] == records[2]["skipped"] == "nothing measured"


def test_shipped_cases_hold_and_the_page_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(read_cases(accuracy.SHIPPED)) >= 30
    assert main(["accuracy", "--sample", "8", "--quiet", "--no-band", "--out", str(tmp_path)]) == 0
    assert "within the bars" in capsys.readouterr().out
    records = json.loads((tmp_path / "accuracy.json").read_text(encoding="utf-8"))
    assert len({record["id"] for record in records}) == 8
    judged = [record["within_bar"] for record in records if "within_bar" in record]
    assert len(judged) >= 10
    assert np.mean(judged) >= 0.9
    html = (tmp_path / "accuracy.html").read_text(encoding="utf-8")
    assert "What is worst?" in html
    assert records[0]["id"] in html


def test_nothing_to_replay_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["accuracy", "--quiet", "--only", "infy", "--out", str(tmp_path / "o")]) == 2
    said = capsys.readouterr().err
    assert "no case begins with 'infy'" in said
    assert "did you mean 'infx'" in said
    (tmp_path / "cases.csv").write_text("id,model\n", encoding="utf-8")
    assert main(["accuracy", str(tmp_path), "--quiet", "--out", str(tmp_path / "o")]) == 2
    assert "no cases below the header" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_summary_counts_what_it_says() -> None:
    base = {"tier": "A", "used_in_fitting": False, "regime": "knee", "metric": "tpot_ms_mean", "measured": 10.0}
    rows: list[dict[str, Any]] = [
        {**base, "id": "f-1", "predicted": 11.0, "signed_error": 0.1, "within_bar": False, "band": [9.0, 12.0]},
        {**base, "id": "f-2", "predicted": 9.8, "signed_error": -0.02, "within_bar": True, "band": [9.7, 9.9]},
        {**base, "id": "f-3", "predicted": None, "signed_error": None, "skipped": "why not"},
    ]
    (row,) = summarise(rows)
    assert (row["n"], row["within_bar"], row["judged"], row["in_band"]) == (2, 1, 2, 1)
    assert row["worst"] == 0.1
    assert row["worst_id"] == "f-1"
    assert skips(rows) == {"why not": 1}
    assert "1 of 2" in "\n".join(lines(rows))
    html = render(page(rows, summarise(rows), skips(rows), bars=bar_tables(rows), source="x", wall_s=1.0))
    assert "f-1" in html
    assert "1 of 2, median 6.0\u00a0%; 1 in the band" in html


def test_a_page_of_nothing_compared_says_so() -> None:
    base = {"id": "f-1", "tier": "A", "used_in_fitting": False, "regime": "knee", "metric": "tpot_ms_mean"}
    rows: list[dict[str, Any]] = [
        {**base, "measured": 1.0, "predicted": None, "signed_error": None, "skipped": "why not"}
    ]
    html = render(page(rows, summarise(rows), skips(rows), bars=bar_tables(rows), source="x", wall_s=1.0))
    assert "Nothing was compared" in html
    assert "why not" in html


def test_one_family_does_not_fill_the_list_of_the_worst() -> None:
    many = [{"id": f"a-{number}", "signed_error": 0.9 - number / 100} for number in range(10)]
    found = listed([*many, {"id": "b-1", "signed_error": -0.1}])
    assert [record["id"] for record in found] == ["a-0", "a-1", "a-2", "a-3", "b-1"]


# ------------------------------------------------------------------ real runs

EXACT = ("resid-rate-2rps-vanilla", "resid-rate-4rps-patched", "resid-w5-agg12", "resid-w7-agg6", "llmss-RTXPRO6000")


@pytest.mark.skipif(not (SHARED / "cases.csv").is_file(), reason="the folder of real runs is not beside the project")
def test_real_runs_are_within_their_bars() -> None:
    records = accuracy.run(SHARED, only=EXACT, band=False).records
    judged = {(record["id"], record["metric"]): record for record in records if "within_bar" in record}
    assert len({name for name, _ in judged}) == 5
    assert [key for key, record in judged.items() if not record["within_bar"]] == []
