"""Which GPUs, how many, in which configuration meet the targets at the least cost; how sure; what breaks first.

Alternatives stand in the scenario's plan section (docs/planning.md). The output directory gets plan.json, the
report plan.html, recommended.yaml (a scenario that can be run as it is) and what to deploy: serve-POOL.sh,
kubernetes.yaml, load-test.sh with its workload.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.cli._arguments import add_scenario, overrides_of
from sim.cli._planning import add_runner, interrupted, runner_of

if TYPE_CHECKING:
    from sim.scenario.model import Scenario

HELP = "find the cheapest configuration that meets the targets, and how sure that is"
LOAD_TEST_QUERIES = 1000


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    add_scenario(parser)
    add_runner(parser)


def run(args: argparse.Namespace) -> int:
    """Run it; exit code 1 when no candidate meets the targets."""
    import json

    from sim.cli.run import folder_name
    from sim.planning.planner import make_plan
    from sim.planning.text import text
    from sim.results.results import plain
    from sim.scenario.load import load

    overrides = overrides_of(args)
    base = load(args.scenario, overrides)
    runner = runner_of(args, Path("runs") / f"{folder_name(base.name)}-plan")
    folder = runner.store.folder
    try:
        plan = make_plan(
            args.scenario,
            overrides,
            runner,
            say=lambda words: None if args.quiet else print(words, file=sys.stderr),
        )
    except KeyboardInterrupt:
        return interrupted(runner)
    plan = plain(plan)
    plan["deployment"] = _deploy(plan, folder) if plan["feasible"] else None
    (folder / "plan.json").write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")
    _report(plan, folder)
    if args.json:
        print(json.dumps(plan, indent=2))
    else:
        print(text(plan))
        print(f"\nreport       {folder / 'plan.html'}")
        if plan["feasible"]:
            print(f"recommended  {folder / 'recommended.yaml'} (thinkcap run it)")
    return 0 if plan["feasible"] else 1


def _report(plan: dict[str, Any], folder: Path) -> None:
    from sim.report.plan import write_plan

    write_plan(plan, folder / "plan.html")


def _deploy(plan: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write what to deploy beside the plan; returns the texts."""
    from sim.planning import deploy
    from sim.scenario.load import load
    from workloads.drawn import batches_of
    from workloads.formats.write import write
    from workloads.source import build

    scenario: Scenario = load(plan["recommended"])
    (folder / "recommended.yaml").write_text(scenario.to_yaml(), encoding="utf-8")
    texts: dict[str, Any] = {"serve": {}, "differences": list(deploy.differences(scenario))}
    for name, pool in scenario.pools.items():
        command = deploy.serve_command(pool)
        texts["serve"][name] = command
        (folder / f"serve-{name}.sh").write_text("#!/bin/sh\nset -eu\n" + command, encoding="utf-8")
    texts["kubernetes"] = deploy.manifest(scenario)
    (folder / "kubernetes.yaml").write_text(texts["kubernetes"], encoding="utf-8")
    source = build(scenario.workload, seed=scenario.seed)
    queries = LOAD_TEST_QUERIES if source.total is None else min(LOAD_TEST_QUERIES, source.total)
    write(folder / "workload.jsonl", batches_of(source, queries=queries, duration_s=None), name="vllm-custom")
    texts["load_test"] = deploy.load_test(scenario, "workload.jsonl", rate_per_s=plan["rate_per_s"], queries=queries)
    (folder / "load-test.sh").write_text("#!/bin/sh\nset -eu\n" + texts["load_test"], encoding="utf-8")
    return texts
