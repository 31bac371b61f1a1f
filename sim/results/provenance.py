"""Where a run came from: versions, machine, command, dates and wall-clock figures. Nothing of this is in
another file."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from typing import Any

_PACKAGES = ("thinkcap", "numpy", "pandas", "pyarrow", "scipy", "simpy", "pydantic", "plotly")


def collect(
    *,
    seed: int,
    started: datetime,
    wall_s: float,
    requests: int,
    tokens: int,
    profiles: Mapping[str, Mapping[str, Any]] | None = None,
    workload: Mapping[str, Any] | None = None,
    command: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """The content of provenance.json.

    *wall_s* is the time that simulating took, *tokens* the output tokens generated in it; *profiles* holds,
    for each pool, its profile's name, sha256 …; *command* defaults to the command line.
    """
    return {
        "thinkcap": _version("thinkcap"),
        "seed": seed,
        "command": list(sys.argv if command is None else command),
        "overrides": list(overrides),
        "started_at": started.astimezone(UTC).isoformat(timespec="seconds"),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_s": wall_s,
        "requests": requests,
        "requests_per_wall_s": requests / wall_s if wall_s > 0 else None,
        "tokens": tokens,
        "tokens_per_wall_s": tokens / wall_s if wall_s > 0 else None,
        "peak_memory_bytes": peak_memory_bytes(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "profiles": {name: dict(profile) for name, profile in (profiles or {}).items()},
        "workload": dict(workload or {}),
    }


def peak_memory_bytes() -> int | None:
    """Largest resident size of this process so far, in bytes; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # not a Unix
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@cache
def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
