"""The report of a capacity plan: what to buy, how sure, what breaks first, why the others lost, what to deploy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.report import formats
from sim.report.html import Banner, Code, Exhibit, Fold, Items, Page, Section, Table, Text, Tile, render

if TYPE_CHECKING:
    from sim.report.html import Block

Data = Mapping[str, Any]


def write_plan(plan: Data, path: Path) -> Path:
    """Write the report of *plan* (the content of plan.json) to *path*; returns the path."""
    path.write_text(render(page(plan)), encoding="utf-8", errors="replace")
    return path


def page(plan: Data) -> Page:
    """What the report says."""
    from sim.planning.text import founded_words, sentence, smaller_words

    feasible = bool(plan["feasible"])
    certain = feasible and plan["recommendation"]["certain"]
    return Page(
        title=f"{plan['scenario']}: capacity plan",
        kicker=f"Capacity plan for {plan['scenario']}: {formats.number(plan['rate_per_s'])} queries/s",
        answer=sentence(plan),
        verdict="Meets every target" if certain else "Probably meets" if feasible else "Nothing meets the targets",
        tone="good" if certain else "warn" if feasible else "bad",
        reason=f"{founded_words(plan['recommendation'])} {smaller_words(plan)}" if feasible else "",
        tiles=_tiles(plan) if feasible else (),
        banners=_banners(plan) if feasible else (),
        sections=_sections(plan),
        folds=_folds(plan),
        footer="Simulated with ThinkCap. Quantiles are taken from all queries of all replications together.",
    )


def _tiles(plan: Data) -> list[Tile]:
    best, economics = plan["recommendation"], plan["economics"]
    figures = best["figures"]
    n = f"n = {figures['n']:,}"
    tiles = [
        Tile(
            "cost a month", formats.money(best["usd_per_month"]), f"{best['paid_gpus']} GPUs paid, {best['gpus']} used"
        ),
        Tile("cost a query", formats.money(economics["usd_per_query"]), "of paid GPUs"),
        Tile(
            "USD per million output tokens", formats.money(economics["usd_per_million_output_tokens"]), "of paid GPUs"
        ),
        Tile("p50 TTA", formats.duration(figures["p50_tta_s"]), n),
        Tile("p99 TTA", formats.duration(figures["p99_tta_s"]), n),
        Tile("p95 TTFT", formats.duration(figures["p95_ttft_s"]), n),
        Tile("within all targets", formats.percent(figures["attainment"]), n),
    ]
    rate = plan["capacity"]["slo_rate_per_s"]
    if rate is not None:
        tiles.append(Tile("largest rate", f"{formats.number(rate)}/s", "queries, within the targets"))
    return tiles


def _banners(plan: Data) -> list[Banner]:
    best = plan["recommendation"]
    found = []
    if not best["certain"]:
        found.append(Banner("The replications ran out before the confidence was reached.", "Raise plan.replications."))
    if best["warm_up"].get("adequate") is False:
        found.append(Banner("The warm-up may be too short.", "Lengthen measure.warmup."))
    for name, fidelity in best["fidelity"].items():
        if fidelity["kind"] == "prior":
            found.append(
                Banner(f"Nothing was measured for pool {name}: its step cost is a roofline estimate.", "Calibrate it.")
            )
        found += [Banner(str(text), "Calibrate further.") for text in fidelity["out_of_range"]]
    return found


def _sections(plan: Data) -> list[Section]:
    from sim.report.figures import frontier, hockey_stick, means, tornado

    sections = []
    if plan["feasible"]:
        sections.append(Section("slo", "Are the targets met?", (), [_slo(plan)]))
    if plan["points"]:
        data = frontier.table(plan)
        sections.append(
            Section(
                "buy", "What should I buy?", [Exhibit("frontier", frontier.figure(data), data)], [_alternatives(plan)]
            )
        )
    if plan["feasible"]:
        data = hockey_stick.table(plan)
        blocks: list[Block] = [_headroom(plan), _losses(plan), Items(_breaks(plan))]
        figure = hockey_stick.figure(data, plan)
        sections.append(Section("room", "How much more can it take?", [Exhibit("hockey-stick", figure, data)], blocks))
        if plan.get("sensitivity"):
            data = tornado.table(plan)
            sections.append(
                Section(
                    "change", "What would change the answer?", [Exhibit("tornado", tornado.figure(data, plan), data)]
                )
            )
        data = means.table(plan)
        sections.append(
            Section("means", "What do means hide?", [Exhibit("means", means.figure(data), data)], _means(plan))
        )
        if plan["economics"]["usd_per_million_output_tokens"]:
            sections.append(Section("api", "Is an API cheaper?", (), [_api(plan)]))
        if plan.get("deployment"):
            sections.append(Section("deploy", "What do I deploy?", (), _deployment(plan)))
    return sections


def _slo(plan: Data) -> Table:
    from sim.planning.text import limit_words

    rows = [
        (
            target["metric"] + (f" ({target['category']})" if target["category"] else ""),
            limit_words(target),
            formats.percent(target["asked"]),
            formats.percent(target["share"]),
            formats.percent(target["low"]),
            f"{target['n']:,}",
        )
        for target in plan["recommendation"]["targets"]
    ]
    return Table(("target", "limit", "asked", "in time", "at least", "n"), rows, frozenset({1, 2, 3, 4, 5}))


def _alternatives(plan: Data) -> Table:
    rows = []
    for row in plan["alternatives"]:
        count = formats.MISSING if row["replicas"] is None else " + ".join(map(str, row["replicas"].values()))
        rows.append(
            (
                row["name"],
                count,
                str(row.get("paid_gpus", formats.MISSING)),
                formats.money(row.get("usd_per_month")),
                formats.duration(row.get("p99_tta_s")),
                formats.percent(row["accuracy"]),
                row["stage"],
                row["reason"],
            )
        )
    head = ("alternative", "replicas", "GPUs paid", "a month", "p99 TTA", "accuracy", "how far", "why")
    return Table(head, rows, frozenset({1, 2, 3, 4, 5}), "Every alternative, and the reason each lost.")


def _headroom(plan: Data) -> Table:
    from sim.planning.text import replicas_words

    rows = [
        (
            f"{entry['factor']:g}x",
            "met" if entry["meets"] else "overloaded" if entry["overloaded"] else "missed",
            formats.percent(entry["share"]),
            formats.MISSING if entry["needs_replicas"] is None else replicas_words(entry["needs_replicas"]),
            formats.money(entry["needs_usd_per_month"]),
        )
        for entry in plan["headroom"]
    ]
    return Table(("traffic", "targets", "in time", "needs", "a month"), rows, frozenset({2, 4}), "Headroom.")


def _losses(plan: Data) -> Table:
    rows = [
        (
            f"a {entry['loss']} of pool {entry['pool']}",
            f"{max(entry['replicas_left'], 0)}",
            "survives" if entry["survives"] else "does not survive",
            formats.percent(entry.get("share")),
        )
        for entry in plan["loss"]
    ]
    return Table(("loss of", "replicas left", "targets", "in time"), rows, frozenset({1, 3}), "N+1.")


def _breaks(plan: Data) -> list[str]:
    return [
        f"Limit now: {plan['limit']['now']['words']}.",
        f"First to break: {plan['limit']['first_to_break']['words']}.",
    ]


def _means(plan: Data) -> list[Block]:
    from sim.planning.text import means_words

    means = plan["means"]
    why = (
        f"The longest tenth of the queries has {formats.percent(means['tokens_of_longest_tenth'], 2)} of all output "
        f"tokens; the median output is {formats.tokens(means['median_output_tokens'])} tokens, the 99th percentile "
        f"{formats.tokens(means['p99_output_tokens'])}."
    )
    return [Items([means_words(plan, way) for way in means["ways"]]), Text(why)]


def _api(plan: Data) -> Text:
    api = plan["economics"].get("api")
    if api is None:
        return Text(
            f"Only one that asks less than {formats.money(plan['economics']['usd_per_million_output_tokens'])} per "
            "million output tokens, for this traffic (plan.api_price_per_million_output_tokens compares with one)."
        )
    return Text(
        f"An API at ${api['usd_per_million_output_tokens']:g} per million output tokens costs "
        f"{formats.money(api['usd_per_month'])} a month for this traffic, the plan "
        f"{formats.money(plan['recommendation']['usd_per_month'])}. They break even at "
        f"{formats.number(api['break_even_rate_per_s'])} queries/s, if the plan could serve that."
    )


def _deployment(plan: Data) -> list[Block]:
    said = plan["deployment"]
    blocks: list[Block] = [Code(text, f"Each replica of pool {name}:") for name, text in said["serve"].items()]
    blocks.append(Code(said["kubernetes"], "Kubernetes:"))
    blocks.append(Code(said["load_test"], "To verify it, with workload.jsonl from the plan's directory:"))
    if said["differences"]:
        blocks += [Text("What these commands do not have:"), Items(said["differences"])]
    return blocks


def _folds(plan: Data) -> list[Fold]:
    blocks: list[Block] = []
    if plan["feasible"]:
        from sim.scenario.yaml_file import write

        best = plan["recommendation"]
        blocks += [
            Table(
                ("what", "value"),
                [
                    (f"pool {name}: step cost", str(entry.get("words", entry["profile"])))
                    for name, entry in best["fidelity"].items()
                ],
            ),
            Text("Not modelled:"),
            Items([str(text) for text in best["not_modelled"]]),
            Code(write(plan["recommended"]), "The recommendation as a scenario:"),
        ]
    rows = [
        (
            p["name"],
            str(p["replicas"]),
            formats.money(p["usd_per_hour"]),
            formats.duration(p["p99_tta_s"]),
            p["state"],
            str(p["replications"]),
        )
        for p in plan["points"]
    ]
    points = Table(
        ("alternative", "replicas", "an hour", "p99 TTA", "targets", "replications"), rows, frozenset({1, 2, 3, 5})
    )
    return [
        Fold("assumptions", "Assumptions and provenance", blocks or [Text("No recommendation.")]),
        Fold("points", "Every point that was simulated", [points]),
    ]
