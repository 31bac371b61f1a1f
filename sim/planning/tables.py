"""The tables of a plan: alternatives and why each lost, every point that was simulated, and the frontier."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sim.planning.design import Bill
from sim.planning.point import NEUTRAL
from sim.planning.pooled import pooled
from sim.planning.sizing import Sized, Sizer
from sim.units import format_duration


def target_data(target: Any) -> dict[str, Any]:
    return {**asdict(target), "asked": target.asked}


def bill_data(cost: Bill) -> dict[str, Any]:
    return {
        "gpus": cost.gpus,
        "paid_gpus": cost.paid_gpus,
        "nodes": dict(cost.nodes),
        "usd_per_hour": cost.usd_per_hour,
        "usd_per_month": cost.usd_per_month,
    }


def alternatives(sizer: Sizer, ranked: Sequence[Sized]) -> list[dict[str, Any]]:
    best = ranked[0]
    rows = []
    for place, sized in enumerate(ranked):
        row: dict[str, Any] = {
            "name": sized.candidate.name,
            "settings": dict(sized.candidate.settings),
            "accuracy": sized.candidate.accuracy,
            "stage": sized.stage or "not simulated",
            "replicas": None,
        }
        if sized.sizes is not None and sized.cost is not None:
            figures = pooled(
                sizer.bench.answer(sizer.asked(sized.candidate, sized.sizes)).records, sizer.bench.runner.store
            )
            row |= {
                "replicas": dict(zip(sized.candidate.scale, sized.sizes, strict=True)),
                **bill_data(sized.cost),
                "accuracy": figures.get("accuracy", sized.candidate.accuracy),
                "p99_tta_s": figures["p99_tta_s"],
                "attainment": figures["attainment"],
            }
            row["reason"] = (
                "recommended"
                if place == 0
                else f"{sized.usd / best.usd - 1:+.0%} in cost"
                if sized.usd > best.usd
                else f"as cheap, but slower: p99 TTA {format_duration(figures['p99_tta_s'])}"
            )
        else:
            row["reason"] = sized.reason or "no size meets the targets"
        rows.append(row)
    return rows


def points(sizer: Sizer) -> list[dict[str, Any]]:
    """Every configuration that was simulated at this traffic under the assumptions as they are."""
    rows = []
    accuracy = {sized.candidate.name: sized.candidate.accuracy for sized in sizer.found}
    for answer in sizer.bench.answers.values():
        asked = answer.asked
        if asked.twist != NEUTRAL or asked.rate_factor != 1.0:
            continue
        if any(record["state"] == "failed" for record in answer.records):
            continue
        figures = pooled(answer.records, sizer.bench.runner.store)
        rows.append(
            {
                "name": asked.label,
                "replicas": sum(asked.sizes),
                **bill_data(sizer.bill(asked.scenario)),
                "meets": answer.judgement.meets,
                "state": answer.judgement.state,
                "certain": answer.judgement.certain,
                "overloaded": answer.judgement.overloaded,
                "replications": answer.judgement.replications,
                "accuracy": accuracy.get(asked.label),
                "key": answer.records[0]["key"],
                **figures,
            }
        )
    return sorted(rows, key=lambda row: (row["usd_per_hour"], row["name"], row["replicas"]))


def frontier(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Points that meet and that no other one beats in cost, p99 TTA and accuracy together."""
    good = [p for p in points if p["meets"] and not math.isnan(p["p99_tta_s"])]

    def beats(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        a = (one["usd_per_hour"], one["p99_tta_s"], -(one["accuracy"] or 0.0))
        b = (other["usd_per_hour"], other["p99_tta_s"], -(other["accuracy"] or 0.0))
        return a != b and all(x <= y for x, y in zip(a, b, strict=True))

    return [dict(p) for p in good if not any(beats(other, p) for other in good)]
