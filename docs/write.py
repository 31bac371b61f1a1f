"""Writes what is generated in the documentation: ``docs/scenario.md`` and the README's table of commands."""

from __future__ import annotations

import re
from pathlib import Path

from sim.cli.main import commands
from sim.scenario.reference import reference

ROOT = Path(__file__).parents[1]


def main() -> None:
    (ROOT / "docs" / "scenario.md").write_text(reference(), encoding="utf-8")
    readme = ROOT / "README.md"
    rows = "".join(f"| `{name}` | {text} |\n" for name, text in commands().items())
    text = re.sub(
        r"(\| command \| what it does \|\n\| --- \| --- \|\n)(?:(?:\|.*|<!--.*)\n)*",
        lambda match: match[1] + rows,
        readme.read_text(encoding="utf-8"),
    )
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
