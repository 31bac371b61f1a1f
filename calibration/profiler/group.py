"""The processes of a tensor-parallel group, as ``torchrun`` starts them; a group of one without it."""

from __future__ import annotations

import os
from typing import Any

import torch

from calibration.profiler.devices import Device


class Group:
    """A group of one: nothing to sum, nobody to agree with."""

    rank = 0
    size = 1

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """All-reduce."""
        return x

    def concatenate(self, x: torch.Tensor) -> torch.Tensor:
        """All-gather along the last axis."""
        return x

    def broadcast(self, value: int) -> int:
        """The first rank's value."""
        return value

    def largest(self, value: float) -> float:
        """The largest over the ranks."""
        return value

    def least(self, value: int) -> int:
        """The smallest over the ranks."""
        return value

    def close(self) -> None:
        """Leave the group."""


class DistributedGroup(Group):
    """NCCL between CUDA devices, gloo between processes on a CPU."""

    def __init__(self, device: Device) -> None:
        import torch.distributed as dist

        self._dist: Any = dist
        self.device = device
        self.backend = "nccl" if device.kind == "cuda" else "gloo"
        options: dict[str, Any] = {"device_id": device.torch} if device.kind == "cuda" else {}
        dist.init_process_group(self.backend, **options)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        # Decisions travel between hosts, so that they queue behind no kernel.
        self._control = dist.new_group(backend="gloo") if self.backend == "nccl" else None

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """All-reduce, in place."""
        self._dist.all_reduce(x)
        return x

    def concatenate(self, x: torch.Tensor) -> torch.Tensor:
        """All-gather along the last axis."""
        x = x.contiguous()
        out = x.new_empty(self.size * x.shape[0], *x.shape[1:])
        # torch 2.13 renamed it
        gather = getattr(self._dist, "all_gather_single", None) or self._dist.all_gather_into_tensor
        gather(out, x)
        return out.view(self.size, *x.shape).movedim(0, -2).reshape(*x.shape[:-1], -1)

    def _reduced(self, value: float, how: Any) -> float:
        box = torch.tensor([value], dtype=torch.float64)
        self._dist.all_reduce(box, op=how, group=self._control)
        return float(box.item())

    def broadcast(self, value: int) -> int:
        """The first rank's value."""
        box = torch.tensor([value], dtype=torch.int64)
        self._dist.broadcast(box, src=0, group=self._control)
        return int(box.item())

    def largest(self, value: float) -> float:
        """The largest over the ranks."""
        return self._reduced(value, self._dist.ReduceOp.MAX)

    def least(self, value: int) -> int:
        """The smallest over the ranks."""
        return int(self._reduced(value, self._dist.ReduceOp.MIN))

    def close(self) -> None:
        """Leave the group."""
        self._dist.destroy_process_group()


def under_torchrun() -> int:
    """How many processes ``torchrun`` started, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def local_device(name: str) -> str:
    """The device of this process: with ``cuda`` each local rank takes its own."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if name == "cuda" and under_torchrun() > 1 else name
