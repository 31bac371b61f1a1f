"""Which engine, on what, with which settings a case ran: from its row, and where the row is silent by stated rules.

Nothing here knows a case by name. What is assumed is listed in ``Setup.assumed`` and shown beside the result.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from calibration.deployment import Deployment, deploy
from calibration.engine_costs import nearest_version
from calibration.hardware import hardware as hardware_of
from sim.engine.settings import EngineSettings
from sim.errors import ThinkcapError
from sim.validation.accuracy_cases import Case
from sim.validation.accuracy_rules import recipe

GPUS = (
    (r"h100.*(pcie|nvl)", "h100-pcie"),
    (r"h100", "h100-sxm"),
    (r"(?<!g)h200", "h200"),
    (r"gb200", "gb200"),
    (r"b200", "b200"),
    (r"b300", "b300"),
    (r"a100.*40", "a100-40"),
    (r"a100", "a100"),
    (r"l40s", "l40s"),
    (r"(^|[^0-9a-z])l4($|[^0-9a-z])", "l4"),
    (r"4090", "rtx-4090"),
    (r"pro[ -]?6000", "rtx-pro-6000"),
    (r"mi300x", "mi300x"),
)
"""How sources spell GPUs (first match wins)."""

DTYPES = (
    (r"mxfp4", "mxfp4"),
    (r"nvfp4|fp4", "nvfp4"),
    (r"fp8|float8", "fp8"),
    (r"int8|w8a8", "int8"),
    (r"int4|awq|gptq|w4a16", "int4"),
    (r"bf16|bfloat16|fp16|float16|half", "bf16"),
)

RELEASES = (
    ("2024-12", "0.6"),
    ("2025-03", "0.8"),
    ("2025-06", "0.9"),
    ("2025-08", "0.10"),
    ("2025-10", "0.11"),
    ("2025-12", "0.12"),
    ("2026-01", "0.14"),
    ("2026-02", "0.15"),
    ("2026-03", "0.17"),
    ("2026-04", "0.19"),
    ("2026-06", "0.23"),
)
"""Months in which vLLM minor releases came out (release notes), for runs that state only a date."""

MONTHS = {
    name: f"{number:02d}"
    for number, name in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), start=1
    )
}

LARGE_BYTES = 70 * 2**30
"""Memory from which on vLLM's defaults are those of large GPUs."""

ASYNC_SINCE = (0, 14)
"""First vLLM release that schedules asynchronously by default; before, only where a run asks for it."""


SAME_SHAPES = (
    (r"r1-0528-qwen3-8b", "qwen3-8b"),
    (r"qwen3-coder-30b-a3b|qwen3-30b-a3b", "qwen3-30b-a3b"),
    (r"qwen3-235b-a22b", "qwen3-235b-a22b"),
    (r"deepseek-(v3|r1)", "deepseek-v3"),
    (r"llama-?2-70b", "llama-2-70b"),
    (r"llama-?2-7b", "llama-2-7b"),
    (r"llama-?3\.[13]-70b", "llama-3.1-70b"),
    (r"llama-?3\.1-8b", "llama-3.1-8b"),
    (r"llama-?3\.1-405b", "llama-3.1-405b"),
    (r"mixtral-8x7b", "mixtral-8x7b"),
    (r"gpt-oss-120b", "gpt-oss-120b"),
    (r"gpt-oss-20b", "gpt-oss-20b"),
)
"""Releases that share the shapes of a shipped model under another name (dates, variants, formats)."""


UNMODELLED = (
    (
        r"speculative|\bmtp\b|eagle|\bngram\b|draft[-_ ]model",
        "speculative decoding with an acceptance that is not stated",
    ),
    (r"enforce[-_ ]eager", "steps without CUDA graphs (enforce-eager)"),
    (r"cpu[-_ ]offload|kv[-_ ]offload", "weights or KV kept on the host"),
)
"""Settings that change what a step costs and that no profile knows."""

MOE_BACKENDS = {"marlin": (128, 0.67)}
"""Kernels of experts that a run chose instead of the timed ones: past so many tokens a step their computing keeps this
share of the rate. Marlin (gpt-oss on Hopper, VLLM_MXFP4_USE_MARLIN): by how much more an 8K prompt takes to the first token
than a 1K prompt at 4 and 8 in flight there (2.0 times ours) than where the timed kernels ran (1.4 times: gpt-oss and
MiniMax M2.5 on B200), H100 and H200, TP 1, 4 and 8."""

QUANTISED = re.compile(
    r"([-_.](quantized|fp8|nvfp4|mxfp4|fp4|awq|gptq|int[48]|w8a8|w4a16|dynamic|kv|bf16|block|marlin))+$", re.IGNORECASE
)
"""Ends of names that tell how weights are stored, not what shapes they have."""


class Skipped(Exception):
    """The case cannot be predicted, for the reason in the message."""


@dataclass(frozen=True)
class Setup:
    """What a case is replayed on."""

    placed: Deployment
    settings: EngineSettings
    replicas: int
    front_end_ps: int
    assumed: tuple[str, ...]


def gpu_name(stated: str) -> str | None:
    """ThinkCap's name of a GPU as sources spell it."""
    text = stated.lower().replace("_", "-")
    return next((name for pattern, name in GPUS if re.search(rf"(?:{pattern})(?!\d)", text)), None)


def model_name(stated: str) -> str:
    """A name that ThinkCap knows: *stated*, or the shipped model of the same shapes."""
    from calibration.architecture import architecture

    plain = QUANTISED.sub("", stated.rstrip("/"))
    for name in (stated, plain, plain.rpartition("/")[2]):
        try:
            return architecture(name).name
        except ThinkcapError:
            continue
    text = plain.lower().rpartition("/")[2]
    if "distill" in text:
        return stated
    return next((name for pattern, name in SAME_SHAPES if re.search(pattern, text)), stated)


def dtype_of(stated: str) -> str:
    """Weight format, ``auto`` where none is stated."""
    text = stated.lower()
    return next((name for pattern, name in DTYPES if re.search(pattern, text)), "auto")


def release_of(case: Case) -> tuple[str | None, str | None]:
    """The engine's release as ``"0.19"``, and what it was inferred from when it is not stated."""
    stated = case.text("engine_version")
    found = re.search(r"(?<![\d.])v?(0\.\d{1,2})(?:\.\d+)?", stated)
    if found:
        return found[1], None
    for text in (stated, case.text("notes")):
        found = re.search(r"(20\d\d)-(\d\d)", text)
        month = f"{found[1]}-{found[2]}" if found else None
        if month is None:
            named = re.search(r"([A-Z][a-z]{2})[a-z]*(?:-[A-Z][a-z]{2})? (20\d\d)", text)
            if named and named[1].lower() in MONTHS:
                month = f"{named[2]}-{MONTHS[named[1].lower()]}"
        if month:
            earlier = [release for since, release in RELEASES if since <= month]
            return (earlier[-1] if earlier else RELEASES[0][1]), f"release current in {month}"
    return None, "no version stated: the latest"


def setup(case: Case) -> Setup:
    """What *case* is replayed on; raise `Skipped` with the reason when it cannot be."""
    engine = case.text("engine")
    if not engine.lower().startswith("vllm"):
        raise Skipped(f"another engine: {engine}" if engine else "no engine stated")
    other = case.text("other_settings").lower()
    for pattern, what in UNMODELLED:
        if re.search(pattern, other) and not re.search(rf"no[-_ ](enable[-_ ])?({pattern})", other):
            raise Skipped(f"not modelled: {what}")
    hardware = gpu_name(case.text("gpu"))
    if hardware is None:
        raise Skipped(f"no profile: GPU {case.text('gpu', 'not stated')}")
    assumed: list[str] = []
    release, inferred = release_of(case)
    if inferred:
        assumed.append(f"vLLM {release or 'latest'} ({inferred})")
    known = recipe(case)
    if known:
        assumed.append(f"settings of {known['what']}")
        if inferred and "like" in known:
            assumed.append(f"cost of the engine as of vLLM {known['like']}, whose defaults the switches amount to")
            release = str(known["like"])
    version = nearest_version(release or "")
    tp, dp, ep, replicas = _parallelism(case, assumed)
    default_seqs, default_tokens = batch_defaults(hardware, release)
    seqs = case.whole("max_num_seqs")
    if seqs is None:
        seqs = case.whole("concurrency") if "concurrency" in case.text("max_num_seqs") else None
    if seqs is None:
        seqs = default_seqs
        assumed.append(f"max_num_seqs {seqs} (default)")
    tokens = case.whole("max_num_batched_tokens")
    if tokens is None:
        tokens = known.get("max_num_batched_tokens")
    if tokens is None:
        tokens = default_tokens
        assumed.append(f"max_num_batched_tokens {tokens} (default)")
    utilization = case.number("gpu_mem_util") or known.get("gpu_memory_utilization", 0.9)
    block_size = case.whole("block_size") or known.get("block_size", 16)
    blocks = case.whole("num_kv_blocks")
    try:
        placed = deploy(
            model=model_name(case.text("model")),
            hardware=hardware,
            tensor_parallel_size=tp,
            data_parallel_size=dp,
            enable_expert_parallel=ep,
            dtype=_dtype(case),
            kv_cache_dtype=_kv_dtype(case, known),
            gpu_memory_utilization=utilization,
            block_size=block_size,
            max_num_seqs=seqs,
            max_num_batched_tokens=tokens,
            max_model_len=case.whole("max_model_len"),
            num_gpu_blocks_override=blocks,
            engine_version=version,
        )
    except ThinkcapError as error:
        text = str(error).partition("; expected")[0]
        kind = "no profile" if "unknown model" in text else "no deployment"
        raise Skipped(f"{kind}: {text}") from None
    slower = MOE_BACKENDS.get(str(known.get("moe_backend", "")))
    if slower is not None:
        placed = placed.with_computing_beyond(*slower)
        assumed.append(
            f"experts through {known['moe_backend']}, whose computing keeps {slower[1]:.0%} of the kernels' rate"
        )
    if blocks is None:
        assumed.append(f"{placed.memory.num_gpu_blocks:,} KV blocks (from the memory sum)")
    windowed = placed.memory.sliding_window > 0
    caching = not windowed and not case.text("prefix_caching").lower().startswith("off")
    settings = EngineSettings(
        num_gpu_blocks=placed.memory.num_gpu_blocks,
        block_size=block_size,
        max_num_seqs=seqs,
        max_num_batched_tokens=tokens,
        max_model_len=placed.max_model_len,
        enable_prefix_caching=caching,
        sliding_window=placed.memory.sliding_window,
        sliding_groups=placed.memory.sliding_groups,
        async_scheduling=known.get("async_scheduling", _asynchronous(case, release, assumed)),
    )
    # Times that a source took inside the engine hold nothing of the front end.
    inside = re.search(r"arrived_at = engine", case.text("notes")) is not None
    front_end_ps = 0 if inside else placed.front_end_ps
    return Setup(placed, settings, replicas, front_end_ps, tuple(assumed))


def batch_defaults(gpu: str, release: str | None) -> tuple[int, int]:
    """``max_num_seqs`` and ``max_num_batched_tokens`` that an OpenAI server of vLLM *release* has on *gpu* when none
    are set: by memory, but an A100 counts as small except under 0.8.5 (vLLM pull requests 17073 and 17885).
    """
    large = hardware_of(gpu).memory_bytes >= LARGE_BYTES
    if gpu.startswith("a100"):
        large = large and release is not None and release.startswith("0.8")
    return (1024, 8192) if large else (256, 2048)


def _parallelism(case: Case, assumed: list[str]) -> tuple[int, int, bool, int]:
    """Tensor and data parallel size, expert parallelism, replicas."""
    n_gpus = case.whole("n_gpus")
    gpus = n_gpus or 1
    replicas = case.whole("n_replicas")
    tp, dp, ep = case.whole("tp"), case.whole("dp") or 1, case.whole("ep") or 1
    if tp is None:
        raise Skipped("tensor parallel size not stated")
    if tp < 1 or dp < 1:
        raise Skipped(f"{tp} GPUs of tensor and {dp} of data parallelism")
    if n_gpus and tp * dp > n_gpus and n_gpus % dp == 0:
        # Attention in data-parallel ranks over the GPUs that are counted as tensor parallel for the rest.
        tp = n_gpus // dp
        assumed.append(f"attention in {dp} ranks of {tp} GPU{'s' if tp > 1 else ''}, since the run had {n_gpus} GPUs")
    if ep > tp * dp and not (n_gpus and tp * dp >= n_gpus):
        # Sources that count attention and experts apart state tp 1 with ep N: all N GPUs share each layer.
        tp = max(tp, ep // dp)
        assumed.append(f"tensor parallel {tp} with expert parallelism")
    if dp > 1 and ep <= 1 and not _has_experts(case):
        # engines of a dense model side by side
        assumed.append(f"{dp} data-parallel ranks as replicas")
        replicas, dp = (replicas or 1) * dp, 1
    if replicas is None or replicas < 1:
        replicas = max(1, gpus // (tp * dp))
        if replicas > 1:
            assumed.append(f"{replicas} replicas of {tp * dp} GPUs")
    return tp, dp, ep > 1, replicas


def _has_experts(case: Case) -> bool:
    from calibration.architecture import architecture

    try:
        return architecture(model_name(case.text("model"))).moe is not None
    except ThinkcapError:
        return False


def _dtype(case: Case) -> str:
    """Format of the weights. One in the model's name counts where the row states none or 16 bits, which may be meant of
    activations."""
    stated = dtype_of(case.text("dtype"))
    if stated in ("nvfp4", "fp4") and "gpt-oss" in case.text("model").lower():
        return "mxfp4"
    found = QUANTISED.search(case.text("model").rstrip("/"))
    if stated in ("auto", "bf16") and found:
        return dtype_of(found[0]) if dtype_of(found[0]) != "auto" else stated
    return stated


def _kv_dtype(case: Case, known: Mapping[str, Any]) -> str:
    """Format of the KV cache: as the row's settings say, as a recipe says, or that of the weights' activations."""
    text = f"{case.text('kv_cache_dtype')} {case.text('kv_dtype')}".strip().lower()
    flag = re.search(r"kv[-_ ]cache[-_ ]dtype[ =:]*([a-z0-9_]+)", case.text("other_settings").lower())
    stated = flag[1] if flag else text
    if stated:
        return "fp8" if "fp8" in stated else "auto"
    return str(known.get("kv_cache_dtype", "auto"))


def _asynchronous(case: Case, release: str | None, assumed: list[str]) -> bool:
    other = case.text("other_settings").lower()
    if "no-async-scheduling" in other:
        return False
    if "async-scheduling" in other or "async_scheduling" in other:
        return True
    if release is None:
        return True
    major, minor = (int(part) for part in release.split(".")[:2])
    return (major, minor) >= ASYNC_SINCE
