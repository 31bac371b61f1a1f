"""Reads YAML strictly: which value stands where, and nothing guessed.

Unlike a plain YAML load, a key given twice is an error, scalars follow YAML 1.2 (``1e3`` is a number, ``no``
and ``on`` are words, ``12:30:00`` is not 45,000), tags, merge keys and several documents are refused, aliases
cannot blow a small file up, and every key and item keeps its file and line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sim.errors import InputError, Problem

MAX_BYTES = 4_000_000
"""Size of the largest file that is read."""
MAX_DEPTH = 50
"""Levels of nesting."""
MAX_NODES = 500_000
"""Values in a document, each use of an alias counted anew."""

KeyPath = tuple[str | int, ...]
"""Where a value stands: keys and list positions from the top."""


@dataclass(frozen=True)
class Mark:
    """Where a value was written: a file's name and a line (from 1), or a command line option."""

    source: str
    line: int | None = None
    folder: Path | None = None
    """What paths in this file are relative to; None: the working directory."""


@dataclass
class Document:
    """Plain data, and the mark of every key and item by its path; the top has the path ``()``."""

    data: dict[str, Any]
    marks: dict[KeyPath, Mark] = field(default_factory=dict)

    def mark(self, path: KeyPath) -> Mark | None:
        """The mark of *path*, or of the nearest thing around it."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.marks:
                return self.marks[path[:length]]
        return None

    def problem(self, path: KeyPath, message: str, **more: str | None) -> Problem:
        """A problem with the value at *path*, which says where that was written."""
        mark = self.mark(path)
        return Problem(
            message,
            source=mark.source if mark else None,
            line=mark.line if mark else None,
            key=dotted(path) or None,
            **more,
        )


def dotted(path: KeyPath) -> str:
    """*path* as people write it: ``pools.reasoning.engine.max_num_seqs``, ``workload.categories[2]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {
    "": None,
    "~": None,
    "null": None,
    "Null": None,
    "NULL": None,
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
    ".nan": math.nan,
    ".NaN": math.nan,
    ".NAN": math.nan,
    ".inf": math.inf,
    ".Inf": math.inf,
    ".INF": math.inf,
    "+.inf": math.inf,
    "-.inf": -math.inf,
    "-.Inf": -math.inf,
}


def scalar(text: str) -> Any:
    """What an unquoted *text* means by YAML 1.2's core schema.

    >>> scalar("1e3"), scalar("no"), scalar("12:30:00"), scalar("0x10"), scalar("true")
    (1000.0, 'no', '12:30:00', 16, True)
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        if len(text) > 400:
            return text
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def read_file(path: Path, name: str | None = None) -> Document:
    """The mapping in the file at *path*, which errors call *name*; raise an InputError with every problem."""
    name = name or str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(Problem(f"cannot be read: {error.strerror}", source=name)) from None
    if len(raw) > MAX_BYTES:
        raise InputError(Problem(f"is larger than {MAX_BYTES:,} bytes", source=name))
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(Problem("is not UTF-8 text", source=name, line=line)) from None
    return read_text(text, name, path.parent)


def read_text(text: str, source: str, folder: Path | None = None) -> Document:
    """The mapping that *text* holds; *source* and *folder* are what its marks say."""
    builder = _Builder(source, folder)
    data = builder.build(text)
    if builder.problems:
        raise InputError(builder.problems)
    return Document(data, builder.marks)


def read_value(text: str, source: str) -> Any:
    """One value as YAML (``4/s``, ``[1, 2]``, ``{p99: 120 s}``), as a command line gives it."""
    builder = _Builder(source, None)
    try:
        value = builder.build(text, top="value")
    except InputError:
        return text  # what is no YAML is a word: 'a: b: c'
    if builder.problems:
        raise InputError(builder.problems)
    return value


class _Builder:
    """Builds plain data from YAML events, noting marks and problems on the way."""

    def __init__(self, source: str, folder: Path | None) -> None:
        self.source = source
        self.folder = folder
        self.marks: dict[KeyPath, Mark] = {}
        self.problems: list[Problem] = []
        self._anchors: dict[str, tuple[Any, ...]] = {}
        self._left = MAX_NODES

    def build(self, text: str, top: str = "mapping") -> Any:
        try:
            events = _events(text)
            next(events)
            first = next(events)
            if isinstance(first, yaml.StreamEndEvent):
                raise self._stop(None, "is empty", expected="a mapping of keys")
            tree = self._tree(next(events), events, 0)
            next(events)
            if not isinstance(after := next(events), yaml.StreamEndEvent):
                raise self._stop(after.start_mark, "has more than one document", expected="one")
        except yaml.YAMLError as error:
            raise self._syntax(error, text) from None
        if top == "mapping" and tree[0] != "map":
            what = "a list" if tree[0] == "list" else "one value"
            raise self._stop(None, f"holds {what}", expected="a mapping of keys, such as 'name: …'")
        return self._plain(tree, ())

    def _stop(self, mark: Any, message: str, expected: str | None = None) -> InputError:
        line = mark.line + 1 if mark is not None else None
        return InputError([*self.problems, Problem(message, source=self.source, line=line, expected=expected)])

    def _syntax(self, error: yaml.YAMLError, text: str) -> InputError:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        lines = text.splitlines()
        expected = None
        if mark is not None and mark.line < len(lines) and "\t" in lines[mark.line][: mark.column + 1]:
            what, expected = "a tab stands where YAML wants spaces", "spaces"
        elif "could not find expected ':'" in what or "mapping values are not allowed" in what:
            expected = "'key: value' on a line of its own"
        return self._stop(mark, f"is not valid YAML: {what}", expected)

    # -- events to a tree: ("scalar", mark, value) | ("list", mark, items) | ("map", mark, pairs) --

    def _tree(self, event: Any, events: Iterator[Any], depth: int) -> tuple[Any, ...]:
        mark = event.start_mark
        if depth > MAX_DEPTH:
            raise self._stop(mark, f"is nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise self._stop(mark, f"alias *{event.anchor} is not defined before")
            return self._anchors[event.anchor]
        if event.tag is not None:
            self.problems.append(Problem(f"tag {event.tag!r} is not allowed", source=self.source, line=mark.line + 1))
        if isinstance(event, yaml.ScalarEvent):
            value = event.value if event.style else scalar(event.value)
            tree: tuple[Any, ...] = ("scalar", mark, value)
        elif isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(event_ := next(events), yaml.SequenceEndEvent):
                items.append(self._tree(event_, events, depth + 1))
            tree = ("list", mark, items)
        else:
            pairs = []
            while not isinstance(event_ := next(events), yaml.MappingEndEvent):
                key = self._tree(event_, events, depth + 1)
                pairs.append((key, self._tree(next(events), events, depth + 1)))
            tree = ("map", mark, pairs)
        if event.anchor:
            self._anchors[event.anchor] = tree  # only now: what contains itself cannot be named
        return tree

    # -- the tree to plain data, aliases written out --

    def _plain(self, tree: tuple[Any, ...], path: KeyPath) -> Any:
        kind, mark, content = tree
        if len(path) > MAX_DEPTH:
            raise self._stop(mark, f"is nested deeper than {MAX_DEPTH} levels once its aliases are written out")
        self._left -= 1
        if self._left < 0:
            raise self._stop(mark, f"holds more than {MAX_NODES:,} values once its aliases are written out")
        self.marks.setdefault(path, Mark(self.source, mark.line + 1, self.folder))
        if kind == "scalar":
            return content
        if kind == "list":
            return [self._plain(item, (*path, index)) for index, item in enumerate(content)]
        result: dict[str, Any] = {}
        for key, value in content:
            name = self._key(key, path)
            if name is None:
                continue
            line = key[1].line + 1
            if name in result:
                first = self.marks[(*path, name)].line
                self.problems.append(
                    Problem(
                        f"is given twice, first in line {first}",
                        source=self.source,
                        line=line,
                        key=dotted((*path, name)),
                    )
                )
                continue
            self.marks[(*path, name)] = Mark(self.source, line, self.folder)
            result[name] = self._plain(value, (*path, name))
        return result

    def _key(self, key: tuple[Any, ...], path: KeyPath) -> str | None:
        kind, mark, content = key
        if kind != "scalar":
            message = "a key must be a word"
        elif content == "<<":
            message = "merge keys are not supported; use 'extends', or write the keys out"
        elif isinstance(content, bool | float) or content is None:
            message = f"{content!r} cannot be a key; put it in quotes"
        else:
            return str(content)
        self.problems.append(Problem(message, source=self.source, line=mark.line + 1, key=dotted(path) or None))
        return None


def _events(text: str) -> Iterator[Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return iter(yaml.parse(text, Loader=loader))


# -- writing -----------------------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    """Writes what `read_text` reads back: words that look like numbers are quoted by YAML 1.2's rules."""


def _represent_str(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "'" if not isinstance(scalar(text), str) and "\n" not in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _represent_float(dumper: yaml.SafeDumper, value: float) -> yaml.ScalarNode:
    if math.isinf(value):
        text = ".inf" if value > 0 else "-.inf"
    else:
        text = repr(value)
        if "." not in text and "e" in text:  # PyYAML would tag 1e-07, which it takes for a word
            text = text.replace("e", ".0e")
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


_Dumper.add_representer(str, _represent_str)
_Dumper.add_representer(float, _represent_float)


def write(data: dict[str, Any]) -> str:
    """*data* as YAML in its own order, which `read_text` reads back as equal."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
