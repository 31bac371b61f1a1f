"""Which assumption would change the decision: rate, tail of lengths, tensor parallelism, calibration error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sim.planning.design import Sizes
from sim.planning.point import NEUTRAL, Twist
from sim.planning.pooled import HOURS_PER_MONTH
from sim.planning.sizing import HALVE, Sized, Sizer
from sim.planning.tables import target_data

TAIL = 1.1
"""Exponent about the median that lengthens the tail."""
TENSOR_PARALLEL = 1 / 0.9
"""Steps so much longer where layers are shared: 10 % less efficient."""


@dataclass(frozen=True)
class Assumption:
    """What is assumed otherwise."""

    kind: str
    words: str
    twist: Twist = NEUTRAL
    factor: float = 1.0
    """Of the traffic."""
    harder: bool | None = None
    """True: nothing that missed can meet now; False: what met still does; None: neither is certain."""


def sensitivity(sizer: Sizer, ranked: Sequence[Sized]) -> list[dict[str, Any]]:
    """The winner and the runner-up sized again under each assumption; flips where the other becomes the cheaper.

    Profiles err independently of each other: where the two have different ones, the winner's error alone is tried
    as well, against the runner-up as it is.
    """
    winner = ranked[0]
    rivals = [sized for sized in ranked[1:] if sized.sizes is not None][:1]
    assert winner.sizes is not None
    median, p95 = _errors(sizer, winner)
    found: list[dict[str, Any]] = []
    for assumed in _assumptions(sizer, winner, median, p95):
        sizer.say(f"what if: {assumed.words}")
        who = [winner, *rivals]
        sizes = sizer.size(who, exactly=HALVE, twist=assumed.twist, factor=assumed.factor, harder=assumed.harder)
        costs = [_usd(sizer, sized, n) for sized, n in zip(who, sizes, strict=True)]
        held = sizer.bench.judge(
            [sizer.asked(winner.candidate, winner.sizes, twist=assumed.twist, factor=assumed.factor)], exactly=HALVE
        )[0]
        best = min(range(len(who)), key=lambda place: (costs[place], place))
        row = {
            "assumption": assumed.kind,
            "words": assumed.words,
            "recommendation_still_meets": held.meets,
            "replicas_needed": None if sizes[0] is None else dict(zip(winner.candidate.scale, sizes[0], strict=True)),
            "usd_per_month": None if math.isinf(costs[0]) else costs[0] * HOURS_PER_MONTH,
            "changes_size": sizes[0] != winner.sizes,
            "flips_to": who[best].candidate.name if best else None,
            **target_data(held.deciding),
        }
        found.append(row)
        if (
            assumed.kind == "calibration"
            and assumed.harder
            and rivals
            and _profiles(sizer, winner) != _profiles(sizer, rivals[0])
        ):
            flips = rivals[0].usd < costs[0]
            found.append(
                row
                | {
                    "words": f"{assumed.words}, of {winner.candidate.name} alone",
                    "flips_to": rivals[0].candidate.name if flips else None,
                }
            )
    return found


def _assumptions(sizer: Sizer, winner: Sized, median: float, p95: float) -> list[Assumption]:
    assert winner.sizes is not None
    found = [
        Assumption("rate", "10 % more queries", factor=1.1, harder=True),
        Assumption("rate", "10 % fewer queries", factor=0.9, harder=False),
        Assumption("tail", f"longer tail of lengths (exponent {TAIL:g})", Twist(tail=TAIL)),
        Assumption("tail", f"shorter tail of lengths (exponent {1 / TAIL:.3g})", Twist(tail=round(1 / TAIL, 6))),
    ]
    if any(pool.tensor_parallel_size > 1 for pool in winner.candidate.sized(winner.sizes).pools.values()):
        twist = Twist(tensor_parallel=TENSOR_PARALLEL)
        found.append(Assumption("TP efficiency", "tensor parallelism 10 % less efficient", twist, harder=True))
    for name, error in (("median error", median), ("p95 error", p95)):
        if error > 0:
            slower, faster = Twist(step=round(1 + error, 9)), Twist(step=round(1 / (1 + error), 9))
            found += [
                Assumption("calibration", f"steps {error:.1%} slower ({name})", slower, harder=True),
                Assumption("calibration", f"steps {error:.1%} faster ({name})", faster, harder=False),
            ]
    return found


def _errors(sizer: Sizer, sized: Sized) -> tuple[float, float]:
    """Median and 95th percentile of the error of the profiles, the largest of the pools."""
    assert sized.sizes is not None
    records = sizer.bench.answer(sizer.asked(sized.candidate, sized.sizes)).records
    fidelity = list(records[0]["summary"]["fidelity"].values())
    return (
        max((entry["error_median"] or 0.0) for entry in fidelity),
        max((entry["error_p95"] or 0.0) for entry in fidelity),
    )


def _profiles(sizer: Sizer, sized: Sized) -> set[str]:
    assert sized.sizes is not None
    records = sizer.bench.answer(sizer.asked(sized.candidate, sized.sizes)).records
    return {str(entry["profile"]) for entry in records[0]["summary"]["fidelity"].values()}


def _usd(sizer: Sizer, sized: Sized, sizes: Sizes | None) -> float:
    return math.inf if sizes is None else sizer.bill(sized.candidate.sized(sizes)).usd_per_hour
