"""The report of a run: the answer, then the evidence, then everything needed to believe or repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.report import answering, exhibits, facts, formats, serving
from sim.report.html import Code, Definitions, Fold, Items, Page, Table, Text, render

if TYPE_CHECKING:
    from sim.results.results import Results


def write_report(results: Results, path: Path | str) -> Path:
    """Write the report of *results* (with its summary) to *path*, one HTML file; returns the path."""
    target = Path(path)
    target.write_text(report(results), encoding="utf-8", errors="replace")
    return target


def report(results: Results) -> str:
    """The report of *results* as HTML."""
    return render(page(results))


def page(results: Results) -> Page:
    """What the report says, before it becomes HTML."""
    answer = facts.answer(results)
    name = str(results.scenario.get("name") or "unnamed scenario")
    count = len(results.runs)
    window = exhibits.window_s(results)
    return Page(
        title=f"{name}: {answer.verdict}",
        kicker=(
            f"{name}, {count} replication{'s' if count > 1 else ''} of "
            f"{formats.duration(window[1] - window[0])} measured after "
            f"{formats.duration(window[0])} of warm-up"
        ),
        answer=answer.sentence,
        verdict=answer.verdict,
        tone=answer.tone,
        reason=answer.reason,
        lines=[*answering.lines(results), *serving.lines(results)],
        tiles=facts.tiles(results),
        banners=facts.banners(results.summary),
        sections=exhibits.sections(results),
        folds=folds(results),
        footer=(
            f"Simulated with ThinkCap {results.provenance.get('thinkcap') or ''}. "
            f"Intervals are {formats.percent(results.summary['confidence'])} over replications; "
            "n counts what was measured."
        ),
    )


def folds(results: Results) -> list[Fold]:
    """What is collapsed: assumptions and provenance, every count, every statistic, the definitions."""
    return [
        Fold("assumptions", "Assumptions and provenance", _assumptions(results)),
        Fold("statistics", "Every statistic", [_statistics(results)]),
        Fold("balance-of-queries", "What became of every query and token", [_totals(results)]),
        Fold("definitions", "Definitions", [_definitions()]),
    ]


def _assumptions(results: Results) -> list[Any]:
    provenance, summary = results.provenance, results.summary
    blocks: list[Any] = []
    command = provenance.get("command") or []
    blocks.append(Code(_command(command), "To reproduce, with the scenario below:"))
    blocks.append(
        Table(
            ("what", "value"),
            [
                ("seed", str(provenance.get("seed", formats.MISSING))),
                ("replications", f"{len(results.runs):,}"),
                ("overrides", " ".join(map(str, provenance.get("overrides", ()))) or "none"),
                ("started", str(provenance.get("started_at", formats.MISSING))),
                ("simulated in", formats.duration(provenance.get("wall_s"))),
                ("speed", f"{formats.number(provenance.get('requests_per_wall_s'))} requests/s"),
                ("ThinkCap", str(provenance.get("thinkcap", formats.MISSING))),
                ("Python", str(provenance.get("python", formats.MISSING))),
                ("platform", str(provenance.get("platform", formats.MISSING))),
                *((str(k), str(v)) for k, v in dict(provenance.get("versions") or {}).items()),
            ],
            caption="Run",
        )
    )
    blocks += [
        Table(("what", "value"), _pool_rows(pool, summary), caption=f"Pool {pool.name}")
        for pool in results.runs[0].pools
    ]
    for key, title in (("workload", "Workload"), ("profiles", "Profiles")):
        if provenance.get(key):
            blocks.append(Table(("what", "value"), _flat(provenance[key]), caption=title))
    warm_up = summary["warm_up"]
    blocks.append(Table(("what", "value"), _flat(warm_up), caption="Warm-up"))
    if summary["not_modelled"]:
        blocks += [Text("Not modelled:"), Items([str(text) for text in summary["not_modelled"]])]
    blocks.append(Code(results.scenario_yaml, "The scenario, every default spelled out:"))
    return blocks


def _command(command: Any) -> str:
    words = [str(word) for word in command] if isinstance(command, (list, tuple)) else [str(command)]
    if words and words[0].endswith("thinkcap"):
        words[0] = "thinkcap"
    return shlex.join(words)


def _pool_rows(pool: Any, summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    fidelity = summary["fidelity"].get(pool.name, {})
    price = pool.price_usd_per_gpu_hour
    return [
        ("model", pool.model),
        (
            "hardware",
            f"{pool.gpus_per_replica} x {pool.hardware} a replica, {pool.replicas} replicas at the start",
        ),
        ("price", "none" if price is None else f"{formats.money(price)} a GPU-hour"),
        ("max_num_seqs", f"{pool.max_num_seqs:,}"),
        ("max_num_batched_tokens", f"{pool.max_num_batched_tokens:,}"),
        ("KV blocks of a replica", f"{pool.num_gpu_blocks:,} of {pool.block_size} tokens"),
        ("scheduling", "asynchronous" if pool.async_scheduling else "synchronous"),
        ("outside the engine", f"{formats.duration(pool.front_end_ps * 1e-12)} a request"),
        *((f"step cost: {key}", value) for key, value in _flat(fidelity)),
    ]


def _flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested data as (dotted key, text) rows, nothing left out."""
    rows: list[tuple[str, str]] = []
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{name}.")
        elif isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
            for index, item in enumerate(value):
                rows += _flat(item, f"{name}[{index}].") if isinstance(item, Mapping) else [(name, str(item))]
        elif isinstance(value, (list, tuple)):
            rows.append((name, ", ".join(map(str, value)) or "none"))
        elif isinstance(value, float):
            rows.append((name, formats.number(value, 6)))
        else:
            rows.append((name, formats.MISSING if value is None else str(value)))
    return rows


_STATS = ("mean", "p50", "p90", "p95", "p99", "max")


def _statistics(results: Results) -> Table:
    rows = []
    for name, entry in results.summary["metrics"].items():
        say = partial(facts.value_of, name)
        cells = [
            f"{facts.at(entry, name, stat)} {formats.span(entry.get(f'{stat}_ci'), say)}".strip() for stat in _STATS
        ]
        rows.append((name, *cells, f"{entry['n']:,}", f"{entry['censored']:,}"))
    return Table(
        ("metric", *_STATS, "n", "cut short"),
        rows,
        frozenset(range(1, 9)),
        "Of the measured windows, all replications together; in brackets the interval over replications. "
        "Cut short: open, timed out or lost, known only to be longer.",
    )


def _totals(results: Results) -> Table:
    rows = [
        (name.replace("_", " "), formats.duration(value) if name.endswith("_s") else f"{value:,}")
        for name, value in results.summary["totals"].items()
    ]
    return Table(("what", "count"), rows, frozenset({1}), "Whole runs, warm-up and drain included, all replications.")


def _definitions() -> Definitions:
    from sim.metrics.definitions import METRICS

    terms = [(metric.name, metric.unit, metric.formula) for metric in METRICS.values()]
    return Definitions(
        [
            *terms,
            ("query", "", "What a user asks, answered once; it makes one or more requests."),
            ("interval", "", "Where the figure lies at the stated confidence, from how replications differ."),
            (
                "verdict",
                "",
                "Overloaded: the backlog grows (slope > 0 at 95 %). Saturated: not overloaded, but the head "
                "of the queue is blocked, or all seats are taken, for more than 20 % of the window. Else "
                "stable.",
            ),
            ("preempted", "", "Lost its place and its KV cache; computed again when it is let in again."),
            ("profile", "", "Measured or estimated cost of a step of one model on one kind of hardware."),
        ]
    )
