"""Can everything that a scenario's ``plan`` and ``sweep`` sections try be read? Asked by `thinkcap validate`.

A candidate that does not fit its GPUs is an answer, and a plan gives it; one that cannot be read is a mistake in the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sim.errors import InputError, Problem, ThinkcapError
from sim.scenario.load import load
from sim.scenario.model import Scenario


def problems(source: str | Path, overrides: Sequence[str], scenario: Scenario) -> list[Problem]:
    """What is wrong with candidates, and with values that no candidate can take."""
    found: list[Problem] = []
    for section, candidates, axes in _tried(scenario):
        bundles = {name: _changes(changes) for name, changes in candidates.items()} or {"": []}
        readable = []
        for name, changes in bundles.items():
            faults = _faults(source, [*overrides, *changes])
            if not faults:
                readable.append(changes)
            found += [_placed(fault, source, f"{section}.candidates.{name}") for fault in faults]
        for part, key, values in axes:
            for place, value in enumerate(values):
                faults = []
                for changes in readable:
                    faults = _faults(source, [*overrides, *changes, *_changes({key: value})])
                    if not faults:
                        break
                found += [_placed(fault, source, f"{section}.{part}.{key}[{place}]") for fault in faults]
    return found


Axes = list[tuple[str, str, Sequence[Any]]]


def _tried(scenario: Scenario) -> Iterator[tuple[str, Mapping[str, Mapping[str, Any]], Axes]]:
    """Each section with its candidates, and where it lists which values of which key."""
    if scenario.plan is not None:
        plan = scenario.plan
        yield "plan", plan.candidates, [("alternatives", key, values) for key, values in plan.alternatives.items()]
    if scenario.sweep is not None:
        sweep = scenario.sweep
        yield "sweep", sweep.candidates, [("over", key, values) for key, values in sweep.over.items()]


def _changes(settings: Mapping[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(_plain(value))}" for key, value in settings.items()]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _faults(source: str | Path, overrides: Sequence[str]) -> list[Problem]:
    try:
        load(source, overrides)
    except InputError as error:
        return list(error.problems)
    except ThinkcapError:
        return []  # it can be read
    return []


def _placed(fault: Problem, source: str | Path, key: str) -> Problem:
    said = f"{fault.key}: {fault.message}" if fault.key else fault.message
    return replace(fault, message=said, source=str(source), line=None, key=key)
