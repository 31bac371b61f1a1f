"""A measurement table is checked as a whole: every problem at once, with column, row and what was
expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from calibration import measurements
from calibration.measurements import contradiction, read
from sim.errors import InputError


def table(**changes: Any) -> pd.DataFrame:
    rows = [(b, c) for b in (1, 2, 4, 8) for c in (128, 1024, 4096)]
    frame = pd.DataFrame(rows, columns=["decodes", "context"])
    frame["time_ms"] = 5.0 + 0.1 * frame["decodes"] + 1e-4 * frame["decodes"] * frame["context"]
    fixed: dict[str, Any] = {
        "source": "test",
        "gpu": "h100-sxm",
        "model": "llama-3.1-8b",
        "dtype": "bf16",
        "tp": 1,
        "quantity": "iteration_measured",
    }
    frame = frame.assign(**fixed)
    return frame.assign(**changes)


def test_defaults_and_types() -> None:
    out = measurements.check(table())
    assert (out["chunks"] == 0).all()
    assert out["decodes"].dtype == np.int64
    assert out["time_ms"].dtype == np.float64


@pytest.mark.parametrize("column", [c.name for c in measurements.COLUMNS if c.required])
def test_a_missing_column_is_named(column: str) -> None:
    with pytest.raises(InputError, match=column):
        measurements.check(table().drop(columns=column))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"time_ms": np.nan}, "finite"),
        ({"time_ms": -1.0}, "more than 0"),
        ({"time_ms": 0.0}, "more than 0"),
        ({"time_ms": 1e9}, "longer than an hour"),
        ({"time_ms": "fast"}, "finite"),
        ({"decodes": -1}, "at least 0"),
        ({"decodes": 1.5}, "whole number"),
        ({"tp": 0}, "at least 1"),
        ({"quantity": "iteration_measuerd"}, "iteration_measured"),
        ({"decodes": 0}, "without decodes"),
        ({"chunks": 1}, "chunks of no tokens"),
        ({"time_us": 3.0}, "two units"),
        ({"model": ""}, "empty"),
    ],
)
def test_bad_values_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        measurements.check(table(**changes))


def test_a_time_in_another_unit_is_refused_not_guessed() -> None:
    with pytest.raises(InputError, match="time_us"):
        measurements.check(table().rename(columns={"time_ms": "time_us"}))


def test_all_problems_at_once() -> None:
    with pytest.raises(InputError) as caught:
        measurements.check(table(time_ms=-1.0, decodes=-2, tp=0))
    assert len(caught.value.problems) >= 3


def test_empty_table() -> None:
    with pytest.raises(InputError, match="no rows"):
        measurements.check(table().iloc[:0])


def test_round_trip_keeps_metadata(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    measurements.write(table(extra=3), path, {"device": "a GPU", "driver": "1.2"})
    back = measurements.read(path)
    assert back.attrs["device"] == "a GPU"
    assert back.attrs["schema_version"] == measurements.SCHEMA_VERSION
    assert (back["extra"] == 3).all()
    pd.testing.assert_frame_equal(measurements.check(table(extra=3)), back, check_like=True)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such"):
        measurements.read(tmp_path / "none.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match="not readable"):
        measurements.read(tmp_path / "bad.parquet")


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("gpu;model;time_ms", "separated by semicolons"),
        ("gpu\tmodel\ttime_ms", "separated by tabs"),
        ("gpu,model,time_ms,time_ms", "time_ms: two columns of this name"),
    ],
)
def test_columns_that_cannot_be_told_apart(header: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(f"{header}\n1,2,3\n")
    with pytest.raises(InputError) as found:
        read(path)
    assert len(found.value.problems) == 1
    assert said in str(found.value)


def test_rows_in_another_unit_are_found() -> None:
    frame = pd.DataFrame(
        [(b, c, 0, 0, 0, 1.0 + 0.1 * b) for b in (1, 2, 4, 8) for c in (64, 1024)],
        columns=["decodes", "context", "chunks", "chunk_tokens", "chunk_cached", "time_ms"],
    )
    assert contradiction(frame) is None
    frame.loc[2, "time_ms"] *= 1000
    found = contradiction(frame)
    assert found is not None
    assert found[0] == 2
    assert frame.loc[found[1], "decodes"] >= 2
    frame.loc[2, "time_ms"] /= 1e6
    assert contradiction(frame) is not None, "or shorter than smaller ones"


@pytest.mark.parametrize(("decodes", "factor"), [(True, 1000), (True, 0.001), (False, 1000), (False, 0.001)])
def test_all_of_one_kind_in_another_unit_are_found(decodes: bool, factor: float) -> None:
    rows = [(b, c, 0, 0, 0, 20 + 0.02 * b + 1e-5 * b * c) for b in (1, 8, 64) for c in (64, 1024)]
    rows += [
        (0, 0, 1, n, cached, 20 + 0.02 * n + 1e-8 * n * (n + cached)) for n in (16, 512, 8192) for cached in (0, 4096)
    ]
    frame = pd.DataFrame(rows, columns=["decodes", "context", "chunks", "chunk_tokens", "chunk_cached", "time_ms"])
    assert contradiction(frame) is None
    frame.loc[(frame["decodes"] > 0) == decodes, "time_ms"] *= factor
    assert contradiction(frame) is not None
