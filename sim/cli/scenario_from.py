"""Write a scenario from a deployment: a `vllm serve` command line, Kubernetes manifests, or Helm values.

  thinkcap scenario-from "vllm serve Qwen/Qwen3-32B -tp 2 --max-num-seqs 128" --hardware h100-sxm
  thinkcap scenario-from serve.sh --hardware h200 --out mine.yaml
  thinkcap scenario-from kubernetes.yaml --set workload.rate=3/s

It is the inverse of what `thinkcap plan` says to deploy. A deployment has no traffic: the workload is a preset's until
you say more with --set. Options that are unknown or not modelled are named and refused; --leave-out drops one knowingly.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

HELP = "write a scenario from a vllm serve command line, Kubernetes manifests or Helm values"
PRESET, RATE = "deepseek-r1-production", "1/s"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    parser.add_argument(
        "deployment", metavar="DEPLOYMENT", nargs="+", help="a command line, or a shell or YAML file that has it"
    )
    parser.add_argument(
        "--hardware", metavar="GPU", help="where the deployment does not say it (`thinkcap list hardware`)"
    )
    parser.add_argument("--model", metavar="MODEL", help="a known model or a config.json, in place of the one served")
    parser.add_argument("--replicas", metavar="N", type=int, help="servers of a command line (default: 1)")
    parser.add_argument("--name", metavar="NAME", default="deployment", help="of the scenario")
    parser.add_argument("--leave-out", metavar="OPTION", action="append", default=[], help="drop an option; often")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides", help="change one key; often"
    )
    parser.add_argument("--out", metavar="FILE", help="write there instead of printing")
    parser.add_argument("--json", action="store_true", help="print JSON instead of YAML")


def run(args: argparse.Namespace) -> int:
    """Run it."""
    import json

    from sim.scenario.load import load

    pools, notes = _pools(args)
    several = len(pools) > 1
    data: dict[str, Any] = {
        "name": args.name,
        "workload": {"preset": PRESET, "rate": RATE},
        "pools": pools,
        "router": "random"
        if several or any(int(pool.get("replicas", 1)) > 1 for pool in pools.values())
        else "round_robin",
        "measure": {"warmup": "10 min", "queries": 1000, "replications": 3},
    }
    scenario = load(data, args.overrides)
    traffic = [text for text in args.overrides if text.startswith("workload.")]
    if not traffic:
        notes.append(f"a deployment has no traffic: {PRESET} at {RATE} is assumed; --set workload.rate=…")
    if args.json:
        text = json.dumps(scenario.resolved(), indent=2) + "\n"
    else:
        text = scenario.to_yaml()
    if args.out is not None:
        Path(args.out).write_text(text, encoding="utf-8")
        notes.append(f"written to {args.out}; thinkcap run it")
    else:
        print(text, end="")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return 0


def _pools(args: argparse.Namespace) -> tuple[dict[str, dict[str, Any]], list[str]]:
    from sim.errors import InputError, Problem
    from sim.planning.from_kubernetes import Found, pools_of
    from sim.planning.from_serve import is_serve, served, words_of

    said = list(args.deployment)
    path = Path(said[0]) if len(said) == 1 else None
    try:
        is_file = path is not None and path.is_file()
    except OSError:  # a command line longer than a path may be
        is_file = False
    if path is not None and is_file and path.suffix in (".yaml", ".yml", ".json"):
        found = pools_of(_text(path), str(path), leave_out=args.leave_out)
    else:
        text = _text(path) if path is not None and is_file else None
        words = words_of(text or said[0]) if len(said) == 1 else said
        source = str(path) if is_file else "DEPLOYMENT"
        if not is_serve(words):
            raise InputError(
                Problem(
                    f"{' '.join(words)[:60]!r} starts no vLLM server",
                    source=source,
                    expected="vllm serve MODEL …, or a file: a script with it, Kubernetes manifests, Helm values",
                )
            )
        found = Found()
        found.put("served", served(words, leave_out=args.leave_out, source=source), replicas=1, hardware=None)
    for pool in found.values():
        if args.hardware is not None:
            pool["hardware"] = args.hardware
        if args.model is not None:
            pool["model"] = args.model
        if args.replicas is not None:
            pool["replicas"] = args.replicas
    if missing := [name for name, pool in found.items() if "hardware" not in pool]:
        raise InputError(
            Problem(
                f"the deployment does not say the GPU of pool {', '.join(missing)}",
                key="--hardware",
                expected="a GPU such as h100-sxm (`thinkcap list hardware`)",
            )
        )
    return dict(found), found.notes


def _text(path: Path) -> str:
    from sim.errors import InputError, Problem

    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(Problem(f"cannot be read: {error}", source=str(path))) from None
