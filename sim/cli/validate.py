"""Read scenarios and everything they name, without running them.

Every problem is printed with its file, line and key; the exit code is then 2.
"""

from __future__ import annotations

import argparse
import sys

from sim.cli._arguments import add_changes, add_json, overrides_of, print_json

HELP = "check scenarios without running them"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    parser.add_argument("scenarios", metavar="SCENARIO", nargs="+", help="YAML files or names of shipped ones")
    add_changes(parser)
    parser.add_argument("--resolved", action="store_true", help="print them with every default stated")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Check all, then say what is wrong with any."""
    from sim.errors import DoesNotFit, InputError, Problem
    from sim.scenario.check import check_categories
    from sim.scenario.load import load_with_notes
    from workloads.source import build

    problems: list[Problem] = []
    valid: list[dict[str, object]] = []
    for name in args.scenarios:
        try:
            scenario, notes = load_with_notes(name, overrides_of(args))
            source = build(scenario.workload, seed=scenario.seed)
            source.block(0)
            if scenario.workload.preset is not None:
                check_categories(scenario, source.categories)
            if scenario.plan is not None or scenario.sweep is not None:
                from sim.planning import variants

                if wrong_ones := variants.problems(name, overrides_of(args), scenario):
                    raise InputError(wrong_ones)
        except InputError as error:
            problems += error.problems
            continue
        except DoesNotFit as error:
            problems.append(Problem(str(error)))
            continue
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        if args.json:
            about: dict[str, object] = {"scenario": name, "name": scenario.name, "valid": True, "workload": source.name}
            valid.append(about | ({"resolved": scenario.resolved()} if args.resolved else {}))
        elif args.resolved:
            print(scenario.to_yaml(), end="")
        else:
            print(f"{name}: {scenario.name} is valid; {source.name}, {_pools(scenario)}")
    if args.json:
        wrong = [{"valid": False, "problem": str(problem)} for problem in problems]
        print_json([*valid, *wrong])
    if problems:
        raise InputError(problems)
    return 0


def _pools(scenario: object) -> str:
    from sim.scenario.model import Scenario

    assert isinstance(scenario, Scenario)
    parts = []
    for name, pool in scenario.pools.items():
        size = pool.tensor_parallel_size * pool.pipeline_parallel_size * pool.data_parallel_size
        plural = "s" if pool.replicas > 1 else ""
        parts.append(f"{name}: {pool.replicas} replica{plural} of {pool.model} on {size} {pool.hardware}")
    return "; ".join(parts)
