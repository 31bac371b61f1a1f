"""How much traffic a configuration takes: within its targets, and at all; and p99 TTA on the way there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sim.planning.design import Candidate, Sizes
from sim.planning.point import NEUTRAL
from sim.planning.pooled import pooled
from sim.planning.search import Bracket, drive, largest
from sim.planning.sizing import HALVE, Sizer

if TYPE_CHECKING:
    from sim.planning.judge import Judgement

RATE_PRECISION = 0.05
"""Ratio to which the largest rate within the targets is found."""
SUSTAINED_PRECISION = 0.15
"""And the largest one that is sustained: whether a backlog grows is itself a matter of the window's length."""


def capacity(sizer: Sizer, candidate: Candidate, chosen: Sizes) -> dict[str, Any]:
    """The largest rate within the targets, and the largest that is sustained at all."""
    found: dict[str, Any] = {}
    misses: dict[float, Any] = {}

    within = Bracket(None, None)

    def test(kind: str) -> Callable[[float], bool]:
        def ask(rate: float) -> bool:
            if kind == "sustained" and within.meets is not None and rate <= within.meets:
                return True  # whoever keeps to the targets is not overloaded
            asked = sizer.asked(candidate, chosen, factor=rate / sizer.rate)
            judgement: Judgement = sizer.bench.judge([asked], exactly=HALVE)[0]
            good = judgement.meets if kind == "slo" else not judgement.overloaded
            if kind == "slo" and not good:
                misses[rate] = sizer.bench.answer(asked).records
            return good

        return ask

    within = drive(largest(sizer.rate, precision=RATE_PRECISION), test("slo"))
    sustained: Bracket = drive(
        largest(within.misses or sizer.rate, precision=SUSTAINED_PRECISION, most=sizer.rate * 64), test("sustained")
    )
    found["slo_rate_per_s"], found["slo_missed_at_per_s"] = within.meets, within.misses
    rates = [rate for rate in (sustained.meets, within.meets) if rate is not None]
    found["sustained_rate_per_s"], found["overloaded_at_per_s"] = max(rates, default=None), sustained.misses
    found["precision"], found["sustained_precision"] = RATE_PRECISION, SUSTAINED_PRECISION
    found["first_miss_records"] = misses.get(within.misses) if within.misses is not None else None
    curve = [
        {
            "rate_per_s": answer.asked.rate_factor * sizer.rate,
            **_curve_figures(pooled(answer.records, sizer.bench.runner.store)),
            "meets": answer.judgement.meets,
            "overloaded": answer.judgement.overloaded,
        }
        for answer in sizer.bench.answers.values()
        if answer.asked.label == candidate.name and answer.asked.sizes == chosen and answer.asked.twist == NEUTRAL
    ]
    found["curve"] = sorted(curve, key=lambda row: float(row["rate_per_s"]))
    return found


def _curve_figures(row: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("p50_tta_s", "p99_tta_s", "p99_tta_low_s", "p99_tta_high_s", "p99_tta_at_least_s", "attainment")
    return {key: row.get(key) for key in keys}
