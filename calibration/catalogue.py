"""Every shipped profile, model, GPU and engine version as Markdown tables, for ``docs/profiles.md``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from calibration import profile as profiles
from calibration.architecture import architecture
from calibration.architecture import names as model_names
from calibration.engine_costs import engine_cost, versions
from calibration.hardware import hardware
from calibration.hardware import names as gpu_names
from calibration.prior import efficiency


def tables() -> dict[str, str]:
    """The generated tables by name: profiles, models, hardware, engines."""
    return {"profiles": _profiles(), "models": _models(), "hardware": _hardware(), "engines": _engines()}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def same_shapes() -> dict[str, list[str]]:
    """For each model with profiles, the other models of the same shapes that use them."""
    measured = {model for _, model, *_ in profiles.index()}
    out: dict[str, list[str]] = defaultdict(list)
    for name in model_names():
        for other in sorted(measured):
            if name != other and architecture(name).shape() == architecture(other).shape():
                out[other].append(name)
    return out


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _profiles() -> str:
    rows = []
    groups: dict[tuple[str, str, str], list[profiles.Profile]] = defaultdict(list)
    for name in profiles.shipped():
        one = profiles.get(name)
        groups[one.model, one.dtype, one.hardware].append(one)
    for (model, dtype, gpu), found in sorted(groups.items()):
        found.sort(key=lambda one: one.tensor_parallel_size)
        sizes = ", ".join(str(one.tensor_parallel_size) for one in found)
        errors = [one.error for one in found]

        def worst(what: str, errors: list[dict[str, profiles.Error]] = errors) -> str:
            median = max(error[what].median for error in errors)
            p95 = max(error[what].p95 for error in errors)
            return f"{_percent(median)} / {_percent(p95)}"

        rows.append(
            (
                model,
                dtype,
                gpu,
                sizes,
                worst("decode_unseen_contexts"),
                worst("decode_unseen_batches"),
                worst("prefill"),
                f"{max(one.context[1] for one in found):,}",
                found[0].kind,
                str(found[0].provenance.get("version", "")),
            )
        )
    head = (
        "model",
        "weights",
        "GPU",
        "TP",
        "decode, contexts left out",
        "decode, batches left out",
        "prefill",
        "longest context",
        "kind",
        "kernels",
    )
    return _table(head, rows)


def _models() -> str:
    used = same_shapes()
    by_model = {other: model for model, others in used.items() for other in others}
    measured = {model for _, model, *_ in profiles.index()}
    rows = []
    for name in model_names():
        arch = architecture(name)
        active = f"{arch.active_parameters / 1e9:.1f}" if arch.moe else ""
        source = "own" if name in measured else by_model.get(name, "roofline")
        rows.append(
            (
                name,
                f"{arch.parameters / 1e9:.1f}",
                active,
                f"{arch.weight_bytes() / 1e9:.0f} ({arch.native_dtype})",
                f"{arch.kv_bytes_per_token() / 1024:g}",
                f"{arch.max_context:,}",
                source,
            )
        )
    head = (
        "model",
        "parameters, 1e9",
        "active, 1e9",
        "weights, GB",
        "KV, KiB a token",
        "context",
        "profiles",
    )
    return _table(head, rows)


def _hardware() -> str:
    rows = []
    count: dict[str, int] = defaultdict(int)
    for _, _, used_by, *_ in profiles.index():
        count[used_by] += 1
    for name in gpu_names():
        gpu = hardware(name)
        price = f"{gpu.price.usd_per_gpu_hour:.2f} ({gpu.price.source}, {gpu.price.date})" if gpu.price else ""
        rows.append(
            (
                name,
                f"{gpu.memory_bytes / 2**30:.1f}",
                f"{gpu.bandwidth_bytes_per_s / 1e9:,.0f}",
                f"{gpu.flops['bf16'] / 1e12:,.0f}",
                f"{gpu.flops['fp8'] / 1e12:,.0f}" if "fp8" in gpu.flops else "",
                f"{gpu.link} {gpu.link_bytes_per_s / 1e9:g}",
                str(gpu.gpus_per_node),
                price,
                str(count[name]) if count[name] else "",
                "borrowed" if efficiency(name).borrowed else "fitted",
            )
        )
    head = (
        "GPU",
        "memory, GiB",
        "bandwidth, GB/s",
        "bf16, TFLOP/s",
        "fp8, TFLOP/s",
        "link, GB/s one way",
        "a node",
        "price, USD/h",
        "profiles",
        "prior",
    )
    return _table(head, rows)


def _engines() -> str:
    dense, experts = architecture("llama-3.1-70b"), architecture("qwen3-30b-a3b")
    rows = []
    for version in versions():
        one, four = (engine_cost(dense, tp=tp, version=version) for tp in (1, 4))
        moe = engine_cost(experts, tp=1, version=version)
        rows.append(
            (
                f"vLLM {version}",
                f"{one.host_s * 1e6:g}",
                f"{one.layer_s * 1e6:g} / {four.layer_s * 1e6:g}",
                f"{moe.layer_s * 1e6:g}",
                f"{one.seq_s * 1e6:g}",
                f"{one.mixed_s * 1e6:g}",
                f"{one.front_end_s * 1e3:g}",
                one.source,
                one.identified_by.strip(),
            )
        )
    head = (
        "engine",
        "step, µs",
        "layer at TP1 / TP4, µs",
        "layer of experts, µs",
        "row, µs",
        "decode beside a prefill, µs",
        "front end, ms",
        "from",
        "identified by",
    )
    return _table(head, rows)


def summary() -> str:
    """One sentence on how many profiles there are and how well they predict what was left out."""
    found = [profiles.get(name) for name in profiles.shipped()]
    gpus = {one.hardware for one in found}
    models = {one.model for one in found}
    dense = [one for one in found if one.dtype in ("bf16", "fp16") and not architecture(one.model).moe]
    moe = [one for one in found if architecture(one.model).moe]

    def middle(group: list[profiles.Profile], what: str) -> str:
        median = float(np.median([one.error[what].median for one in group]))
        p95 = float(np.median([one.error[what].p95 for one in group]))
        return f"{median:.1%} / {p95:.1%}"

    return (
        f"{len(found)} profiles of {len(models)} models on {len(gpus)} GPUs. "
        "Median and 95th percentile of the error of decode steps, medians over profiles: dense in 16 bits "
        f"{middle(dense, 'decode_unseen_contexts')} on contexts and "
        f"{middle(dense, 'decode_unseen_batches')} on batches left out of the fit; mixtures of experts "
        f"{middle(moe, 'decode_unseen_contexts')} and {middle(moe, 'decode_unseen_batches')}."
    )
