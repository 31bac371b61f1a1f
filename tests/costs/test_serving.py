"""Steps against real serving of 70B models: inter-token times of runs that were busy decoding, by profile and
by prior.

The context of a decode is that of the run's recorded lengths; what prefills of other requests take from a
decode is their share a step. The engine's costs are those of its version, nothing is fitted here.
"""

from __future__ import annotations

import functools
import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from calibration.architecture import architecture
from calibration.deployment import deploy
from calibration.engine_costs import nearest_version

CASES = Path(__file__).parents[3] / "shared" / "external" / "validation"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CASES.is_dir(), reason=f"published serving runs are not at hand ({CASES})"),
]

GPUS = {
    "H100-SXM-80GB": "h100-sxm",
    "B200-SXM-180GB": "b200",
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200",
    "b200_sxm": "b200",
}


@functools.cache
def cases() -> pd.DataFrame:
    frame = pd.read_csv(CASES / "cases.csv", low_memory=False)
    return frame[frame["gpu"].isin(GPUS)]


def mean_decode_context(case: str, prompt: float) -> float:
    """Context that a decode of a run has in the mean, from its histogram of output lengths."""
    with gzip.open(CASES / "mlenergy_output_len_hist.jsonl.gz", "rt") as lines:
        for line in lines:
            row = json.loads(line)
            if row["id"] == case:
                edges, counts = np.asarray(row["bins"], float), np.asarray(row["counts"], float)
                middle = (edges[1:] + edges[:-1]) / 2
                return prompt + float((counts * middle**2 / 2).sum() / (counts * middle).sum())
    raise KeyError(case)


def batch_runs(model: str, task: str, *, profile: str | None) -> pd.Series:
    """Signed error of the median inter-token time of ML.ENERGY runs, at most 128 sequences at once."""
    found = cases()
    found = found[found["id"].str.startswith("mle-") & (found["model"] == model) & found["id"].str.contains(task)]
    out = {}
    for row in found.to_dict("records"):
        batch = round(row["batch_mean"])
        if batch > 130 or batch < 0.9 * float(row["max_num_seqs"]):  # the rest ran out of KV
            continue
        cost = deploy(
            model=model,
            hardware=GPUS[row["gpu"]],
            tensor_parallel_size=int(max(row["tp"], row["ep"])),
            profile=profile,
            engine_version="0.11.1",
        ).step_cost
        context = mean_decode_context(row["id"], 250.0 if task == "gpqa" else 200.0)
        step_ms = cost.decode_ps(batch, round(batch * context)) * 1e-9
        out[row["id"]] = step_ms / row["itl_ms_p50"] - 1.0
    return pd.Series(out)


def closed_loops(model: str, *, dtype: str, profile: str | None, most: int = 32) -> pd.Series:
    """Signed error of TPOT of InferenceX runs under vLLM at concurrency 4 to *most*."""
    found = cases()
    found = found[
        found["id"].str.startswith("infx-")
        & (found["model"] == model)
        & (found["engine"] == "vllm")
        & (found["dtype"] == dtype)
        & (found["concurrency"] <= most)
    ]
    out = {}
    for row in found.to_dict("records"):
        plan = deploy(
            model=model,
            hardware=GPUS[row["gpu"]],
            tensor_parallel_size=int(row["tp"]),
            dtype={"fp4": "auto"}.get(dtype, dtype),
            profile=profile,
            engine_version=nearest_version(
                str(row["engine_version"]) if isinstance(row["engine_version"], str) else "0.19"
            ),
            gpu_memory_utilization=0.95,
        )
        seats, prompt, answer = int(row["concurrency"]), row["input_len_mean"], row["output_len_mean"]
        if seats * (prompt + answer) > plan.memory.kv_tokens:
            continue
        cost = plan.step_cost
        step_ps = cost.decode_ps(seats, round(seats * (prompt + answer / 2)))
        prefill_ps = cost.linear(round(prompt)) - cost.linear(seats) + cost.half_pair_ps * prompt**2
        share = (seats - 1) / answer  # prompts of others that one token waits for
        out[row["id"]] = (step_ps + share * max(prefill_ps, 0)) * 1e-9 / row["tpot_ms_stat"] - 1.0
    return pd.Series(out)


LLAMA = "meta-llama/Llama-3.1-70B-Instruct"


@pytest.mark.parametrize("profile", [None, "prior"])
def test_llama_70b_batches(profile: str | None) -> None:
    off = batch_runs(LLAMA, "lm-arena-chat", profile=profile)
    assert len(off) >= 8
    assert off.abs().median() <= (0.06 if profile is None else 0.10)


@pytest.mark.parametrize("profile", [None, "prior"])
def test_llama_70b_closed_loops(profile: str | None) -> None:
    off = closed_loops("meta-llama/Llama-3.1-70B", dtype="fp8", profile=profile)
    assert len(off) >= 30
    assert off.abs().median() <= (0.07 if profile is None else 0.10)


@pytest.mark.parametrize("model", ["Qwen/Qwen3-32B", "Qwen/Qwen3-8B"])
def test_long_thinking_from_constants_of_short_chats(model: str) -> None:
    """GPQA with thinking on, 6,900 to 8,400 output tokens: no such run was used in identifying the
    engine's costs."""
    off = batch_runs(model, "gpqa", profile=None)
    assert len(off) >= 4
    assert off.abs().max() <= 0.10
    assert off.abs().median() <= 0.05


def test_architecture_of_every_case_is_known() -> None:
    assert architecture(LLAMA).name == "llama-3.1-70b"
