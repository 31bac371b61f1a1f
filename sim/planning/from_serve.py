"""A pool from a ``vllm serve`` command line: the inverse of what a plan says to deploy.

Options that are keys of a pool are taken over; options of the front end, of loading and of logging are noted and
change nothing; what can change the answer and is not modelled, and what is not known at all, is an error with the
option's name, unless the caller leaves it out by name. Nothing is ignored in silence.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sim.errors import InputError, Problem, nearest
from sim.planning.serve_flags import (
    DTYPES,
    ENGINE,
    FRONT_END,
    FRONT_END_SWITCHES,
    NOT_MODELLED,
    NOT_MODELLED_SWITCHES,
    POOL,
    QUANTIZATIONS,
    SHORT,
    SWITCHES,
)

SHELL_ENDS = frozenset({"&", "&&", "|", "||", ";", ">", ">>", "2>", "2>&1", "&>"})
OWN = frozenset({"model", "dtype", "quantization", "config"})
KNOWN = frozenset(POOL) | frozenset(ENGINE) | FRONT_END | NOT_MODELLED | OWN
ALL_SWITCHES = SWITCHES | FRONT_END_SWITCHES | NOT_MODELLED_SWITCHES


@dataclass
class Served:
    """What a command line says of one replica."""

    model: str = ""
    pool: dict[str, Any] = field(default_factory=dict)
    """Keys of a pool, its engine's under ``engine``."""
    unchanged: list[str] = field(default_factory=list)
    """Options that change nothing that is simulated."""
    left_out: list[str] = field(default_factory=list)
    """Options left out because the caller asked for it."""


def is_serve(words: Sequence[str]) -> bool:
    """Whether *words* start a vLLM server."""
    return _begin(words) is not None


def words_of(text: str) -> list[str]:
    """The words of a shell command; continued lines are joined, comments dropped."""
    try:
        return shlex.split(re.sub(r"\\\r?\n", " ", text), comments=True)
    except ValueError as error:
        raise InputError(Problem(f"is no shell command: {error}", source="vllm serve")) from None


def served(words: Sequence[str], *, leave_out: Collection[str] = (), source: str = "vllm serve") -> Served:
    """The server that *words* start: ``vllm serve MODEL …``, ``python -m vllm.entrypoints.openai.api_server …``, a
    container of vLLM's image, or its arguments alone.

    Raise an InputError that names every option that is unknown, not modelled or without a value.
    """
    begin = _begin(words)
    rest = list(words[begin if begin is not None else 0 :])
    for place, word in enumerate(rest):
        if word in SHELL_ENDS:
            rest = rest[:place]
            break
    skip = {name.lstrip("-").replace("_", "-") for name in leave_out}
    problems: list[Problem] = []
    found = Served()
    said: dict[str, str | bool] = {}
    for option, value in _options(rest, problems, source):
        if option == "":
            _model(found, str(value), problems, source)
        elif option == "config":
            said |= _config(str(value), problems)
        else:
            said[option] = value
    for option, value in said.items():
        _take(found, option, value, skip, problems, source)
    if not found.model:
        problems.append(Problem("no model", source=source, expected="vllm serve MODEL …, or --model MODEL"))
    if problems:
        raise InputError(problems)
    found.pool = {"model": found.model, **found.pool}
    return found


def _begin(words: Sequence[str]) -> int | None:
    """Where the arguments of the server begin."""
    for place, word in enumerate(words):
        if word.rpartition("/")[2] == "vllm" and list(words[place + 1 : place + 2]) == ["serve"]:
            return place + 2
        if word == "vllm.entrypoints.openai.api_server":
            return place + 1
        if re.search(r"(^|/)vllm[\w.-]*(:|@|$)", word) and words[0].rpartition("/")[2] in ("docker", "podman"):
            return place + 1
    return None


def _options(words: Sequence[str], problems: list[Problem], source: str) -> Iterator[tuple[str, str | bool]]:
    """Pairs of an option's full name and its value; the model, which has no option, as a pair of ""."""
    place = 0
    while place < len(words):
        word = words[place]
        place += 1
        if not word.startswith("-") or word == "-":
            yield "", word
            continue
        name, equals, value = word.partition("=")
        option = name.lstrip("-").replace("_", "-").partition(".")[0]
        option = SHORT.get(option, option)
        if not equals and option.startswith("no-") and option[3:] in ALL_SWITCHES:
            yield option[3:], False
        elif option in ALL_SWITCHES and not equals:
            yield option, True
        elif equals:
            yield option, _boolean(value) if option in ALL_SWITCHES else value
        elif place < len(words) and not re.match(r"--?[A-Za-z]", words[place]):
            values = [words[place]]
            place += 1
            while option not in KNOWN and place < len(words) and not words[place].startswith("-"):
                values.append(words[place])
                place += 1
            yield option, " ".join(values)
        elif option in KNOWN:
            problems.append(Problem(f"--{option} has no value", source=source))
        else:
            yield option, True


def _boolean(value: str) -> str | bool:
    return {"true": True, "1": True, "false": False, "0": False}.get(value.lower(), value)


def _model(found: Served, model: str, problems: list[Problem], source: str) -> None:
    if re.search(r"\$[({\w]", model):
        problems.append(Problem(f"{model!r} is a variable", source=source, expected="the model itself"))
    elif found.model and found.model != model:
        problems.append(Problem(f"{model!r} is no option", source=source, expected="one model, and options"))
    found.model = found.model or model


def _config(path: str, problems: list[Problem]) -> dict[str, str | bool]:
    """Options of vLLM's ``--config FILE``."""
    import yaml

    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problems.append(Problem(f"cannot be read: {error}", source=path, key="--config"))
        return {}
    if not isinstance(data, dict):
        problems.append(Problem("is no mapping", source=path, key="--config"))
        return {}
    return {str(key).replace("_", "-"): value if isinstance(value, bool) else str(value) for key, value in data.items()}


def _take(
    found: Served, option: str, value: str | bool, skip: Collection[str], problems: list[Problem], source: str
) -> None:
    key = f"--{option}"
    if option in skip:
        found.left_out.append(option)
    elif isinstance(value, str) and re.search(r"\$[({\w]", value):
        problems.append(Problem(f"{value!r} is a variable", source=source, key=key, expected="the value itself"))
    elif option == "model":
        _model(found, str(value), problems, source)
    elif option == "dtype":
        if value not in DTYPES:
            problems.append(
                Problem(f"{value!r} is no number format", source=source, key=key, expected=", ".join(DTYPES))
            )
        elif value != "auto":
            found.pool.setdefault("dtype", DTYPES[str(value)])
    elif option == "quantization":
        if value not in QUANTIZATIONS:
            expected = ", ".join(QUANTIZATIONS) + f", or --leave-out {option} and --set pools.NAME.dtype=…"
            problems.append(Problem(f"{value!r} does not say how many bits", source=source, key=key, expected=expected))
        else:
            found.pool["dtype"] = QUANTIZATIONS[str(value)]
    elif option in POOL:
        found.pool[POOL[option]] = _number(value)
    elif option in ENGINE:
        if option == "max-model-len" and value in ("auto", "-1"):
            return  # what fits, which is the default here too
        found.pool.setdefault("engine", {})[ENGINE[option]] = _engine_value(option, value)
    elif option in FRONT_END:
        found.unchanged.append(option)
    elif option in NOT_MODELLED:
        problems.append(
            Problem(
                "is an option of vLLM that is not modelled",
                source=source,
                key=key,
                expected=f"a command without it, or --leave-out {option} to leave it out knowingly",
            )
        )
    else:
        problems.append(
            Problem(
                "is no option that is known",
                source=source,
                key=key,
                expected=f"--leave-out {option}, where it changes nothing",
                nearest=nearest(option, KNOWN),
            )
        )


def _engine_value(option: str, value: str | bool) -> Any:
    if option == "kv-cache-dtype" and isinstance(value, str):
        return DTYPES.get(value, value)
    if option == "kv-cache-memory-bytes" and isinstance(value, str) and value.isdigit():
        return f"{value} B"
    return _number(value)


def _number(value: str | bool) -> Any:
    """A number where it is one; the scenario says what is wrong with anything else."""
    if isinstance(value, bool):
        return value
    for read in (int, float):
        try:
            return read(value)
        except ValueError:
            continue
    return value
