"""From a file, a name or plain data to a Scenario; whatever is wrong is said at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sim.errors import InputError, Problem, nearest
from sim.scenario.check import check_document, check_scenario
from sim.scenario.engine import Engine
from sim.scenario.model import Scenario
from sim.scenario.overrides import merge, parse_override
from sim.scenario.policy import check_policies
from sim.scenario.problems import document_problems
from sim.scenario.yaml_file import Document, Mark, read_file

MAX_EXTENDS = 20


def load(source: str | Path | Mapping[str, Any], overrides: Iterable[str] = ()) -> Scenario:
    """The scenario in a file, of a shipped name (``quickstart``), or in plain data as its YAML would say it.

    *overrides* are texts such as ``workload.rate=5/s``, laid over it in their order. Raise an InputError with
    every problem found, DoesNotFit when a model cannot be placed on its GPUs.
    """
    return load_with_notes(source, overrides)[0]


def load_with_notes(
    source: str | Path | Mapping[str, Any], overrides: Iterable[str] = ()
) -> tuple[Scenario, tuple[str, ...]]:
    """As `load`, and in words what an override or an extended scenario has replaced."""
    problems: list[Problem] = []
    changes = []
    for text in overrides:
        try:
            changes.append(parse_override(text))
        except InputError as error:
            problems += error.problems
    try:
        document, notes = _read(source)
    except InputError as error:
        raise InputError([*error.problems, *problems]) from None
    for change in _together(changes):
        document, more = merge(document, change)
        notes += more
    if problems:
        raise InputError(problems)
    return _build(document), tuple(notes)


def _together(changes: list[Document]) -> list[Document]:
    """All changes as one, so that ``workload.trace`` and ``workload.rate`` are seen together."""
    if not changes:
        return []
    whole = changes[0]
    for change in changes[1:]:
        marks = {**whole.marks, **change.marks}
        whole = Document(_over(whole.data, change.data), marks)
    return [whole]


def _over(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{key: _over(old.get(key), value) for key, value in new.items()}}
    return new


def _build(document: Document) -> Scenario:
    _state_policies(document.data)
    problems = check_document(document)
    problems += check_policies(document)
    try:
        scenario = Scenario.model_validate(document.data)
    except ValidationError as error:
        problems = document_problems(error, document, Scenario) + problems
    if problems:
        raise InputError(_sorted(problems))
    return check_scenario(scenario, document)


def _state_policies(data: dict[str, Any]) -> None:
    """Name the policies that *data* leaves to their defaults, so that their options are stated as well."""
    for key in ("strategy", "router"):
        data.setdefault(key, Scenario.model_fields[key].default.name)
    pools = data.get("pools")
    for pool in pools.values() if isinstance(pools, dict) else ():
        if isinstance(pool, dict) and isinstance(pool.setdefault("engine", {}), dict):
            pool["engine"].setdefault("scheduler", Engine.model_fields["scheduler"].default.name)


def _sorted(problems: Iterable[Problem]) -> list[Problem]:
    unique = dict.fromkeys(problems)
    return sorted(unique, key=lambda problem: (problem.source or "", problem.line or 0))


# -- finding files ---------------------------------------------------------------------------------


def shipped_folder() -> Path:
    """Where the scenarios that come with ThinkCap are: in a checkout, or in the installed package."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_scenarios"
    return installed if installed.is_dir() else package.parent / "scenarios"


def shipped() -> dict[str, Path]:
    """Every shipped scenario by name; those in folders as ``folder/name``."""
    folder = shipped_folder()
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def find(source: str | Path, beside: Path | None = None) -> Path:
    """The file that *source* means: a path (looked for *beside* another file first), or a shipped name."""
    text = str(source)
    for folder in (beside, Path()):
        if folder is not None and (folder / text).is_file():
            return folder / text
    known = shipped()
    if text.removesuffix(".yaml") in known:
        return known[text.removesuffix(".yaml")]
    if Path(text).is_dir():
        raise InputError(Problem("is a folder", source=text, expected="a scenario file"))
    raise InputError(
        Problem(
            "no such file or scenario",
            source=text,
            expected="a path, or one of " + ", ".join(known),
            nearest=nearest(Path(text).stem, known),
        )
    )


def _read(source: str | Path | Mapping[str, Any]) -> tuple[Document, list[str]]:
    if isinstance(source, Mapping):
        document = Document(_copy(source), {(): Mark("scenario")})
        return _extend(document, None, [])
    path = find(source)
    return _extend(read_file(path, _shown(path, str(source))), path, [])


def _shown(path: Path, said: str) -> str:
    return said if Path(said) == path else str(path) if not path.is_absolute() else path.name


def _copy(data: Mapping[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return {str(key): plain(item) for key, item in data.items()}


def _extend(document: Document, path: Path | None, before: list[Path]) -> tuple[Document, list[str]]:
    """*document* laid over what it extends; *before* are the files on the way here."""
    if path is not None:
        before = [*before, path.resolve()]
        document.data.setdefault("name", path.stem)
    if "extends" not in document.data:
        return document, []
    base_name = document.data["extends"]
    if not isinstance(base_name, str):
        raise InputError(document.problem(("extends",), f"{base_name!r}", expected="one file or name"))
    try:
        base_path = find(base_name, path.parent if path else None)
    except InputError as error:
        problem = error.problems[0]
        raise InputError(
            document.problem(("extends",), f"no such file or scenario {base_name!r}", nearest=problem.nearest)
        ) from None
    if base_path.resolve() in before:
        chain = " → ".join(step.name for step in [*before, base_path])
        raise InputError(document.problem(("extends",), f"goes round in a circle: {chain}"))
    if len(before) >= MAX_EXTENDS:
        raise InputError(document.problem(("extends",), f"is a chain of more than {MAX_EXTENDS} files"))
    base, notes = _extend(read_file(base_path, _shown(base_path, base_name)), base_path, before)
    document.data.pop("extends")
    merged, more = merge(base, document)
    return merged, notes + more
