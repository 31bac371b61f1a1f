"""Published serving runs as cases: one row of ``cases.csv`` each, with what it points to.

A folder of cases holds ``cases.csv`` and the files that it names: per-request workloads, measured requests, and
histograms of output lengths (``*_hist.jsonl.gz``). Cells may be empty and columns missing: a case says ``None`` then,
and what needs the cell is skipped with the reason.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.errors import InputError, Problem

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

EMPTY = frozenset({"", "nan", "none", "null", "n/a", "-"})

THROUGHPUTS = ("req_throughput", "output_tps", "derived_output_tps")
LATENCIES = tuple(
    f"{name}_ms_{stat}"
    for name in ("ttft", "tpot", "itl", "e2e")
    for stat in ("mean", "p50", "p90", "p95", "p99", "stat")
)
METRICS = (*THROUGHPUTS, "batch_mean", *LATENCIES)
"""Columns of ``cases.csv`` that are measured results, in the order in which they are reported."""


@dataclass(frozen=True)
class Case:
    """One measured run; *row* is its line of the file as text."""

    id: str
    row: Mapping[str, str] = field(repr=False)
    folder: Path = field(repr=False)

    def text(self, column: str, default: str = "") -> str:
        """The cell as text, *default* where it is empty or missing."""
        value = (self.row.get(column) or "").strip()
        return default if value.lower() in EMPTY else value

    def number(self, column: str) -> float | None:
        """The first number in the cell (``8192 (see …)`` is 8192), None where there is none."""
        value = self.text(column)
        found = re.search(r"-?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?", value)
        if not found:
            return None
        number = float(found[0].replace(",", ""))
        return number if math.isfinite(number) else None

    def whole(self, column: str) -> int | None:
        """`number` rounded to a whole one."""
        value = self.number(column)
        return None if value is None else round(value)

    def measured(self) -> dict[str, float]:
        """All results that the row states; figures that are not above zero are no measurements."""
        found = {name: self.number(name) for name in METRICS}
        return {name: value for name, value in found.items() if value is not None and value > 0}

    def path(self, column: str) -> Path | None:
        """The file that the cell names, if it is there."""
        name = self.text(column)
        path = self.folder / name
        return path if name and path.is_file() else None

    @property
    def prefix(self) -> str:
        """Family of the case: its id up to the first dash."""
        return self.id.partition("-")[0]


@dataclass(frozen=True)
class Trace:
    """Requests of an exact replay, in order of arrival; times in seconds from the start of the run."""

    arrived_s: FloatArray
    intended_s: FloatArray | None
    """When the client meant to send, where a cap held it back."""
    prompt_tokens: IntArray
    output_tokens: IntArray


def read_cases(folder: Path) -> list[Case]:
    """All cases of *folder*; raise an InputError for a folder without a readable ``cases.csv``."""
    path = folder / "cases.csv"
    if not path.is_file():
        raise InputError(Problem("no cases.csv", source=str(folder), expected="a folder with cases.csv"))
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if "id" not in (reader.fieldnames or ()):
            raise InputError(Problem("no column id", source=str(path), line=1, expected="a header with id"))
        cases, seen, problems = [], set(), []
        for row in reader:
            name = (row.get("id") or "").strip()
            if not name or name in seen:
                what = f"{name!r} stands twice" if name else "no id"
                problems.append(Problem(what, source=str(path), line=reader.line_num, key="id"))
                continue
            seen.add(name)
            kept = {key: value for key, value in row.items() if isinstance(key, str) and isinstance(value, str)}
            cases.append(Case(name, kept, folder))
    if problems:
        raise InputError(problems)
    return cases


def _open(path: Path) -> Iterator[dict[str, str]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def read_trace(path: Path) -> Trace:
    """The requests of a workload file; raise an InputError for missing columns or broken values."""
    rows = list(_open(path))
    columns: dict[str, FloatArray] = {}
    for name in ("arrived_at", "num_prefill_tokens", "num_decode_tokens", "intended_arrival"):
        try:
            columns[name] = np.array([float(row[name]) for row in rows])
        except KeyError:
            if name != "intended_arrival":
                raise InputError(Problem(f"no column {name}", source=str(path), line=1)) from None
        except (TypeError, ValueError):
            if name != "intended_arrival":
                raise InputError(Problem(f"{name} holds what is no number", source=str(path))) from None
    if not rows or not all(np.isfinite(values).all() for values in columns.values()):
        raise InputError(Problem("no requests, or a value that is not finite", source=str(path)))
    order = np.argsort(columns["arrived_at"], kind="stable")
    intended = columns.get("intended_arrival")
    return Trace(
        arrived_s=columns["arrived_at"][order],
        intended_s=None if intended is None else intended[order],
        prompt_tokens=np.maximum(1, columns["num_prefill_tokens"][order]).astype(np.int64),
        output_tokens=np.maximum(1, columns["num_decode_tokens"][order]).astype(np.int64),
    )


def read_histograms(folder: Path) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Histograms of output lengths by case id, (edges, counts), of every ``*hist*.jsonl[.gz]`` in *folder*."""
    found: dict[str, tuple[FloatArray, FloatArray]] = {}
    for path in sorted(folder.glob("*hist*.jsonl*")):
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8") as file:
            for line in file:
                if not line.strip():
                    continue
                row: dict[str, Any] = json.loads(line)
                edges = np.asarray(row.get("bins", ()), dtype=float)
                counts = np.asarray(row.get("counts", ()), dtype=float)
                if len(edges) == len(counts) + 1 and counts.sum() > 0:
                    found[str(row.get("id"))] = (edges, counts)
    return found
