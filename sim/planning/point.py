"""One point of a sweep or a plan: a scenario, one of its replications, and what is twisted about it.

A point is a pure function of these, so it has a name: the hash of all that its result depends on, the code
that computes it included. Two sweeps that share a point share its result.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.results.results import Results
    from sim.scenario.model import Scenario
    from workloads.source import QuerySource

KEEP = (
    "query",
    "category",
    "arrived_s",
    "finished_s",
    "status",
    "tta_s",
    "ttfo_s",
    "prompt_tokens",
    "correct",
    "prompt",
)
"""Columns of the queries table that are kept of a point, beside those that `_frame` derives."""


@dataclass(frozen=True)
class Twist:
    """An assumption changed, which no key of a scenario can say."""

    step: float = 1.0
    """Every step takes so many times as long: calibration that errs."""
    tensor_parallel: float = 1.0
    """The same, in pools of more than one GPU a layer only: tensor parallelism that scales worse."""
    tail: float = 1.0
    """Reasoning and answers are stretched about their median: m·(x/m)^tail. The median stays, the tail grows."""
    mean_lengths: bool = False
    """Every query has the mean lengths: what sizing by means believes."""


NEUTRAL = Twist()
"""Nothing changed."""


@dataclass(frozen=True)
class Task:
    """A point to compute."""

    scenario: Scenario
    replication: int = 0
    twist: Twist = NEUTRAL

    @property
    def key(self) -> str:
        """Its content address: 32 hexadecimal digits."""
        return _address(content(self.scenario), self.replication, self.twist)


def _address(scenario: str, replication: int, twist: Twist) -> str:
    text = json.dumps([code_version(), scenario, replication, asdict(twist)])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def content(scenario: Scenario) -> str:
    """Hash of what *scenario* means: every default stated, files by what is in them; not its name, its text,
    its plan, its sweep or how often it is repeated."""
    data = scenario.resolved()
    for key in ("name", "description", "plan", "sweep"):
        data.pop(key, None)
    data.get("measure", {}).pop("replications", None)
    return hashlib.sha256(json.dumps(_with_files(data), sort_keys=True).encode()).hexdigest()


def _with_files(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _with_files(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_files(item) for item in value]
    if isinstance(value, str) and value.startswith("/"):
        path = Path(value.partition(".py:")[0] + ".py" if ".py:" in value else value)
        if path.is_file():
            return [path.suffix, value.partition(".py:")[2], _file_hash(path, path.stat().st_mtime_ns)]
    return value


@cache
def _file_hash(path: Path, _: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@cache
def code_version() -> str:
    """Hash of the code and the calibration data that results depend on, as installed."""
    import numpy as np

    import calibration
    import sim
    import workloads

    digest = hashlib.sha256(np.__version__.encode())
    skip = {"cli", "report", "validation", "profiler", "importers", "__pycache__"}
    for package in (sim, workloads, calibration):
        root = Path(package.__file__ or "").parent
        for path in sorted(root.rglob("*")):
            inner = path.relative_to(root)
            if path.suffix not in (".py", ".yaml", ".json") or skip & set(inner.parts):
                continue
            if (
                package is sim
                and inner.parts[0] == "planning"
                and path.name
                not in (
                    "point.py",
                    "lengths.py",
                    "evidence.py",
                )
            ):
                continue
            digest.update(inner.as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


# -- computing it ----------------------------------------------------------------------------------


def warm(task: Task) -> None:
    """Load what computing *task* needs, so that processes forked from this one need not."""
    import pandas  # noqa: F401 - pyarrow looks for it
    from pyarrow import parquet  # noqa: F401

    import sim.metrics.summary
    import sim.planning.evidence
    import sim.results.provenance  # noqa: F401
    from sim.errors import ThinkcapError
    from sim.placement import place

    try:
        for name, pool in task.scenario.pools.items():
            place(name, pool, task.scenario)
    except ThinkcapError:
        pass  # the point itself will say so


def _record(task: Task, key: str) -> dict[str, Any]:
    return {
        "key": key or task.key,
        "scenario": content(task.scenario),
        "replication": task.replication,
        "twist": asdict(task.twist),
    }


def failure(task: Task, key: str, error: str, *, kind: str) -> dict[str, Any]:
    """The record of a point that could not be computed."""
    return _record(task, key) | {
        "state": "failed",
        "error": error,
        "kind": kind,
        "wall_s": 0.0,
        "peak_memory_bytes": None,
    }


def compute(task: Task, key: str = "") -> tuple[dict[str, Any], bytes]:
    """The point's record (JSON data) and its queries (Parquet); a failure is a record too, never raised."""
    from sim.errors import ThinkcapError
    from sim.planning.evidence import ends, evidence, steady

    clock = time.perf_counter()
    record = _record(task, key)
    table = b""
    try:
        results = simulate_twisted(task)
        summary = dict(results.summary)
        for name in ("runs", "fairness", "anomalies"):
            summary.pop(name, None)
        pools = results.runs[0].pools
        record |= {
            "state": "done",
            "summary": summary,
            "evidence": evidence(results)
            | {"steady": steady(task.scenario.workload), "ends": ends(task.scenario.workload)},
            "pools": {
                pool.name: {
                    "model": pool.model,
                    "hardware": pool.hardware,
                    "replicas": pool.replicas,
                    "gpus_per_replica": pool.gpus_per_replica,
                    "price_usd_per_gpu_hour": pool.price_usd_per_gpu_hour,
                    "gpu_hours": pool.gpu_hours,
                }
                for pool in pools
            },
        }
        table = _frame(results)
    except ThinkcapError as error:
        record |= {"state": "failed", "error": str(error), "kind": type(error).__name__}
    except Exception as error:
        # A bug in one point must not take a night's sweep with it; it is reported with its name.
        record |= {"state": "failed", "error": f"{type(error).__name__}: {error}", "kind": "bug"}
    from sim.results.provenance import peak_memory_bytes

    record |= {"wall_s": time.perf_counter() - clock, "peak_memory_bytes": peak_memory_bytes()}
    return record, table


def simulate_twisted(task: Task) -> Results:
    """One replication of the task's scenario under its twist, finished: balances checked, summary made."""
    from datetime import UTC, datetime

    from sim.metrics.summary import finish
    from sim.placement import place
    from sim.results import provenance
    from sim.results.results import Results
    from sim.simulate import run_once

    started, clock = datetime.now(UTC), time.perf_counter()
    scenario, twist = task.scenario, task.twist
    pools = []
    for name, pool in scenario.pools.items():
        placed = place(name, pool, scenario)
        factor = twist.step * (twist.tensor_parallel if pool.tensor_parallel_size > 1 else 1.0)
        if factor != 1.0:
            placed = replace(placed, placed=placed.placed.with_step_scaled(factor))
        pools.append(placed)
    source: QuerySource = source_of(task)
    if twist.mean_lengths or twist.tail != 1.0:
        from sim.planning.lengths import Changed

        source = Changed(source, tail=twist.tail, means=twist.mean_lengths)
    run = run_once(scenario, pools, source, task.replication)
    return finish(
        Results(
            scenario=scenario,
            runs=[run],
            provenance=provenance.collect(
                seed=scenario.seed,
                started=started,
                wall_s=time.perf_counter() - clock,
                requests=len(run[1]["requests"]),
                tokens=0,
                workload={"name": source.name, **source.describe()},
            ),
        )
    )


def _frame(results: Results) -> bytes:
    """The measured queries, as Parquet: what pooled quantiles and paired comparisons need."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    queries = results.tables["queries"]
    rows = queries["in_window"]
    end_s = results.runs[0].end_ps / 1e12
    columns: dict[str, Any] = {name: queries[name][rows] for name in KEEP if name != "category"}
    columns["output_tokens"] = (queries["reasoning_tokens"] + queries["answer_tokens"])[rows]
    finished = columns["finished_s"]
    columns["waited_s"] = np.where(np.isnan(finished), end_s, finished) - columns["arrived_s"]
    columns["slo_met"] = queries["slo_met"][rows]
    sink = io.BytesIO()
    parquet.write_table(pa.table({key: pa.array(value) for key, value in columns.items()}), sink, compression="zstd")
    return sink.getvalue()


def source_of(task: Task) -> QuerySource:
    """The traffic of a task, untwisted. Configurations of one plan meet the same traffic, and a source gives the same
    queries however often it is asked: the latest ones are kept."""
    from workloads import source as workload

    scenario = task.scenario
    key = (scenario.workload.model_dump_json(), scenario.seed, task.replication)
    if key not in _SOURCES:
        _SOURCES[key] = workload.build(scenario.workload, seed=scenario.seed, replication=task.replication)
        while len(_SOURCES) > KEPT_SOURCES:
            del _SOURCES[next(iter(_SOURCES))]
    return _SOURCES[key]


KEPT_SOURCES = 12
"""Traffic of so many (workload, replication) is kept in a process."""
_SOURCES: dict[tuple[str, int, int], QuerySource] = {}
