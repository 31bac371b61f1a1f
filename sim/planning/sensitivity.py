"""Which assumption would change the decision: rate, tail of lengths, tensor parallelism, calibration error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sim.planning.point import NEUTRAL, Twist
from sim.planning.pooled import HOURS_PER_MONTH
from sim.planning.sizing import HALVE, Sized, Sizer
from sim.planning.tables import target_data

TAIL = 1.1
"""Exponent about the median that lengthens the tail."""
TENSOR_PARALLEL = 1 / 0.9
"""Steps so much longer where layers are shared: 10 % less efficient."""


def sensitivity(sizer: Sizer, ranked: Sequence[Sized]) -> list[dict[str, Any]]:
    """The winner and the runner-up sized again under each assumption; flips where another one becomes the cheapest."""
    winner = ranked[0]
    rivals = [sized for sized in ranked[1:] if sized.sizes is not None][:1]
    assert winner.sizes is not None
    own = sizer.bench.answer(sizer.asked(winner.candidate, winner.sizes))
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
        sizer.say(f"what if: {words}")
        who = [winner, *rivals]
        sizes = sizer.size(who, exactly=HALVE, twist=twist, factor=factor)
        costs = [
            math.inf if n is None else sizer.bill(sized.candidate.sized(n)).usd_per_hour
            for sized, n in zip(who, sizes, strict=True)
        ]
        held = sizer.bench.judge(
            [sizer.asked(winner.candidate, winner.sizes, twist=twist, factor=factor)], exactly=HALVE
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
                **target_data(held.deciding),
            }
        )
    return found
