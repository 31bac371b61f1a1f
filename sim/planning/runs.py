"""A store of finished points, and the one way to compute points: in parallel, resumable, each on disk at once.

A store is a directory::

    points/ab/abcdef….json       the record of one point: state, summary, wall time
    points/ab/abcdef….parquet    its measured queries
    journal.jsonl                a line a finished point, in the order in which they finished

A record is written to a temporary file and renamed, after its queries; what exists is complete, whatever kills
the process. The journal is appended to after the record. A crash in between is mended when the store is opened.
Results are written by the process that asked for them, so workers need no disk in common.
"""

from __future__ import annotations

import importlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.errors import InputError, Problem
from sim.planning.point import Task, compute, failure, warm

if TYPE_CHECKING:
    import pandas as pd

BACKENDS = ("processes", "ray", "dask")

Record = dict[str, Any]


class Store:
    """Finished points under *folder*, which is made when it is not there."""

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise InputError(Problem(f"{folder} is a file", key="--out", expected="a directory"))
        self.folder = folder
        self._points = folder / "points"
        self._journal = folder / "journal.jsonl"
        self._points.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Record] = {}
        self._mend()

    @staticmethod
    def holds_points(folder: Path) -> bool:
        """Whether there are finished points in *folder* already."""
        return folder.is_dir() and any(folder.glob("points/*/*.json"))

    def get(self, key: str) -> Record | None:
        """The record of a point, done or failed; None when it is not there."""
        if key not in self._known:
            path = self._path(key, ".json")
            if not path.is_file():
                return None
            self._known[key] = json.loads(path.read_text(encoding="utf-8"))
        return self._known[key]

    def frame(self, key: str) -> pd.DataFrame:
        """The measured queries of a finished point."""
        import pandas as pd

        return pd.read_parquet(self._path(key, ".parquet"))

    def put(self, record: Record, table: bytes) -> None:
        """Keep a computed point: durable when this returns."""
        key = record["key"]
        if table:
            self._write(self._path(key, ".parquet"), table)
        self._write(self._path(key, ".json"), json.dumps(record, sort_keys=True).encode())
        self._known[key] = record
        self._append({name: record[name] for name in ("key", "state", "replication", "wall_s")})

    def journal(self) -> list[dict[str, Any]]:
        """Every line of the journal that is whole."""
        if not self._journal.is_file():
            return []
        lines = []
        for text in self._journal.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:  # torn by a crash
                continue
        return lines

    def _path(self, key: str, suffix: str) -> Path:
        return self._points / key[:2] / f"{key}{suffix}"

    def _mend(self) -> None:
        """Drop drafts of the dead, and put into the journal what a crash kept out of it."""
        for draft in self._points.glob("*/.*.part"):
            pid = int(draft.name.rsplit(".", 2)[1])
            if not _alive(pid):
                draft.unlink(missing_ok=True)
        told = {line.get("key") for line in self.journal() if line.get("state") == "done"}
        for path in sorted(self._points.glob("*/*.json")):
            if path.stem in told:
                continue
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["state"] == "done":
                self._append({name: record[name] for name in ("key", "state", "replication", "wall_s")})

    def _append(self, line: dict[str, Any]) -> None:
        data = json.dumps(line).encode() + b"\n"
        handle = os.open(self._journal, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":  # a line torn by a crash
                data = b"\n" + data
            os.write(handle, data)
            os.fsync(handle)
        finally:
            os.close(handle)

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        path.parent.mkdir(exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}.part")
        with draft.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@dataclass(frozen=True)
class Progress:
    """How far a batch has come."""

    done: int
    total: int
    failed: int
    elapsed_s: float
    left_s: float | None
    peak_memory_bytes: int
    """Of the largest worker so far."""


@dataclass
class Runner:
    """Computes tasks that *store* does not have, on *workers* processes or a cluster.

    Results do not depend on the number of workers, on the backend, nor on the order in which points end.
    """

    store: Store
    workers: int = 1
    backend: str = "processes"
    address: str | None = None
    """Of a Ray or Dask cluster, as these take it; None: one of their own on this machine."""
    progress: Callable[[Progress], None] | None = None
    computed: int = field(default=0, init=False)
    reused: int = field(default=0, init=False)
    wall_s: float = field(default=0.0, init=False)
    """Seconds that computing took, all workers together."""
    _seen: set[str] = field(default_factory=set, init=False)

    def run(self, tasks: Iterable[Task]) -> list[Record]:
        """The records of *tasks*, in their order; equal tasks are computed once, failures are records too."""
        wanted = [(task.key, task) for task in tasks]
        missing: dict[str, Task] = {}
        for key, task in wanted:
            known = self.store.get(key)
            if known is None or (known["state"] == "failed" and key not in self._seen):
                missing[key] = task
        self.reused += len({key for key, _ in wanted}) - len(missing)
        clock, failed, peak = time.monotonic(), 0, 0
        for number, (record, table) in enumerate(self._compute(missing), 1):
            self.store.put(record, table)
            self._seen.add(record["key"])
            self.computed += 1
            self.wall_s += record["wall_s"]
            failed += record["state"] == "failed"
            peak = max(peak, record["peak_memory_bytes"] or 0)
            if self.progress is not None:
                elapsed = time.monotonic() - clock
                left = elapsed / number * (len(missing) - number)
                self.progress(Progress(number, len(missing), failed, elapsed, left, peak))
        records = [self.store.get(key) for key, _ in wanted]
        return [record for record in records if record is not None]

    def _compute(self, missing: dict[str, Task]) -> Iterator[tuple[Record, bytes]]:
        jobs = [(task, key) for key, task in missing.items()]
        if not jobs:
            return
        if self.backend == "processes" and (self.workers == 1 or len(jobs) == 1):
            for task, key in jobs:
                yield compute(task, key)
            return
        yield from _parallel(jobs, self.workers, self.backend, self.address)


def _parallel(
    jobs: Sequence[tuple[Task, str]], workers: int, backend: str, address: str | None
) -> Iterator[tuple[Record, bytes]]:
    from sim.planning import forked

    if backend == "processes" and forked.available():
        warm(jobs[0][0])
        yield from forked.unordered(_computed, jobs, workers, lost=_lost)
        return
    import joblib

    with _cluster(backend, address, workers) as name:
        for part in _parts(jobs, backend, workers):
            # joblib knows a backend of others by name only here, and not as an argument of Parallel
            with joblib.parallel_config(backend=name, n_jobs=workers):
                parallel = joblib.Parallel(
                    batch_size=1,
                    return_as="generator_unordered" if backend == "processes" else "list",
                )
            yield from parallel(joblib.delayed(compute)(task, key) for task, key in part)


def _computed(job: tuple[Task, str]) -> tuple[Record, bytes]:
    return compute(*job)


def _lost(job: tuple[Task, str]) -> tuple[Record, bytes]:
    """The record of a point whose worker was killed."""
    return failure(*job, "its process was killed; was there too little memory?", kind="killed"), b""


def _parts(jobs: Sequence[tuple[Task, str]], backend: str, workers: int) -> Iterator[Sequence[tuple[Task, str]]]:
    """All jobs at once; for a cluster, whose backends hand results over when the last has come, in portions,
    so that little is lost when this process dies."""
    size = len(jobs) if backend == "processes" else max(4 * workers, 8)
    for start in range(0, len(jobs), size):
        yield jobs[start : start + size]


class _cluster:
    """Joblib's backend of a name, ready to use, and whatever was started for it stopped at the end."""

    def __init__(self, backend: str, address: str | None, workers: int) -> None:
        self.backend, self.address, self.workers = backend, address, workers
        self._stop: Callable[[], Any] | None = None

    def __enter__(self) -> str:
        if self.backend == "processes":
            return "loky"
        if self.backend not in BACKENDS:
            raise InputError(Problem(f"{self.backend!r}", key="--backend", expected=", ".join(BACKENDS)))
        try:
            return self._ray() if self.backend == "ray" else self._dask()
        except ImportError as error:
            raise InputError(
                Problem(
                    f"{error.name or self.backend} is not installed",
                    key="--backend",
                    expected="pip install 'thinkcap[cluster]'",
                )
            ) from None

    def _ray(self) -> str:
        ray: Any = importlib.import_module("ray")
        register_ray: Any = importlib.import_module("ray.util.joblib").register_ray

        if not ray.is_initialized():
            options: dict[str, Any] = {"address": self.address} if self.address else {"num_cpus": self.workers}
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", **options)
            self._stop = ray.shutdown
        register_ray()
        return "ray"

    def _dask(self) -> str:
        Client: Any = importlib.import_module("distributed").Client

        client = (
            Client(self.address)
            if self.address
            else Client(n_workers=self.workers, threads_per_worker=1, dashboard_address=None)
        )
        self._stop = client.shutdown if self.address is None else client.close
        return "dask"

    def __exit__(self, *_: object) -> None:
        if self._stop is not None:
            self._stop()
