"""Which composed profiles ship with ThinkCap, and how all of them are made again: ``thinkcap calibrate
compose --all``.

One model stands for all of its shapes (Llama 3.1 70B for DeepSeek-R1-Distill-Llama-70B, Qwen2.5 32B for
QwQ-32B and DeepSeek-R1-Distill-Qwen-32B, DeepSeek-R1 for V3).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from calibration.architecture import architecture
from calibration.hardware import hardware
from calibration.importers.aiconfigurator import compose
from calibration.importers.kernels import Kernels, package_version
from calibration.make import make
from calibration.profile import PROFILES, Profile, dump
from sim.errors import InputError

_SERVERS = ("a100", "h100-sxm", "h200", "b200", "l40s")
_ALL = (*_SERVERS, "b300", "gb200", "rtx-pro-6000")
_HOPPER_ON = ("h100-sxm", "h200", "b200", "l40s")
_BIG = ("h200", "b200", "b300", "gb200")

MATRIX: tuple[tuple[str, tuple[str, ...], tuple[str, ...], tuple[int, ...]], ...] = (
    # model, number formats, GPUs, tensor parallel sizes
    ("llama-3.1-8b", ("bf16",), _ALL, (1, 2, 4)),
    ("llama-3.1-8b", ("fp8",), _HOPPER_ON, (1, 2)),
    ("llama-3.1-70b", ("bf16",), _ALL, (1, 2, 4, 8)),
    ("llama-3.1-70b", ("fp8",), _HOPPER_ON, (1, 2, 4, 8)),
    ("llama-3.1-70b", ("nvfp4",), ("b200",), (1, 2, 4, 8)),
    ("llama-3.1-405b", ("fp8",), ("h100-sxm", "h200", "b200"), (8,)),
    ("llama-2-7b", ("fp16",), ("a100", "h100-sxm"), (1,)),
    ("llama-2-70b", ("fp16",), ("a100", "h100-sxm"), (2, 4, 8)),
    ("codellama-34b", ("bf16",), ("a100", "h100-sxm"), (1, 2)),
    ("qwen2.5-7b", ("bf16",), _SERVERS, (1,)),
    ("qwen2.5-14b", ("bf16",), _SERVERS, (1, 2)),
    ("qwen2.5-32b", ("bf16",), _ALL, (1, 2, 4, 8)),
    ("qwen2.5-32b", ("fp8",), _HOPPER_ON, (1, 2, 4)),
    ("qwen2.5-72b", ("bf16",), _SERVERS, (4, 8)),
    ("qwen3-8b", ("bf16",), _SERVERS, (1, 2)),
    ("qwen3-14b", ("bf16",), _ALL, (1, 2, 4)),
    ("qwen3-32b", ("bf16",), _ALL, (1, 2, 4, 8)),
    ("qwen3-32b", ("fp8",), _HOPPER_ON, (1, 2, 4)),
    ("qwen3-30b-a3b", ("bf16",), _ALL, (1, 2, 4)),
    ("qwen3-30b-a3b", ("fp8",), _HOPPER_ON, (1, 2)),
    ("qwen3-235b-a22b", ("bf16",), _SERVERS, (4, 8)),
    ("qwen3-235b-a22b", ("fp8",), _HOPPER_ON, (4, 8)),
    ("mixtral-8x7b", ("bf16",), _SERVERS, (1, 2, 4)),
    ("mixtral-8x22b", ("bf16",), _SERVERS, (4, 8)),
    ("gpt-oss-20b", ("mxfp4",), (*_HOPPER_ON, "rtx-pro-6000"), (1, 2)),
    ("gpt-oss-120b", ("mxfp4",), (*_HOPPER_ON, "b300", "rtx-pro-6000"), (1, 2, 4, 8)),
    ("deepseek-r1", ("fp8",), _BIG, (4, 8)),
    ("deepseek-r1", ("nvfp4",), ("b200", "b300", "gb200"), (4, 8)),
    ("minimax-m2.5", ("fp8",), ("h100-sxm", "h200", "b200", "b300"), (1, 2, 4, 8)),
    ("minimax-m2.5", ("nvfp4",), ("b200", "b300"), (1, 2, 4, 8)),
    ("kimi-k2.5", ("nvfp4",), ("b200", "b300", "gb200"), (4, 8)),
)


def combinations() -> Iterator[tuple[str, str, str, int]]:
    """(model, dtype, GPU, TP) of every profile that is tried; what does not fit or was not measured drops
    out."""
    for model, dtypes, gpus, sizes in MATRIX:
        for dtype in dtypes:
            for gpu in gpus:
                for tp in sizes:
                    yield model, dtype, gpu, tp


def one(model: str, gpu: str, tp: int, dtype: str = "auto", *, ep: bool = False, kv_dtype: str = "auto") -> Profile:
    """Compose and fit one profile; raise an InputError when it does not fit or a kernel was not measured."""
    arch, known = architecture(model), hardware(gpu)
    frame = compose(arch, known, tp=tp, ep=ep, dtype=dtype, kv_dtype=kv_dtype)
    provenance = {
        "source": f"kernel measurements of aiconfigurator-core {package_version()}",
        "licence": "Apache-2.0",
        "version": f"vLLM {Kernels(known).version} kernels",
        "command": f"thinkcap calibrate compose {model} {gpu} --tp {tp} --dtype {dtype}",
        "data_sha256": hashlib.sha256(frame.round(9).to_csv(index=False).encode()).hexdigest(),
    }
    return make(frame, provenance=provenance, ep=ep, source="composed kernels")[0]


def write_all(folder: Path = PROFILES, *, only: str = "") -> Iterator[tuple[str, str]]:
    """Write every profile of the matrix whose name contains *only*; yield its name and why there is none."""
    for model, dtype, gpu, tp in combinations():
        name = f"{model}_{gpu}_tp{tp}_{dtype}"
        if only not in name:
            continue
        try:
            profile = one(model, gpu, tp, dtype)
        except InputError as error:
            yield name, str(error).splitlines()[0]
            continue
        dump(profile, folder / gpu / f"{profile.name}.yaml")
        yield name, ""
