"""Splitwise-sim traces:
``request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size``.

Source: github.com/Mutinifni/splitwise-sim, MIT. Traces of Vidur have our own columns and are read as those.
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

if TYPE_CHECKING:
    import pyarrow as pa

_NAMES = {
    "arrival_timestamp": "arrived_at",
    "prompt_size": "num_prefill_tokens",
    "token_size": "num_decode_tokens",
    "application_id": "client_id",
}


@trace_format("splitwise")
@dataclass(frozen=True)
class Splitwise:
    """Splitwise-sim."""

    title: str = "Splitwise-sim"

    def recognises(self, head: Head) -> bool:
        return head.kind in ("csv", "parquet") and bool({"prompt_size", "token_size"} & set(head.names))

    def read(self, path: Path, report: Report) -> Iterator[pa.RecordBatch]:
        head = look(path)
        needed = ["arrival_timestamp", "prompt_size", "token_size"]
        require(head, needed, needed)
        faults, order = Faults(str(path)), Order()
        for raw in raw_rows(path, head.kind):
            columns = {_NAMES.get(name, name): values for name, values in raw.columns.items()}
            yield standard(
                columns,
                first=raw.first,
                faults=faults,
                report=report,
                order=order,
                time_column="arrival_timestamp",
            )
            faults.stop()
