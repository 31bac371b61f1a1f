"""Arguments that several subcommands share: which scenario, and what to change in it."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.scenario.model import Scenario


def add_scenario(parser: argparse.ArgumentParser) -> None:
    """Declare ``SCENARIO``, ``--set``, ``--seed`` and ``--replications``."""
    parser.add_argument(
        "scenario",
        metavar="SCENARIO",
        help="a YAML file, or the name of a shipped one (`thinkcap scenarios`)",
    )
    add_changes(parser)


def add_changes(parser: argparse.ArgumentParser) -> None:
    """Declare what changes a scenario: ``--set``, ``--seed`` and ``--replications``."""
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="change one key, such as workload.rate=5/s; may be given often",
    )
    parser.add_argument("--seed", metavar="N", help="same as --set seed=N")
    parser.add_argument("--replications", metavar="N", help="same as --set measure.replications=N")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declare ``--json``: then nothing but JSON goes to stdout."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def print_json(data: Any) -> None:
    """Print *data*; what is no number (NaN, infinite) is null."""
    import json

    from sim.results.results import plain

    print(json.dumps(plain(data), indent=2, allow_nan=False))


def overrides_of(args: argparse.Namespace) -> list[str]:
    """All changes that *args* ask for."""
    changes = list(args.overrides)
    if args.seed is not None:
        changes.append(f"seed={args.seed}")
    if args.replications is not None:
        changes.append(f"measure.replications={args.replications}")
    return changes


def load_scenario(args: argparse.Namespace) -> Scenario:
    """The scenario that *args* ask for; what an override has replaced is said on stderr."""
    from sim.scenario.load import load_with_notes

    scenario, notes = load_with_notes(args.scenario, overrides_of(args))
    if not getattr(args, "quiet", False):
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
    return scenario
