"""What a recording of a real scheduler's run looks like on disk, read strictly.

A recording is a folder with ``settings.json`` (the engine's settings and the coefficients of a virtual
clock), ``workload.csv`` (who arrives when, asking for what), ``steps.csv.gz`` (one row an engine step) and
``requests.csv`` (what became of each request). Times are integer nanoseconds. A step that starts at *t* ends
at ``t + c0 + c1·tokens + c2·context``, context counted after the step.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from calibration.step_cost import StepCost
from sim.engine.settings import EngineSettings
from sim.errors import InputError, Problem, nearest

PS_PER_NS = 1000
FILES = ("settings.json", "workload.csv", "steps.csv.gz", "requests.csv")
WORKLOAD = (
    "request_id",
    "arrived_at_ns",
    "num_prefill_tokens",
    "num_decode_tokens",
    "priority",
    "prefix_group",
    "prefix_len",
    "parent",
)
STEPS = (
    "step",
    "t_start_ns",
    "t_end_ns",
    "n_scheduled",
    "n_tokens",
    "total_context",
    "n_running",
    "n_waiting",
    "free_after_schedule",
    "free_after_update",
    "admitted",
    "preempted",
    "finished",
    "scheduled",
)
STEPS_OPTIONAL = ("t_scheduled_ns",)
"""Only asynchronous recordings say when a batch was scheduled, apart from when it started."""
REQUESTS = (
    "request_id",
    "arrived_at_ns",
    "num_prefill_tokens",
    "num_decode_tokens",
    "first_scheduled_ns",
    "first_token_ns",
    "finish_ns",
    "num_preemptions",
    "cached_tokens_first",
    "cached_tokens_total",
    "scheduled_tokens",
    "n_steps_scheduled",
)
MAY_BE_EMPTY = frozenset(("first_scheduled_ns", "first_token_ns", "finish_ns", "cached_tokens_first"))
"""Figures of a request that never came so far."""
LISTS = {
    "admitted": (re.compile(r"(\d+@\d+( \d+@\d+)*)?"), "requests as id@cached_tokens"),
    "preempted": (re.compile(r"(\d+( \d+)*)?"), "ids of requests"),
    "finished": (re.compile(r"(\d+( \d+)*)?"), "ids of requests"),
    "scheduled": (re.compile(r"=|\d+(:\d+)?( \d+(:\d+)?)*"), "requests as id:tokens, or = for the row above"),
}
"""What stands in the columns that hold lists; all others hold integers."""
CLOCK = ("c0_ns", "c1_ns", "c2_ns")
OFF = ("max_num_active_seqs",)
"""Settings that must be null: what they do is not modelled."""

Row = dict[str, str]


@dataclass(frozen=True)
class Arrival:
    """One line of ``workload.csv``."""

    id: int
    arrived_ps: int
    prompt_tokens: int
    decode_tokens: int
    priority: int
    prefix_group: str | None
    prefix_len: int
    parent: int | None


@dataclass(frozen=True)
class Recording:
    """One case: what to run, and what the real scheduler did with it (rows as text, ``=`` expanded)."""

    folder: Path
    settings: EngineSettings
    cost: StepCost
    arrivals: tuple[Arrival, ...]
    steps: tuple[Row, ...]
    requests: tuple[Row, ...]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name


def is_recording(folder: Path) -> bool:
    """Whether *folder* holds at least one file of a recording."""
    return any((folder / name).exists() for name in FILES)


def find(paths: Iterable[Path]) -> list[Path]:
    """The recordings among *paths*, each a recording or a folder of recordings, in order of name.

    Raise an InputError naming every path that is neither.
    """
    found: list[Path] = []
    problems: list[Problem] = []
    for path in paths:
        if not path.is_dir():
            state = "is not a folder" if path.exists() else "does not exist"
            problems.append(Problem(state, source=str(path), expected="a recording or a folder of recordings"))
        elif is_recording(path):
            found.append(path)
        else:
            inside = sorted(child for child in path.iterdir() if child.is_dir() and is_recording(child))
            if not inside:
                problems.append(
                    Problem("holds no recording", source=str(path), expected="folders with " + ", ".join(FILES))
                )
            found += inside
    if problems:
        raise InputError(problems)
    return found


def load_case(folder: Path) -> tuple[EngineSettings, StepCost, tuple[Arrival, ...]]:
    """What to run of the recording in *folder*, whether or not it says what became of it."""
    reader = _Reader(folder)
    settings, cost = reader.settings()
    arrivals = reader.workload()
    if reader.problems or settings is None or cost is None:
        raise InputError(reader.problems)
    return settings, cost, tuple(arrivals)


def load(folder: Path) -> Recording:
    """Read the recording in *folder*; raise an InputError with everything that is wrong with it."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise InputError([Problem("file is missing", source=str(folder / name)) for name in missing])
    reader = _Reader(folder)
    settings, cost = reader.settings()
    arrivals = reader.workload()
    steps = reader.table("steps.csv.gz", STEPS, STEPS_OPTIONAL, count_from="step")
    requests = reader.table("requests.csv", REQUESTS, (), count_from="request_id")
    if settings is not None:
        for arrival in arrivals:
            if arrival.prompt_tokens >= settings.max_model_len:
                why = f"a prompt of {arrival.prompt_tokens} leaves no room in max_model_len {settings.max_model_len}"
                reader.add("workload.csv", f"request {arrival.id}: {why}", key="num_prefill_tokens")
                break
    if not reader.problems and len(requests) != len(arrivals):
        reader.add("requests.csv", f"has {len(requests)} requests, workload.csv has {len(arrivals)}")
    if reader.problems or settings is None or cost is None:
        raise InputError(reader.problems)
    previous = ""
    for row in steps:  # a first row of "=" was refused
        if row["scheduled"] == "=":
            row["scheduled"] = previous
        previous = row["scheduled"]
    return Recording(folder, settings, cost, tuple(arrivals), tuple(steps), tuple(requests))


class _Reader:
    """Reads the files of one folder and gathers what is wrong with them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[Problem] = []

    def add(
        self,
        file: str,
        message: str,
        *,
        line: int | None = None,
        key: str | None = None,
        expected: str | None = None,
        near: str | None = None,
    ) -> None:
        if len(self.problems) < 20:
            self.problems.append(Problem(message, str(self.folder / file), line, key, expected, near))

    def settings(self) -> tuple[EngineSettings | None, StepCost | None]:
        name = "settings.json"
        try:
            document = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            self.add(name, f"cannot be read: {error}" if isinstance(error, OSError) else f"is not JSON: {error}")
            return None, None
        values = document.get("settings") if isinstance(document, dict) else None
        if not isinstance(values, dict):
            self.add(name, "has no settings", key="settings", expected="a mapping of the engine's settings")
            return None, None
        before = len(self.problems)
        kinds = {field.name: str(field.type) for field in fields(EngineSettings)}
        known = [*kinds, *CLOCK, *OFF]
        chosen: dict[str, Any] = {"async_scheduling": False}
        for key, value in values.items():
            if key in OFF:
                if value is not None:
                    self.add(name, f"{value!r} is not modelled", key=key, expected="null")
            elif key in CLOCK:
                if not _is(value, "int") or value < 0:
                    self.add(name, f"{value!r} is no duration", key=key, expected="an integer of nanoseconds")
            elif key not in kinds:
                self.add(
                    name,
                    "unknown setting",
                    key=key,
                    expected="one of " + ", ".join(known),
                    near=nearest(key, known),
                )
            elif not _is(value, kinds[key]):
                self.add(name, f"{value!r} has the wrong type", key=key, expected=kinds[key])
            else:
                chosen[key] = value
        for key in ("num_gpu_blocks", *CLOCK):
            if key not in values:
                self.add(name, "is missing", key=key)
        if len(self.problems) > before:
            return None, None
        try:
            settings = EngineSettings(**chosen)
        except ValueError as error:
            self.add(name, str(error))
            return None, None
        c0, c1, c2 = (values[key] * PS_PER_NS for key in CLOCK)
        cost = StepCost(host_ps=c0, linear_ps=(0,), linear_slope_ps=c1 + c2, kv_ps=c2, cached_ps=c2)
        return settings, cost

    def rows(self, name: str, columns: tuple[str, ...], optional: tuple[str, ...] = ()) -> Iterator[tuple[int, Row]]:
        """Lines of *name* as (line number, row) with exactly *columns*, and maybe *optional* ones."""
        path = self.folder / name
        opener = gzip.open if path.suffix == ".gz" else open
        try:
            with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
                reader = csv.reader(file, strict=True)
                header = next(reader, None)
                if header is None:
                    self.add(name, "is empty")
                    return
                expected = ", ".join(columns)
                for column in header:
                    if column not in columns and column not in optional:
                        self.add(
                            name,
                            "unknown column",
                            line=1,
                            key=column,
                            expected=expected,
                            near=nearest(column, columns),
                        )
                for column in columns:
                    if column not in header:
                        self.add(name, "column is missing", line=1, key=column)
                if len(set(header)) != len(header):
                    self.add(name, "a column stands there twice", line=1)
                for values in reader:
                    if not values:
                        continue  # an empty line
                    if len(values) != len(header):
                        self.add(name, f"has {len(values)} fields, the header {len(header)}", line=reader.line_num)
                        continue
                    yield reader.line_num, dict(zip(header, values, strict=True))
        except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
            self.add(name, f"cannot be read: {error}")

    def table(self, name: str, columns: tuple[str, ...], optional: tuple[str, ...], *, count_from: str) -> list[Row]:
        """All rows of *name*, whose column *count_from* counts 0, 1, 2, …"""
        result: list[Row] = []
        before = len(self.problems)
        for line, row in self.rows(name, columns, optional):
            if len(self.problems) > before:
                break
            if row.get(count_from) != str(len(result)):
                self.add(
                    name,
                    f"{_short(row.get(count_from))} out of order",
                    line=line,
                    key=count_from,
                    expected=str(len(result)),
                )
                break
            for column, value in row.items():
                if column in LISTS:
                    pattern, expected = LISTS[column]
                    if pattern.fullmatch(value):
                        continue
                elif value.isdecimal() or (not value and column in MAY_BE_EMPTY):
                    continue
                else:
                    expected = "an integer"
                self.add(name, f"{_short(value)} makes no sense", line=line, key=column, expected=expected)
            if not result and row.get("scheduled") == "=":
                self.add(name, "there is no row above", line=line, key="scheduled", expected=LISTS["scheduled"][1])
            result.append(row)
        if not result and len(self.problems) == before:
            self.add(name, "has no rows")
        return result

    def workload(self) -> list[Arrival]:
        name = "workload.csv"
        result: list[Arrival] = []
        before = len(self.problems)
        for line, row in self.rows(name, WORKLOAD):
            if not row.keys() >= set(WORKLOAD):
                break

            def number(key: str, low: int, default: int | None = None, line: int = line, row: Row = row) -> int:
                text = row[key]
                if text == "" and default is not None:
                    return default
                try:
                    value = int(text.removesuffix(".0"))  # pandas writes a column with gaps as 5.0
                except ValueError:
                    value = low - 1
                if value < low:
                    self.add(
                        name,
                        f"{_short(text)} is no such number",
                        line=line,
                        key=key,
                        expected=f"an integer ≥ {low}",
                    )
                    return low
                return value

            request = len(result)
            if number("request_id", 0) != request:
                self.add(
                    name,
                    f"{_short(row['request_id'])} out of order",
                    line=line,
                    key="request_id",
                    expected=str(request),
                )
            known = len(self.problems)
            arrived = number("arrived_at_ns", 0) * PS_PER_NS
            if result and len(self.problems) == known and arrived < result[-1].arrived_ps:
                self.add(name, "arrives before the line above", line=line, key="arrived_at_ns")
            prompt = number("num_prefill_tokens", 1)
            prefix = number("prefix_len", 0, default=0)
            parent = number("parent", 0) if row["parent"] != "" else None
            if parent is not None and parent >= request:
                self.add(name, f"{parent} comes later", line=line, key="parent", expected="an earlier request")
            if prefix > prompt:
                self.add(name, f"{prefix} is longer than the prompt ({prompt})", line=line, key="prefix_len")
            decode = number("num_decode_tokens", 1)
            if (
                parent is not None
                and parent < request
                and prefix > result[parent].prompt_tokens + result[parent].decode_tokens
            ):
                self.add(name, f"{prefix} is longer than all of request {parent}", line=line, key="prefix_len")
            result.append(
                Arrival(
                    request,
                    arrived,
                    prompt,
                    decode,
                    number("priority", -(1 << 62), default=0),
                    row["prefix_group"] or None,
                    prefix,
                    parent,
                )
            )
        if not result and len(self.problems) == before:
            self.add(name, "has no rows")
        return result


def _short(text: str | None) -> str:
    """*text* as it stands, cut where it is endless."""
    return repr(text if text is None or len(text) <= 40 else text[:40] + "…")


def _is(value: object, kind: str) -> bool:
    if isinstance(value, bool) or kind == "bool":
        return isinstance(value, bool) and kind == "bool"
    return isinstance(value, (int, float)) if kind == "float" else type(value).__name__ == kind
