"""Imports vLLM's scheduler files without the rest of vLLM: what they import beside is an empty stand-in."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import FunctionType, ModuleType
from types import SimpleNamespace as Plain
from typing import Any

PACKAGES = ("vllm", "vllm.v1", "vllm.v1.core", "vllm.v1.core.sched", "vllm.utils")
RUN = (
    *(
        f"vllm.v1.core.sched.{name}"
        for name in ("async_scheduler", "interface", "output", "request_queue", "scheduler", "utils")
    ),
    *(
        f"vllm.v1.core.{name}"
        for name in ("block_pool", "encoder_cache_manager", "kv_cache_coordinator", "kv_cache_manager")
    ),
    *(f"vllm.v1.core.{name}" for name in ("kv_cache_metrics", "kv_cache_utils", "single_type_kv_cache_manager")),
    *(f"vllm.v1.{name}" for name in ("kv_cache_interface", "kv_cache_spec_registry", "request")),
    "vllm.utils.math_utils",
)
"""Files of vLLM that are run as they are."""
ABSENT = ("torch", "msgspec", "cbor2", "xxhash", "transformers", "blake3", "cachetools")


class _AnyClass(type):
    """A class whose attributes are classes again: what is imported from a stand-in and never used."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _any_class(name)

    def __or__(cls, other: Any) -> Any:
        return cls

    def __ror__(cls, other: Any) -> Any:
        return cls

    def __getitem__(cls, item: Any) -> Any:
        return cls

    def __iter__(cls) -> Iterator[Any]:
        return iter(())

    def __call__(cls, *args: Any, **values: Any) -> Any:
        if len(args) == 1 and isinstance(args[0], (type, FunctionType)):
            return args[0]  # used as a decorator
        made: Any = super().__call__()
        made.__dict__.update(values)
        return made


def _any_class(name: str) -> Any:
    return _AnyClass(name, (), {"__getattr__": lambda self, asked: _any_class(asked), "__bool__": lambda self: False})


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(self, name, _any_class(name))
        return self.__dict__[name]


class _Finder(MetaPathFinder, Loader):
    """Finds vLLM's own files for what is run, and stand-ins for the rest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name in RUN:
            return spec_from_file_location(name, self.folder / f"{name.replace('.', '/')}.py")
        if name.split(".")[0] not in ("vllm", *ABSENT):
            return None
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name) if spec.name in PACKAGES else _StandIn(spec.name)
        module.__path__ = []
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__.update(_FILLED.get(module.__name__, {}))


class _View:
    """A list that is only read."""

    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def __getitem__(self, item: Any) -> Any:
        return self._items[item]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)


@contextmanager
def _nothing(*args: Any, **options: Any) -> Iterator[None]:
    yield


def _logger(name: str) -> Any:
    made: Any = logging.getLogger(name)
    made.info_once = made.warning_once = made.info
    return made


_FILLED: dict[str, dict[str, Any]] = {
    "vllm.utils": {"length_from_prompt_token_ids_or_embeds": lambda tokens, embeds: len(tokens)},
    "vllm.v1.utils": {"record_function_or_nullcontext": _nothing, "ConstantList": _View},
    "vllm.logger": {"init_logger": _logger},
    "vllm.v1.engine": {"FinishReason": IntEnum("FinishReason", "STOP LENGTH ABORT ERROR REPETITION")},
    "vllm.v1.structured_output.request": {
        "StructuredOutputRequest": Plain(from_sampling_params=lambda params: None),
    },
    "vllm.v1.metrics.stats": {"KV_FETCH_STAGES": ()},
    "vllm.platforms": {"current_platform": Plain(is_xpu=lambda: False, is_cuda_alike=lambda: False)},
}
"""What is used of modules that are not run."""


def use(folder: Path) -> None:
    """From now on ``vllm`` is what lies in *folder*."""
    if not (folder / "vllm" / "v1" / "core" / "sched" / "scheduler.py").is_file():
        raise SystemExit(f"{folder} does not hold the package vllm")
    sys.meta_path.insert(0, _Finder(folder))
