"""The kept order of ``mlfq`` decides as ranking everybody anew at every plan does."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import nsmallest
from typing import Any

import pytest
from policy_cases import dressed_case

from sim.engine.request import Request
from sim.engine.step import Step
from sim.policies.batching import admit_listed, clear_place, make_room
from sim.policies.schedulers.mlfq import Mlfq
from sim.validation.modes import compare, differences, run


@dataclass
class Note:
    join: int
    since_tokens: int
    served_ps: int


@dataclass(frozen=True)
class PlainMlfq(Mlfq):
    """The policy as its docstring has it: no order is kept, and no plan is held."""

    def _note(self, step: Step, request: Request) -> Note:
        note = step.memory.get(request)
        if note is None:
            note = step.memory[request] = Note(self._first_level(request), 0, request.arrived_ps)
        return note

    def _level(self, step: Step, request: Request) -> int:
        note = self._note(step, request)
        used, level = step.generated(request) - note.since_tokens, note.join
        while level < self.levels - 1 and used >= self.quantum_tokens << level:
            used -= self.quantum_tokens << level
            level += 1
        return level

    def schedule(self, step: Step) -> None:
        running, waiting = list(step.running), list(step.candidates())
        for request in [*(r for r in running if r.paused), *step.waiting]:
            note = self._note(step, request)
            if step.now_ps - note.served_ps >= round(self.starvation_s * 1e12):
                note.join, note.since_tokens, note.served_ps = 0, step.generated(request), step.now_ps
        rank = {r: (self._level(step, r), r.arrived_ps, r.id) for r in (*running, *waiting)}
        best = nsmallest(step.settings.max_num_seqs, rank, key=rank.__getitem__)
        for request in running:
            if not request.paused and request not in best:
                step.pause(request)
                self._note(step, request).served_ps = step.now_ps
        for request in running:
            if request.paused and request in best and step.seats > 0 and request.busy_until_ps <= step.now_ps:
                step.resume(request)
        make_room(step, lambda request: (request.paused, rank[request]))
        newcomers = [request for request in best if not request.running and request not in step.preempted]
        cleared = False
        if newcomers and not step.preempted:
            victims = [request for request in step.running if rank[request] > rank[newcomers[0]]]
            victims.sort(key=lambda request: (request.paused, rank[request]), reverse=True)
            cleared = clear_place(step, newcomers[0], victims, seat=False)
        step.serve_running()
        if not step.preempted or cleared:
            admit_listed(step, newcomers)
        if step.running and not step.preempted and all(request.paused for request in step.running):
            free = [request for request in step.running if request.busy_until_ps <= step.now_ps]
            if free and step.seats > 0:
                step.resume(min(free, key=rank.__getitem__))
                step.serve_running()
        for request in step.preempted:
            self._note(step, request).served_ps = step.now_ps


@pytest.mark.parametrize(
    "options", [{}, {"quantum_tokens": 4, "starvation_s": 5e-8}, {"quantum_tokens": 2, "levels": 3}]
)
def test_a_kept_order_decides_as_ranking_everybody_anew(options: dict[str, Any]) -> None:
    preemptions = 0
    for seed in range(12):
        for memory in ("plain", "all"):
            case = dressed_case(seed, memory=memory)
            plain = run(case, lambda: PlainMlfq(**options), stepwise=True, most_steps=4_000)
            kept, _, found = compare(case, lambda: Mlfq(**options), most_steps=4_000)
            assert plain.endless == kept.endless
            assert not found, f"seed {seed}: " + "\n".join(found)
            if not plain.endless:
                found = differences(plain, kept)
                assert not found, f"seed {seed}: " + "\n".join(found)
            preemptions += plain.seen["preemptions"]
    assert preemptions > (10 if options else 0)
