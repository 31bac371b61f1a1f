"""The capacity plan: the cheapest configuration that meets its targets, how sure that is, and what breaks it.

Candidates are sized by bisection with one replication each; the cheaper half is sized again with three
(successive halving); the cheapest of these is sized with as many replications as the confidence needs, and
whatever had looked cheaper is confirmed or refuted in the same way before it may lose. Then the winner is tried:
more traffic, fewer replicas, other assumptions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.errors import DoesNotFit
from sim.planning.bench import Asked, Bench
from sim.planning.design import Bill, Candidate, Sizes, bill, by_arithmetic, candidates, rate_of, with_rate
from sim.planning.lengths import means
from sim.planning.point import NEUTRAL, Twist, content
from sim.planning.pooled import HOURS_PER_MONTH, pooled
from sim.planning.search import Bracket, drive, drive_all, fewest_of_each, largest

if TYPE_CHECKING:
    from sim.planning.judge import Judgement
    from sim.planning.runs import Runner
    from sim.scenario.model import Scenario
    from sim.scenario.plan import Plan

SCREEN, HALVE, FINALISTS = 1, 3, 2
RATE_PRECISION = 0.05
TAIL = 1.1
TENSOR_PARALLEL = 1 / 0.9

Say = Callable[[str], None]


@dataclass
class Sized:
    """A candidate with the replicas it needs, as known so far; None: none within the limits meets."""

    candidate: Candidate
    sizes: Sizes | None = None
    cost: Bill | None = None
    stage: str = ""
    reason: str = ""

    @property
    def usd(self) -> float:
        return self.cost.usd_per_hour if self.cost is not None else math.inf


@dataclass
class Planner:
    """Everything a plan needs at hand."""

    bench: Bench
    plan: Plan
    base: Scenario
    found: list[Sized]
    say: Say
    rate: float = 0.0
    _bills: dict[str, Bill] = field(default_factory=dict)

    # -- sizing ------------------------------------------------------------------------------------

    def bill(self, scenario: Scenario) -> Bill:
        """What a configuration costs, whole nodes or not as the plan has it."""
        key = content(scenario)
        if key not in self._bills:
            self._bills[key] = bill(scenario, whole_nodes=self.plan.whole_nodes)
        return self._bills[key]

    def size(
        self,
        who: Sequence[Sized],
        *,
        exactly: int | None,
        twist: Twist = NEUTRAL,
        factor: float = 1.0,
        guesses: Sequence[int] | None = None,
    ) -> list[Sizes | None]:
        """The fewest replicas of each of *who*, all searched side by side."""
        searches = []
        for place, sized in enumerate(who):
            scenario = sized.candidate.scenario
            assert scenario is not None
            scale = sized.candidate.scale
            counts = [scenario.pools[pool].replicas for pool in scale]
            common = math.gcd(*counts)
            weights = tuple(count // common for count in counts)
            guess = guesses[place] if guesses is not None else self._guess(sized, weights, factor)
            most = max(1, self.plan.max_replicas // max(weights))
            if self.plan.max_gpus is not None:
                most = min(most, self._within(sized.candidate, weights, most))
            costs = [bill(sized.candidate.sized((1,) * len(scale)), whole_nodes=False).usd_per_hour] * len(scale)
            searches.append(fewest_of_each(weights, guess, most, costs))

        def test(batch: list[tuple[int, Sizes]]) -> list[bool]:
            wanted = [self.asked(who[number].candidate, sizes, twist=twist, factor=factor) for number, sizes in batch]
            return [judgement.meets for judgement in self.bench.judge(wanted, exactly=exactly)]

        return drive_all(searches, test)

    def _guess(self, sized: Sized, weights: Sizes, factor: float) -> int:
        if sized.sizes is not None:
            return max(1, math.ceil(factor * max(n / w for n, w in zip(sized.sizes, weights, strict=True))))
        scenario = sized.candidate.scenario
        assert scenario is not None
        return by_arithmetic(scenario, sized.candidate.scale[0], self.rate * factor)

    def _within(self, candidate: Candidate, weights: Sizes, most: int) -> int:
        assert self.plan.max_gpus is not None
        low, high = 1, most
        while low < high:
            middle = (low + high + 1) // 2
            sizes = tuple(middle * weight for weight in weights)
            if self.bill(candidate.sized(sizes)).paid_gpus <= self.plan.max_gpus:
                low = middle
            else:
                high = middle - 1
        return low

    def asked(
        self,
        candidate: Candidate,
        sizes: Sizes,
        *,
        twist: Twist = NEUTRAL,
        factor: float = 1.0,
    ) -> Asked:
        """A configuration of a candidate, at a multiple of the traffic, under an assumption."""
        scenario = candidate.sized(sizes)
        if factor != 1.0:
            scenario = with_rate(scenario, self.rate * factor)
        return Asked(scenario, twist, candidate.name, sizes, factor)

    def stage(self, who: Sequence[Sized], name: str, exactly: int | None) -> None:
        """Size *who* once more, and note what it costs."""
        for sized, sizes in zip(who, self.size(who, exactly=exactly), strict=True):
            sized.sizes, sized.stage = sizes, name
            sized.cost = None if sizes is None else self.bill(sized.candidate.sized(sizes))
            if sizes is None:
                sized.reason = self._why_none(sized)

    def _why_none(self, sized: Sized) -> str:
        mine = [a for a in self.bench.answers.values() if a.asked.label == sized.candidate.name and a.asked.sizes]
        if not mine:
            return "no size within the limits meets the targets"
        largest_ = max(mine, key=lambda answer: sum(answer.asked.sizes))
        failed = next((r["error"] for r in largest_.records if r["state"] == "failed"), "")
        if failed:
            return f"failed: {failed}"
        judgement, n = largest_.judgement, "+".join(map(str, largest_.asked.sizes))
        if judgement.overloaded:
            return f"overloaded with {n} replicas, the most that the plan allows"
        target = judgement.deciding
        return (
            f"with {n} replicas {target.share:.1%} keep to {target.metric} {target.target:g} s, "
            f"{target.asked:.1%} are asked"
        )

    def search(self) -> list[Sized]:
        """Successive halving; returns all candidates, those that can be bought first, the cheapest first."""
        live = [sized for sized in self.found if sized.candidate.scenario is not None and not sized.candidate.reason]
        self.say(f"sizing {len(live)} candidates, {SCREEN} replication each")
        self.stage(live, "screened", SCREEN)
        keep = self._cheapest([sized for sized in live if sized.sizes is not None])
        if len(keep) > FINALISTS:
            keep = keep[: max(FINALISTS, math.ceil(len(keep) / 2))]
            self.say(f"the cheaper {len(keep)} again, {HALVE} replications each")
            self.stage(keep, "halved", HALVE)
        while True:
            # whoever looks cheapest must prove it; who has proven it and still is the cheapest has won
            order = self._cheapest([sized for sized in live if sized.sizes is not None])
            if not order or order[0].stage == "final":
                break
            self.say(f"{order[0].candidate.name}: sizing with up to {self.bench.most} replications")
            self.stage([order[0]], "final", None)
        rest = [sized for sized in self.found if sized not in order]
        return [*order, *rest]

    def _cheapest(self, who: Sequence[Sized]) -> list[Sized]:
        return sorted(who, key=lambda sized: (sized.usd, self._tail(sized), sized.candidate.name))

    def _tail(self, sized: Sized) -> float:
        assert sized.sizes is not None
        return -self.bench.answer(self.asked(sized.candidate, sized.sizes)).judgement.deciding.margin


def make_plan(
    source: str | Path | Mapping[str, Any], overrides: Sequence[str], runner: Runner, *, say: Say = lambda _: None
) -> dict[str, Any]:
    """The plan of a scenario as JSON data; ``recommended`` holds a scenario's data that can be run as it is.

    Raise an InputError where the scenario is no base for a plan, DoesNotFit where no candidate can be.
    """
    base, settings, made = candidates(source, overrides)
    bench = Bench(runner, settings.confidence, settings.replications)
    found = [Sized(candidate, reason=candidate.reason) for candidate in made]
    if not any(sized.candidate.scenario is not None and not sized.reason for sized in found):
        raise DoesNotFit("\n".join(f"{s.candidate.name}: {s.candidate.reason}" for s in found))
    planner = Planner(bench, settings, base, found, say, rate_of(base))
    ranked = planner.search()
    data: dict[str, Any] = {
        "schema_version": 1,
        "scenario": base.name,
        "description": base.description,
        "rate_per_s": planner.rate,
        "confidence": settings.confidence,
        "whole_nodes": settings.whole_nodes,
        "survive": settings.survive,
        "feasible": ranked[0].sizes is not None,
        "targets": [
            {"metric": metric, "percentile": percentile, "target": target}
            for metric, percentile, target in base.slo.targets()
        ],
    }
    winner = ranked[0]
    if winner.sizes is not None:
        data |= _try_out(planner, ranked)
    data["alternatives"] = _alternatives(planner, ranked)
    data["points"] = _points(planner)
    data["frontier"] = _frontier(data["points"])
    data["points_computed"], data["points_reused"] = runner.computed, runner.reused
    return data


# -- what is found out about the winner --------------------------------------------------------------


def _try_out(planner: Planner, ranked: Sequence[Sized]) -> dict[str, Any]:
    winner, settings, bench = ranked[0], planner.plan, planner.bench
    assert winner.sizes is not None
    candidate, needed = winner.candidate, winner.sizes
    answer = bench.answer(planner.asked(candidate, needed))
    nodes_lost = _replicas_of_a_node(candidate)
    extra = {"nothing": (0,) * len(needed), "replica": (1,) * len(needed), "node": nodes_lost}[settings.survive]
    chosen = tuple(n + more for n, more in zip(needed, extra, strict=True))
    planner.say("trying the winner: more traffic, fewer replicas, other assumptions")
    recommended = candidate.sized(chosen)
    cost = planner.bill(recommended)
    if chosen != needed:
        bench.judge([planner.asked(candidate, chosen)], exactly=HALVE)
    final = bench.answer(planner.asked(candidate, chosen))
    figures = pooled(final.records, bench.runner.store)
    loss = _losses(planner, candidate, chosen, nodes_lost)
    capacity = _capacity(planner, candidate, chosen)
    result: dict[str, Any] = {
        "recommendation": {
            "name": candidate.name,
            "settings": dict(candidate.settings),
            "replicas": dict(zip(candidate.scale, chosen, strict=True)),
            "replicas_needed": dict(zip(candidate.scale, needed, strict=True)),
            "certain": answer.judgement.certain,
            "confidence": settings.confidence,
            "smaller": _smaller(planner, candidate, needed),
            **_bill_data(cost),
            "figures": figures,
            "accuracy": candidate.accuracy,
            "overloaded": final.judgement.overloaded,
            "targets": [_target_data(target) for target in final.judgement.targets],
            "warm_up": final.records[0]["summary"]["warm_up"],
            "fidelity": final.records[0]["summary"]["fidelity"],
            "not_modelled": final.records[0]["summary"]["not_modelled"],
            "banners": final.records[0]["summary"]["banners"],
            "pools": final.records[0]["pools"],
        },
        "headroom": _headroom(planner, winner, chosen),
        "loss": loss,
        "capacity": capacity,
        "means": _means_hide(planner, winner, needed),
        "economics": _economics(planner, cost, figures),
        "recommended": recommended.model_copy(
            update={"name": f"{planner.base.name}-recommended"[:200], "description": f"{candidate.name}: recommended"}
        ).resolved(),
    }
    result["limit"] = _limit(final.records, capacity.get("first_miss_records") or final.records)
    capacity.pop("first_miss_records", None)
    if settings.sensitivity:
        result["sensitivity"] = _sensitivity(planner, ranked)
    return result


def _smaller(planner: Planner, candidate: Candidate, needed: Sizes) -> dict[str, Any] | None:
    """What is known of one replica less in each pool."""
    found = []
    for place, n in enumerate(needed):
        if n > 1:
            sizes = tuple(size - (index == place) for index, size in enumerate(needed))
            asked = planner.asked(candidate, sizes)
            key = content(asked.scenario), asked.twist
            if key in planner.bench.answers:
                judgement = planner.bench.answers[key].judgement
                target = judgement.deciding
                found.append(
                    {
                        "pool": candidate.scale[place],
                        "replicas": sizes[place],
                        "state": judgement.state,
                        "overloaded": judgement.overloaded,
                        **_target_data(target),
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


def _losses(planner: Planner, candidate: Candidate, chosen: Sizes, node: Sizes) -> list[dict[str, Any]]:
    """Are the targets met without a replica, and without a node's replicas, of each pool in turn?"""
    found: list[dict[str, Any]] = []
    for what, lost in (("replica", (1,) * len(chosen)), ("node", node)):
        for place, pool in enumerate(candidate.scale):
            left = chosen[place] - lost[place]
            entry: dict[str, Any] = {"loss": what, "pool": pool, "replicas_lost": lost[place], "replicas_left": left}
            if left < 1:
                found.append(entry | {"survives": False, "why": "no replica is left"})
                continue
            sizes = tuple(left if index == place else n for index, n in enumerate(chosen))
            asked = planner.asked(candidate, sizes)
            judgement = planner.bench.judge([asked], exactly=HALVE)[0]
            found.append(
                entry
                | {
                    "survives": judgement.meets,
                    "why": "overloaded" if judgement.overloaded else "",
                    **_target_data(judgement.deciding),
                }
            )
    return found


def _headroom(planner: Planner, winner: Sized, chosen: Sizes) -> list[dict[str, Any]]:
    found = []
    for factor in planner.plan.headroom:
        asked = planner.asked(winner.candidate, chosen, factor=factor)
        judgement = planner.bench.judge([asked], exactly=HALVE)[0]
        needs: Sizes | None = chosen
        if not judgement.meets:
            needs = planner.size([winner], exactly=HALVE, factor=factor)[0]
        cost = None if needs is None else planner.bill(winner.candidate.sized(needs))
        found.append(
            {
                "factor": factor,
                "rate_per_s": planner.rate * factor,
                "meets": judgement.meets,
                "overloaded": judgement.overloaded,
                **_target_data(judgement.deciding),
                "needs_replicas": None if needs is None else dict(zip(winner.candidate.scale, needs, strict=True)),
                "needs_usd_per_month": None if cost is None else cost.usd_per_month,
            }
        )
    return found


def _capacity(planner: Planner, candidate: Candidate, chosen: Sizes) -> dict[str, Any]:
    """The largest rate within the targets, and the largest that is sustained at all."""
    found: dict[str, Any] = {}
    misses: dict[float, Any] = {}

    def test(kind: str) -> Callable[[float], bool]:
        def ask(rate: float) -> bool:
            asked = planner.asked(candidate, chosen, factor=rate / planner.rate)
            judgement: Judgement = planner.bench.judge([asked], exactly=HALVE)[0]
            good = judgement.meets if kind == "slo" else not judgement.overloaded
            if kind == "slo" and not good:
                misses[rate] = planner.bench.answer(asked).records
            return good

        return ask

    within: Bracket = drive(largest(planner.rate, precision=RATE_PRECISION), test("slo"))
    sustained: Bracket = drive(
        largest(within.misses or planner.rate, precision=RATE_PRECISION, most=planner.rate * 64), test("sustained")
    )
    found["slo_rate_per_s"], found["slo_missed_at_per_s"] = within.meets, within.misses
    found["sustained_rate_per_s"], found["overloaded_at_per_s"] = sustained.meets, sustained.misses
    found["precision"] = RATE_PRECISION
    found["first_miss_records"] = misses.get(within.misses) if within.misses is not None else None
    curve = [
        {
            "rate_per_s": answer.asked.rate_factor * planner.rate,
            **_curve_figures(pooled(answer.records, planner.bench.runner.store)),
            "meets": answer.judgement.meets,
            "overloaded": answer.judgement.overloaded,
        }
        for answer in planner.bench.answers.values()
        if answer.asked.label == candidate.name and answer.asked.sizes == chosen and answer.asked.twist == NEUTRAL
    ]
    found["curve"] = sorted(curve, key=lambda row: float(row["rate_per_s"]))
    return found


def _curve_figures(row: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("p50_tta_s", "p99_tta_s", "p99_tta_low_s", "p99_tta_high_s", "p99_tta_at_least_s", "attainment")
    return {key: row.get(key) for key in keys}


def _means_hide(planner: Planner, winner: Sized, needed: Sizes) -> dict[str, Any]:
    """What two ways of sizing by mean lengths would have bought, and what that does with the real lengths."""
    from workloads.source import build

    candidate = winner.candidate
    twist = Twist(mean_lengths=True)
    simulated = planner.size([winner], exactly=HALVE, twist=twist)[0]
    assert candidate.scenario is not None
    prompt, reasoning, answer = means(build(planner.base.workload, seed=planner.base.seed))
    arithmetic = tuple(by_arithmetic(candidate.scenario, pool, planner.rate) for pool in candidate.scale[:1])
    ways: list[dict[str, Any]] = []
    for way, sizes in (("arithmetic", arithmetic if len(needed) == 1 else None), ("simulated", simulated)):
        if sizes is None:
            continue
        judgement = planner.bench.judge([planner.asked(candidate, sizes)], exactly=HALVE)[0]
        ways.append(
            {
                "way": way,
                "replicas": dict(zip(candidate.scale, sizes, strict=True)),
                "too_optimistic": sum(needed) / sum(sizes),
                "meets_with_real_lengths": judgement.meets,
                "overloaded_with_real_lengths": judgement.overloaded,
                **_target_data(judgement.deciding),
            }
        )
    block = build(planner.base.workload, seed=planner.base.seed).block(0)
    assert block is not None
    import numpy as np

    output = np.sort(block.num_decode_tokens)[::-1]
    top = max(1, len(output) // 10)
    return {
        "mean_prompt_tokens": prompt,
        "mean_reasoning_tokens": reasoning,
        "mean_answer_tokens": answer,
        "median_output_tokens": float(np.median(output)),
        "p99_output_tokens": float(np.quantile(output, 0.99)),
        "tokens_of_longest_tenth": float(output[:top].sum() / max(output.sum(), 1)),
        "ways": ways,
    }


def _economics(planner: Planner, cost: Bill, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Paid GPUs, idle ones of the nodes included, over what is answered and generated at this traffic."""
    queries = planner.rate * 3600
    tokens = figures["output_tokens_per_s"] * 3600
    per_million = 1e6 * cost.usd_per_hour / tokens if tokens else None
    data: dict[str, Any] = {
        "usd_per_query": cost.usd_per_hour / queries,
        "usd_per_million_output_tokens": per_million,
        "queries_per_month": queries * HOURS_PER_MONTH,
    }
    price = planner.plan.api_price_per_million_output_tokens
    if price is not None and tokens:
        api = price * tokens / 1e6 * HOURS_PER_MONTH
        data["api"] = {
            "usd_per_million_output_tokens": price,
            "usd_per_month": api,
            "break_even_share_of_traffic": cost.usd_per_month / api,
            "break_even_rate_per_s": planner.rate * cost.usd_per_month / api,
            "cheaper": "own" if cost.usd_per_month < api else "api",
        }
    return data


def _sensitivity(planner: Planner, ranked: Sequence[Sized]) -> list[dict[str, Any]]:
    """The winner and the runner-up sized again under each assumption; flips where another one becomes the cheapest."""
    winner = ranked[0]
    rivals = [sized for sized in ranked[1:] if sized.sizes is not None][:1]
    assert winner.sizes is not None
    own = planner.bench.answer(planner.asked(winner.candidate, winner.sizes))
    fidelity = list(own.records[0]["summary"]["fidelity"].values())
    median, p95 = (max((entry[key] or 0.0) for entry in fidelity) for key in ("error_median", "error_p95"))
    split = any(pool.tensor_parallel_size > 1 for pool in winner.candidate.sized(winner.sizes).pools.values())
    assumptions: list[tuple[str, str, Twist, float]] = [
        ("rate", "10 % more queries", NEUTRAL, 1.1),
        ("rate", "10 % fewer queries", NEUTRAL, 0.9),
        ("tail", f"longer tail of lengths (exponent {TAIL:g})", Twist(tail=TAIL), 1.0),
        ("tail", f"shorter tail of lengths (exponent {1 / TAIL:.3g})", Twist(tail=round(1 / TAIL, 6)), 1.0),
    ]
    if split:
        assumptions.append(
            ("TP efficiency", "tensor parallelism 10 % less efficient", Twist(tensor_parallel=TENSOR_PARALLEL), 1.0)
        )
    for name, error in (("median error", median), ("95th percentile of the error", p95)):
        for sign, word in ((1, "slower"), (-1, "faster")):
            if error > 0:
                factor = round(1 + error, 9) if sign > 0 else round(1 / (1 + error), 9)
                assumptions.append(("calibration", f"steps {error:.1%} {word} ({name})", Twist(step=factor), 1.0))
    found = []
    for kind, words, twist, factor in assumptions:
        planner.say(f"what if: {words}")
        who = [winner, *rivals]
        sizes = planner.size(who, exactly=HALVE, twist=twist, factor=factor)
        costs = [
            math.inf if n is None else planner.bill(sized.candidate.sized(n)).usd_per_hour
            for sized, n in zip(who, sizes, strict=True)
        ]
        held = planner.bench.judge(
            [planner.asked(winner.candidate, winner.sizes, twist=twist, factor=factor)], exactly=HALVE
        )[0]
        best = min(range(len(who)), key=lambda place: (costs[place], place))
        found.append(
            {
                "assumption": kind,
                "words": words,
                "recommendation_still_meets": held.meets,
                "replicas_needed": None
                if sizes[0] is None
                else dict(zip(winner.candidate.scale, sizes[0], strict=True)),
                "usd_per_month": None if math.isinf(costs[0]) else costs[0] * HOURS_PER_MONTH,
                "changes_size": sizes[0] != winner.sizes,
                "flips_to": who[best].candidate.name if best else None,
                **_target_data(held.deciding),
            }
        )
    return found


# -- tables -----------------------------------------------------------------------------------------


def _target_data(target: Any) -> dict[str, Any]:
    return {**asdict(target), "asked": target.asked}


def _bill_data(cost: Bill) -> dict[str, Any]:
    return {
        "gpus": cost.gpus,
        "paid_gpus": cost.paid_gpus,
        "nodes": dict(cost.nodes),
        "usd_per_hour": cost.usd_per_hour,
        "usd_per_month": cost.usd_per_month,
    }


def _alternatives(planner: Planner, ranked: Sequence[Sized]) -> list[dict[str, Any]]:
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
                planner.bench.answer(planner.asked(sized.candidate, sized.sizes)).records, planner.bench.runner.store
            )
            row |= {
                "replicas": dict(zip(sized.candidate.scale, sized.sizes, strict=True)),
                **_bill_data(sized.cost),
                "p99_tta_s": figures["p99_tta_s"],
                "attainment": figures["attainment"],
            }
            row["reason"] = (
                "recommended"
                if place == 0
                else f"{sized.usd / best.usd - 1:+.0%} in cost"
                if sized.usd > best.usd
                else "as cheap, with less to spare"
            )
        else:
            row["reason"] = sized.reason or "no size meets the targets"
        rows.append(row)
    return rows


def _points(planner: Planner) -> list[dict[str, Any]]:
    """Every configuration that was simulated at this traffic under the assumptions as they are."""
    rows = []
    accuracy = {sized.candidate.name: sized.candidate.accuracy for sized in planner.found}
    for answer in planner.bench.answers.values():
        asked = answer.asked
        if asked.twist != NEUTRAL or asked.rate_factor != 1.0:
            continue
        if any(record["state"] == "failed" for record in answer.records):
            continue
        figures = pooled(answer.records, planner.bench.runner.store)
        rows.append(
            {
                "name": asked.label,
                "replicas": sum(asked.sizes),
                **_bill_data(planner.bill(asked.scenario)),
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


def _frontier(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Points that meet and that no other one beats in cost, p99 TTA and accuracy together."""
    good = [p for p in points if p["meets"] and not math.isnan(p["p99_tta_s"])]

    def beats(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        a = (one["usd_per_hour"], one["p99_tta_s"], -(one["accuracy"] or 0.0))
        b = (other["usd_per_hour"], other["p99_tta_s"], -(other["accuracy"] or 0.0))
        return a != b and all(x <= y for x, y in zip(a, b, strict=True))

    return [dict(p) for p in good if not any(beats(other, p) for other in good)]


def _limit(now: Sequence[Mapping[str, Any]], breaking: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What limits the plan as it is, and what gives out first under more traffic."""
    return {"now": _cause(now), "first_to_break": _cause(breaking)}


def _cause(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    shares: dict[str, float] = {"kv": 0.0, "seats": 0.0, "tokens": 0.0}
    use = imbalance = 0.0
    for record in records:
        if record["state"] != "done":
            continue
        for pool in record["summary"]["verdict_detail"]["pools"].values():
            for name, key in (
                ("kv", "blocked_by_kv_share"),
                ("seats", "blocked_by_seats_share"),
                ("tokens", "blocked_by_token_budget_share"),
            ):
                shares[name] = max(shares[name], pool[key] or 0.0)
        for pool in record["summary"]["kv"]["pools"].values():
            use = max(use, pool["use_max"] or 0.0)
        imbalance = max(imbalance, record["summary"]["load_imbalance"]["value"] or 0.0)
    name = max(shares, key=lambda key: shares[key])
    if shares[name] > 0.005:
        words = {
            "kv": f"KV memory: it keeps requests waiting {shares['kv']:.1%} of the time",
            "seats": f"the queue: all max_num_seqs seats are taken and requests wait {shares['seats']:.1%} of the time",
            "tokens": f"compute for prompts: max_num_batched_tokens is used up {shares['tokens']:.1%} of the time",
        }[name]
        return {"what": {"kv": "KV", "seats": "queue", "tokens": "compute"}[name], "words": words, "kv_use_max": use}
    if imbalance > 0.3:
        words = f"the router: replicas are busy to different degrees (largest over mean {1 + imbalance:.2f})"
        return {"what": "router", "words": words, "kv_use_max": use}
    words = f"compute: nothing waits, but each step of a fuller batch takes longer; KV is {use:.0%} full at its peak"
    return {"what": "compute", "words": words, "kv_use_max": use}
