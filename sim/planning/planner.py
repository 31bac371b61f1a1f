"""The capacity plan: the cheapest configuration that meets its targets, how sure that is, and what breaks it.

Candidates are sized by bisection with one replication each; the cheaper half is sized again with three
(successive halving); the cheapest of these is sized with as many replications as the confidence needs, and
whatever had looked cheaper is confirmed or refuted in the same way before it may lose. Then the winner is tried:
more traffic, fewer replicas, other assumptions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.errors import DoesNotFit
from sim.planning.bench import Bench
from sim.planning.design import candidates, rate_of
from sim.planning.forecast import forecast
from sim.planning.halving import search
from sim.planning.sizing import Say, Sized, Sizer
from sim.planning.tables import alternatives, frontier, points
from sim.planning.winner import try_out

if TYPE_CHECKING:
    from sim.planning.runs import Runner


def make_plan(
    source: str | Path | Mapping[str, Any], overrides: Sequence[str], runner: Runner, *, say: Say = lambda _: None
) -> dict[str, Any]:
    """The plan of a scenario as JSON data; ``recommended`` holds a scenario's data that can be run as it is.

    Raise an InputError where the scenario is no base for a plan, DoesNotFit where no candidate can be.
    """
    base, settings, made = candidates(source, overrides)
    bench = Bench(runner, settings.confidence, settings.replications, settings.lengthen)
    found = [Sized(candidate, reason=candidate.reason) for candidate in made]
    if not any(sized.candidate.scenario is not None and not sized.reason for sized in found):
        raise DoesNotFit("\n".join(f"{s.candidate.name}: {s.candidate.reason}" for s in found))
    sizer = Sizer(bench, settings, base, found, say, rate_of(base))
    say(forecast(sizer))
    ranked = search(sizer)
    data: dict[str, Any] = {
        "schema_version": 1,
        "scenario": base.name,
        "description": base.description,
        "rate_per_s": sizer.rate,
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
        data |= try_out(sizer, ranked)
    data["alternatives"] = alternatives(sizer, ranked)
    data["points"] = points(sizer)
    data["frontier"] = frontier(data["points"])
    data["points_computed"], data["points_reused"] = runner.computed, runner.reused
    return data
