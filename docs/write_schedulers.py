"""Writes the tables of "Who wins for what" in ``docs/schedulers.md``: every scheduler on the same queries, at four loads.

    python docs/write_schedulers.py RUNS.jsonl [--anew NAME,NAME] [--replications 15]

Runs what RUNS.jsonl does not hold yet, a line a scheduler and load, so that a run that was stopped goes on; ``--anew`` runs
those schedulers again. About twenty minutes of one core.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from sim.validation.side_by_side import BASE, LOADS, METRICS, Metric, Runs, difference, gather, same, winners

PAGE = Path(__file__).with_name("schedulers.md")
BEGIN, END = "<!-- written by docs/write_schedulers.py -->\n", "<!-- end of what it writes -->\n"
NAMED = 3
"""Schedulers named beside a winner that cannot be told from it."""
HEAD = " | ".join(f"{share:g}" for share in LOADS) + " |\n" + "| --- " * (len(LOADS) + 1) + "|\n"


def written(runs: Runs) -> str:
    """All that stands between the marks."""
    every = [BASE, *sorted({name for _, name in runs} - {BASE})]
    names = [name for name in every if name == BASE or not same(runs, name)]
    kept = {which: each for which, each in runs.items() if which[1] in names}
    parts = [said(runs, [name for name in every if name not in names]), best(kept)]
    parts += [table(metric, kept, names) for metric in METRICS]
    return "\n".join([*parts, beside(kept, names)])


def said(runs: Runs, equal: Sequence[str]) -> str:
    """What was run, in words."""
    count = [sum(runs[share, BASE]["n"]) for share in LOADS]
    first = runs[LOADS[0], BASE]
    text = (
        f"{len(first['n'])} replications of 20 minutes, the same queries for all, {count[0]:,.0f} to {count[-1]:,.0f} "
        f"measured. Load 1 is the rate that\n`{BASE}` completes when there is always work, {first['rate']:.3f} queries/s."
    )
    if equal:
        text += f" Equal to `{BASE}` to the last digit, and left out: {', '.join(f'`{name}`' for name in equal)}."
    return text + "\n"


def best(runs: Runs) -> str:
    """A row a metric: who is best at each load, and in brackets who cannot be told from it."""
    lines = "| best at load | " + HEAD
    for metric in METRICS:
        cells = []
        for share in LOADS:
            first, *alike = winners(runs, metric, share) or ["\u2013"]
            cell = f"`{first}`" if first != "\u2013" else first
            if alike:
                more = f" and {len(alike) - NAMED} more" if len(alike) > NAMED else ""
                cell += f" ({', '.join(f'`{name}`' for name in alike[:NAMED])}{more})"
            cells.append(cell)
        lines += f"| {metric.name} | " + " | ".join(cells) + " |\n"
    return lines


def table(metric: Metric, runs: Runs, names: Sequence[str]) -> str:
    """A row a scheduler: of the base its mean, of the others their difference from it."""
    text = f"**{metric.name.capitalize()}, {metric.unit}**\n\n| load | {HEAD}"
    for name in names:
        cells = []
        for share in LOADS:
            base, mine = (metric.factor * np.array(runs[share, each][metric.key]) for each in (BASE, name))
            found = difference(mine, np.zeros(len(mine)) if name == BASE else base)
            if found is None:
                cells.append("\u2013")
            elif name == BASE:
                cells.append(f"{_number(found.mean, metric)} (± {_number(found.half, metric)})")
            else:
                sign = "+" if found.mean >= 0 else "\u2212"
                cell = f"{sign}{_number(abs(found.mean), metric)} ± {_number(found.half, metric)}"
                cells.append(f"**{cell}**" if found.clear else cell)
        text += f"| `{name}` | " + " | ".join(cells) + " |\n"
    return text


def _number(value: float, metric: Metric) -> str:
    decimals = 1 if metric.decimals == 2 and abs(value) >= 1 else metric.decimals
    return f"{value:,.{decimals}f}"


def beside(runs: Runs, names: Sequence[str]) -> str:
    """Preemptions a query, and the share of queries still open at the end."""
    text = "**Preemptions a query; queries open at the end, per cent**\n\n| load | " + HEAD
    for name in names:
        cells = []
        for share in LOADS:
            each = runs[share, name]
            total = sum(each["n"])
            cells.append(f"{sum(each['preemptions']) / total:.2f}; {100 * sum(each['open']) / total:.3g}")
        text += f"| `{name}` | " + " | ".join(cells) + " |\n"
    return text


def main() -> None:
    """Run what is missing, then write the page."""
    assert __doc__
    parser = argparse.ArgumentParser(prog="python docs/write_schedulers.py", description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="where figures are kept, a line a scheduler and load")
    parser.add_argument("--anew", default="", help="schedulers to run again, divided by commas")
    parser.add_argument("--replications", type=int, default=15)
    options = parser.parse_args()
    runs = gather(
        options.replications, kept=options.runs, anew=options.anew.split(","), told=partial(print, flush=True)
    )
    text = PAGE.read_text(encoding="utf-8")
    between = re.compile(re.escape(BEGIN) + r".*?" + re.escape(END), re.S)
    assert between.search(text), f"{PAGE} has lost its marks"
    PAGE.write_text(between.sub(lambda _: BEGIN + written(runs) + END, text), encoding="utf-8")


if __name__ == "__main__":
    main()
