"""A plan in words: one sentence, and a page of a terminal with the frontier in ASCII."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sim.units import format_duration, format_number

Data = Mapping[str, Any]


def sentence(plan: Data) -> str:
    """The recommendation in one sentence, with numbers and confidence."""
    rate = f"{format_number(plan['rate_per_s'])} {'query' if plan['rate_per_s'] == 1 else 'queries'}/s"
    if not plan["feasible"]:
        return f"No candidate meets the targets at {rate} within the limits of the plan."
    best = plan["recommendation"]
    target = min(best["targets"], key=lambda each: each["share"] - each["asked"])
    sure = (
        f"at {best['confidence']:.0%} confidence"
        if best["certain"]
        else f"by the estimate; it could not be shown at {best['confidence']:.0%} confidence"
    )
    nodes = " + ".join(f"{count} node{'s' if count > 1 else ''} of {name}" for name, count in best["nodes"].items())
    where = f" ({nodes})" if plan["whole_nodes"] else ""
    return (
        f"Deploy {replicas_words(best['replicas'])} ({best['name']}) on {best['gpus']} GPUs{where}: "
        f"{target['share']:.1%} [{target['low']:.1%} to {target['high']:.1%}] of queries {kept_words(target)} at {rate} "
        f"({target['asked']:.0%} are asked; every target is met {sure}), for ${best['usd_per_month']:,.0f} a month and "
        f"${plan['economics']['usd_per_query']:.3g} a query{_breaks(plan)}."
    )


def _breaks(plan: Data) -> str:
    """What gives out first, and at how much traffic."""
    rate = plan["capacity"]["slo_rate_per_s"]
    if rate is None:
        return ""
    what = FIRST_TO_BREAK[plan["limit"]["first_to_break"]["what"]]
    return f"; {what} gives out first, beyond {rate / plan['rate_per_s']:.3g}x this traffic"


FIRST_TO_BREAK = {"KV": "KV memory", "queue": "max_num_seqs", "compute": "compute", "router": "the router"}
"""In words, what `sim.planning.limit` names."""


def kept_words(target: Data) -> str:
    """What queries within *target* do: ``are answered within 2 min``."""
    limit = limit_words(target)
    said = {
        "tta": f"are answered within {limit}",
        "ttfo": f"show their first answer token within {limit}",
        "ttft": f"get their first token within {limit}",
        "tpot": f"take {limit} a token at most",
    }.get(target["metric"], f"keep to {target['metric']} {limit}")
    return f"{said} ({target['category']})" if target.get("category") else said


def limit_words(target: Data) -> str:
    """A target's limit with its unit."""
    return f"{target['target']:g}x" if target["metric"] == "slowdown" else format_duration(target["target"])


def replicas_words(replicas: Data) -> str:
    """``4 replicas``, or ``4 + 2 replicas (chat, reasoning)``."""
    counts = list(replicas.values())
    if len(counts) == 1:
        return f"{counts[0]} replica{'s' if counts[0] > 1 else ''}"
    return f"{' + '.join(map(str, counts))} replicas ({', '.join(replicas)})"


def smaller_words(plan: Data) -> str:
    """What is known of one replica less."""
    smaller = plan["recommendation"]["smaller"]
    if smaller is None:
        return "One replica is the least there is."
    head = f"With {smaller['replicas']} in pool {smaller['pool']}: "
    if smaller["overloaded"]:
        return head + "overloaded, the queue grows without end."
    share = f"{smaller['share']:.1%} {kept_words(smaller)}"
    if smaller["state"] == "misses":
        return f"{head}{share}; the target is missed, with confidence."
    if smaller["state"] == "undecided":
        return f"{head}{share}; undecided: {missing_words(smaller)}."
    return f"{head}{share}; found to miss with fewer replications only."


def missing_words(judged: Data) -> str:
    """What would decide an undecided answer: more replications, or longer windows."""
    wants = []
    if judged["needs_replications"]:
        more = judged["needs_replications"]
        wants.append(f"about {more:,} more replication{'s' if more > 1 else ''}")
    if judged["needs_queries"]:
        wants.append(f"windows of at least {judged['needs_queries']:,} queries (measure.queries, plan.lengthen)")
    if not wants:
        return "by the estimate it is not met, but that is not certain"
    return f"that the target is met would need {' and '.join(wants)}"


def founded_words(best: Data) -> str:
    """What the judgement of the recommendation is founded on."""
    target = min(best["targets"], key=lambda each: each["share"] - each["asked"])
    words = f"Founded on {best['replications']} replications with {target['n']:,} queries"
    if target["effect"]["value"] > 1:
        words += f", worth {target['n'] / target['effect']['value']:,.0f} independent ones"
    if best["backlog_drift_at_most"] is not None and math.isfinite(best["backlog_drift_at_most"]):
        grows = max(best["backlog_drift_at_most"], 0.0)
        words += f"; the backlog grows by at most {grows:.1%} of what arrives"
    return words + "."


def frontier(points: Sequence[Data], chosen: str, *, width: int = 64, height: int = 12) -> str:
    """Cost (to the right) against p99 TTA (upwards), both logarithmic: ``*`` the choice, ``o`` meets, ``.`` misses."""
    rows = [p for p in points if p.get("p99_tta_s") and not math.isnan(p["p99_tta_s"])]
    if not rows:
        return ""
    x = [math.log10(p["usd_per_hour"] or 1e-9) for p in rows]
    y = [math.log10(p["p99_tta_s"]) for p in rows]

    def place(value: float, low: float, high: float, size: int) -> int:
        return 0 if high <= low else round((value - low) / (high - low) * (size - 1))

    field = [[" "] * width for _ in range(height)]
    order = {".": 0, "o": 1, "*": 2}
    for p, across, up in zip(rows, x, y, strict=True):
        sign = "*" if p["key"] == chosen else "o" if p["meets"] else "."
        column = place(across, min(x), max(x), width)
        row = height - 1 - place(up, min(y), max(y), height)
        if order[sign] >= order.get(field[row][column], -1):
            field[row][column] = sign
    top, bottom = format_duration(10 ** max(y)), format_duration(10 ** min(y))
    margin = max(len(top), len(bottom))
    lines = ["p99 time to answer against cost (* recommended, o meets, . misses)"]
    for number, row_ in enumerate(field):
        label = top if number == 0 else bottom if number == height - 1 else ""
        lines.append(f"{label:>{margin}} |{''.join(row_).rstrip()}")
    low, high = f"${10 ** min(x):,.3g}/h", f"${10 ** max(x):,.3g}/h"
    lines += [" " * margin + " +" + "-" * width, " " * (margin + 2) + low + high.rjust(width - len(low))]
    return "\n".join(lines)


def text(plan: Data) -> str:
    """The plan for a terminal."""
    lines = [sentence(plan), ""]
    if plan["feasible"]:
        lines += _details(plan)
    rows = [["alternative", "replicas", "GPUs", "USD/month", "p99 TTA", ""]]
    for row in plan["alternatives"]:
        count = "" if row["replicas"] is None else "+".join(map(str, row["replicas"].values()))
        reason = row["reason"].splitlines()[0]
        rows.append(
            [
                row["name"],
                count,
                str(row.get("paid_gpus", "")),
                f"{row['usd_per_month']:,.0f}" if row.get("usd_per_month") else "",
                format_duration(row["p99_tta_s"]) if row.get("p99_tta_s") else "",
                reason if len(reason) < 90 else reason[:88] + "…",
            ]
        )
    widths = [max(len(row[place]) for row in rows) for place in range(6)]
    lines += ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    key = next((p["key"] for p in plan["points"] if _is_chosen(p, plan)), "")
    lines += ["", frontier(plan["points"], key)]
    return "\n".join(lines).rstrip()


def _is_chosen(point: Data, plan: Data) -> bool:
    if not plan["feasible"]:
        return False
    best = plan["recommendation"]
    return bool(point["name"] == best["name"] and point["replicas"] == sum(best["replicas"].values()))


def _details(plan: Data) -> list[str]:
    lines = [founded_words(plan["recommendation"]), smaller_words(plan)]
    capacity = plan["capacity"]
    if capacity["slo_rate_per_s"] is not None:
        sustained = capacity["sustained_rate_per_s"]
        lines.append(
            f"Room: targets hold up to {format_number(capacity['slo_rate_per_s'])} queries/s"
            + (f", the queue stays bounded up to {format_number(sustained)}." if sustained else ".")
        )
    for entry in plan["headroom"]:
        state = "meets" if entry["meets"] else "is overloaded" if entry["overloaded"] else "misses"
        needs = entry["needs_replicas"]
        more = "" if entry["meets"] or needs is None else f", needs {replicas_words(needs)}"
        lines.append(f"{entry['factor']:g}x traffic: {state}{more}.")
    for entry in plan["loss"]:
        state = "survives" if entry["survives"] else "does not survive"
        lines.append(
            f"Loss of a {entry['loss']} ({entry['replicas_lost']} of pool {entry['pool']}): {state}"
            + (f", {entry['why']}" if entry["why"] else "")
            + "."
        )
    lines.append(f"Limit now: {plan['limit']['now']['words']}.")
    lines.append(f"First to break: {plan['limit']['first_to_break']['words']}.")
    lines += [means_words(plan, way) for way in plan["means"]["ways"]]
    flips = [row for row in plan.get("sensitivity", ()) if row["flips_to"] or not row["recommendation_still_meets"]]
    for row in flips:
        more = (
            "more replicas are needed" if row["replicas_needed"] else "no number of replicas that is allowed suffices"
        )
        what = f"{row['flips_to']} becomes cheaper" if row["flips_to"] else more
        lines.append(f"Would change the decision: {row['words']}: {what}.")
    if "sensitivity" in plan and not flips:
        lines.append("No assumption that was tried changes the decision.")
    return [*lines, ""]


def means_words(plan: Data, way: Data) -> str:
    """What sizing by mean lengths would have said."""
    how = "Arithmetic with mean lengths" if way["way"] == "arithmetic" else "Simulated with mean lengths for all"
    count = replicas_words(way["replicas"])
    needed = replicas_words(plan["recommendation"]["replicas_needed"])
    if way["too_optimistic"] == 1:
        return f"{how} says {count}, which is right here."
    if way["too_optimistic"] < 1:
        return f"{how} says {count}, more than the {needed} that suffice."
    if not way["overloaded_with_real_lengths"] and way["share"] >= way["asked"]:
        return f"{how} says {count}: with real lengths {way['share']:.1%} {kept_words(way)}, which these runs do not prove."
    truth = (
        "it would be overloaded"
        if way["overloaded_with_real_lengths"]
        else f"only {way['share']:.1%} {kept_words(way)}"
    )
    return f"{how} says {count}, {way['too_optimistic']:.2g}x too optimistic: with real lengths {truth}."
