"""How fast bytes travel: host to device and back (swap, offloading), and all-reduces of a tensor-parallel
group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from calibration.profiler.devices import Device
from calibration.profiler.group import DistributedGroup, Group
from calibration.profiler.run import summarise

COPY_BYTES = tuple(2**power for power in range(16, 29, 2))
"""64 KiB (a block of a small model) to 256 MiB."""
REDUCE_BYTES = tuple(2**power for power in range(13, 28))
"""8 KiB (one token of a hidden state) to 128 MiB (a prefill step)."""
_IN_GRAPH = 10


def copies(device: Device, *, repeats: int, sizes: Sequence[int] = COPY_BYTES) -> list[dict[str, Any]]:
    """Rows for copies through pinned memory; none on a CPU, which has no second memory to copy to."""
    if device.kind == "cpu":
        return []
    rows = []
    for size in sizes:
        host = torch.randint(0, 255, (size,), dtype=torch.uint8)
        if device.kind == "cuda":
            host = host.pin_memory()
        there = host.to(device.torch)
        for quantity, target, source in (("copy_h2d", there, host), ("copy_d2h", host, there)):
            work = lambda target=target, source=source: target.copy_(source, non_blocking=True)  # noqa: E731
            rows.append(_row(device, quantity, size, work, repeats))
    return rows


def all_reduces(
    device: Device, group: Group, *, dtype: torch.dtype, repeats: int, sizes: Sequence[int] = REDUCE_BYTES
) -> list[dict[str, Any]]:
    """Rows for all-reduces over the group, by bytes of one rank's tensor; none for a group of one.

    On CUDA several run in one graph, as they do in an engine's decode step, so that launching is not what is
    timed.
    """
    if not isinstance(group, DistributedGroup):
        return []
    rows = []
    for size in sizes:
        # Small numbers: sums of sums stay finite over all repeats.
        tensor = torch.randn(size // dtype.itemsize, device=device.torch, dtype=dtype) * 1e-3
        work, count = _reducer(device, group, tensor)
        rows.append(_row(device, "allreduce_op", size, work, repeats, group=group, count=count))
    return rows


def _reducer(device: Device, group: Group, tensor: torch.Tensor) -> tuple[Any, int]:
    def once() -> None:
        group.sum(tensor)

    if device.kind != "cuda":
        return once, 1
    once()
    torch.cuda.synchronize()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        for _ in range(_IN_GRAPH):
            group.sum(tensor)
    return captured.replay, _IN_GRAPH


def _row(
    device: Device,
    quantity: str,
    size: int,
    work: Any,
    repeats: int,
    *,
    group: Group | None = None,
    count: int = 1,
) -> dict[str, Any]:
    group = group or Group()
    for _ in range(2):
        work()
    device.sync()
    times = [group.largest(device.time(work)) / count for _ in range(repeats)]
    middle, spread = summarise([times], [1.0])
    reading = device.telemetry.read()
    return {
        "quantity": quantity,
        "message_bytes": float(size),
        "time_ms": 1e3 * middle,
        "spread_ms": 1e3 * spread,
        "n": repeats,
        "clock_mhz": reading.clock_mhz,
        "temperature_c": reading.temperature_c,
    }
