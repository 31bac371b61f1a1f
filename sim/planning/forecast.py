"""What a plan will take, said before it starts: from the time and the memory of its first point."""

from __future__ import annotations

import math

from sim.planning.design import by_arithmetic
from sim.planning.point import Task
from sim.planning.sizing import Sizer
from sim.units import format_bytes, format_duration

A_CANDIDATE, THE_WINNER, WHAT_IFS = 7, 110, 25
"""Points that sizing a candidate, trying the winner, and its sensitivity take: what the shipped plans took, rounded up."""


def points(candidates: int, *, sensitivity: bool) -> int:
    """How many points a plan of so many candidates takes, roughly."""
    return A_CANDIDATE * candidates + THE_WINNER + (WHAT_IFS if sensitivity else 0)


def forecast(sizer: Sizer) -> str:
    """Points, time and memory in words; computes the point that sizing begins with, which is kept."""
    live = [sized.candidate for sized in sizer.found if sized.candidate.scenario is not None and not sized.reason]
    first = live[0]
    assert first.scenario is not None
    guess = min(by_arithmetic(first.scenario, first.scale[0], sizer.rate), sizer.plan.max_replicas)
    runner = sizer.bench.runner
    record = runner.run([Task(first.sized((guess,) * len(first.scale)), 0)])[0]
    count = points(len(live), sensitivity=sizer.plan.sensitivity)
    workers = runner.workers
    time_s = math.ceil(count / workers) * record["wall_s"]
    memory = (record["peak_memory_bytes"] or 0) * workers
    return (
        f"{len(live)} candidates, roughly {count} points: about {format_duration(time_s)} and {format_bytes(memory)} "
        f"of memory with {workers} worker{'s' if workers > 1 else ''}"
    )
