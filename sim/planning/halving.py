"""Which candidate is the cheapest: successive halving, and proof for whoever looks cheapest."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sim.planning.pooled import pooled
from sim.planning.sizing import HALVE, SCREEN, Sized, Sizer

FINALISTS = 2


def search(sizer: Sizer) -> list[Sized]:
    """Successive halving; returns all candidates, those that can be bought first, the cheapest first."""
    live = [sized for sized in sizer.found if sized.candidate.scenario is not None and not sized.candidate.reason]
    sizer.say(f"sizing {len(live)} candidates, {SCREEN} replication each")
    sizer.stage(live, "screened", SCREEN)
    keep = _cheapest(sizer, [sized for sized in live if sized.sizes is not None])
    if len(keep) > FINALISTS:
        keep = keep[: max(FINALISTS, math.ceil(len(keep) / 2))]
        sizer.say(f"the cheaper {len(keep)} again, {HALVE} replications each")
        sizer.stage(keep, "halved", HALVE)
    while True:
        # whoever looks cheapest must prove it; who has proven it and still is the cheapest has won
        order = _cheapest(sizer, [sized for sized in live if sized.sizes is not None])
        if not order or order[0].stage == "final":
            break
        sizer.say(f"{order[0].candidate.name}: sizing with up to {sizer.bench.most} replications")
        sizer.stage([order[0]], "final", None)
    rest = [sized for sized in sizer.found if sized not in order]
    return [*order, *rest]


def _cheapest(sizer: Sizer, who: Sequence[Sized]) -> list[Sized]:
    return sorted(who, key=lambda sized: (sized.usd, _tail(sizer, sized), sized.candidate.name))


def _tail(sizer: Sizer, sized: Sized) -> float:
    """p99 TTA, in seconds: of equals in cost the faster one is taken."""
    assert sized.sizes is not None
    records = sizer.bench.answer(sizer.asked(sized.candidate, sized.sizes)).records
    figures = pooled(records, sizer.bench.runner.store)
    known = float(figures["p99_tta_s"])
    return float(figures.get("p99_tta_at_least_s", math.inf)) if math.isnan(known) else known
