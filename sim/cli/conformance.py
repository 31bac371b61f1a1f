"""Replay recordings of the real vLLM scheduler and say whether our engine decides the same.

A recording is a folder with settings.json, workload.csv, steps.csv.gz, requests.csv. Every row and column is
compared. Prints one line a recording, or the first difference with both plans; the exit code is then 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sim.cli._arguments import add_json, print_json

HELP = "replay recordings of the real scheduler and compare every decision"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="a recording, or a folder of recordings")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--stepwise", action="store_true", help="step by step instead of the fast mode")
    mode.add_argument("--both", action="store_true", help="in both modes")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Replay each recording; 1 when one of them is missed. What cannot be read is raised at the end."""
    from sim.errors import InputError, Problem
    from sim.validation.conformance import check_recording
    from sim.validation.recording import find, load

    problems: list[Problem] = []
    modes = (True, False) if args.both else (args.stepwise,)
    missed = 0
    found: list[dict[str, Any]] = []
    folders = find(args.folders)
    width = max(len(folder.name) for folder in folders)
    for folder in folders:
        try:
            recording = load(folder)
        except InputError as error:
            problems += error.problems
            continue
        for stepwise in modes:
            outcome = check_recording(recording, stepwise=stepwise)
            size = f"{outcome.steps:,} steps, {len(recording.requests):,} requests"
            missed += outcome.difference is not None
            if args.json:
                found.append(
                    {
                        "recording": outcome.name,
                        "mode": outcome.mode,
                        "equal": outcome.difference is None,
                        "steps": outcome.steps,
                        "requests": len(recording.requests),
                        "difference": None if outcome.difference is None else str(outcome.difference),
                    }
                )
            elif outcome.difference is None:
                print(f"{outcome.name:<{width}}  {outcome.mode:<12}  equal  {size}", flush=True)
            else:
                print(f"{outcome.name:<{width}}  {outcome.mode:<12}  differs  {size}")
                print(f"{outcome.difference}", flush=True)
    if args.json:
        print_json(found)
    if problems:
        raise InputError(problems)
    return 1 if missed else 0
