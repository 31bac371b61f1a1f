"""A small engine with the interface of a replica: seats, one token a request and step, and no memory to run
out of.

A step with n requests takes ``base_ps + seat_ps * n``. With ``jump`` it runs on to the next end at once and
is interrupted by what arrives; without, step by step. Both must give the same rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from sim.engine.request import Request
from sim.results.columns import Status


@dataclass
class FakeSnapshot:
    running: int
    waiting: int
    free_blocks: int
    total_blocks: int

    queued_tokens: int = 0
    computed_tokens: int = 0

    @property
    def kv_use(self) -> float:
        return 1 - self.free_blocks / self.total_blocks


class FakeEngine:
    def __init__(
        self, *, seats: int = 4, base_ps: int = 10, seat_ps: int = 1, jump: bool = True, fits: int = 1 << 60
    ) -> None:
        self.seats = seats
        self.base_ps = base_ps
        self.seat_ps = seat_ps
        self.jump = jump
        self.fits = fits
        self.running: list[Request] = []
        self.waiting: list[Request] = []
        self.gone: list[tuple[Request, Status]] = []  # taken back; they leave when the step under way ends
        self.start_ps = 0
        self.steps = self.batch = 0
        self.step_ps = base_ps
        self.next_end_ps: int | None = None
        self.completions = 0

    def never_fits(self, request: Request) -> str | None:
        if request.prompt_tokens > self.fits:
            return f"{request.prompt_tokens} tokens, more than the {self.fits} there are"
        return None

    def submit(self, request: Request, now_ps: int) -> None:
        assert request.status == Status.UNFINISHED
        assert request.first_scheduled_ps < 0, "served twice"
        self.waiting.append(request)

    def cancel(self, request: Request, now_ps: int, status: Status) -> bool:
        assert request.status == Status.UNFINISHED, "cancelled after its end"
        if request in self.waiting:
            self.waiting.remove(request)
        elif self.next_end_ps is not None:
            self.gone.append((request, status))
            return False
        else:  # between two steps
            self.running.remove(request)
        request.status = status
        request.finished_ps = now_ps
        return True

    def _advance(self, steps: int) -> None:
        for request in self.running:
            before = request.generated
            if not before:
                request.first_token_ps = self.start_ps + self.step_ps
            if before <= request.reasoning_tokens < before + steps:
                first = request.reasoning_tokens + 1 - before
                request.first_answer_ps = self.start_ps + first * self.step_ps
            request.known += steps
            request.steps += steps
            request.scheduled_tokens += steps
        self.start_ps += steps * self.step_ps

    def complete(self, now_ps: int) -> list[Request]:
        assert now_ps == self.next_end_ps, "completed at a time that was not said"
        self.completions += 1
        self._advance(self.steps)
        assert self.start_ps == now_ps
        self.next_end_ps = None
        ended = []
        for request in self.running:
            taken = [status for other, status in self.gone if other is request]
            if request.generated >= request.output_tokens:
                assert request.generated == request.output_tokens
                request.status = Status.COMPLETED
            elif taken:
                request.status = taken[0]
            else:
                continue
            request.finished_ps = now_ps
            ended.append(request)
        self.running = [request for request in self.running if request not in ended]
        self.gone.clear()
        return ended

    def plan(self, now_ps: int, quiet_until_ps: int = 0) -> int | None:
        if self.next_end_ps is not None:  # a run is under way; what happened may end it with the step under way
            if self.gone or (self.waiting and len(self.running) < self.seats):
                steps = max(1, -(-(now_ps - self.start_ps) // self.step_ps))
                self.steps = min(self.steps, steps)
                self.next_end_ps = self.start_ps + self.steps * self.step_ps
            return self.next_end_ps
        free = self.seats - len(self.running)
        for request in self.waiting[:free]:
            request.first_scheduled_ps = now_ps
        self.running += self.waiting[:free]
        del self.waiting[:free]
        if not self.running:
            return None
        self.start_ps = now_ps
        left = min(request.output_tokens - request.generated for request in self.running)
        self.steps = left if self.jump else 1
        self.batch = len(self.running)
        self.step_ps = self.base_ps + self.seat_ps * self.batch
        self.next_end_ps = now_ps + self.steps * self.step_ps
        return self.next_end_ps

    def settle(self, now_ps: int) -> None:
        """The run is over: what a run has done so far is booked."""
        if self.next_end_ps is not None and now_ps >= self.start_ps:
            self._advance(min(self.steps, (now_ps - self.start_ps) // self.step_ps))

    def snapshot(self, now_ps: int) -> FakeSnapshot:
        done = 0 if self.next_end_ps is None else min(self.steps, (now_ps - self.start_ps) // self.step_ps)
        held = sum(request.known + done for request in self.running)
        return FakeSnapshot(
            running=len(self.running),
            waiting=len(self.waiting),
            free_blocks=1_000_000 - held,
            total_blocks=1_000_000,
            computed_tokens=held,
            queued_tokens=sum(request.known for request in self.waiting),
        )

    def until_plan(self, seen: FakeSnapshot) -> tuple[int, int, int]:
        coming = self.steps * len(self.running) if self.next_end_ps is not None else 0
        return seen.computed_tokens, seen.computed_tokens + coming, seen.free_blocks
