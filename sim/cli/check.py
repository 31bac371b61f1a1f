"""Where ThinkCap's packages are imported from, and in which versions everything is installed.

``sim``, ``workloads`` and ``calibration`` are common words: another installed package could own one of them.
This says so, with exit code 2.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from sim.cli._arguments import add_json, print_json

HELP = "say where everything is imported from, and which versions are installed"

PACKAGES = ("sim", "workloads", "calibration")
DEPENDENCIES = (
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "simpy",
    "pydantic",
    "pyyaml",
    "plotly",
    "jinja2",
    "rich",
    "joblib",
    "torch",
)


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print, and raise an InputError when a package is somebody else's."""
    from sim import __version__
    from sim.errors import InputError, Problem
    from sim.scenario.load import shipped, shipped_folder

    found: dict[str, Any] = {
        "thinkcap": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {},
        "scenarios": {"folder": str(shipped_folder()), "count": len(shipped())},
        "dependencies": {},
    }
    home = Path(__file__).resolve().parents[2]
    problems = []
    for name in PACKAGES:
        folder = _folder(name)
        found["packages"][name] = None if folder is None else str(folder)
        if folder is None or folder.parent != home:
            problems.append(
                Problem(
                    f"package {name!r} is imported from {folder}",
                    expected=f"{home / name}; another installed package has the same name",
                )
            )
    for name in DEPENDENCIES:
        try:
            found["dependencies"][name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found["dependencies"][name] = None
    if args.json:
        print_json(found)
    else:
        _print(found)
    if problems:
        raise InputError(problems)
    return 0


def _print(found: dict[str, Any]) -> None:
    print(f"thinkcap {found['thinkcap']}, Python {found['python']}, {found['platform']}")
    for name, folder in found["packages"].items():
        print(f"{name:<12} {folder or 'not found'}")
    print(f"{'scenarios':<12} {found['scenarios']['folder']} ({found['scenarios']['count']})")
    for name, version in found["dependencies"].items():
        print(f"{name:<12} {version or 'not installed' + (' (optional)' if name == 'torch' else '')}")


def _folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).resolve().parent if spec is not None and spec.origin else None
