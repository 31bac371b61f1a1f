"""Which plug-ins exist, and how one is found by name.

A plug-in is a frozen dataclass whose fields are its options, in one file of a folder, marked by its kind's
decorator::

    @scheduler("srpt")
    @dataclass(frozen=True)
    class Srpt: ...

Names are looked up in the kind's folder first, then among installed entry points (group ``thinkcap.<kind>``),
then as ``path/to/file.py:Class``.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pkgutil
import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from sim.errors import InputError, Problem, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Plug-ins of one *kind*, found in one *package*, each a module of that package."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._classes: dict[str, type[T]] = {}
        self._loaded = False

    def __call__(self, name: str) -> Callable[[type[T]], type[T]]:
        """Decorator that registers a class under *name*; a second class of that name is an error."""

        def register(cls: type[T]) -> type[T]:
            known = self._classes.get(name)
            if known is not None and (known.__module__, known.__qualname__) != (
                cls.__module__,
                cls.__qualname__,
            ):
                raise ValueError(f"{self.kind} {name!r} is defined twice: {known.__module__} and {cls.__module__}")
            self._classes[name] = cls
            return cls

        return register

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        for point in entry_points(group=f"thinkcap.{self.kind}"):
            if point.name not in self._classes:
                self._classes[point.name] = point.load()

    def _load_one(self, name: str) -> None:
        """Import the file that is called as its plug-in is, as most are: a run needs a few of the sixty."""
        if name.isidentifier() and importlib.util.find_spec(f"{self.package}.{name}") is not None:
            importlib.import_module(f"{self.package}.{name}")

    def names(self) -> list[str]:
        """All known names, sorted."""
        self._load()
        return sorted(self._classes)

    def get(self, name: str) -> type[T]:
        """The class called *name*; raise an InputError naming the nearest one when there is none."""
        if not self._loaded:
            self._load_one(name)
        if name in self._classes:
            return self._classes[name]
        self._load()
        if name in self._classes:
            return self._classes[name]
        path, colon, attribute = name.rpartition(":")
        if colon and path.endswith(".py"):
            return self._from_file(Path(path), attribute)
        raise InputError(
            Problem(
                f"unknown {self.kind} {name!r}",
                expected="one of " + ", ".join(self.names()),
                nearest=nearest(name, self.names()),
            )
        )

    def _from_file(self, path: Path, attribute: str) -> type[T]:
        cls: type[T] | None = getattr(_module_of(path.resolve(), self.kind), attribute, None)
        if cls is None:
            raise InputError(Problem(f"{path} has no class {attribute!r}"))
        return cls

    def make(self, name: str, options: Mapping[str, Any] | None = None) -> T:
        """An instance of *name* with *options*; raise an InputError for an option it does not have."""
        cls = self.get(name)
        known = [field.name for field in fields(cls)] if is_dataclass(cls) else []
        problems = [
            Problem(
                f"{self.kind} {name!r} has no option {key!r}",
                expected="one of " + ", ".join(known) if known else "no options",
                nearest=nearest(key, known),
            )
            for key in (options or {})
            if key not in known
        ]
        if problems:
            raise InputError(problems)
        return cls(**(options or {}))


@functools.cache
def _module_of(path: Path, kind: str) -> ModuleType:
    """The module in the file at *path*, executed once; raise an InputError when that fails."""
    if not path.is_file():
        raise InputError(Problem(f"{kind} file {str(path)!r} does not exist"))
    name = f"thinkcap_plugin_{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        line = getattr(error, "lineno", None)
        why = f"cannot be imported: {type(error).__name__}: {error}"
        raise InputError(Problem(why, source=str(path), line=line)) from error
    return module
