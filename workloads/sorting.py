"""Rows put in order of arrival without holding them all: sorted runs on disk, merged."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from workloads.transform import in_order, merge, starting_at_zero

if TYPE_CHECKING:
    import pyarrow as pa

    from workloads.transform import Batches

RUN_ROWS = 1_000_000
_GROUP_ROWS = 50_000


def by_arrival(batches: Batches, folder: Path, *, run_rows: int = RUN_ROWS) -> Iterator[pa.RecordBatch]:
    """All rows by arrival, ties as they were; time starts at zero if it was below.

    Of more than *run_rows* rows, runs of so many are sorted and kept in *folder* until they are merged. Rows that
    name their parents are held in memory, as any of them may be asked for by number.
    """
    run: list[pa.RecordBatch] = []
    with tempfile.TemporaryDirectory(prefix=".sorting-", dir=folder) as place:
        paths: list[Path] = []
        parents = False
        for batch in batches:
            run.append(batch)
            parents = parents or "parent_id" in batch.schema.names
            if not parents and sum(part.num_rows for part in run) >= run_rows:
                paths.append(_keep(run, Path(place) / f"{len(paths)}.parquet"))
                run = []
        if not paths:
            if run:
                yield from starting_at_zero(in_order(run).to_batches(max_chunksize=_GROUP_ROWS))
            return
        if run:
            paths.append(_keep(run, Path(place) / f"{len(paths)}.parquet"))
        del run
        yield from starting_at_zero(merge([partial(_read, path) for path in paths], apart=False))


def _keep(run: list[pa.RecordBatch], path: Path) -> Path:
    from pyarrow import parquet

    parquet.write_table(in_order(run), path, row_group_size=_GROUP_ROWS, compression="lz4")
    return path


def _read(path: Path) -> Iterator[pa.RecordBatch]:
    from pyarrow import parquet

    with parquet.ParquetFile(path, pre_buffer=False) as file:
        yield from file.iter_batches(batch_size=_GROUP_ROWS)
