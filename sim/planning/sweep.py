"""Points over any keys of a scenario: a grid, a list or random draws; and their table."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.errors import InputError, Problem, ThinkcapError
from sim.planning.point import Task
from sim.scenario.load import load

if TYPE_CHECKING:
    import pandas as pd

    from sim.planning.precision import Precision
    from sim.planning.runs import Record, Runner
    from sim.scenario.model import Scenario

MOST_POINTS = 1_000_000
CANDIDATE = "candidate"
"""Column of a sweep's table that names the candidate."""


@dataclass(frozen=True)
class Axis:
    """A key and the texts (YAML) that it takes, in order."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Point:
    """One combination: its settings, and its scenario or why there is none."""

    settings: tuple[tuple[str, str], ...]
    scenario: Scenario | None
    error: str = ""


def parse_axis(text: str) -> Axis:
    """``key=v1,v2,…``, ``key=low..high:n`` (n steps) or ``key=low..high:n:log``, with a unit behind *high* if any.

    >>> parse_axis("workload.rate=1..2:3/s").values
    ('1/s', '1.5/s', '2/s')
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip() or not value.strip():
        raise InputError(Problem(f"{text!r}", key="--over", expected="key=v1,v2 or key=low..high:steps"))
    span = _span(value.strip())
    values = span if span is not None else _split(value)
    if not values or any(not item for item in values):
        raise InputError(Problem(f"{text!r} has an empty value", key="--over", expected="key=v1,v2,…"))
    return Axis(key.strip(), tuple(values))


def _span(text: str) -> list[str] | None:
    import re

    match = re.fullmatch(r"([\d.eE+-]+?)\.\.([\d.eE+-]+):(\d+)(:log)?\s*([^\d:].*)?", text)
    if match is None:
        return None
    low, high, steps = float(match[1]), float(match[2]), int(match[3])
    if steps < 1 or (match[4] and not 0 < low <= high):
        raise InputError(Problem(f"{text!r}", key="--over", expected="low..high:steps with steps ≥ 1"))
    numbers = np.geomspace(low, high, steps) if match[4] else np.linspace(low, high, steps)
    return [f"{float(f'{number:.6g}'):g}{match[5] or ''}" for number in numbers]


def _split(text: str) -> list[str]:
    """At commas that are in no bracket or quote."""
    parts, depth, quote, start = [], 0, "", 0
    for place, sign in enumerate(text):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign in "[{(":
            depth += 1
        elif sign in "]})":
            depth -= 1
        elif sign == "," and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    return [*parts, text[start:].strip()]


def grid(axes: Sequence[Axis]) -> list[tuple[tuple[str, str], ...]]:
    """Every combination, the last axis turning fastest; raise an InputError past a million."""
    if math.prod(len(axis.values) for axis in axes) > MOST_POINTS:
        raise InputError(Problem("too many points", key="--over", expected=f"at most {MOST_POINTS:,}"))
    return [
        tuple(zip((axis.key for axis in axes), values, strict=True))
        for values in itertools.product(*(axis.values for axis in axes))
    ]


def listed(axes: Sequence[Axis]) -> list[tuple[tuple[str, str], ...]]:
    """The first values of all axes together, then the second …: axes of one length."""
    sizes = {len(axis.values) for axis in axes}
    if len(sizes) > 1:
        found = ", ".join(f"{axis.key} has {len(axis.values)}" for axis in axes)
        raise InputError(Problem(f"a list needs as many values of each key: {found}", key="--list"))
    return [tuple((axis.key, axis.values[place]) for axis in axes) for place in range(sizes.pop() if sizes else 0)]


def drawn(axes: Sequence[Axis], count: int, seed: int) -> list[tuple[tuple[str, str], ...]]:
    """*count* different combinations, drawn without replacement; all of them where there are no more."""
    sizes = [len(axis.values) for axis in axes]
    total = math.prod(sizes)
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0x5EEB,)))
    picks = generator.choice(total, size=min(count, total), replace=False) if total <= MOST_POINTS else None
    if picks is None:
        raise InputError(Problem("too many points", key="--over", expected=f"at most {MOST_POINTS:,}"))
    chosen = []
    for pick in sorted(picks.tolist()):
        places = np.unravel_index(pick, sizes)
        chosen.append(tuple((axis.key, axis.values[int(place)]) for axis, place in zip(axes, places, strict=True)))
    return chosen


def stated(scenario: Scenario) -> tuple[list[Axis], dict[str, list[str]]]:
    """The axes of the scenario's ``sweep`` section, and the changes that each of its candidates stands for."""
    section = scenario.sweep
    if section is None:
        raise InputError(
            Problem(
                "nothing to vary",
                key="--over",
                expected="--over key=v1,v2, or a sweep section in the scenario: sweep: {over: {workload.rate: [1/s, 2/s]}}",
            )
        )
    axes = [Axis(key, tuple(_text(value) for value in values)) for key, values in section.over.items()]
    if section.candidates:
        axes.insert(0, Axis(CANDIDATE, tuple(section.candidates)))
    named = {
        name: [f"{key}={_text(value)}" for key, value in changes.items()]
        for name, changes in section.candidates.items()
    }
    return axes, named


def _text(value: Any) -> str:
    """A value as YAML on one line."""
    return value if isinstance(value, str) else json.dumps(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def points(
    source: str | Path | Mapping[str, Any],
    overrides: Sequence[str],
    settings: Sequence[tuple[tuple[str, str], ...]],
    named: Mapping[str, Sequence[str]] | None = None,
) -> list[Point]:
    """The scenario of every combination; one that cannot be (it does not fit) keeps its reason. *named* says what
    each candidate changes."""
    named = named or {}
    made = []
    for combination in settings:
        changes = [*overrides, *_changes(combination, named)]
        try:
            made.append(Point(combination, load(source, changes)))
        except InputError:
            # a key that does not exist is a mistake of all points, not a failing one
            if len(settings) == 1 or not any(point.scenario for point in made):
                _complain_if_all_fail(source, overrides, settings[len(made) :], named)
            made.append(Point(combination, None, _reason(source, changes)))
        except ThinkcapError as error:
            made.append(Point(combination, None, str(error)))
    return made


def _changes(combination: Sequence[tuple[str, str]], named: Mapping[str, Sequence[str]]) -> list[str]:
    made: list[str] = []
    for key, value in combination:
        made += named[value] if key == CANDIDATE else [f"{key}={value}"]
    return made


def _complain_if_all_fail(
    source: Any, overrides: Sequence[str], settings: Any, named: Mapping[str, Sequence[str]]
) -> None:
    first: ThinkcapError | None = None
    for combination in settings:
        try:
            load(source, [*overrides, *_changes(combination, named)])
            return
        except ThinkcapError as error:
            first = first or error
    if first is not None:
        raise first


def _reason(source: Any, changes: Sequence[str]) -> str:
    try:
        load(source, changes)
    except ThinkcapError as error:
        return str(error)
    return ""


def tasks_of(scenario: Scenario, replications: int | None = None) -> list[Task]:
    """One task a replication of *scenario*; default: as many as it states."""
    count = scenario.measure.replications if replications is None else replications
    return [Task(scenario, number) for number in range(count)]


def run(found: Sequence[Point], runner: Runner, precision: Precision | None = None) -> pd.DataFrame:
    """Compute all points and return their table: a row a point, in their order; nothing in it depends on the
    machine, the workers or the time it took. With *precision* each point has as many replications as it needs."""
    import pandas as pd

    if precision is not None:
        from sim.planning.precision import replicate

        scenarios = [point.scenario for point in found if point.scenario is not None]
        each = iter(replicate(scenarios, runner, precision))
        rows = [
            {**dict(point.settings), **_row(point, [] if point.scenario is None else next(each), runner)}
            for point in found
        ]
        return pd.DataFrame(rows)
    tasks, places = [], []
    for number, point in enumerate(found):
        if point.scenario is not None:
            for task in tasks_of(point.scenario):
                tasks.append(task)
                places.append(number)
    records: list[list[Record]] = [[] for _ in found]
    for place, record in zip(places, runner.run(tasks), strict=True):
        records[place].append(record)
    rows = [{**dict(point.settings), **_row(point, mine, runner)} for point, mine in zip(found, records, strict=True)]
    return pd.DataFrame(rows)


def _row(point: Point, records: Sequence[Record], runner: Runner) -> dict[str, Any]:
    from sim.planning.pooled import pooled

    if point.scenario is None:
        return {"state": "does not load", "error": point.error}
    what = described(point.scenario)
    failed = [record for record in records if record["state"] == "failed"]
    if failed:
        return {**what, "state": "failed", "error": failed[0]["error"], "key": failed[0]["key"]}
    return {**what, "state": "done", "error": "", **pooled(records, runner.store), "key": records[0]["key"]}


def described(scenario: Scenario) -> dict[str, Any]:
    """How a point answers, in columns that do not depend on what was varied: its strategy, how many generations that
    makes of a query at most, its thinking budget (0: none) and the models that generate."""
    made: Any = scenario.strategy.make("strategy")
    if hasattr(made, "samples"):
        samples = made.samples
    elif hasattr(made, "width"):
        samples = made.width * (made.rounds if made.method == "mcts" else made.beam)
    else:
        samples = 1
    budget = getattr(made, "thinking_token_budget", None)
    models = dict.fromkeys(pool.model for pool in scenario.pools.values() if pool.role == "generate")
    return {
        "strategy_name": scenario.strategy.name,
        "samples": int(samples),
        "budget_tokens": budget if isinstance(budget, int) else 0,
        "models": " + ".join(models),
    }


def write(table: pd.DataFrame, folder: Path) -> None:
    """The table as ``table.parquet`` and ``table.csv``."""
    table.to_parquet(folder / "table.parquet")
    table.to_csv(folder / "table.csv", index=False, float_format="%.9g")


def as_json(table: pd.DataFrame) -> str:
    """The table as a JSON list of rows; what is missing is null."""
    return json.dumps(json.loads(table.to_json(orient="records", double_precision=12)), indent=2) + "\n"
