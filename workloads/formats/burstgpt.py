"""BurstGPT: ``Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type``, and a session in later
files.

Source: github.com/HPMLL/BurstGPT, CC BY 4.0. Time stamps are seconds from the start of collection; failed
requests have no response tokens and are left out. Its second file goes on where the first one ended, two
months after the start: time then starts at the first row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workloads.formats import Report, trace_format
from workloads.formats.cells import Faults
from workloads.formats.columns import Order, raw_rows, require, standard
from workloads.formats.files import Head, look
from workloads.formats.timestamps import StampReader

if TYPE_CHECKING:
    import pyarrow as pa

_NAMES = {
    "Timestamp": "arrived_at",
    "Model": "model",
    "Request tokens": "num_prefill_tokens",
    "Response tokens": "num_decode_tokens",
    "Log Type": "category",
    "Session ID": "session_id",
}


@trace_format("burstgpt")
@dataclass(frozen=True)
class BurstGpt:
    """BurstGPT."""

    title: str = "BurstGPT"

    def recognises(self, head: Head) -> bool:
        return head.kind in ("csv", "parquet") and bool({"Request tokens", "Response tokens"} & set(head.names))

    def read(self, path: Path, report: Report) -> Iterator[pa.RecordBatch]:
        head = look(path)
        needed = ["Timestamp", "Request tokens", "Response tokens"]
        require(head, needed, needed)
        faults, order, stamps = Faults(str(path)), Order(), StampReader(report, shift_from=86_400.0)
        for raw in raw_rows(path, head.kind):
            columns = {_NAMES.get(name, name): values for name, values in raw.columns.items()}
            columns.pop("Total tokens", None)
            columns["arrived_at"] = stamps.seconds(columns["arrived_at"], raw.first, "Timestamp", faults)
            faults.stop()
            yield standard(columns, first=raw.first, faults=faults, report=report, order=order, time_column="Timestamp")
            faults.stop()
