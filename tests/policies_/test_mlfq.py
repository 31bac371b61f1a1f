"""The kept order of ``mlfq`` decides as ranking everybody anew at every plan does."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from policy_cases import dressed_case, preemptions_of_both

from sim.engine.request import Request
from sim.engine.step import Step
from sim.policies.schedulers.mlfq import Mlfq

OPTIONS: list[dict[str, Any]] = [
    {},
    {"quantum_tokens": 4, "starvation_s": 5e-8},
    {"quantum_tokens": 2, "levels": 3, "starvation_s": 2e-8},
]


@dataclass
class Notes:
    top_until: dict[Request, int] = field(default_factory=dict)
    """Who has starved: at which output it leaves the top."""
    last_lift_ps: int | None = None


@dataclass(frozen=True)
class PlainMlfq(Mlfq):
    """The policy as its docstring has it: queue in order of arrival, no order is kept, and no plan is held."""

    queue_order = None  # type: ignore[assignment]
    who_yields = displaces = displaces_after = None  # type: ignore[assignment]
    serves_all_then_admits_heads = False  # type: ignore[misc]

    def _quantum(self, level: int) -> int:
        return self.quantum_tokens * 2 ** min(level, self.levels - 1)

    def _turns(self, request: Request, generated: int) -> tuple[int, int]:
        """Level, and whole quanta used up."""
        level = turns = 0
        while level < self.levels - 1 and request.prompt_tokens // self.prompt_tokens_per_token > self._quantum(level):
            level += 1
        while generated >= self._quantum(level):
            generated -= self._quantum(level)
            level += 1
            turns += 1
        return min(level, self.levels - 1), turns

    def _rank(self, notes: Notes, step: Step, request: Request) -> tuple[int, int, int]:
        generated = step.generated(request)
        at_top = generated < notes.top_until.get(request, 0)
        return (-1 if at_top else self._turns(request, generated)[0], request.arrived_ps, request.id)

    def _has_had_its_turn(self, notes: Notes, step: Step, request: Request) -> bool:
        """Since it came in it has come to the end of a quantum, or of its time at the top."""
        now = step.generated(request)
        then = max(0, request.peak + 1 - request.prompt_tokens) + request.probe_tokens
        until = notes.top_until.get(request, 0)
        if now < until:
            return False
        return then < until or self._turns(request, now)[1] > self._turns(request, then)[1]

    def _lift(self, notes: Notes, step: Step) -> None:  # type: ignore[override]
        patience = round(self.starvation_s * 1e12)
        idle = [*step.waiting, *(request for request in step.running if request.paused)]
        since = [(max(r.arrived_ps, r.busy_until_ps), r.id, r) for r in idle if self._rank(notes, step, r)[0] >= 0]
        starving = [each for each in since if step.now_ps - each[0] >= patience]
        early = notes.last_lift_ps is not None and step.now_ps - notes.last_lift_ps < patience // self.levels
        if starving and not early:
            request = min(starving)[2]
            generated = step.generated(request)
            notes.top_until[request] = generated + self._quantum(self._turns(request, generated)[0])
            notes.last_lift_ps = step.now_ps

    def _room_for(self, notes: Notes, step: Step, head: Request) -> list[Request] | None:
        """Who has to go so that the blocks of *head* are free; None when that cannot be."""
        replica, size = step.replica, step.settings.block_size
        need = max(replica.blocks_to_admit(head, replica.first_tokens(head)), replica.reservation(head))
        missing = need + replica.watermark_blocks - step.free_blocks
        first, going = self._rank(notes, step, head), []
        behind = [request for request in step.running if self._rank(notes, step, request) > first]
        for request in sorted(behind, key=lambda each: self._yields(notes, step, each), reverse=True):
            if missing <= 0:
                break
            if not (request.paused or (first[0] < 0 and self._has_had_its_turn(notes, step, request))):
                continue
            if step.computed(request) <= request.peak:
                continue
            going.append(request)
            missing -= max(-(-step.held(request) // size), request.reserved)
        return going if missing <= 0 else None

    def _yields(self, notes: Notes, step: Step, request: Request) -> tuple[bool, int, int, int]:
        return request.paused, self._rank(notes, step, request)[0], -step.computed(request), request.id

    def _make_room(self, notes: Notes, step: Step) -> None:
        while step.blocks_needed() > step.free_blocks and len(step.running) > 1:
            step.preempt(max(step.running, key=lambda each: self._yields(notes, step, each)))

    def _hand_out_seats(self, notes: Notes, step: Step) -> None:
        ranked = {request: self._rank(notes, step, request) for request in step.running}
        seated = sorted((r for r in ranked if not r.paused), key=ranked.__getitem__)
        claims = [r for r in ranked if r.paused and r.busy_until_ps <= step.now_ps]
        head = min(step.candidates(), key=lambda each: self._rank(notes, step, each), default=None)
        if head is not None and self._room_for(notes, step, head) is not None:
            claims.append(head)
            ranked[head] = self._rank(notes, step, head)
        free = step.seats
        for request in sorted(claims, key=ranked.__getitem__):
            if free > 0:
                free -= 1
            elif seated and ranked[seated[-1]] > ranked[request]:
                step.pause(seated.pop())
            else:
                break
            if request.paused:
                step.resume(request)

    def schedule(self, step: Step) -> None:
        notes: Notes = step.memory.setdefault("notes", Notes())
        self._lift(notes, step)
        self._make_room(notes, step)
        if not step.preempted and (step.replica.paused or step.seats <= 0):
            self._hand_out_seats(notes, step)
            self._make_room(notes, step)
        if step.preempted:
            step.serve_running()
            return
        queue = sorted(step.candidates(), key=lambda each: self._rank(notes, step, each))
        if queue and step.seats > 0:
            for request in self._room_for(notes, step, queue[0]) or []:
                step.preempt(request)
        step.serve_running()
        for request in sorted(step.candidates(), key=lambda each: self._rank(notes, step, each)):
            if step.budget <= 0 or step.seats <= 0 or not step.admit(request):
                break
        if step.replica.paused and not step.preempted and all(request.paused for request in step.running):
            free_ones = [request for request in step.running if request.busy_until_ps <= step.now_ps]
            if free_ones and step.seats > 0:
                step.resume(min(free_ones, key=lambda each: self._rank(notes, step, each)))
                step.serve_running()


@pytest.mark.parametrize("options", OPTIONS)
def test_a_kept_order_decides_as_ranking_everybody_anew(options: dict[str, Any]) -> None:
    assert _compare(range(10, 18), ("plain", "all"), options) > 10


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
def test_a_kept_order_decides_as_ranking_everybody_anew_often(options: dict[str, Any]) -> None:
    assert _compare(range(100, 140), ("plain", "all", "swap", "host"), options) > 50


def _compare(seeds: range, memories: tuple[str, ...], options: dict[str, Any]) -> int:
    make = partial(PlainMlfq, **options), partial(Mlfq, **options)
    return sum(
        preemptions_of_both(dressed_case(seed, memory=memory), seed, *make) for seed in seeds for memory in memories
    )
