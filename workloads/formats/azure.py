"""Azure LLM inference traces of 2023 and 2024: ``TIMESTAMP,ContextTokens,GeneratedTokens``.

Source: github.com/Azure/AzurePublicDataset, CC BY 4.0; the 2023 traces come with Splitwise (ISCA 2024),
those of 2024 with DynamoLLM (HPCA 2025). Time stamps have seven digits of a second in 2023 and a zone in
2024; time starts at the first row.
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

_NAMES = {"ContextTokens": "num_prefill_tokens", "GeneratedTokens": "num_decode_tokens"}


@trace_format("azure")
@dataclass(frozen=True)
class Azure:
    """Azure LLM inference 2023 and 2024."""

    title: str = "Azure LLM inference"

    def recognises(self, head: Head) -> bool:
        return head.kind in ("csv", "jsonl", "parquet") and bool(set(_NAMES) & set(head.names))

    def read(self, path: Path, report: Report) -> Iterator[pa.RecordBatch]:
        head = look(path)
        require(head, ["TIMESTAMP", *_NAMES], ["TIMESTAMP", *_NAMES])
        faults, order, stamps = Faults(str(path)), Order(), StampReader(report)
        for raw in raw_rows(path, head.kind):
            columns = {_NAMES.get(name, name): values for name, values in raw.columns.items()}
            columns["arrived_at"] = stamps.seconds(columns.pop("TIMESTAMP"), raw.first, "TIMESTAMP", faults)
            faults.stop()
            yield standard(columns, first=raw.first, faults=faults, report=report, order=order, time_column="TIMESTAMP")
            faults.stop()
