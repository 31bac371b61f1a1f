"""The scenarios that come with ThinkCap, and what each is for."""

from __future__ import annotations

import argparse

HELP = "list the scenarios that come with ThinkCap"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    parser.add_argument("--paths", action="store_true", help="print their files instead")
    parser.add_argument("--json", action="store_true", help="print names, descriptions and files as JSON")


def run(args: argparse.Namespace) -> int:
    """List them."""
    from sim.scenario.load import shipped
    from sim.scenario.yaml_file import read_file

    known = shipped()
    if args.paths:
        print("\n".join(str(path) for path in known.values()))
        return 0
    if args.json:
        import json

        rows = [
            {"name": name, "description": read_file(path).data.get("description", ""), "path": str(path)}
            for name, path in known.items()
        ]
        print(json.dumps(rows, indent=2))
        return 0
    width = max(map(len, known), default=0)
    for name, path in known.items():
        print(f"{name:<{width}}  {read_file(path).data.get('description', '')}")
    return 0
