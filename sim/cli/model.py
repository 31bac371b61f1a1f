"""``thinkcap model NAME``: what a model weighs, what a token of context takes, and what fits on which GPU.

NAME is a shipped model (``thinkcap list models``), its name on the Hugging Face hub, or a path to a
``config.json``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sim.cli._arguments import add_json, print_json

if TYPE_CHECKING:
    from calibration.architecture import Architecture

HELP = "weights, KV bytes a token and largest context by GPU, of a model or a config.json"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    parser.add_argument("model", metavar="NAME", help="a shipped model, a hub name, or a config.json")
    parser.add_argument("--dtype", default="auto", help="format of the weights (default: as published)")
    parser.add_argument("--kv-cache-dtype", default="auto", help="format of the KV cache (default: 16 bits)")
    parser.add_argument("--gpu-memory-utilization", type=float, default=0.92, metavar="SHARE")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print it; raise InputError for an unknown model or format."""
    from calibration.architecture import architecture
    from calibration.dtypes import dtype_name

    arch = architecture(args.model)
    dtype = arch.native_dtype if args.dtype == "auto" else dtype_name(args.dtype)
    kv_dtype = "auto" if args.kv_cache_dtype == "auto" else dtype_name(args.kv_cache_dtype, key="kv_cache_dtype")
    if args.json:
        print_json(_data(arch, dtype, kv_dtype, args.gpu_memory_utilization))
        return 0
    print("\n".join(_about(arch, dtype, kv_dtype)))
    print()
    print("\n".join(_fits(arch, dtype, kv_dtype, args.gpu_memory_utilization)))
    return 0


def _parameters(count: float) -> str:
    """
    >>> _parameters(8.03e9), _parameters(5.4e7)
    ('8.03 billion', '54.0 million')
    """
    return f"{count / 1e9:.2f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"


def _about(arch: Architecture, dtype: str, kv_dtype: str) -> list[str]:
    hub = f" ({arch.hf[0]})" if arch.hf else ""
    out = [f"{arch.title or arch.name}{hub}"]
    if arch.mla:
        kind = f"latent attention (MLA), {arch.mla.latent} numbers a token and layer"
    elif arch.kv_heads == arch.heads:
        kind = f"multi-head attention, {arch.heads} heads of {arch.head_dim}"
    else:
        kind = f"grouped-query attention, {arch.heads} heads of {arch.head_dim} on {arch.kv_heads} KV heads"
    out.append(f"  {arch.layers} layers of width {arch.hidden}, {kind}")
    if arch.sliding_layers:
        out.append(f"  {arch.sliding_layers} layers look back {arch.sliding_window} tokens only")
    if arch.moe:
        shared = f" and {arch.moe.shared} shared" if arch.moe.shared else ""
        out.append(f"  {arch.moe.active} of {arch.moe.experts} experts{shared} a token in {arch.moe_layers} layers")
    active = f", {_parameters(arch.active_parameters)} used by a token" if arch.moe else ""
    out.append(f"  {_parameters(arch.parameters)} parameters{active}")
    weights = arch.weight_bytes(dtype)
    out.append(f"  weights: {f'{weights / 1e9:.1f} GB' if weights >= 1e9 else f'{weights / 1e6:.1f} MB'} in {dtype}")
    kv = arch.kv_bytes_per_token(kv_dtype)
    out.append(f"  KV cache: {kv / 1024:.1f} KiB a token, {kv * 1e-6 * 1000:.0f} MB a thousand tokens")
    out.append(f"  context: {arch.max_context:,} tokens at most")
    return out


def _data(arch: Architecture, dtype: str, kv_dtype: str, utilization: float) -> dict[str, Any]:
    """The same as data."""
    return {
        "name": arch.name,
        "title": arch.title or arch.name,
        "hub": list(arch.hf),
        "layers": arch.layers,
        "hidden": arch.hidden,
        "heads": arch.heads,
        "kv_heads": arch.kv_heads,
        "head_dim": arch.head_dim,
        "latent_attention": arch.mla is not None,
        "sliding_layers": arch.sliding_layers,
        "sliding_window": arch.sliding_window if arch.sliding_layers else None,
        "experts": arch.moe.experts if arch.moe else None,
        "active_experts": arch.moe.active if arch.moe else None,
        "parameters": arch.parameters,
        "active_parameters": arch.active_parameters,
        "dtype": dtype,
        "weight_bytes": arch.weight_bytes(dtype),
        "kv_dtype": kv_dtype,
        "kv_bytes_per_token": arch.kv_bytes_per_token(kv_dtype),
        "max_context": arch.max_context,
        "gpu_memory_utilization": utilization,
        "kv_tokens": {
            gpu: {f"tp{tp}": tokens if splits else None for tp, splits, tokens in row}
            for gpu, row in _kv_tokens(arch, dtype, kv_dtype, utilization)
        },
    }


SIZES = (1, 2, 4, 8)


def _kv_tokens(
    arch: Architecture, dtype: str, kv_dtype: str, utilization: float
) -> Iterator[tuple[str, list[tuple[int, bool, int]]]]:
    """For each GPU and tensor parallel size: whether the model splits so, and the tokens of KV that the replica holds
    (0: it does not fit)."""
    from calibration.hardware import hardware, names
    from calibration.memory import memory_sum
    from sim.errors import DoesNotFit

    for name in names():
        gpu = hardware(name)
        row = []
        for tp in SIZES:
            splits = arch.heads % tp == 0 and (arch.mla or max(tp, arch.kv_heads) % min(tp, arch.kv_heads) == 0)
            if tp > gpu.gpus_per_node or not splits:
                row.append((tp, False, 0))
                continue
            try:
                found = memory_sum(
                    arch,
                    gpu,
                    tp=tp,
                    pp=1,
                    dp=1,
                    ep=False,
                    dtype=dtype,
                    kv_dtype=kv_dtype,
                    gpu_memory_utilization=utilization,
                    block_size=16,
                    max_num_seqs=256,
                    max_num_batched_tokens=8192,
                )
            except DoesNotFit:
                row.append((tp, True, 0))
                continue
            row.append((tp, True, found.kv_tokens))
        yield name, row


def _fits(arch: Architecture, dtype: str, kv_dtype: str, utilization: float) -> list[str]:
    """A table: for each GPU and tensor parallel size, the tokens its KV pool holds, or that it does not
    fit."""
    head = "tokens of KV cache, all requests together, by tensor_parallel_size (longest context of one request)"
    rows = [head, f"  {'GPU':<14}" + "".join(f"{f'TP{tp}':>22}" for tp in SIZES)]
    for name, row in _kv_tokens(arch, dtype, kv_dtype, utilization):
        cells = []
        for _, splits, tokens in row:
            longest = min(arch.max_context, tokens)
            fits = f"{tokens:,} ({longest // 1024}K)" if tokens else "does not fit"
            cells.append(fits if splits else "-")
        rows.append(f"  {name:<14}" + "".join(f"{cell:>22}" for cell in cells))
    return rows
