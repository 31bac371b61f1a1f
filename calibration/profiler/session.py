"""From what the user asked for to a bench and a grid: device, number format, layers, memory, processes of a
group."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.architecture import Architecture
from calibration.dtypes import dtype_name
from calibration.profiler import require_torch
from calibration.profiler.points import Limits, Point, custom_grid, default_grid
from calibration.profiler.run import Outcome, Progress, run
from calibration.profiler.shapes import Shape
from sim.errors import InputError, Problem

if TYPE_CHECKING:
    from calibration.profiler.bench import TorchBench

BLOCK = 256
"""Room for rounding up to blocks, whatever block size the attention will want."""
MAX_TOKENS = {"cuda": 16_384, "mps": 2_048, "cpu": 512}
LONGEST = 131_073
CPU_LAYERS = 4
REPEATS = {"cuda": 15, "mps": 9, "cpu": 7}


@dataclass(frozen=True)
class Settings:
    """What to measure and how; None leaves the choice to the device."""

    architecture: Architecture
    tp: int = 1
    dtype: str = "auto"
    device: str = "auto"
    layers: int | None = None
    batches: tuple[int, ...] | None = None
    contexts: tuple[int, ...] | None = None
    chunks: tuple[int, ...] | None = None
    cached: tuple[int, ...] | None = None
    mixed: bool = True
    repeats: int | None = None
    budget_s: float | None = None
    attention: str = "auto"
    graphs: bool = True
    compiled: bool | None = None
    threads: int | None = None
    seed: int = 0
    shard: bool = False
    """Measure one GPU's share of a tensor-parallel group alone, without all-reduces."""


def choose_device(name: str) -> str:
    """*name*, or for "auto" the best kind there is; under ``torchrun`` each process takes its own GPU."""
    import torch

    from calibration.profiler.group import local_device

    if name == "auto":
        kinds = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        name = next(kind for kind, there in kinds.items() if there)
    return local_device(name)


def choose_dtype(architecture: Architecture, wanted: str, kind: str) -> str:
    """The number format: for "auto" the published weights' own on a GPU, fp32 on a CPU."""
    if wanted != "auto":
        return dtype_name(wanted, key="--dtype")
    if kind == "cpu":
        return "fp32"
    return architecture.native_dtype


def check_group(settings: Settings, processes: int) -> None:
    """Raise an InputError unless as many processes run as the tensor-parallel size says."""
    if processes > 1 and processes != settings.tp:
        raise InputError(Problem(f"torchrun started {processes} processes", key="--tp", expected=f"--tp {processes}"))
    if processes == 1 and settings.tp > 1 and not settings.shard:
        line = f"torchrun --nproc-per-node {settings.tp} --no-python thinkcap calibrate measure …"
        raise InputError(
            Problem(
                f"{settings.tp} GPUs need {settings.tp} processes",
                key="--tp",
                expected=f"{line} (or --shard: one GPU's share alone, rows flagged no_allreduce)",
            )
        )


def wanted_grid(settings: Settings, kind: str) -> Callable[[Limits], list[Point]]:
    """How to make the grid once it is known what fits; the full default on GPUs, a small one on a CPU."""
    named = settings.batches or settings.contexts or settings.chunks
    if not named and kind == "cuda":
        return default_grid
    batches = settings.batches or (1, 2, 4, 8)
    contexts = settings.contexts or (64, 256, 1024)
    chunks = settings.chunks if settings.chunks is not None else (16, 64, 128)
    cached = settings.cached if settings.cached is not None else (0, 256)
    if settings.cached is not None and 0 not in cached:
        cached = (0, *cached)

    def make(limits: Limits) -> list[Point]:
        return custom_grid(
            limits, batches=batches, contexts=contexts, chunks=chunks, cached=cached, mixed=settings.mixed
        )

    return make


def prepare(settings: Settings) -> tuple[TorchBench, list[Point]]:
    """The bench and its grid. Raise InputError or DoesNotFit for what this machine cannot do."""
    require_torch()
    import torch

    from calibration.profiler.bench import TorchBench
    from calibration.profiler.devices import Device
    from calibration.profiler.group import DistributedGroup, Group, under_torchrun
    from calibration.profiler.mlp import check_dtype

    processes = under_torchrun()
    check_group(settings, processes)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = Device(choose_device(settings.device))
    dtype = choose_dtype(settings.architecture, settings.dtype, device.kind)
    check_dtype(dtype, device)
    shape = Shape(settings.architecture, settings.tp)
    make = wanted_grid(settings, device.kind)
    # What the grid needs at most decides how large pool and tables must be.
    open_limits = Limits(2**62, settings.architecture.max_context, MAX_TOKENS["cuda"])
    everything = make(open_limits)
    max_tokens = max(point.tokens for point in everything)
    longest = max(point.longest for point in everything)
    kv_tokens = max(point.kv_tokens + (point.decodes + point.chunks) * BLOCK for point in everything)
    layers = settings.layers
    if layers is None and device.kind == "cpu":
        layers = min(CPU_LAYERS, settings.architecture.layers)
    compiled = settings.compiled
    if compiled is None:
        compiled = device.kind == "cuda" and _has_triton()
    group = DistributedGroup(device) if processes > 1 else Group()
    bench = TorchBench(
        shape,
        dtype=dtype,
        device=device,
        group=group,
        layers=layers,
        max_tokens=max_tokens,
        longest=min(longest, LONGEST),
        kv_tokens=kv_tokens,
        attention=settings.attention,
        graphs=settings.graphs,
        compiled=compiled,
        seed=settings.seed,
    )
    return bench, make(bench.limits)


def whole_bench(
    architecture: Architecture,
    *,
    layers: int,
    dtype: str,
    device: str,
    threads: int | None,
    clock: str,
    max_tokens: int,
    longest: int,
    kv_tokens: int,
) -> TorchBench:
    """A decoder of *layers* layers of each kind that stands for nothing but itself, without CUDA graphs.

    *clock* is "wall", or "process" for CPU time (InputError for other devices). For checks that run the same
    decoder in a loop, which launches its kernels one by one.
    """
    require_torch()
    import torch

    from calibration.profiler.bench import TorchBench
    from calibration.profiler.devices import Device

    if threads:
        torch.set_num_threads(threads)
    place = Device(choose_device(device))
    if clock == "process":
        if place.kind != "cpu":
            raise InputError(Problem("process time does not see a GPU", key="--clock", expected="wall"))
        place.clock = time.process_time
    return TorchBench(
        Shape(architecture),
        dtype=choose_dtype(architecture, dtype, place.kind),
        device=place,
        layers=min(layers, architecture.layers),
        max_tokens=max_tokens,
        longest=longest,
        kv_tokens=kv_tokens,
        graphs=False,
        whole=True,
    )


def _has_triton() -> bool:
    from importlib.util import find_spec

    return find_spec("triton") is not None


def measure(
    settings: Settings,
    *,
    out: Path,
    command: str = "",
    say: Callable[[Progress], None] = lambda progress: None,
    note: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Measure and write *out*; see :func:`calibration.profiler.run.run`. *note* hears what was chosen."""
    bench, points = prepare(settings)
    from calibration.profiler import links
    from calibration.profiler.devices import TORCH_DTYPES

    repeats = settings.repeats or REPEATS[bench.device.kind]
    if bench.writes:
        for line in description(bench, points):
            note(line)

    def bytes_on_links() -> list[dict[str, Any]]:
        rows = links.copies(bench.device, repeats=repeats)
        work = TORCH_DTYPES[bench.dtype]
        return rows + links.all_reduces(bench.device, bench.group, dtype=work, repeats=repeats)

    try:
        return run(
            bench,
            points,
            out=out,
            repeats=repeats,
            budget_s=settings.budget_s,
            command=command,
            say=say if bench.writes else lambda progress: None,
            links=bytes_on_links,
        )
    finally:
        bench.group.close()


def description(bench: TorchBench, points: list[Point]) -> list[str]:
    """What is about to be measured, in words."""
    stacks = [stack.layers for stack in bench.stacks]
    arch = bench.shape.architecture
    layers = (
        f"all {arch.layers} layers"
        if len(stacks) == 1
        else f"stacks of {', '.join(map(str, stacks))} layers, scaled to {arch.layers}"
    )
    kinds: dict[str, int] = {}
    for point in points:
        kinds[point.kind] = kinds.get(point.kind, 0) + 1
    lines = [
        f"{arch.name} in {bench.dtype} on {bench.device.name}, tp {bench.shape.tp}: {layers}",
        f"attention {bench.attention.name}, blocks of {bench.block_size}, KV pool of {bench.limits.kv_tokens:,} tokens",
        "points: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()),
    ]
    return lines + [f"passed over: {reason}" for reason in bench.notes]
