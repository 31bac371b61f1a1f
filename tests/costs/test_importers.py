"""Importers read the published formats as they are, and refuse what is not of the format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from calibration.architecture import architecture
from calibration.importers import llmservingsim, splitwise, step_tables, vidur
from sim.errors import InputError

ARCH = architecture("llama-2-70b")


def splitwise_csv(path: Path) -> Path:
    rows = []
    for prompt, batch, token_ms, wait in (
        (512, 1, 37.0, 1),
        (512, 2, 37.4, 1),
        (1024, 1, 37.3, 1),
        (512, 64, 42.0, 20),
    ):
        for repeat in range(3):
            prompt_ms = 80.0 * batch * prompt / 512
            rows.append(
                {
                    "model": "llama2-70b",
                    "hardware": "h100-80gb",
                    "prompt_size": prompt,
                    "batch_size": batch,
                    "token_size": 128,
                    "peak_power": 0.0,
                    "average_power": 0.0,
                    "prompt_time": prompt_ms,
                    "token_time": token_ms + 0.1 * repeat,
                    "e2e_time": wait * (prompt_ms + 127 * token_ms),
                    "tensor_parallel": 2,
                }
            )
    file = path / "perf_model.csv"
    pd.DataFrame(rows).to_csv(file, index=False)
    return file


def test_splitwise(tmp_path: Path) -> None:
    frame = splitwise.read(splitwise_csv(tmp_path))
    assert set(frame["gpu"]) == {"h100-sxm"}
    assert set(frame["model"]) == {"llama-2-70b"}
    assert set(frame["tp"]) == {2}
    decode = frame[frame["decodes"] > 0].set_index(["decodes", "context"])
    assert decode.loc[(2, 512 + 64), "time_ms"] == pytest.approx(37.5)  # the median of three repeats
    assert decode.loc[(2, 512 + 64), "n"] == 3
    assert decode.loc[(64, 512 + 64), "flag"] == "queued_or_preempted"
    assert decode.loc[(1, 512 + 64), "flag"] == ""
    prefill = frame[frame["chunks"] > 0]
    assert set(zip(prefill["chunks"], prefill["chunk_tokens"], strict=True)) == {
        (1, 512),
        (2, 512),
        (1, 1024),
        (64, 512),
    }


def vidur_tables(path: Path) -> tuple[Path, Path]:
    operators = [
        "input_layernorm",
        "attn_pre_proj",
        "attn_rope",
        "attn_post_proj",
        "post_attention_layernorm",
        "mlp_up_proj",
        "mlp_act",
        "mlp_down_proj",
        "add",
    ]
    rows = [
        {f"time_stats.{name}.median": 0.01 * (i + 1) + 1e-4 * tokens for i, name in enumerate(operators)}
        | {"num_tokens": tokens, "num_tensor_parallel_workers": tp, "n_head": 64, "n_embd": 8192}
        for tokens in (1, 64, 4096)
        for tp in (1, 4)
    ]
    mlp = path / "mlp.csv"
    pd.DataFrame(rows).to_csv(mlp, index=False)
    steps = [(8, 0, 1024, False), (64, 0, 2048, False), (1, 512, 0, True), (1, 512, 1024, True)]
    attention = path / "attention.csv"
    pd.DataFrame(
        [
            {
                "time_stats.attn_decode.median": np.nan if prefill else 0.02 + 1e-7 * batch * kv,
                "time_stats.attn_prefill.median": 0.03 if prefill else np.nan,
                "time_stats.attn_input_reshape.median": 0.001,
                "n_embd": 8192,
                "n_q_head": 64,
                "num_tensor_parallel_workers": 4,
                "batch_size": batch,
                "prefill_chunk_size": chunk,
                "kv_cache_size": kv,
                "is_prefill": prefill,
            }
            for batch, chunk, kv, prefill in steps
        ]
    ).to_csv(attention, index=False)
    return mlp, attention


def test_vidur_sums_the_operators_of_all_layers(tmp_path: Path) -> None:
    mlp, attention = vidur_tables(tmp_path)
    frame = vidur.read(mlp, attention, ARCH, gpu="a100", tp=4)
    assert len(frame) == 4
    row = frame[frame["decodes"] == 8].iloc[0]
    operators = sum(0.01 * (i + 1) for i in range(8)) + 8 * 8e-4 + 2 * (0.09 + 8e-4)
    assert row["time_ms"] == pytest.approx(80 * (operators + 0.02 + 1e-7 * 8 * 1024 + 0.001), rel=1e-6)
    assert row["context"] == 1024
    cached = frame[(frame["chunks"] == 1) & (frame["chunk_cached"] == 1024)].iloc[0]
    assert cached["chunk_tokens"] == 512
    with pytest.raises(InputError, match="tensor parallel size 8"):
        vidur.read(mlp, attention, ARCH, gpu="a100", tp=8)


def layer_tables(path: Path) -> Path:
    dense = [
        (name, tokens, 10.0 + 0.01 * tokens) for name in ("qkv_proj", "layernorm", "embedding") for tokens in (1, 2048)
    ]
    pd.DataFrame(dense, columns=["layer", "tokens", "time_us"]).to_csv(path / "dense.csv", index=False)
    per = [("lm_head", s, 100.0) for s in (1, 256)] + [("sampler", s, 10.0 + s) for s in (1, 256)]
    pd.DataFrame(per, columns=["layer", "sequences", "time_us"]).to_csv(path / "per_sequence.csv", index=False)
    attention = [(0, 0, 4, 512, 20.0), (256, 0, 0, 0, 40.0), (256, 1024, 4, 512, 70.0)]
    columns = ["prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"]
    pd.DataFrame(attention, columns=columns).to_csv(path / "attention.csv", index=False)
    return path


def test_llmservingsim_counts_each_operator_as_often_as_it_runs(tmp_path: Path) -> None:
    arch = architecture("llama-3.1-8b")
    frame = llmservingsim.read(layer_tables(tmp_path), arch, gpu="rtx-4090")
    assert frame["decodes"].tolist() == [4, 0, 4]
    assert frame["chunk_tokens"].tolist() == [0, 256, 256]
    assert frame["chunk_cached"].tolist() == [0, 0, 1024]
    operator_us = 10.0 + 0.01 * 4 * (2048 - 1) / 2047  # straight between 1 and 2048 tokens
    once = 10.0 + 0.01 * 4
    assert operator_us == pytest.approx(once)
    expected_us = 32 * 20.0 + 32 * once + 2 * 32 * once + once + 100.0 + (10.0 + 4)
    assert frame["time_ms"].iloc[0] == pytest.approx(expected_us / 1000, rel=1e-6)
    with pytest.raises(InputError, match=r"moe\.csv"):
        llmservingsim.read(tmp_path, architecture("qwen3-30b-a3b"), gpu="rtx-4090")


def test_llmservingsim_without_allreduce_is_flagged(tmp_path: Path) -> None:
    frame = llmservingsim.read(layer_tables(tmp_path), architecture("llama-3.1-8b"), gpu="rtx-4090", tp=2)
    assert set(frame["flag"]) == {"no_allreduce"}


def test_step_tables(tmp_path: Path) -> None:
    common = {
        "source": "made",
        "gpu": "h100",
        "model": "llama-3.1-8b",
        "dtype": "bf16",
        "kv_dtype": "bf16",
        "tp": 1.0,
        "engine": "kernels",
        "time_ms": 5.0,
        "spread_ms": np.nan,
        "n": 1,
        "flag": np.nan,
    }
    decode, prefill = tmp_path / "d.csv", tmp_path / "p.csv"
    pd.DataFrame(
        [
            common | {"quantity": "iteration_composed", "batch_size": 4.0, "context_tokens_per_seq": 100.0},
            common | {"quantity": "attention_op", "batch_size": 4.0, "context_tokens_per_seq": 100.0},
        ]
    ).to_csv(decode, index=False)
    pd.DataFrame(
        [
            common
            | {
                "quantity": "mixed_composed",
                "n_seqs": 1,
                "chunk_per_seq": 64,
                "cached_per_seq": 32,
                "n_decode": 2,
                "kv_decode": 50,
            }
        ]
    ).to_csv(prefill, index=False)
    frame = step_tables.read(decode, prefill)
    assert len(frame) == 2
    mixed = frame[frame["chunks"] == 1].iloc[0]
    assert (mixed["decodes"], mixed["context"], mixed["chunk_tokens"], mixed["chunk_cached"]) == (
        2,
        50,
        64,
        32,
    )


def test_wrong_files_name_the_missing_column(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("a,b\n1,2\n")
    for file in ("dense", "per_sequence", "attention"):
        (tmp_path / f"{file}.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="prompt_size"):
        splitwise.read(wrong)
    with pytest.raises(InputError, match="mlp_up_proj"):
        vidur.read(wrong, wrong, ARCH, gpu="a100")
    with pytest.raises(InputError, match="kv_decode"):
        llmservingsim.read(tmp_path, ARCH, gpu="a100")
    with pytest.raises(InputError, match="no such"):
        splitwise.read(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("perf_model", "token_time", np.nan),
        ("perf_model", "prompt_time", -1.0),
        ("perf_model", "batch_size", "many"),
        ("mlp", "time_stats.mlp_act.median", np.nan),
        ("mlp", "num_tokens", "some"),
        ("attention", "time_stats.attn_decode.median", np.nan),
        ("attention", "kv_cache_size", np.inf),
        ("layers", "time_us", "fast"),
        ("layers", "n_decode", -4),
    ],
)
def test_a_cell_that_is_no_measurement_is_refused_by_column_and_row(
    tmp_path: Path, table: str, column: str, value: object
) -> None:
    files = {"perf_model": splitwise_csv(tmp_path), "layers": layer_tables(tmp_path) / "attention.csv"}
    files["mlp"], files["attention"] = vidur_tables(tmp_path)
    if table == "layers":  # both kinds of tables are called attention.csv
        layer_tables(tmp_path)
    broken = pd.read_csv(files[table])
    broken[column] = broken[column].astype(object)
    row = int(np.argmax(broken["num_tensor_parallel_workers"] == 4)) if "num_tensor_parallel_workers" in broken else 1
    broken.loc[row, column] = value
    broken.to_csv(files[table], index=False)
    readers = {
        "perf_model": lambda: splitwise.read(files[table]),
        "layers": lambda: llmservingsim.read(tmp_path, architecture("llama-3.1-8b"), gpu="rtx-4090"),
    }
    read = readers.get(table, lambda: vidur.read(files["mlp"], files["attention"], ARCH, gpu="a100", tp=4))
    with pytest.raises(InputError, match=rf"{column}: row {row}: .* \(1 such rows\)"):
        read()


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "steps.csv"
    for content in (b"", b"hello\n", bytes(range(128, 256)), b"source,gpu\n"):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"steps\.csv"):
            step_tables.read(file)
        with pytest.raises(InputError, match=r"steps\.csv"):
            splitwise.read(file)
