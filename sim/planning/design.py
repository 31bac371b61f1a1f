"""What may be chosen: candidates from the ``plan`` section, what each costs, and which cannot be at all."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.errors import DoesNotFit, InputError, Problem, ThinkcapError
from sim.planning.lengths import means
from sim.planning.pooled import HOURS_PER_MONTH
from sim.planning.sweep import Axis, grid
from sim.scenario.check import deployment
from sim.scenario.load import load

if TYPE_CHECKING:
    from sim.scenario.model import Scenario
    from sim.scenario.plan import Plan

Sizes = tuple[int, ...]
_SHORT = {
    "tensor_parallel_size": "TP",
    "pipeline_parallel_size": "PP",
    "data_parallel_size": "DP",
    "thinking_token_budget": "budget",
}
_BARE = frozenset({"hardware", "model", "dtype", "name", "router", "strategy", "scheduler"})


@dataclass(frozen=True)
class Bill:
    """What a configuration costs."""

    gpus: int
    paid_gpus: int
    """Whole nodes, where these are paid."""
    nodes: Mapping[str, int]
    """Nodes by hardware."""
    usd_per_hour: float

    @property
    def usd_per_month(self) -> float:
        """For 730 hours, the mean month."""
        return self.usd_per_hour * HOURS_PER_MONTH


@dataclass(frozen=True)
class Candidate:
    """One alternative: a scenario whose pools in *scale* may have any number of replicas."""

    name: str
    settings: tuple[tuple[str, str], ...]
    scenario: Scenario | None
    reason: str = ""
    """Why there is no scenario, or why it is left out."""
    scale: tuple[str, ...] = ()
    accuracy: float | None = None

    def sized(self, sizes: Sizes) -> Scenario:
        """Its scenario with that many replicas."""
        assert self.scenario is not None
        return with_replicas(self.scenario, dict(zip(self.scale, sizes, strict=True)))


def candidates(
    source: str | Path | Mapping[str, Any], overrides: Sequence[str]
) -> tuple[Scenario, Plan, list[Candidate]]:
    """The scenario as it stands, its plan section, and every candidate; those that cannot be carry the reason.

    Raise an InputError where the scenario is no base for a plan: no targets, a closed loop, or a key of the
    plan section that nothing knows.
    """
    from sim.scenario.plan import Plan

    base = load(source, overrides)
    plan = base.plan or Plan()
    problems = []
    if not base.slo.targets() and not any(own.targets() for own in base.slo.categories.values()):
        problems.append(Problem("no targets", key="slo", expected="at least one, such as tta: {p99: 2 min}"))
    if getattr(base.workload.arrivals, "process", "") in ("closed", "burst", "rollout"):
        problems.append(Problem("a plan needs traffic with a rate", key="workload.arrivals", expected="open arrivals"))
    if problems:
        raise InputError(problems)
    axes = [Axis(key, tuple(json.dumps(value) for value in values)) for key, values in plan.alternatives.items()]
    bundles: list[tuple[str, Mapping[str, Any]]] = list(plan.candidates.items()) or [("", {})]
    made: list[Candidate] = []
    refused: list[InputError] = []
    for name, changes in bundles:
        own = tuple((key, json.dumps(value)) for key, value in changes.items())
        for combination in grid(axes):
            settings = (*own, *combination)
            made.append(_candidate(source, overrides, plan, name, settings, combination, refused))
    if refused and not any(each.scenario for each in made):
        raise refused[0]
    return base, plan, _told_apart(made)


def _candidate(
    source: Any,
    overrides: Sequence[str],
    plan: Plan,
    bundle: str,
    settings: tuple[tuple[str, str], ...],
    combination: tuple[tuple[str, str], ...],
    refused: list[InputError],
) -> Candidate:
    name = ", ".join(part for part in (bundle, *(_words(key, value) for key, value in combination)) if part)
    name = name or "as it stands"
    try:
        scenario = load(source, [*overrides, *(f"{key}={value}" for key, value in settings)])
    except DoesNotFit as error:
        return Candidate(name, settings, None, f"does not fit: {error}")
    except InputError as error:
        refused.append(error)
        return Candidate(name, settings, None, f"cannot be: {error}")
    except ThinkcapError as error:
        return Candidate(name, settings, None, str(error))
    scenario = scenario.model_copy(update={"plan": None})
    scale = tuple(plan.scale or scenario.pools)
    if missing := [pool for pool in scale if pool not in scenario.pools]:
        scale = tuple(pool for pool in scale if pool in scenario.pools)
        if not scale:
            raise InputError(Problem(f"no pool {missing[0]!r}", key="plan.scale", expected=", ".join(scenario.pools)))
    models = {pool.model for pool in scenario.pools.values()}
    known = [plan.accuracy[key] for key in (name, bundle, *sorted(models)) if key in plan.accuracy]
    accuracy = known[0] if known else None
    reason = ""
    measured = accuracy is None and scenario.quality is not None  # then it comes out of the simulation
    if plan.min_accuracy is not None and not measured and (accuracy is None or accuracy < plan.min_accuracy):
        said = "not known" if accuracy is None else f"{accuracy:.0%}"
        reason = f"its accuracy is {said}, at least {plan.min_accuracy:.0%} is asked"
    made = Candidate(name, settings, scenario, reason, scale, accuracy)
    if not reason and plan.max_gpus is not None:
        least = bill(made.sized((1,) * len(scale)), whole_nodes=plan.whole_nodes)
        if least.paid_gpus > plan.max_gpus:
            reason = f"one replica takes {least.paid_gpus} GPUs, {plan.max_gpus} are allowed"
            made = Candidate(name, settings, scenario, reason, scale, accuracy)
    return made


def _words(key: str, value: str) -> str:
    last = key.rpartition(".")[2]
    said = json.loads(value)
    if isinstance(said, Mapping):
        said = ", ".join(f"{k} {v}" if k != "name" else str(v) for k, v in said.items())
    return str(said) if last in _BARE else f"{_SHORT.get(last, last)} {said}"


def _told_apart(made: list[Candidate]) -> list[Candidate]:
    seen: dict[str, int] = {}
    out = []
    for each in made:
        seen[each.name] = seen.get(each.name, 0) + 1
        name = each.name if seen[each.name] == 1 else f"{each.name} #{seen[each.name]}"
        out.append(Candidate(name, each.settings, each.scenario, each.reason, each.scale, each.accuracy))
    return out


# -- changes of a scenario -------------------------------------------------------------------------


def with_replicas(scenario: Scenario, replicas: Mapping[str, int]) -> Scenario:
    """*scenario* with so many replicas in the pools named."""
    pools = {
        name: pool.model_copy(update={"replicas": replicas.get(name, pool.replicas)})
        for name, pool in scenario.pools.items()
    }
    return scenario.model_copy(update={"pools": type(scenario.pools)(pools)})


def with_rate(scenario: Scenario, rate_per_s: float) -> Scenario:
    """*scenario* with that many queries a second in the mean."""
    workload = scenario.workload.model_copy(update={"rate": float(f"{rate_per_s:.6g}")})
    return scenario.model_copy(update={"workload": workload})


def rate_of(scenario: Scenario) -> float:
    """Queries a second: as stated, else as the first block of the traffic has them."""
    if scenario.workload.rate is not None:
        return float(scenario.workload.rate)
    from workloads.source import build

    block = build(scenario.workload, seed=scenario.seed).block(0)
    if block is None or len(block) < 2 or block.arrived_ps[-1] <= block.arrived_ps[0]:
        raise InputError(Problem("the traffic has no rate", key="workload.rate", expected="a rate, such as 2/s"))
    return float((len(block) - 1) * 1e12 / (block.arrived_ps[-1] - block.arrived_ps[0]))


def bill(scenario: Scenario, *, whole_nodes: bool) -> Bill:
    """What *scenario*'s GPUs cost; raise an InputError where a price is missing.

    With *whole_nodes* pools of one hardware share nodes, and every GPU of a node is paid, those without a
    replica at the dearest price of that hardware.
    """
    groups: dict[str, list[tuple[int, float, int]]] = {}
    for name, pool in scenario.pools.items():
        placed = deployment(pool)
        price = pool.price if pool.price is not None else scenario.cost.price
        if price is None:
            price = placed.price_per_gpu_hour
        if price is None:
            raise InputError(
                Problem(f"{placed.hardware.name} has no list price", key=f"pools.{name}.price", expected="2.50 USD/h")
            )
        gpus = placed.gpus * pool.replicas
        groups.setdefault(placed.hardware.name, []).append((gpus, price, placed.hardware.gpus_per_node))
    total = paid = 0
    usd = 0.0
    nodes = {}
    for hardware, entries in groups.items():
        gpus, size = sum(entry[0] for entry in entries), entries[0][2]
        nodes[hardware] = math.ceil(gpus / size)
        spare = nodes[hardware] * size - gpus if whole_nodes else 0
        usd += sum(count * price for count, price, _ in entries) + spare * max(price for _, price, _ in entries)
        total += gpus
        paid += gpus + spare
    return Bill(total, paid, nodes, usd)


def by_arithmetic(scenario: Scenario, pool: str, rate_per_s: float) -> int:
    """Replicas of *pool* as a spreadsheet of mean lengths has them: work of a mean query (its samples, its reasoning
    cut at the budget), over what a replica does with its KV memory full of mean queries. No queue, no tail, no target
    enters; a lower bound."""
    from workloads.source import build

    placed, engine = deployment(scenario.pools[pool]), scenario.pools[pool].engine
    strategy: Any = scenario.strategy.make("strategy")
    budget = getattr(strategy, "thinking_token_budget", None)
    samples = int(getattr(strategy, "samples", 1))
    source = build(scenario.workload, seed=scenario.seed)
    prompt, reasoning, answer = means(source, budget if isinstance(budget, int) else None)
    output = max(reasoning + answer, 1.0)
    context = prompt + output / 2
    batch = max(1, min(engine.max_num_seqs or 256, int(placed.memory.kv_tokens / context)))
    step_s = placed.step_cost.decode_ps(batch, int(batch * context)) / 1e12
    query_s = output * step_s / batch + placed.step_cost.linear(int(prompt)) / 1e12
    return max(1, math.ceil(rate_per_s * samples * query_s))
