"""Simulate a scenario over values of its keys, and print the table of what came of it.

  thinkcap sweep quickstart --over workload.rate=0.5/s,1/s,2/s --over pools.reasoning.replicas=1,2
  thinkcap sweep quickstart --over workload.rate=1..4:7/s            seven rates from 1/s to 4/s
  thinkcap sweep quickstart --over … --over … --list                 pairs instead of a grid
  thinkcap sweep quickstart --over … --over … --random 20            20 combinations drawn from the grid
  thinkcap sweep frontier                                            what the scenario's sweep section says

Every finished point is on disk at once: after Ctrl-C, a crash or kill -9, --resume goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from sim.cli._arguments import add_scenario, overrides_of
from sim.cli._planning import add_precision, add_runner, estimate, interrupted, precision_of, runner_of

HELP = "simulate a scenario over values of its keys: grid, list or random"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    add_scenario(parser)
    parser.add_argument("--over", metavar="KEY=V1,V2", action="append", default=[], help="a key and its values; often")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--list", action="store_true", dest="as_list", help="first values together, then the second …")
    way.add_argument("--random", metavar="N", type=int, help="N combinations drawn from the grid")
    add_precision(parser)
    add_runner(parser)


def run(args: argparse.Namespace) -> int:
    """Run it; exit code 1 when a point failed."""
    from sim.cli.run import folder_name
    from sim.planning import sweep
    from sim.scenario.load import load

    overrides = overrides_of(args)
    base = load(args.scenario, overrides)
    named: dict[str, list[str]] = {}
    if args.over:
        axes = [sweep.parse_axis(text) for text in args.over]
    else:
        axes, named = sweep.stated(base)
    if args.as_list:
        settings = sweep.listed(axes)
    elif args.random is not None:
        settings = sweep.drawn(axes, args.random, base.seed)
    else:
        settings = sweep.grid(axes)
    precision = precision_of(args, base)
    runner = runner_of(args, Path("runs") / f"{folder_name(base.name)}-sweep")
    found = sweep.points(args.scenario, overrides, settings, named)
    try:
        tasks = [task for point in found if point.scenario is not None for task in sweep.tasks_of(point.scenario)]
        said = estimate(runner, tasks)
        if said and not args.quiet:
            print(said, file=sys.stderr)
        table = sweep.run(found, runner, precision)
    except KeyboardInterrupt:
        return interrupted(runner)
    sweep.write(table, runner.store.folder)
    page = _page(table, base.name, [axis.key for axis in axes], runner.store.folder)
    if args.json:
        print(sweep.as_json(table), end="")
    else:
        print(_text(table, [axis.key for axis in axes]))
        print(f"\ntable    {runner.store.folder / 'table.csv'} (and .parquet)")
        if page is not None:
            print(f"report   {page}")
    bad = table[table["state"] != "done"]
    for row in bad.to_dict("records"):
        print(f"{row['state']}: {row['error']}", file=sys.stderr)
    return 1 if len(bad) else 0


def _page(table: object, name: str, keys: list[str], folder: Path) -> Path | None:
    """The report, where there is something to weigh: accuracy against cost and time."""
    import pandas as pd

    from sim.report.sweep import write_sweep

    assert isinstance(table, pd.DataFrame)
    if "accuracy" not in table or table["accuracy"].isna().all():
        return None
    return write_sweep(table, folder / "report.html", name=name, keys=keys)


def _text(table: object, keys: list[str]) -> str:
    import pandas as pd

    assert isinstance(table, pd.DataFrame)
    columns = {
        "p50_tta_s": "p50 TTA",
        "p99_tta_s": "p99 TTA",
        "p95_ttft_s": "p95 TTFT",
        "attainment": "SLO",
        "queries_per_s": "queries/s",
        "accuracy": "right",
        "cost_per_query_usd": "USD/query",
        "kv_use_max": "KV max",
    }
    from sim.report import formats

    say: dict[str, Callable[[float | None], str]] = dict.fromkeys(columns, formats.duration)
    say |= dict.fromkeys(("attainment", "kv_use_max", "accuracy"), formats.percent)
    extra: dict[str, tuple[str, Callable[[float | None], str]]] = {
        "training_step_s": ("training step", formats.duration),
        "gpu_hours_per_step": ("GPU-hours a step", formats.number),
        "bubble_share": ("seats empty", formats.percent),
        "hit_rate": ("cache hits", formats.percent),
    }
    for key, (head_of, words) in extra.items():
        columns[key], say[key] = head_of, words
    for key in ("accuracy", *extra):
        if key not in table:
            del columns[key]
    say |= {"queries_per_s": formats.number, "cost_per_query_usd": formats.number}
    rows = []
    for record in table.to_dict("records"):
        cells = [str(record[key]) for key in keys]
        if record["state"] != "done":
            rows.append([*cells, record["state"], *[""] * (len(columns) - 1), ""])
            continue
        for key in columns:
            value = record.get(key)
            text = say[key](value)
            if key == "p99_tta_s" and text == formats.MISSING and record.get("p99_tta_at_least_s"):
                text = "≥ " + formats.duration(record["p99_tta_at_least_s"])
            cells.append(text)
        state = "overloaded" if record["overloaded"] else "saturated" if record["saturated"] else ""
        rows.append([*cells, state])
    head = [*(key.rpartition(".")[2] for key in keys), *columns.values(), ""]
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
    )
