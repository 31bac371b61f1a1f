"""What is found out about the winner: its figures, what it survives, how much more traffic it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sim.planning.capacity import capacity as capacity_of
from sim.planning.design import Candidate, Sizes
from sim.planning.limit import limit
from sim.planning.means import means_hide
from sim.planning.plan_cost import economics
from sim.planning.point import content
from sim.planning.pooled import pooled
from sim.planning.sensitivity import sensitivity
from sim.planning.sizing import HALVE, Sized, Sizer
from sim.planning.tables import bill_data, target_data


def try_out(sizer: Sizer, ranked: Sequence[Sized]) -> dict[str, Any]:
    winner, settings, bench = ranked[0], sizer.plan, sizer.bench
    assert winner.sizes is not None
    candidate, needed = winner.candidate, winner.sizes
    answer = bench.answer(sizer.asked(candidate, needed))
    nodes_lost = _replicas_of_a_node(candidate)
    extra = {"nothing": (0,) * len(needed), "replica": (1,) * len(needed), "node": nodes_lost}[settings.survive]
    chosen = tuple(n + more for n, more in zip(needed, extra, strict=True))
    sizer.say("trying the winner: more traffic, fewer replicas, other assumptions")
    recommended = candidate.sized(chosen)
    cost = sizer.bill(recommended)
    if chosen != needed:
        bench.judge([sizer.asked(candidate, chosen)], exactly=HALVE)
    final = bench.answer(sizer.asked(candidate, chosen))
    figures = pooled(final.records, bench.runner.store)
    loss = _losses(sizer, candidate, chosen, nodes_lost)
    capacity = capacity_of(sizer, candidate, chosen)
    result: dict[str, Any] = {
        "recommendation": {
            "name": candidate.name,
            "settings": dict(candidate.settings),
            "replicas": dict(zip(candidate.scale, chosen, strict=True)),
            "replicas_needed": dict(zip(candidate.scale, needed, strict=True)),
            "certain": answer.judgement.certain,
            "replications": answer.judgement.replications,
            "backlog_drift_at_most": answer.judgement.drift,
            "confidence": settings.confidence,
            "smaller": _smaller(sizer, candidate, needed),
            **bill_data(cost),
            "figures": figures,
            "accuracy": figures.get("accuracy", candidate.accuracy),
            "overloaded": final.judgement.overloaded,
            "targets": [target_data(target) for target in final.judgement.targets],
            "warm_up": final.records[0]["summary"]["warm_up"],
            "fidelity": final.records[0]["summary"]["fidelity"],
            "not_modelled": final.records[0]["summary"]["not_modelled"],
            "banners": final.records[0]["summary"]["banners"],
            "pools": final.records[0]["pools"],
        },
        "headroom": _headroom(sizer, winner, chosen),
        "loss": loss,
        "capacity": capacity,
        "means": means_hide(sizer, winner, needed),
        "economics": economics(sizer, cost, figures),
        "recommended": recommended.model_copy(
            update={"name": f"{sizer.base.name}-recommended"[:200], "description": f"{candidate.name}: recommended"}
        ).resolved(),
    }
    result["limit"] = limit(final.records, capacity.get("first_miss_records") or final.records)
    capacity.pop("first_miss_records", None)
    if settings.sensitivity:
        result["sensitivity"] = sensitivity(sizer, ranked)
    return result


def _smaller(sizer: Sizer, candidate: Candidate, needed: Sizes) -> dict[str, Any] | None:
    """What is known of one replica less in each pool."""
    found = []
    for place, n in enumerate(needed):
        if n > 1:
            sizes = tuple(size - (index == place) for index, size in enumerate(needed))
            asked = sizer.asked(candidate, sizes)
            key = content(asked.scenario), asked.twist
            if key in sizer.bench.answers:
                judgement = sizer.bench.answers[key].judgement
                target = judgement.deciding
                found.append(
                    {
                        "pool": candidate.scale[place],
                        "replicas": sizes[place],
                        "state": judgement.state,
                        "overloaded": judgement.overloaded,
                        "needs_replications": judgement.needs_replications,
                        "needs_queries": judgement.needs_queries,
                        **target_data(target),
                    }
                )
    return found[0] if found else None


def _replicas_of_a_node(candidate: Candidate) -> Sizes:
    from sim.scenario.check import deployment

    assert candidate.scenario is not None
    lost = []
    for name in candidate.scale:
        placed = deployment(candidate.scenario.pools[name])
        lost.append(max(1, placed.hardware.gpus_per_node // placed.gpus))
    return tuple(lost)


def _losses(sizer: Sizer, candidate: Candidate, chosen: Sizes, node: Sizes) -> list[dict[str, Any]]:
    """Are the targets met without a replica, and without a node's replicas, of each pool in turn?"""
    found: list[dict[str, Any]] = []
    for what, lost in (("replica", (1,) * len(chosen)), ("node", node)):
        for place, pool in enumerate(candidate.scale):
            left = chosen[place] - lost[place]
            entry: dict[str, Any] = {
                "loss": what,
                "pool": pool,
                "replicas_lost": min(lost[place], chosen[place]),
                "replicas_left": left,
            }
            if left < 1:
                found.append(entry | {"survives": False, "why": "no replica is left"})
                continue
            sizes = tuple(left if index == place else n for index, n in enumerate(chosen))
            asked = sizer.asked(candidate, sizes)
            judgement = sizer.bench.judge([asked], exactly=HALVE)[0]
            found.append(
                entry
                | {
                    "survives": judgement.meets,
                    "why": "overloaded" if judgement.overloaded else "",
                    **target_data(judgement.deciding),
                }
            )
    return found


def _headroom(sizer: Sizer, winner: Sized, chosen: Sizes) -> list[dict[str, Any]]:
    found = []
    for factor in sizer.plan.headroom:
        asked = sizer.asked(winner.candidate, chosen, factor=factor)
        judgement = sizer.bench.judge([asked], exactly=HALVE)[0]
        needs: Sizes | None = chosen
        if not judgement.meets:
            needs = sizer.size([winner], exactly=HALVE, factor=factor, harder=True)[0]
        cost = None if needs is None else sizer.bill(winner.candidate.sized(needs))
        found.append(
            {
                "factor": factor,
                "rate_per_s": sizer.rate * factor,
                "meets": judgement.meets,
                "overloaded": judgement.overloaded,
                **target_data(judgement.deciding),
                "needs_replicas": None if needs is None else dict(zip(winner.candidate.scale, needs, strict=True)),
                "needs_usd_per_month": None if cost is None else cost.usd_per_month,
            }
        )
    return found
