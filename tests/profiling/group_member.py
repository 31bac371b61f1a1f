"""One process of a tensor-parallel group on a CPU, as torchrun starts it: checks the group, then measures in
it."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from calibration.architecture import architecture
from calibration.profiler.devices import Device
from calibration.profiler.group import DistributedGroup, under_torchrun
from calibration.profiler.session import Settings, measure


def main(folder: Path) -> None:
    """Measure into *folder*; with "check" as second argument look at the group alone."""
    torch.set_num_threads(1)
    if sys.argv[2:] == ["check"]:
        check()
        return
    settings = Settings(
        architecture=architecture(str(folder / "config.json")),
        tp=2,
        device="cpu",
        layers=2,
        batches=(1, 2),
        contexts=(16, 32),
        chunks=(8,),
        cached=(0,),
        repeats=3,
        threads=1,
    )
    outcome = measure(settings, out=folder / "m.parquet")
    assert outcome.finished


def check() -> None:
    """Sums, shards and decisions are those of the whole group."""
    group = DistributedGroup(Device("cpu"))
    assert group.size == under_torchrun() == 2
    ones = torch.full((2, 3), float(group.rank + 1))
    assert torch.equal(group.sum(ones), torch.full((2, 3), 3.0))
    shard = torch.arange(4.0).view(2, 2) + 10 * group.rank
    whole = group.concatenate(shard)
    assert torch.equal(whole, torch.tensor([[0.0, 1, 10, 11], [2, 3, 12, 13]]))
    assert group.broadcast(7 + group.rank) == 7
    assert group.largest(float(group.rank)) == 1.0
    assert group.least(5 - group.rank) == 4
    group.close()
    print("checked")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
