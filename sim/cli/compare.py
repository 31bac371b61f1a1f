"""Compare scenarios on the same queries: differences paired query by query, with their intervals.

thinkcap compare before after
thinkcap compare quickstart quickstart --change pools.reasoning.replicas=3      one scenario and a change of it
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from sim.cli._arguments import add_changes, overrides_of
from sim.cli._planning import add_precision, add_runner, estimate, interrupted, precision_of, runner_of

HELP = "compare scenarios on the same queries, with intervals of the differences"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    parser.add_argument("scenarios", metavar="SCENARIO", nargs="+", help="two or more; the first is the reference")
    parser.add_argument(
        "--change",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="changes the last scenario alone (or a copy of the only one); may be given often",
    )
    add_changes(parser)
    add_precision(parser)
    add_runner(parser)


def run(args: argparse.Namespace) -> int:
    """Run it."""
    from sim.errors import InputError, Problem
    from sim.planning.compare import compare
    from sim.planning.runs import Store
    from sim.planning.sweep import tasks_of
    from sim.scenario.load import load

    names = list(args.scenarios)
    if len(names) == 1 and args.change:
        names *= 2
    if len(names) < 2:
        raise InputError(Problem("one scenario", expected="two or more, or one and --change KEY=VALUE"))
    overrides = overrides_of(args)
    scenarios = [load(name, overrides) for name in names[:-1]]
    scenarios.append(load(names[-1], [*overrides, *args.change]))
    told: dict[str, int] = {}
    for place, scenario in enumerate(scenarios):
        told[scenario.name] = told.get(scenario.name, 0) + 1
        if told[scenario.name] > 1:
            mark = " ".join(args.change) if place == len(scenarios) - 1 and args.change else str(told[scenario.name])
            scenarios[place] = scenario.model_copy(update={"name": f"{scenario.name} ({mark})"[:200]})
    if args.out is None and not args.resume:
        args.resume = Store.holds_points(Path("runs") / "compare")  # a scratch store: points are reused
    runner = runner_of(args, Path("runs") / "compare")
    precision = precision_of(args, scenarios[0])
    try:
        count = max(scenario.measure.replications for scenario in scenarios)
        said = estimate(runner, [task for scenario in scenarios for task in tasks_of(scenario, count)])
        if said and not args.quiet:
            print(said, file=sys.stderr)
        found = compare(scenarios, runner, precision)
    except KeyboardInterrupt:
        return interrupted(runner)
    if args.json:
        import json

        from sim.results.results import plain

        print(json.dumps(plain(found), indent=2))
    else:
        print(_text(found))
    for why in found["unpaired_because"]:
        print(f"note: queries are not paired: {why}", file=sys.stderr)
    return 0


def _text(found: dict[str, Any]) -> str:
    from sim.report import formats

    def say(value: float | None, unit: str) -> str:
        if value is None or value != value:
            return formats.MISSING
        sign = "-" if value < 0 else ""
        words = {"s": formats.duration, "USD": formats.money}.get(unit, formats.percent)
        return sign + words(abs(value))

    lines = []
    for pair in found["differences"]:
        lines += [f"{pair['other']} against {pair['first']}, {found['replications']} replications", ""]
        rows = [["", "first", "other", "difference", "95 % interval", ""]]
        for figure in pair["figures"]:
            unit = figure["unit"]
            bounds = "" if figure["low"] is None else f"{say(figure['low'], unit)} to {say(figure['high'], unit)}"
            rows.append(
                [
                    figure["metric"],
                    *(say(figure[key], unit) for key in ("first", "other", "difference")),
                    bounds,
                    "" if figure["clear"] or not bounds else "not clear",
                ]
            )
        widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        lines.append("")
    return "\n".join(lines).rstrip()
