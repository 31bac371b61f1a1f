"""What several schedulers share: admitting in order, making room, taking places for somebody more urgent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sim.engine.request import Request
from sim.engine.step import FOREVER, Step


def admit_listed(step: Step, order: Iterable[Request]) -> Request | None:
    """Admit *order* as far as it fits, nobody passing another; return who was refused, if anybody."""
    for request in order:
        if step.budget <= 0 or step.seats <= 0:
            break
        if not step.admit(request):
            return request
    return None


def make_room(step: Step, worst: Callable[[Request], Any], *, chunk_limit: int = 0) -> None:
    """Preempt, largest *worst* first, until everybody who runs finds the blocks of its next tokens."""
    make_room_by(step, lambda step: max(step.running, key=worst), chunk_limit=chunk_limit)


def make_room_by(step: Step, who_yields: Callable[[Step], Request], *, chunk_limit: int = 0) -> None:
    """The same, whomever *who_yields* names next, which a scheduler may also tell the engine (see its protocol)."""
    while step.blocks_needed(chunk_limit=chunk_limit) > step.free_blocks and len(step.running) > 1:
        step.preempt(who_yields(step))


def clear_place(step: Step, request: Request, victims: Iterable[Request], *, seat: bool = True) -> bool:
    """Preempt as few of *victims*, in their order, as *request* needs to be admitted; False, and nobody is
    preempted, when all of them were not enough.

    Counts the blocks of what *request* has to compute and the watermark; blocks that the prefix cache would
    give are counted as needed. Once it says no it says so for as long as the batch merely decodes: what the
    others take is gone, and the victims' own blocks grow by what they take at the most."""
    chosen = victims_for(step, request, victims, seat=seat)
    if chosen is None:
        return False
    for victim in chosen:
        step.preempt(victim)
    return True


def victims_for(step: Step, request: Request, victims: Iterable[Request], *, seat: bool = True) -> list[Request] | None:
    """Whom `clear_place` preempts, nobody where there is room; None where all of them are not enough. Whether they are does
    not depend on their order."""
    replica, size = step.replica, step.settings.block_size
    need = replica.blocks_to_admit(request, replica.first_tokens(request))
    need = max(need, replica.reservation(request)) + replica.watermark_blocks
    free, seats = step.free_blocks, step.seats
    if free >= need and (seats > 0 or not seat):
        return []  # and nobody has looked for victims
    chosen = []
    for victim in victims:
        if free >= need and (seats > 0 or not seat):
            break
        if step.computed(victim) <= victim.peak:
            continue  # it has computed nothing new since it came back: taken now, it would run in circles
        chosen.append(victim)
        free += max(-(-step.held(victim) // size), victim.reserved)
        seats += not victim.paused
    if free < need or (seat and seats <= 0):
        return None
    return chosen


def steps_to_refinement(step: Step) -> int:
    """For how many steps no running request's prediction is refined."""
    least = FOREVER
    for request in step.running:
        if request.refine_after:
            left = request.refine_after - step.generated(request)
            if 0 < left < least:
                least = left
    return least
