"""The JSON Schema of scenarios, for editors that complete and check YAML.

Put ``# yaml-language-server: $schema=schema.json`` in a scenario's first line.
"""

from __future__ import annotations

import argparse

HELP = "print the JSON Schema of scenarios, for editors"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON: the schema is, so this changes nothing")
    form.add_argument(
        "--markdown", action="store_true", help="print the reference of all keys (docs/scenario.md) instead"
    )


def run(args: argparse.Namespace) -> int:
    """Print it."""
    if args.markdown:
        from sim.scenario.reference import reference

        print(reference(), end="")
    else:
        from sim.scenario.schema import schema_text

        print(schema_text(), end="")
    return 0
