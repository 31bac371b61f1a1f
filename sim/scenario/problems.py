"""Turns what pydantic says into problems: file, line, key, what was expected, the nearest name."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping, Sequence
from types import UnionType
from typing import Any

from pydantic import BaseModel, ValidationError

from sim.errors import InputError, Problem, nearest
from sim.scenario.yaml_file import Document, KeyPath, dotted
from sim.units import UnitError

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a text",
    "dict": "a mapping of keys",
    "model": "a mapping of keys",
    "model_attributes": "a mapping of keys",
    "list": "a list",
    "tuple": "a list",
    "mapping": "a mapping of keys",
}
_BOUNDS = {
    "greater_than": ("gt", "more than {}"),
    "greater_than_equal": ("ge", "at least {}"),
    "less_than": ("lt", "less than {}"),
    "less_than_equal": ("le", "at most {}"),
}


def document_problems(error: ValidationError, document: Document, model: type[BaseModel]) -> list[Problem]:
    """The problems in *error*, which came of reading *document* into *model*."""
    found = []
    for path, message, more in _all(error, document.data, model):
        found.append(document.problem(path, message, **more))
    return found


def plain_problems(error: ValidationError, data: Any) -> list[Problem]:
    """The problems in *error* about *data* that stands in no file."""
    return [
        Problem(message, key=dotted(path) or None, expected=more.get("expected"), nearest=more.get("nearest"))
        for path, message, more in _all(error, data, None)
    ]


Said = tuple[KeyPath, str, dict[str, str | None]]


def _all(error: ValidationError, data: Any, model: type[BaseModel] | None) -> list[Said]:
    best: dict[KeyPath, Said] = {}
    rows = [(_path(item["loc"], data), item) for item in error.errors(include_url=False)]
    # Of the members of a union that all refused a value, the one that got furthest knows best.
    for path, item in sorted(rows, key=lambda row: -len(row[0])):
        if any(deeper[: len(path)] == path and deeper != path for deeper in best) and _of_union(item):
            continue
        said = _say(path, item, data, model)
        if path in best:
            known = best[path]
            expected = [part for part in (known[2].get("expected"), said[2].get("expected")) if part]
            if said[1] == known[1] and len(expected) == 2 and expected[0] != expected[1]:
                known[2]["expected"] = " or ".join(dict.fromkeys(expected))
            elif said[1] != known[1]:
                best[(*path, f"\0{len(best)}")] = said
        else:
            best[path] = said
    order = {path: index for index, (path, _) in enumerate(rows)}
    return sorted(best.values(), key=lambda said: order.get(said[0], 0))


def _of_union(item: Mapping[str, Any]) -> bool:
    return str(item["type"]).endswith("_type") or str(item["type"]).endswith("_parsing")


def _path(loc: Sequence[int | str], data: Any) -> KeyPath:
    """*loc* without the names of union members and validators that pydantic puts between keys."""
    path: list[int | str] = []
    here = data
    for index, part in enumerate(loc):
        inner = step_into(here, part)
        if inner is ABSENT:
            missing_key = isinstance(here, Mapping) and index == len(loc) - 1 and isinstance(part, str)
            if not missing_key or str(part).startswith("constrained-"):
                continue
        here = inner
        path.append(part)
    return tuple(path)


ABSENT = object()


def step_into(value: Any, part: int | str) -> Any:
    """What stands at *part* of *value*, or ABSENT."""
    if isinstance(value, Mapping):
        return value.get(part, ABSENT)
    if isinstance(value, list | tuple) and isinstance(part, int) and part < len(value):
        return value[part]
    return ABSENT


def _say(path: KeyPath, item: Mapping[str, Any], data: Any, model: type[BaseModel] | None) -> Said:
    kind, context, value = str(item["type"]), item.get("ctx", {}), item.get("input")
    shown = _show(value)
    if kind == "value_error":
        cause = context.get("error")
        if isinstance(cause, UnitError):
            return path, cause.message, {"expected": cause.expected, "nearest": cause.nearest}
        if isinstance(cause, InputError) and cause.problems:
            problem = cause.problems[0]
            return path, problem.message, {"expected": problem.expected, "nearest": problem.nearest}
        return path, str(cause), {}
    if kind == "extra_forbidden":
        allowed = allowed_keys(model, path[:-1], data) if model else []
        last = str(path[-1]) if path else ""
        expected = "one of " + ", ".join(allowed) if allowed else None
        return path, "unknown key", {"expected": expected, "nearest": nearest(last, allowed)}
    if kind == "missing":
        return path, "is missing", {}
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        tag = str(context.get("discriminator", "")).strip("'")
        tags = [word.strip(" '") for word in str(context.get("expected_tags", "")).split(",") if word.strip()]
        if kind == "union_tag_not_found" or not isinstance(value, Mapping):
            return path, f"{shown} does not say its {tag}", {"expected": _one_of(tags)}
        given = str(value.get(tag))
        return (
            (*path, tag),
            f"unknown {tag} {given!r}",
            {
                "expected": _one_of(tags),
                "nearest": nearest(given, tags),
            },
        )
    if kind in ("literal_error", "enum"):
        names = [word.strip(" '") for word in str(context.get("expected", "")).replace(" or ", ",").split(",")]
        return path, shown, {"expected": _one_of(names), "nearest": nearest(str(value), names)}
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return path, shown, {"expected": words.format(context[key])}
    if kind == "finite_number":
        return path, f"{shown} is not finite", {"expected": "a finite number"}
    if kind in ("too_short", "string_too_short") and not value:
        return path, "is empty", {"expected": "at least one" if kind == "too_short" else "a text"}
    base = kind.removesuffix("_type").removesuffix("_parsing").removesuffix("_from_float")
    if base in _KINDS and value is None:
        return path, "has no value", {"expected": _KINDS[base]}
    if base in _KINDS:
        return path, shown, {"expected": _KINDS[base]}
    return path, f"{shown}: {item['msg']}", {}


def _one_of(names: Iterable[str]) -> str:
    names = list(names)
    return names[0] if len(names) == 1 else "one of " + ", ".join(names)


def _show(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping of keys"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


# -- which keys a place of the model has -----------------------------------------------------------


def allowed_keys(model: type[BaseModel], path: KeyPath, data: Any) -> list[str]:
    """The keys that *model* allows at *path*, given what *data* says there."""
    types: list[Any] = [model]
    here = data
    for part in path:
        here = step_into(here, part)
        types = [inner for one in types for inner in _inside(one, part)]
    keys: list[str] = []
    for one in types:
        for cls in models_of(one):
            if _fits(cls, here):
                keys += [key for key in _fields(cls) if key not in keys]
    return keys


def _fields(cls: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field for name, field in cls.model_fields.items()}


def _members(hint: Any) -> list[Any]:
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _members(typing.get_args(hint)[0])
    if origin in (typing.Union, UnionType):
        return [member for arg in typing.get_args(hint) for member in _members(arg)]
    return [hint]


def models_of(hint: Any) -> list[type[BaseModel]]:
    """The models among the members of the type *hint*."""
    return [one for one in _members(hint) if isinstance(one, type) and issubclass(one, BaseModel)]


def _inside(hint: Any, part: int | str) -> list[Any]:
    found = []
    for one in _members(hint):
        args = typing.get_args(one)
        if isinstance(one, type) and issubclass(one, BaseModel):
            field = _fields(one).get(str(part))
            if field is not None:
                found.append(field.annotation)
        elif typing.get_origin(one) in (dict, Mapping) and len(args) == 2:
            found.append(args[1])
        elif args:
            found.append(args[0])
    return found


def _fits(cls: type[BaseModel], value: Any) -> bool:
    """Whether *value* is of the member *cls* of a tagged union (its one-word fields agree)."""
    if not isinstance(value, Mapping):
        return True
    for name, field in cls.model_fields.items():
        if typing.get_origin(field.annotation) is typing.Literal and field.default is not None:
            said = value.get(field.alias or name, field.default)
            if said not in typing.get_args(field.annotation):
                return False
    return True
