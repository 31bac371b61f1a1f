"""How a scenario names a policy: ``router: round_robin``, or ``router: {name: power_of_two, choices: 3}``."""

from __future__ import annotations

import dataclasses
import importlib
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, PlainSerializer, TypeAdapter, ValidationError

from sim import units
from sim.errors import InputError, Problem, ThinkcapError, nearest
from sim.registry import Registry
from sim.scenario.base import FrozenDict, Name, Section
from sim.scenario.problems import plain_problems
from sim.scenario.yaml_file import Document, KeyPath

PLACES: dict[tuple[str, ...], str] = {
    ("strategy",): "strategy",
    ("router",): "router",
    ("admission",): "admission",
    ("predictor",): "predictor",
    ("pools", "*", "autoscaling", "policy"): "autoscaler",
    ("pools", "*", "engine", "scheduler"): "scheduler",
    ("pools", "*", "engine", "kv"): "kv",
}
"""Where a scenario names policies, and of which kind."""

V = TypeVar("V")
_CATEGORIES = "keyed by category"

PerCategory = Annotated[Mapping[str, V], _CATEGORIES]
"""Type of an option that says something for each category, and under ``default`` for all others: its keys are checked."""


def _seconds(value: Any) -> Any:
    try:
        return float(value)
    except (TypeError, ValueError):
        return units.parse_seconds(value)


Seconds = Annotated[float, BeforeValidator(_seconds)]
"""Type of a time within an option: plain seconds, or a quantity (``8 h``)."""
TokenCount = Annotated[int, Field(ge=0, le=2**40)]
"""Type of an option that counts tokens."""

PENDING: tuple[tuple[str, ...], ...] = ()
"""Places whose policies nothing runs yet: refused, so that none is silently ignored."""


class Policy(Section):
    """A policy by its name, and the options given to it; those not given have their defaults once loaded."""

    name: Name
    options: dict[str, Any] = Field(default_factory=FrozenDict)

    def make(self, kind: str) -> Any:
        """The policy of *kind* itself; raise an InputError for a name or an option that does not exist."""
        return make(registry(kind), self.name, self.options)


def _read(value: Any) -> Any:
    if isinstance(value, Policy):
        return value
    if isinstance(value, str) and value:
        return Policy(name=value)
    if isinstance(value, Mapping):
        if not isinstance(value.get("name"), str) or not value["name"]:
            raise units.UnitError("names no policy", expected="a name, or {name: …, option: …}")
        options = {str(key): option for key, option in value.items() if key != "name"}
        return Policy(name=value["name"], options=FrozenDict(options))
    raise units.UnitError(f"{value!r} is not a policy", expected="a name, or {name: …, option: …}")


def _write(policy: Policy) -> Any:
    return {"name": policy.name, **policy.options} if policy.options else policy.name


PolicyRef = typing.Annotated[Policy, BeforeValidator(_read), PlainSerializer(_write, when_used="json")]
"""A policy as a scenario names it."""


def registry(kind: str) -> Registry[Any]:
    """The registry of a *kind* of policies, imported when first asked for."""
    # By name, as the registries themselves do it: policies are plugged in from above.
    found: Registry[Any] = importlib.import_module("sim.policies").registry(kind)
    return found


# -- options ---------------------------------------------------------------------------------------


def option_types(cls: type) -> dict[str, Any]:
    """The options of a policy's class and the type of each; a type that cannot be looked up is ``Any``."""
    if not dataclasses.is_dataclass(cls):
        return {}
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError:
        hints = {}
    return {field.name: hints.get(field.name, Any) for field in dataclasses.fields(cls) if field.init}


def make(kind: Registry[Any], name: str, options: Mapping[str, Any]) -> Any:
    """The policy *name* with *options* checked against its types; raise an InputError with all problems.

    An option whose name ends in ``_s``, ``_bytes`` or ``_per_s`` takes a quantity too (``30 s``), a share takes ``60 %``, and a
    whole number takes ``16K tokens``. The problems' keys are options.
    """
    cls = kind.get(name)
    types = option_types(cls)
    problems = [
        Problem(
            f"{kind.kind} {name!r} has no such option",
            key=key,
            expected="one of " + ", ".join(types) if types else "no options",
            nearest=nearest(key, types),
        )
        for key in options
        if key not in types
    ]
    values = {}
    for key, value in options.items():
        if key not in types:
            continue
        try:
            values[key] = _check(key, types[key], value)
        except units.UnitError as error:
            problems.append(Problem(error.message, key=key, expected=error.expected, nearest=error.nearest))
        except ValidationError as error:
            problems += [
                dataclasses.replace(problem, key=".".join([key, *([problem.key] if problem.key else [])]))
                for problem in plain_problems(error, value)
            ]
    required = [
        field.name
        for field in (dataclasses.fields(cls) if types else ())
        if field.init
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
        and field.name not in options
    ]
    problems += [Problem(f"{kind.kind} {name!r} needs this option", key=key) for key in required]
    if problems:
        raise InputError(problems)
    try:
        return cls(**values)
    except ThinkcapError:
        raise
    except (ValueError, TypeError) as error:
        raise InputError(Problem(f"{kind.kind} {name!r}: {error}")) from None


def _check(key: str, hint: Any, value: Any) -> Any:
    if isinstance(value, str):
        if key.endswith("_per_s"):
            value = units.parse_per_second(value)
        elif key.endswith("_s"):
            value = units.parse_seconds(value)
        elif key.endswith("_bytes"):
            value = units.parse_bytes(value)
        elif value.endswith("%") and _bare(hint) is float:
            value = units.parse_share(value)
    return TypeAdapter(hint, config={"allow_inf_nan": False} if _plain(hint) else None).validate_python(
        _tokens(hint, value)
    )


def _bare(hint: Any) -> Any:
    """*hint* without what is annotated to it."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def _plain(hint: Any) -> bool:
    return hint in (int, float, str, bool)


def _tokens(hint: Any, value: Any) -> Any:
    """*value* with strings read as token counts where the type *hint* wants whole numbers."""
    hint = _bare(hint)
    args = tuple(_bare(arg) for arg in typing.get_args(hint))
    if isinstance(value, bool) and hint is not bool and bool not in args and hint is not Any:
        raise units.UnitError(f"{value!r} is not a number")
    if isinstance(value, str) and (hint is int or (int in args and str not in args)):
        return units.parse_tokens(value)
    if isinstance(value, dict):
        mappings = [arg for arg in (hint, *args) if typing.get_origin(arg) in (dict, Mapping)]
        if mappings and len(inner := typing.get_args(mappings[0])) == 2:
            return {key: _tokens(inner[1], item) for key, item in value.items()}
    return value


def unknown_categories(policy: Policy, kind: str, categories: Iterable[str]) -> list[tuple[str, str]]:
    """(option, key) for each key of an option of *policy* that is keyed by category and names none of *categories*."""
    known = {*categories, "default"}
    return [
        (option, key)
        for option, hint in option_types(registry(kind).get(policy.name)).items()
        if isinstance(policy.options.get(option), Mapping)
        and any(_CATEGORIES in typing.get_args(part)[1:] for part in (hint, *typing.get_args(hint)))
        for key in policy.options[option]
        if key not in known
    ]


def defaults(policy: Any) -> dict[str, Any]:
    """All options of *policy* that plain data can say."""
    found = {}
    for field in dataclasses.fields(policy) if dataclasses.is_dataclass(policy) else ():
        value = getattr(policy, field.name)
        if field.init and value is not None and _is_data(value):
            found[field.name] = _as_data(value)
    return found


def _is_data(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_data(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(_is_data(item) for item in value)
    return value is None or isinstance(value, str | int | float)


def _as_data(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _as_data(item) for key, item in value.items()}
    return [_as_data(item) for item in value] if isinstance(value, list | tuple) else value


# -- all policies of a document --------------------------------------------------------------------


def places(data: Mapping[str, Any]) -> Iterable[tuple[KeyPath, str, Any]]:
    """Every policy that *data* names: its path, its kind, and what stands there."""
    for pattern, kind in PLACES.items():
        found: list[tuple[KeyPath, Any]] = [((), data)]
        for part in pattern:
            found = [
                ((*path, key), value[key])
                for path, value in found
                if isinstance(value, Mapping)
                for key in (list(value) if part == "*" else [part])
                if key in value
            ]
        for path, value in found:
            if value is not None:
                yield path, kind, value


def check_policies(document: Document) -> list[Problem]:
    """Problems with every policy that *document* names; where there is none, defaults are written into it.

    A policy given as ``path.py:Class`` is looked for beside the file that names it, then in the working
    directory.
    """
    problems: list[Problem] = []
    for path, kind, value in list(places(document.data)):
        if _pattern(path) in PENDING:
            problems.append(document.problem(path, "is not modelled yet"))
            continue
        try:
            ref = _read(value)
        except units.UnitError:
            continue  # said by the model
        name = _file_of(ref.name, document, path)
        try:
            policy = make(registry(kind), name, ref.options)
        except InputError as error:
            named = isinstance(value, Mapping)
            for problem in error.problems:
                below = (*path, problem.key) if problem.key else ((*path, "name") if named else path)
                problems.append(
                    document.problem(below, problem.message, expected=problem.expected, nearest=problem.nearest)
                )
            continue
        options = {**{k: v for k, v in ref.options.items() if v is not None}, **defaults(policy)}
        _put(document.data, path, {"name": name, **options} if options else name)
    return problems


def _pattern(path: KeyPath) -> tuple[str, ...]:
    return tuple("*" if index == 1 and path[0] == "pools" else str(part) for index, part in enumerate(path))


def _file_of(name: str, document: Document, path: KeyPath) -> str:
    file, colon, attribute = name.rpartition(":")
    if not (colon and file.endswith(".py")):
        return name
    mark = document.mark(path)
    for folder in (mark.folder if mark else None, Path()):
        if folder is not None and (folder / file).is_file():
            return f"{(folder / file).resolve()}:{attribute}"
    return name


def _put(data: dict[str, Any], path: KeyPath, value: Any) -> None:
    inner: Any = data
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
