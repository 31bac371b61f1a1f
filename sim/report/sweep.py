"""The report of a sweep over ways to answer: what accuracy costs, in money and in time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sim.report import formats
from sim.report.figures import tradeoffs
from sim.report.html import Banner, Exhibit, Page, Section, Table, render

if TYPE_CHECKING:
    import pandas as pd


def write_sweep(table: pd.DataFrame, path: Path, *, name: str, keys: Sequence[str]) -> Path:
    """Write the report of a sweep's *table* to *path*; *keys* are what was varied. Returns the path."""
    path.write_text(render(page(table, name=name, keys=keys)), encoding="utf-8", errors="replace")
    return path


def page(table: pd.DataFrame, *, name: str, keys: Sequence[str]) -> Page:
    """What the report says."""
    data = tradeoffs.table(table, keys)
    front = data[data["frontier"]].sort_values("cost_per_query_usd")
    overloaded = int((data["state"] == "overloaded").sum())
    banners = []
    if overloaded:
        banners.append(
            Banner(
                f"{overloaded} of {len(data)} configurations are overloaded: their times grow with the length of the run.",
                "Give them more replicas, or leave them out.",
            )
        )
    missing = len(table) - len(data)
    if missing:
        banners.append(Banner(f"{missing} configurations have no figures: failed, or p99 hidden by open queries."))
    return Page(
        title=f"{name}: accuracy, cost, time",
        kicker=f"Sweep of {name}: {len(table)} configurations",
        answer=tradeoffs.finding(data) + ".",
        verdict="Frontier",
        tone="none",
        banners=banners,
        sections=[
            Section(
                "frontier",
                "What does accuracy cost?",
                [Exhibit("tradeoffs", tradeoffs.figure(data), data)],
                [_frontier(front)],
            )
        ],
        footer="Simulated with ThinkCap. All configurations face the same queries.",
    )


def _frontier(front: pd.DataFrame) -> Table:
    rows = [
        (
            str(row["name"]),
            f"{formats.percent(row['accuracy'])} "
            + formats.span([row["accuracy_low"], row["accuracy_high"]], formats.percent),
            formats.money(row["cost_per_query_usd"]),
            formats.money(row["cost_per_correct_usd"]),
            formats.duration(row["p99_tta_s"]),
            f"{row['n']:,}",
        )
        for row in front.to_dict("records")
    ]
    head = ("configuration", "right", "a query", "a right answer", "p99 TTA", "n")
    return Table(head, rows, frozenset({1, 2, 3, 4, 5}), "The frontier, cheapest first.")
