"""The performance table of splitwise-sim (``data/perf_model.csv``, MIT): whole iterations of vLLM in 2023.

A row is one run of ``batch_size`` equal requests: ``prompt_time`` is the prefill of all prompts,
``token_time`` the mean decode iteration, both in ms. Repeats are taken together by their median. A decode's
context is the prompt and half of what it generates.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from calibration.importers.common import LLAMA_NAMES, read_csv
from calibration.measurements import check

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = (
    "model",
    "hardware",
    "prompt_size",
    "batch_size",
    "token_size",
    "prompt_time",
    "token_time",
    "e2e_time",
    "tensor_parallel",
)
_GPUS = {"a100-80gb": "a100", "h100-80gb": "h100-sxm", "a100-40gb": "a100-40"}


def read(path: str | Path) -> pd.DataFrame:
    """The measurement table of *path*; runs whose requests queued are flagged, since they did not run at
    once."""
    import pandas as pd

    raw = read_csv(path, _COLUMNS, text=("model", "hardware"))
    keys = ["model", "hardware", "tensor_parallel", "prompt_size", "batch_size", "token_size"]
    grouped = raw.drop_duplicates().groupby(keys)
    runs = grouped[["prompt_time", "token_time", "e2e_time"]].median().reset_index()
    times = grouped[["prompt_time", "token_time"]]
    spread = times.quantile(0.75) - times.quantile(0.25)
    runs = runs.merge(spread.reset_index(), on=keys, suffixes=("", "_spread"))
    runs = runs.merge(grouped.size().rename("n").reset_index(), on=keys)
    # together, the prefill and all iterations take as long as the run; much less means that requests waited
    alone = runs["prompt_time"] + runs["token_time"] * (runs["token_size"] - 1)
    flag = (runs["e2e_time"] > 1.5 * alone).map({True: "queued_or_preempted", False: ""})
    common = pd.DataFrame(
        {
            "source": "splitwise-sim",
            "gpu": runs["hardware"].map(lambda name: _GPUS.get(str(name), str(name))),
            "model": runs["model"].map(lambda name: LLAMA_NAMES.get(str(name), str(name))),
            "dtype": "fp16",
            "kv_dtype": "fp16",
            "tp": runs["tensor_parallel"],
            "engine": "vLLM (2023)",
            "quantity": "iteration_measured",
            "n": runs["n"],
            "flag": flag,
        }
    )
    decode = common.assign(
        decodes=runs["batch_size"],
        context=runs["prompt_size"] + runs["token_size"] // 2,
        time_ms=runs["token_time"],
        spread_ms=runs["token_time_spread"],
    )
    prefill = common.assign(
        decodes=0,
        context=0,
        chunks=runs["batch_size"],
        chunk_tokens=runs["prompt_size"],
        time_ms=runs["prompt_time"],
        spread_ms=runs["prompt_time_spread"],
    ).drop_duplicates(["gpu", "model", "tp", "chunks", "chunk_tokens"])
    frame = pd.concat([decode, prefill], ignore_index=True)
    return check(frame.fillna({"chunks": 0, "chunk_tokens": 0}), source=str(path))
