"""What a router and the links between pools are told must mean something in this scenario: pools that exist and take queries, a
router within them that exists, links that something goes over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from sim.errors import InputError, Problem, nearest
from sim.scenario.kv_transfer import KvTransfer

if TYPE_CHECKING:
    from sim.scenario.model import Scenario
    from sim.scenario.yaml_file import Document


@runtime_checkable
class _NamesPools(Protocol):
    def named_pools(self) -> Sequence[str]: ...
    def needs(self) -> str: ...
    @property
    def judges(self) -> bool: ...


def check_routes(scenario: Scenario, document: Document) -> list[Problem]:
    """Problems with pools that the router names, with the router within them, and with links that nothing uses."""
    taking = [name for name, pool in scenario.pools.items() if pool.role in ("generate", "prefill")]
    router = scenario.router.make("router")
    problems = []
    if not isinstance(router, _NamesPools):
        router = None  # one from a file need not say
    for name in dict.fromkeys(router.named_pools() if router is not None else ()):
        if name in taking:
            continue
        known = name in scenario.pools
        problems.append(
            document.problem(
                ("router",),
                f"{scenario.router.name} sends queries to pool {name!r}, which "
                + (f"takes none: its role is {scenario.pools[name].role}" if known else "is not there"),
                expected="one of " + ", ".join(taking),
                nearest=None if known else nearest(name, taking),
            )
        )
    try:
        if router is not None:
            router.needs()
    except InputError as error:
        problems += [
            document.problem(("router",), problem.message, expected=problem.expected, nearest=problem.nearest)
            for problem in error.problems
        ]
    if router is not None and router.judges and scenario.quality is None:
        problems.append(
            document.problem(
                ("router",),
                f"{scenario.router.name} asks how hard queries are, and nothing says it",
                expected="a quality section: quality: {benchmark: math-500}",
            )
        )
    apart = any(pool.role == "prefill" for pool in scenario.pools.values())
    if not apart and scenario.kv_transfer != KvTransfer():
        problems.append(
            document.problem(
                ("kv_transfer",),
                "no KV is copied: prefill and decode are not apart",
                expected="pools with role: prefill and role: decode, or no kv_transfer",
            )
        )
    return problems
