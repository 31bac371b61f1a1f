"""Schedulers that use every action of a step, at points that only the state decides: what the modes must
agree on."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from sim.engine.step import Step


def _served(step: Step) -> bool:
    return step.budget < step.settings.max_num_batched_tokens


@dataclass(frozen=True)
class Chaos:
    """Pauses, resumes, preempts and admits by dice that the clock throws; promises nothing."""

    pause: float = 0.2
    resume: float = 0.4
    preempt: float = 0.05
    admit: float = 0.7
    leave_out: float = 0.0
    seed: int = 0

    def schedule(self, step: Step) -> None:
        dice = Random(f"{self.seed} {step.now_ps} {len(step.running)} {step.free_blocks}")
        for request in list(step.running):
            roll = dice.random()
            if request.paused:
                if roll < self.resume and step.seats > 0 and request.busy_until_ps <= step.now_ps:
                    step.resume(request)
            elif roll < self.pause:
                step.pause(request)
            elif roll < self.pause + self.preempt:
                step.preempt(request)
        if dice.random() >= self.leave_out:
            step.serve_running(chunk_limit=dice.choice((0, 0, 3)))
        elif dice.random() < 0.5:
            step.serve_running(decodes=False)
        if step.preempted and dice.random() < 0.5 and _served(step):
            return
        for request in list(step.candidates()):
            if not step.budget or step.seats <= 0 or (dice.random() > self.admit and _served(step)):
                break
            if not step.admit(request):
                break
        if not _served(step) and step.running:
            step.serve_running()
        if not _served(step):  # somebody must go on: the first that can
            for request in step.running:
                if request.paused and step.seats > 0 and request.busy_until_ps <= step.now_ps:
                    step.resume(request)
                    step.serve_running()
                    break


@dataclass(frozen=True)
class Rounds:
    """A request pauses after every *quantum* tokens where others are paused or wait; the longest paused goes
    on.

    A plan holds until the first request has used its quantum up."""

    quantum: int = 7
    seat_limit: int = 3
    phases: bool = False

    def schedule(self, step: Step) -> None:
        since = step.memory.setdefault("since", {})
        active = [request for request in step.running if not request.paused]
        for request in active:
            key = (step.answering(request) and self.phases, step.generated(request) // self.quantum)
            if since.setdefault(request, key) != key and (step.waiting or len(active) < len(step.running)):
                step.pause(request)
                step.memory.setdefault("paused", []).append(request)
        if not self.phases:
            since.clear()
        paused = [r for r in step.memory.get("paused", ()) if r.paused and r.running]
        room = self.seat_limit - sum(not request.paused for request in step.running)
        for request in paused:
            if room > 0 and step.seats > 0 and request.busy_until_ps <= step.now_ps:
                step.resume(request)
                since.pop(request, None)
                room -= 1
        step.memory["paused"] = [r for r in paused if r.paused]
        step.serve_running()
        if step.preempted:
            return
        for request in list(step.candidates()):
            if room <= 0 or not step.budget or step.seats <= 0 or not step.admit(request):
                break
            room -= 1
