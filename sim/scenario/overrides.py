"""Lays one document over another: ``extends``, and ``--set a.b.c=VALUE``."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from sim.errors import InputError, Problem
from sim.scenario.yaml_file import Document, KeyPath, Mark, dotted, read_value

_IDENTITY = ("name", "law", "process")
"""Keys that say what a map is about: with another value, it replaces the one below, adding nothing to it."""

WAYS = ("preset", "trace", "arrivals", "lengths", "categories", "clients")
"""Keys of a workload that say where its queries come from."""
_GENERATED = ("lengths", "categories", "clients")
_TRACE_KEEPS = ("max_tokens", "priority")


def merge(base: Document, over: Document) -> tuple[Document, list[str]]:
    """*over* laid over *base*: maps are merged, all else is replaced, ``null`` takes a key away.

    A workload that *over* draws from elsewhere (a trace over a preset) drops what no longer applies; the
    second result says so in words.
    """
    data = copy.deepcopy(base.data)
    marks = dict(base.marks)
    notes = _switch_workload(data, marks, over)
    _take_sides(data, marks, over)
    _merge(data, over.data, (), marks)
    marks.update(over.marks)
    return Document(data, marks), notes


def _merge(base: dict[str, Any], over: Mapping[str, Any], path: KeyPath, marks: dict[KeyPath, Mark]) -> None:
    for key, value in over.items():
        here = (*path, key)
        old = base.get(key)
        if value is None and key in base:
            del base[key]
            _forget(marks, here)
        elif isinstance(value, dict) and isinstance(old, dict) and _same_kind(old, value):
            _merge(old, value, here, marks)
        else:
            _forget(marks, here)
            base[key] = copy.deepcopy(value)


EXCLUSIVE: tuple[tuple[str, frozenset[str]], ...] = (
    ("measure", frozenset({"duration", "queries"})),
    ("measure", frozenset({"warmup", "warmup_queries"})),
)
"""Keys of a section that say the same in two ways: whoever says it last has the word."""


def _take_sides(data: dict[str, Any], marks: dict[KeyPath, Mark], over: Document) -> None:
    for section, keys in EXCLUSIVE:
        old, new = data.get(section), over.data.get(section)
        if isinstance(old, dict) and isinstance(new, dict) and len(said := keys & set(new)) == 1:
            for key in (keys - said) & set(old):
                del old[key]
                _forget(marks, (section, key))


def _same_kind(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return all(old.get(key, new[key]) == new[key] for key in _IDENTITY if key in new)


def _forget(marks: dict[KeyPath, Mark], path: KeyPath) -> None:
    for known in [known for known in marks if known[: len(path)] == path]:
        del marks[known]


def _switch_workload(data: dict[str, Any], marks: dict[KeyPath, Mark], over: Document) -> list[str]:
    old, new = data.get("workload"), over.data.get("workload")
    if not isinstance(old, dict) or not isinstance(new, dict):
        return []
    given = [key for key in WAYS if new.get(key) is not None]
    dropped: list[tuple[str, str]] = []
    if "trace" in given and old.get("trace") is None:
        dropped = [("workload", key) for key in old if key not in _TRACE_KEEPS and key not in new]
        window = over.data.get("measure")
        if not isinstance(window, dict) or not {"duration", "queries"} & set(window):
            measure = data.get("measure")
            found = measure if isinstance(measure, dict) else {}
            dropped += [("measure", key) for key in ("duration", "queries") if key in found]
    elif "preset" in given:
        dropped = [("workload", key) for key in ("trace", *_GENERATED, "windows") if key in old]
        if old.get("preset") != new["preset"]:
            dropped += [("workload", key) for key in ("mode", "arrivals", "profile") if key in old]
    elif given and not {"preset", "trace"} & set(given) and ("trace" in old or "preset" in old):
        if "trace" in old or set(given) & set(_GENERATED):
            dropped = [("workload", key) for key in ("trace", "preset", "mode", "windows") if key in old]
    elif len(kinds := set(given) & set(_GENERATED)) == 1:
        dropped = [("workload", key) for key in _GENERATED if key in old and key not in kinds]
    dropped = [path for path in dropped if path[1] not in (new if path[0] == "workload" else ())]
    for section, key in dropped:
        del data[section][key]
        _forget(marks, (section, key))
    if not dropped:
        return []
    where = "; ".join(dotted(path) for path in dropped)
    return [f"workload.{given[0]} replaces what was there; no longer applies: {where}"]


_PART = re.compile(r"[^.\[\]=]+|\[\d+\]")


def parse_override(text: str) -> Document:
    """``a.b.c=VALUE`` as a document; VALUE is YAML. Raise an InputError when it is no such text."""
    key, _, value = text.partition("=")
    key = key.strip()
    parts = key.split(".")
    if not value.strip() or not all(re.fullmatch(r"[^\s.\[\]]+(?:[ ][^\s.\[\]]+)*", part) for part in parts):
        raise InputError(
            Problem(f"{text!r} sets nothing", source="--set", expected="key=value, such as workload.rate=4/s")
        )
    source = f"--set {key}"
    data: Any = read_value(value.strip(), source)
    marks: dict[KeyPath, Mark] = {}
    for length in range(len(parts), 0, -1):
        data = {parts[length - 1]: data}
        marks[tuple(parts[:length])] = Mark(source)
    return Document(data, marks)
