"""Multi-level feedback queue with skip-join and a starvation guard."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import nsmallest
from typing import ClassVar

from sim.engine.request import Request
from sim.engine.step import FOREVER, Step
from sim.policies.batching import admit_listed, clear_place, make_room
from sim.policies.schedulers import scheduler


@dataclass
class _Note:
    """Where *join* and *since_tokens* say: the level a request joined, and its output by then."""

    join: int
    since_tokens: int
    served_ps: int
    """When it ran last; of a request that never ran, its arrival."""


@scheduler("mlfq")
@dataclass(frozen=True)
class Mlfq:
    """FastServe (Wu et al., 2023): a multi-level feedback queue that needs no prediction. A request starts at
    the level whose quantum covers its prefill (skip-join), and falls by a level when it has used its quantum
    up; the quantum doubles from level to level. The ``max_num_seqs`` best by (level, arrival) run; the others
    pause and keep their blocks until somebody better needs them. Who has not run for ``starvation_s`` goes to
    the top. Quanta are output tokens; ``prompt_tokens_per_token`` of a prompt count as one."""

    quantum_tokens: int = 128
    levels: int = 6
    prompt_tokens_per_token: int = 64
    starvation_s: float = 60.0
    serves_all_when_nobody_waits: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("quantum_tokens", "levels", "prompt_tokens_per_token"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    def _level(self, step: Step, request: Request) -> tuple[int, int]:
        """Level of *request*, and tokens until it falls."""
        note = self._note(step, request)
        used, level = step.generated(request) - note.since_tokens, note.join
        quantum = self.quantum_tokens << level
        while level < self.levels - 1 and used >= quantum:
            used -= quantum
            level += 1
            quantum *= 2
        return level, quantum - used if level < self.levels - 1 else FOREVER

    def _note(self, step: Step, request: Request) -> _Note:
        notes: dict[Request, _Note] = step.memory
        note = notes.get(request)
        if note is None:
            first, level = request.prompt_tokens // self.prompt_tokens_per_token, 0
            while level < self.levels - 1 and self.quantum_tokens << level < first:
                level += 1
            note = notes[request] = _Note(level, 0, request.arrived_ps)
        return note

    def _promote(self, step: Step, request: Request) -> int:
        """Lift *request*, which does not run, if it starves; return when it will."""
        note, patience_ps = self._note(step, request), round(self.starvation_s * 1e12)
        if step.now_ps - note.served_ps >= patience_ps:
            note.join, note.since_tokens, note.served_ps = 0, step.generated(request), step.now_ps
        return note.served_ps + patience_ps

    def schedule(self, step: Step) -> None:
        running, waiting = list(step.running), list(step.candidates())
        if len(step.memory) > 4 * (len(running) + len(step.waiting)) + 64:
            present = {*running, *step.waiting}
            for gone in [request for request in step.memory if request not in present]:
                del step.memory[gone]
        wake_ps = FOREVER << 40
        for request in running:
            if request.paused:
                wake_ps = min(wake_ps, self._promote(step, request))
        for request in step.waiting:
            wake_ps = min(wake_ps, self._promote(step, request))
        left: dict[Request, int] = {}
        rank: dict[Request, tuple[int, int, int]] = {}
        for request in (*running, *waiting):
            level, left[request] = self._level(step, request)
            rank[request] = (level, request.arrived_ps, request.id)
        worst = rank.__getitem__
        best = nsmallest(step.settings.max_num_seqs, rank, key=worst)
        self._take_turns(step, running, set(best))
        make_room(step, lambda request: (request.paused, rank[request]))
        newcomers = [request for request in best if not request.running and request not in step.preempted]
        if newcomers and not step.preempted:
            victims = [request for request in step.running if rank[request] > rank[newcomers[0]]]
            victims.sort(key=lambda request: (request.paused, rank[request]), reverse=True)
            cleared = clear_place(step, newcomers[0], victims, seat=False)
        else:
            cleared = False
        step.serve_running()
        if not step.preempted or cleared:
            admit_listed(step, newcomers)
        for request in step.preempted:
            self._note(step, request).served_ps = step.now_ps
        if len(step.waiting) or any(request.paused for request in running):
            step.hold = 1 if cleared else min((left[r] - 1 for r in running if not r.paused), default=1)
            step.hold = max(1, step.hold)
            step.wake_at_ps = wake_ps
        else:
            step.hold = FOREVER

    def _take_turns(self, step: Step, running: list[Request], best: set[Request]) -> None:
        for request in running:
            if not request.paused and request not in best:
                step.pause(request)
                self._note(step, request).served_ps = step.now_ps
        for request in running:
            if request.paused and request in best and step.seats > 0 and request.busy_until_ps <= step.now_ps:
                step.resume(request)
