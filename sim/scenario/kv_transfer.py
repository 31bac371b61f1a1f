"""The ``kv_transfer`` section: how KV gets from prefill pools to decode pools."""

from __future__ import annotations

from pydantic import Field

from sim import units
from sim.scenario.base import BytesPerSecond, Picoseconds, Section


class KvTransfer(Section):
    """The network links that KV is copied over, first come, first served on those of both replicas.

    A replica has one link a GPU; the end with fewer GPUs sets the pace.
    """

    bandwidth: BytesPerSecond = Field(
        default=50e9,
        description="of the link of one GPU; the default is that of a 400 Gbit/s network card, one a GPU, without "
        "protocol overhead: measure yours",
    )
    latency_ps: Picoseconds = Field(
        default=units.PS_PER_S // 1000,
        alias="latency",
        description="from the order for a copy to its first byte: hand-shake and set-up; an assumption: measure yours",
    )
