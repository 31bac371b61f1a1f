"""What must hold between the ``quality`` section, the strategy and the pools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sim.errors import InputError, Problem, nearest
from sim.scenario.compression import compresses

if TYPE_CHECKING:
    from sim.scenario.model import Scenario
    from sim.scenario.yaml_file import Document


def check_quality(scenario: Scenario, document: Document) -> list[Problem]:
    """Problems with pools that the strategy names, and with figures that are missing."""
    strategy: Any = scenario.strategy.make("strategy")
    pools = scenario.pools
    problems = [
        document.problem(
            ("strategy",),
            f"{scenario.strategy.name} asks for pool {name!r}, which is not there",
            expected="one of " + ", ".join(pools),
            nearest=nearest(name, pools),
        )
        for name in strategy.pools()
        if name not in pools
    ]
    quality = scenario.quality
    if quality is None:
        if strategy.judged:
            problems.append(
                document.problem(
                    ("strategy",),
                    f"{scenario.strategy.name} chooses among answers, and nothing says which are right",
                    expected="a quality section: quality: {benchmark: math-500}",
                )
            )
        return problems
    generating = [name for name, pool in pools.items() if pool.role in ("generate", "decode")]
    problems += [
        document.problem(
            ("quality", "pools", name),
            "is no pool that generates",
            expected="one of " + ", ".join(generating),
            nearest=nearest(name, generating),
        )
        for name in quality.pools
        if name not in generating
    ]
    scaled = [name for name, own in quality.pools.items() if (own.reasoning_scale, own.answer_scale) != (1, 1)]
    if scaled and strategy.plain and len(generating) > 1:
        problems.append(
            document.problem(
                ("quality", "pools", scaled[0]),
                f"lengths differ by pool, and {scenario.strategy.name} leaves the pool to the router",
                expected="a strategy that names pools, such as difficulty_routing or cascade",
            )
        )
    latent = [name for name, own in quality.pools.items() if own.latent is not None]
    if latent and strategy.plain and len(generating) > 1:
        problems.append(
            document.problem(
                ("quality", "pools", latent[0], "latent"),
                f"lengths differ by pool, and {scenario.strategy.name} leaves the pool to the router",
                expected="a strategy that names pools, such as difficulty_routing or cascade",
            )
        )
    shared = [name for name in latent if not getattr(quality.pools[name].latent, "keeps_kv", True)]
    path = ("quality", "pools", *shared[:1], "latent")
    if shared and strategy.probes_in_line() is not None:
        problems.append(document.problem(path, "probes of latent steps that leave no KV are not modelled"))
    for name in shared:
        if compresses(pools[name]) or pools[name].engine.speculative_config is not None:
            problems.append(
                document.problem(path, "latent steps that leave no KV, with KV compression or drafts, are not modelled")
            )
    return problems + _figures(scenario, document, generating)


def _figures(scenario: Scenario, document: Document, generating: list[str]) -> list[Problem]:
    """Every model that answers needs a figure for every benchmark asked of it."""
    from calibration.architecture import architecture
    from workloads.quality.published import law

    quality = scenario.quality
    assert quality is not None
    problems = []
    asked = set(quality.categories.values()) | ({quality.benchmark} if quality.benchmark else set())
    if not asked:
        return [document.problem(("quality",), "names no benchmark", expected="benchmark: math-500")]
    for name in generating:
        own = quality.pools.get(name)
        for benchmark in {own.benchmark} if own is not None and own.benchmark else sorted(asked):
            try:
                law(architecture(scenario.pools[name].model).name, benchmark, quality.models)
            except InputError as error:
                problems += [
                    document.problem(("quality",), p.message, expected=p.expected, nearest=p.nearest)
                    for p in error.problems
                ]
    return list(dict.fromkeys(problems))  # the same of several pools is said once
