"""One run, whole: its tables, its scenario, its summary and where they came from; saved to a directory and
loaded back.

    scenario.resolved.yaml   the scenario with every default spelled out; can be run again
    provenance.json          versions, seed, profiles, command, dates and every wall-clock figure
    summary.json             metrics, totals, verdict … (``sim.metrics.summarise``)
    queries.parquet  requests.parquet  segments.parquet  stalls.parquet

The same scenario and seed give the same bytes, except in ``provenance.json``, where all that varies is kept.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.errors import InputError, Problem
from sim.results.columns import TABLES
from sim.results.info import RunInfo
from sim.results.tables import Table, concatenate

if TYPE_CHECKING:
    import pandas as pd

    from sim.scenario.model import Scenario

SCHEMA_VERSION = 1
"""Of summary.json and the tables; grows when a key or column changes its meaning or goes away."""

SCENARIO_FILE = "scenario.resolved.yaml"
PROVENANCE_FILE = "provenance.json"
SUMMARY_FILE = "summary.json"
FILES = (SCENARIO_FILE, PROVENANCE_FILE, SUMMARY_FILE, *(f"{name}.parquet" for name in TABLES))


class Results:
    """What ``simulate`` returns. Tables are DataFrames by attribute: ``queries``, ``requests``,
    ``segments``, ``stalls``.

    ``tables`` holds the same as numpy arrays, ``runs`` one RunInfo a replication, ``summary`` the content
    of summary.json.
    """

    def __init__(
        self,
        *,
        scenario: Scenario | str,
        runs: Sequence[tuple[RunInfo, Mapping[str, Table]]],
        provenance: Mapping[str, Any] | None = None,
        summary: Mapping[str, Any] | None = None,
    ) -> None:
        if not runs:
            raise ValueError("results need at least one replication")
        self._scenario = scenario
        self.runs: tuple[RunInfo, ...] = tuple(info for info, _ in runs)
        self.tables: dict[str, Table] = {name: concatenate([tables[name] for _, tables in runs]) for name in TABLES}
        self.provenance: dict[str, Any] = dict(provenance or {})
        self.summary: dict[str, Any] = dict(summary or {})

    @cached_property
    def queries(self) -> pd.DataFrame:
        """One row a query; columns: ``sim.results.columns.QUERIES``."""
        return self.tables["queries"].frame()

    @cached_property
    def requests(self) -> pd.DataFrame:
        """One row a request; columns: ``sim.results.columns.REQUESTS``."""
        return self.tables["requests"].frame()

    @cached_property
    def segments(self) -> pd.DataFrame:
        """One row a run of like steps of a replica; columns: ``sim.results.columns.SEGMENTS``."""
        return self.tables["segments"].frame()

    @cached_property
    def stalls(self) -> pd.DataFrame:
        """One row a token gap that is longer than a step; columns: ``sim.results.columns.STALLS``."""
        return self.tables["stalls"].frame()

    @cached_property
    def scenario_yaml(self) -> str:
        """The resolved scenario as it is saved."""
        return self._scenario if isinstance(self._scenario, str) else self._scenario.to_yaml()

    @cached_property
    def scenario(self) -> dict[str, Any]:
        """The resolved scenario as plain data."""
        import yaml

        data: dict[str, Any] = yaml.safe_load(self.scenario_yaml)
        return data

    def set_column(self, table: str, column: str, values: Any) -> None:
        """Replace a declared column (``sim.metrics`` fills in slowdown and slo_met so)."""
        old = self.tables[table].columns[column]
        if len(values) != len(old):
            raise ValueError(f"{table}.{column} has {len(old)} rows, got {len(values)}")
        self.tables[table].columns[column] = values.astype(old.dtype, copy=False)
        self.__dict__.pop(table, None)

    def save(self, directory: Path | str) -> Path:
        """Write every file to *directory*, which is made when it is not there; for a whole new one see
        ``replace_directory``."""
        path = Path(directory)
        path.mkdir(parents=True, exist_ok=True)
        (path / SCENARIO_FILE).write_text(self.scenario_yaml, encoding="utf-8")
        (path / PROVENANCE_FILE).write_text(to_json(self.provenance), encoding="utf-8")
        (path / SUMMARY_FILE).write_text(to_json(self.summary), encoding="utf-8")
        for name, table in self.tables.items():
            _write_parquet(table, path / f"{name}.parquet")
        return path

    @classmethod
    def load(cls, directory: Path | str) -> Results:
        """Read what ``save`` wrote; raise an InputError that names every file that is missing, broken or of
        another version."""
        path = Path(directory)
        if not path.is_dir():
            raise InputError(Problem(f"{path} is not a directory", expected="a directory that `thinkcap run` wrote"))
        problems = [
            Problem("file is missing", source=str(path / file), expected="a directory that `thinkcap run` wrote")
            for file in FILES
            if not (path / file).is_file()
        ]
        if problems:
            raise InputError(problems)
        summary = _read_json(path / SUMMARY_FILE, problems)
        provenance = _read_json(path / PROVENANCE_FILE, problems)
        runs = _read_runs(path / SUMMARY_FILE, summary, problems)
        tables: dict[str, Table] = {}
        for name in TABLES:
            table = _read_parquet(name, path / f"{name}.parquet", problems)
            if table is not None:
                tables[name] = table
        try:
            scenario_yaml = (path / SCENARIO_FILE).read_text(encoding="utf-8")
            if not scenario_yaml.strip():
                problems.append(Problem("is empty", source=str(path / SCENARIO_FILE), expected="the resolved scenario"))
        except UnicodeDecodeError as error:
            problems.append(Problem(f"is not UTF-8 text: {error}", source=str(path / SCENARIO_FILE)))
        if problems:
            raise InputError(problems)
        results = cls.__new__(cls)
        results._scenario = scenario_yaml
        results.runs = runs
        results.tables = tables
        results.provenance = provenance
        results.summary = summary
        return results


def to_json(data: Mapping[str, Any]) -> str:
    """*data* as JSON text: keys in their order, numpy values as plain ones, NaN and infinity as null."""
    return json.dumps(plain(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """*value* with JSON types only; NaN and infinities become None."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return int(value)
    raise TypeError(f"{type(value).__name__} has no place in a results file: {value!r}")


def replace_directory(target: Path | str, write: Callable[[Path], None], *, marker: str = SUMMARY_FILE) -> Path:
    """Make *target* anew by ``write(folder)``, at once or not at all: readers see the old directory or the
    new one.

    *write* fills a folder beside *target*, which then takes its place. Raise an InputError when *target*
    exists and is neither empty nor a directory with a *marker* file in it, so that no user's folder is ever
    deleted by mistake.
    """
    path = Path(target)
    if path.exists() and not path.is_dir():
        raise InputError(Problem(f"{path} is a file", expected="a directory for the results"))
    if path.is_dir() and any(path.iterdir()) and not (path / marker).is_file():
        raise InputError(
            Problem(
                f"{path} exists and does not look like results (no {marker}); it was left as it is",
                expected="an empty or new directory, or one with earlier results",
            )
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent))
    try:
        write(fresh)
        fresh.chmod(0o755)  # mkdtemp makes it private
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
            path.rename(old / path.name)
            fresh.rename(path)
            shutil.rmtree(old)
        else:
            fresh.rename(path)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return path


def _write_parquet(table: Table, path: Path) -> None:
    import pyarrow.parquet as pq

    names = [column.name for column in TABLES[table.name] if column.dtype == "category"]
    pq.write_table(
        table.arrow(), path, compression="snappy", use_dictionary=names, write_statistics=False, version="2.6"
    )


def _read_parquet(name: str, path: Path, problems: list[Problem]) -> Table | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return Table.from_arrow(name, pq.read_table(path))
    except (pa.ArrowException, OSError) as error:
        problems.append(Problem(f"cannot be read as Parquet: {str(error).splitlines()[0]}", source=str(path)))
    except ValueError as error:
        problems.append(Problem(str(error), source=str(path)))
    return None


def _read_json(path: Path, problems: list[Problem]) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else None
        problems.append(Problem(f"cannot be read as JSON: {error}", source=str(path), line=line))
        return {}
    if not isinstance(data, dict):
        problems.append(Problem("holds no JSON object", source=str(path)))
        return {}
    return data


def _read_runs(path: Path, summary: Mapping[str, Any], problems: list[Problem]) -> tuple[RunInfo, ...]:
    if not summary:
        return ()
    version = summary.get("schema_version")
    if version != SCHEMA_VERSION:
        problems.append(
            Problem(
                f"was written in version {version!r} of the format",
                source=str(path),
                key="schema_version",
                expected=f"{SCHEMA_VERSION}; run the scenario again",
            )
        )
        return ()
    try:
        return tuple(RunInfo.from_dict(run) for run in summary["runs"])
    except (KeyError, TypeError) as error:
        problems.append(Problem(f"its description of the run is broken: {error}", source=str(path), key="runs"))
        return ()
