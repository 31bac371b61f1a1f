"""Walks a grid on anything that can time a step, keeps each point at once, and writes the table.

What is timed stands behind :class:`Bench`: a torch decoder on a real device, or a synthetic device of known
costs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from calibration.profiler.journal import Journal
from calibration.profiler.points import Limits, Point, within_budget

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Measured:
    """Times of one point, in seconds, for the whole decoder."""

    time_s: float
    spread_s: float
    """Interquartile range over the repeats."""
    n: int
    clock_mhz: float = 0.0
    temperature_c: float = 0.0
    flag: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further columns: memory high-water mark, whether a CUDA graph ran."""


class Bench(Protocol):
    """Something that can time steps."""

    limits: Limits
    writes: bool
    """Whether this process keeps journal and table: one of a tensor-parallel group does."""

    def identity(self) -> dict[str, Any]:
        """What must be equal for two runs to belong to one measurement."""
        ...

    def facts(self) -> dict[str, Any]:
        """Device, driver, versions: for whoever reads the table."""
        ...

    def columns(self) -> dict[str, Any]:
        """Columns that are the same in every row."""
        ...

    def measure(self, point: Point, repeats: int) -> Measured:
        """Time *point*."""
        ...

    def agree(self, value: int) -> int:
        """The writer's *value*, in every process of a group."""
        ...


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    done: int
    total: int
    point: Point | None
    """The point just finished, None at the start."""
    measured_ms: float
    left_s: float | None
    """Estimated time left, None while unknown."""


@dataclass(frozen=True)
class Outcome:
    """What a run left: the table's *rows*, how many points came from an earlier run, what did not fit the
    budget or broke."""

    rows: list[dict[str, Any]]
    resumed: int
    left_out: tuple[Point, ...]
    failed: tuple[tuple[Point, str], ...]
    finished: bool


def summarise(times: Sequence[Sequence[float]], weights: Sequence[float]) -> tuple[float, float]:
    """(median, interquartile range) of ``Σ weight · time`` over repeats; *times* holds one list a stack.

    The median is the weighted sum of the stacks' own medians, which a burst of noise in one of them cannot
    move; the range is that of the sums repeat by repeat, so it shows what extrapolation makes of the noise.
    """
    middle = sum(weight * statistics.median(stack) for weight, stack in zip(weights, times, strict=True))
    sums = [sum(weight * stack[i] for weight, stack in zip(weights, times, strict=True)) for i in range(len(times[0]))]
    if len(sums) < 2:
        return middle, 0.0
    low, _, high = statistics.quantiles(sums, n=4, method="inclusive")
    return middle, high - low


def run(
    bench: Bench,
    points: Sequence[Point],
    *,
    out: Path,
    repeats: int,
    budget_s: float | None = None,
    command: str = "",
    say: Callable[[Progress], None] = lambda progress: None,
    links: Callable[[], list[dict[str, Any]]] | None = None,
    now: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Measure *points* (those not yet in the journal) and write the table to *out*.

    Raise an InputError when the journal beside *out* belongs to another measurement. An interrupt (Ctrl-C)
    writes what is there and passes on. *links* gives rows for copies and all-reduces, measured once at the
    end.
    """
    began = now()
    journal = Journal(out.with_name(out.name + ".journal"), {**bench.identity(), "repeats": repeats})
    if bench.writes:
        journal.open()
    resumed = sum("point" in record for record in journal.records.values())
    todo = [point for point in points if point.key not in journal.records]
    total = len(points)
    failed: list[tuple[Point, str]] = []
    finished = False
    try:
        say(Progress(total - len(todo), total, None, 0.0, _left(journal, todo)))
        while True:
            spent = now() - began
            chosen, _ = _affordable(journal, todo, None if budget_s is None else budget_s - spent)
            index = bench.agree(points.index(chosen[0]) if chosen else -1)
            if index < 0:
                break
            point = points[index]
            if point in todo:
                todo.remove(point)
            reason = _one(bench, journal, point, repeats, now)
            if reason:
                failed.append((point, reason))
            row = journal.records.get(point.key, {})
            chosen, _ = _affordable(journal, todo, None if budget_s is None else budget_s - (now() - began))
            say(
                Progress(
                    total - len(todo),
                    total - len(todo) + len(chosen),
                    point,
                    row.get("time_ms", 0.0),
                    _left(journal, chosen),
                )
            )
        if links is not None and bench.agree(int("links" not in journal.records)):
            journal_rows = links()
            if bench.writes:
                journal.add("links", {"rows": journal_rows})
        finished = True
    finally:
        rows = table_rows(bench, journal)
        if bench.writes and rows:
            write_table(bench, rows, out, command=command, finished=finished)
    return Outcome(rows, resumed, tuple(todo), tuple(failed), finished)


def _one(bench: Bench, journal: Journal, point: Point, repeats: int, now: Callable[[], float]) -> str:
    """Measure one point into the journal; why it failed, or ""."""
    started = now()
    try:
        measured = bench.measure(point, repeats)
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if bench.writes:
            journal.add(point.key, {"failed": reason[:200], "wall_s": now() - started, "point": point.to_dict()})
        return reason
    if bench.writes:
        journal.add(
            point.key,
            {
                "point": point.to_dict(),
                "time_ms": 1e3 * measured.time_s,
                "spread_ms": 1e3 * measured.spread_s,
                "n": measured.n,
                "clock_mhz": measured.clock_mhz,
                "temperature_c": measured.temperature_c,
                "flag": measured.flag,
                "wall_s": now() - started,
                "extra": measured.extra,
            },
        )
    return ""


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower()


def _estimator(journal: Journal) -> Callable[[Point], float] | None:
    """Wall seconds of a point, by non-negative least squares on the points measured so far; None before
    there are six."""
    import numpy as np
    from scipy.optimize import nnls

    done = [record for record in journal.records.values() if "point" in record]
    if len(done) < 6:
        return None
    wall = np.array([max(record["wall_s"], 1e-6) for record in done])
    matrix = np.array([Point(**record["point"]).features for record in done])
    weights, _ = nnls(matrix / wall[:, None], np.ones(len(done)))
    return lambda point: float(np.dot(point.features, weights))


def _affordable(journal: Journal, todo: Sequence[Point], budget_s: float | None) -> tuple[list[Point], list[Point]]:
    if budget_s is None:
        return list(todo), []
    estimate = _estimator(journal)
    if estimate is None:
        return list(todo), []
    done = sum("point" in record for record in journal.records.values())
    return within_budget(todo, estimate, budget_s, keep=max(0, MINIMUM - done))


MINIMUM = 9
"""Points measured whatever the budget says: fewer cannot be fitted."""


def _left(journal: Journal, chosen: Sequence[Point]) -> float | None:
    estimate = _estimator(journal)
    return None if estimate is None else sum(map(estimate, chosen))


def table_rows(bench: Bench, journal: Journal) -> list[dict[str, Any]]:
    """Rows of the table from what the journal holds, in the order of measuring; failed points are left
    out."""
    rows: list[dict[str, Any]] = []
    same = bench.columns()
    for record in journal.records.values():
        if "time_ms" in record:
            kept = {key: record[key] for key in ("time_ms", "spread_ms", "n", "clock_mhz", "temperature_c", "flag")}
            rows.append({**same, "quantity": "decoder_measured", **record["point"], **kept, **record["extra"]})
        rows.extend({**same, "decodes": 0, "context": 0, **link} for link in record.get("rows", ()))
    return rows


def write_table(bench: Bench, rows: list[dict[str, Any]], out: Path, *, command: str, finished: bool) -> pd.DataFrame:
    """Write *rows* as a measurement table with its provenance; the table."""
    import pandas as pd

    from calibration import measurements

    frame = pd.DataFrame(rows)
    measurements.write(
        frame,
        out,
        {
            **bench.facts(),
            **bench.identity(),
            "command": command,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "finished": finished,
        },
    )
    return frame
