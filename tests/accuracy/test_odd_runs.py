"""Rows and files as other sources write them: predicted where anything tells how, else skipped with the true reason."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any

import pytest

from sim.validation import accuracy
from sim.validation.accuracy_cases import Case
from sim.validation.accuracy_settings import Skipped, gpu_name, model_name, setup

ROW = {
    "id": "x-1",
    "engine": "vllm",
    "engine_version": "0.19.0",
    "gpu": "h100_sxm",
    "n_gpus": "1",
    "model": "meta-llama/Llama-3.1-8B-Instruct",
    "dtype": "bf16",
    "tp": "1",
    "workload_kind": "closed_loop",
    "concurrency": "4",
    "n_requests": "12",
    "input_len_mean": "300",
    "output_len_mean": "40",
    "ttft_ms_mean": "30",
    "tpot_ms_mean": "8",
}


def case(**cells: str) -> Case:
    return Case("x-1", {**ROW, **cells}, Path("."))


def predicted(folder: Path, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    full = [{**ROW, "id": f"x-{number}", **row} for number, row in enumerate(rows)]
    with (folder / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in full for name in row)))
        writer.writeheader()
        writer.writerows(full)
    return accuracy.run(folder, band=False).records


@pytest.mark.parametrize(
    ("stated", "name"),
    [
        ("RedHatAI/Meta-Llama-3.1-70B-Instruct-quantized.w4a16", "llama-3.1-70b"),
        ("Qwen/Qwen3-8B-FP8", "qwen3-8b"),
        ("nvidia/Llama-3.3-70B-Instruct-FP4", "llama-3.3-70b"),
        ("deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", "qwen3-8b"),
        ("MiniMaxAI/MiniMax-M2.5", "minimax-m2.5"),
    ],
)
def test_models_under_the_names_of_their_formats(stated: str, name: str) -> None:
    assert model_name(stated) == name


def test_a_format_in_the_name_counts_where_the_row_says_16_bits() -> None:
    assert setup(case(model="Qwen/Qwen3-8B-FP8", dtype="bfloat16")).placed.dtype == "fp8"
    assert setup(case(model="Qwen/Qwen3-14B-AWQ", dtype="")).placed.dtype == "int4"
    assert setup(case(model="Qwen/Qwen3-8B", dtype="fp8")).placed.dtype == "fp8"


def test_formats_of_kv_in_flags_and_columns() -> None:
    assert setup(case(other_settings="--kv-cache-dtype fp8_e4m3 --foo")).placed.kv_cache_dtype == "fp8"
    assert setup(case(kv_cache_dtype="fp8")).placed.kv_cache_dtype == "fp8"
    assert setup(case()).placed.kv_cache_dtype == "auto"


def test_another_gpu_is_no_h200() -> None:
    assert gpu_name("GH200 96GB") is None
    assert gpu_name("H1000") is None
    assert gpu_name("NVIDIA H200 SXM") == "h200"


def test_ranks_of_a_dense_model_are_replicas_and_ranks_fit_the_gpus() -> None:
    assert setup(case(dp="2", n_gpus="2")).replicas == 2
    found = setup(case(model="Qwen/Qwen3-30B-A3B", tp="4", dp="4", ep="16", n_gpus="4"))
    assert found.placed.gpus == 4
    assert found.replicas == 1
    assert setup(case(n_replicas="0")).replicas == 1


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"other_settings": "--enforce-eager"}, "CUDA graphs"),
        ({"other_settings": "speculative_config mtp 3"}, "speculative"),
        ({"tp": "0"}, "0 GPUs of tensor"),
    ],
)
def test_what_no_profile_knows_is_skipped(cells: dict[str, str], reason: str) -> None:
    with pytest.raises(Skipped, match=reason):
        setup(case(**cells))


def test_runs_that_differ_in_rate_or_number_are_replayed_apart(tmp_path: Path) -> None:
    open_ = {"workload_kind": "open_poisson", "concurrency": ""}
    slow, fast, once = predicted(
        tmp_path,
        {**open_, "rate_rps": "1", "tpot_ms_mean": ""},
        {**open_, "rate_rps": "400", "n_requests": "300", "tpot_ms_mean": ""},
        {**open_, "rate_rps": "inf", "n_requests": "300", "tpot_ms_mean": ""},
    )
    assert slow["predicted"] < fast["predicted"] < once["predicted"]


@pytest.mark.parametrize("text", ["", "t,in,out\n0,1,2\n", "arrived_at,num_prefill_tokens,num_decode_tokens\n0,x,3\n"])
def test_a_workload_file_that_cannot_be_read_skips_its_run_alone(tmp_path: Path, text: str) -> None:
    with gzip.open(tmp_path / "w.csv.gz", "wt") as file:
        file.write(text)
    (tmp_path / "plain.csv.gz").write_text("arrived_at\n0\n")
    found = predicted(
        tmp_path,
        {"workload_csv": "w.csv.gz"},
        {"workload_csv": "plain.csv.gz"},
        {},
    )
    reasons = {record["id"]: record.get("skipped") for record in found}
    assert "cannot be read" in str(reasons["x-0"])
    assert "cannot be read" in str(reasons["x-1"])
    assert reasons["x-2"] is None


def test_one_request_and_requests_too_long(tmp_path: Path) -> None:
    found = predicted(tmp_path, {"concurrency": "1", "n_requests": "1"}, {"max_model_len": "100"})
    assert all(record["predicted"] > 0 for record in found if record["id"] == "x-0")
    assert {record["skipped"] for record in found if record["id"] == "x-1"} == {
        "no request fits the KV pool and the longest context, or every client gave up"
    }
