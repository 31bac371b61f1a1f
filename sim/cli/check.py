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
    """This command has no arguments."""


def run(args: argparse.Namespace) -> int:
    """Print, and raise an InputError when a package is somebody else's."""
    from sim import __version__
    from sim.errors import InputError, Problem
    from sim.scenario.load import shipped, shipped_folder

    print(f"thinkcap {__version__}, Python {platform.python_version()}, {platform.platform()}")
    home = Path(__file__).resolve().parents[2]
    problems = []
    for name in PACKAGES:
        folder = _folder(name)
        print(f"{name:<12} {folder or 'not found'}")
        if folder is None or folder.parent != home:
            problems.append(
                Problem(
                    f"package {name!r} is imported from {folder}",
                    expected=f"{home / name}; another installed package has the same name",
                )
            )
    print(f"{'scenarios':<12} {shipped_folder()} ({len(shipped())})")
    for name in DEPENDENCIES:
        try:
            print(f"{name:<12} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print(f"{name:<12} not installed" + (" (optional)" if name == "torch" else ""))
    if problems:
        raise InputError(problems)
    return 0


def _folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).resolve().parent if spec is not None and spec.origin else None
