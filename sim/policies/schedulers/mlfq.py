"""Multi-level feedback queue with skip-join and a starvation guard."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush, nsmallest
from itertools import islice
from typing import ClassVar

from sim.engine.request import Request
from sim.engine.step import FOREVER, NEVER_PS, Step
from sim.engine.waiting import FcfsQueue
from sim.policies.batching import admit_listed, clear_place, make_room
from sim.policies.schedulers import scheduler

Rank = tuple[int, int, int]
"""Level, arrival, number: the smallest goes first."""


@dataclass
class _Note:
    """What is known of a request: it joined at *join* when its output was *since_tokens*, is at *level* now, and
    falls when its output reaches *until_tokens*."""

    join: int
    since_tokens: int
    served_ps: int
    """When it ran last; of a request that never ran, its arrival."""
    level: int = 0
    until_tokens: int = 0
    rank: Rank = (0, 0, 0)


@dataclass
class _Books:
    """All requests in the engine; those that wait in order of rank, and when those that do not run will starve.

    The level of a request that waits changes by promotion only, so the order is kept from plan to plan.
    """

    notes: dict[Request, _Note] = field(default_factory=dict)
    waiting: list[tuple[Rank, Request]] = field(default_factory=list)
    starving: list[tuple[int, int, Request]] = field(default_factory=list)

    def join(self, request: Request) -> None:
        """*request* waits, at the rank in its note."""
        insort(self.waiting, (self.notes[request].rank, request), key=_rank)

    def leave(self, request: Request) -> None:
        """*request* waits no longer."""
        del self.waiting[bisect_left(self.waiting, self.notes[request].rank, key=_rank)]

    def candidates(self, now_ps: int) -> Iterator[Request]:
        """Who waits and can be looked at now, by rank."""
        return (request for _, request in self.waiting if request.busy_until_ps <= now_ps)


def _rank(entry: tuple[Rank, Request]) -> Rank:
    return entry[0]


@scheduler("mlfq")
@dataclass(frozen=True)
class Mlfq:
    """FastServe (Wu et al., 2023): a multi-level feedback queue that needs no prediction. A request starts at the
    level whose quantum covers its prefill (skip-join), and falls by a level when it has used its quantum up; the
    quantum doubles from level to level. The ``max_num_seqs`` best by (level, arrival) run; the others pause and
    keep their blocks until somebody better needs them, or until nobody better finds room. Who has not run for
    ``starvation_s`` goes to the top. Quanta are output tokens; ``prompt_tokens_per_token`` of a prompt count as
    one."""

    quantum_tokens: int = 128
    levels: int = 6
    prompt_tokens_per_token: int = 64
    starvation_s: float = 60.0
    serves_all_when_nobody_waits: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("quantum_tokens", "levels", "prompt_tokens_per_token"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.starvation_s <= 0:
            raise ValueError(f"starvation_s must be above 0, not {self.starvation_s}")

    def _place(self, request: Request, note: _Note, generated: int) -> None:
        """Note the level and rank of *request*, whose output is *generated* tokens."""
        used, level = generated - note.since_tokens, note.join
        quantum = self.quantum_tokens << level
        until = note.since_tokens + quantum
        while level < self.levels - 1 and used >= quantum:
            used -= quantum
            level += 1
            quantum *= 2
            until += quantum
        note.level = level
        note.until_tokens = until if level < self.levels - 1 else FOREVER
        note.rank = (level, request.arrived_ps, request.id)

    def _first_level(self, request: Request) -> int:
        first, level = request.prompt_tokens // self.prompt_tokens_per_token, 0
        while level < self.levels - 1 and self.quantum_tokens << level < first:
            level += 1
        return level

    def _read_queue(self, step: Step, books: _Books) -> None:
        """New arrivals stand at the end of the queue; who has left it is dropped."""
        notes, fresh = books.notes, []
        assert isinstance(step.waiting, FcfsQueue)
        for request in reversed(step.waiting):
            if request in notes:
                break
            fresh.append(request)
        self._enter(step, books, reversed(fresh))
        if len(books.waiting) != len(step.waiting):  # some were cancelled, or sent to another replica
            present = set(step.waiting)
            for _, request in books.waiting:
                if request not in present:
                    del notes[request]
            books.waiting = [entry for entry in books.waiting if entry[1] in present]
            self._enter(step, books, [request for request in step.waiting if request not in notes])
        if len(notes) > 4 * (len(step.running) + len(step.waiting)) + 64:
            for gone in [request for request in notes if request.finished_ps >= 0]:
                del notes[gone]

    def _enter(self, step: Step, books: _Books, fresh: Iterable[Request]) -> None:
        for request in fresh:
            note = books.notes[request] = _Note(self._first_level(request), 0, request.arrived_ps)
            self._place(request, note, step.generated(request))
            books.join(request)
            self._starves_later(books, request, note)

    def _starves_later(self, books: _Books, request: Request, note: _Note) -> None:
        heappush(books.starving, (note.served_ps + round(self.starvation_s * 1e12), request.id, request))

    def _promote(self, step: Step, books: _Books) -> int:
        """Lift those that starve; return when the next one will."""
        starving, patience_ps = books.starving, round(self.starvation_s * 1e12)
        lifted, next_ps = [], NEVER_PS
        while starving:
            at_ps, _, request = starving[0]
            note = books.notes.get(request)
            idle = note is not None and request.finished_ps < 0 and (request.paused or not request.running)
            if note is None or not idle or note.served_ps + patience_ps != at_ps:
                heappop(starving)  # it has run since, or it has gone
                continue
            if at_ps > step.now_ps:
                next_ps = at_ps
                break
            heappop(starving)
            if not request.running:
                books.leave(request)
            note.join, note.since_tokens, note.served_ps = 0, step.generated(request), step.now_ps
            self._place(request, note, note.since_tokens)
            if not request.running:
                books.join(request)
            lifted.append((request, note))
        for request, note in lifted:
            self._starves_later(books, request, note)
            next_ps = min(next_ps, step.now_ps + patience_ps)
        return next_ps

    def schedule(self, step: Step) -> None:
        books: _Books = step.memory.setdefault("books", _Books())
        notes, running = books.notes, list(step.running)
        self._read_queue(step, books)
        wake_ps = self._promote(step, books)
        outputs, own = step.generated_by_all(), [notes[request] for request in running]
        left = [note.until_tokens - generated for note, generated in zip(own, outputs, strict=True)]
        if left and min(left) <= 0:
            for request, note, generated in zip(running, own, outputs, strict=True):
                if generated >= note.until_tokens:
                    self._place(request, note, generated)
            left = [note.until_tokens - generated for note, generated in zip(own, outputs, strict=True)]
        seats, limit = step.settings.max_num_seqs, None
        crowded = len(running) + len(books.waiting) > seats
        if crowded and not step.replica.paused and self._all_stay(books, running, seats):
            limit = seats - len(running)  # so many of those that wait are among the best
        elif crowded:
            both = [*running, *islice(books.candidates(step.now_ps), seats)]
            best = set(nsmallest(seats, both, key=lambda request: notes[request].rank))
            limit = sum(not request.running for request in best)
            self._take_turns(step, books, running, best)
            wake_ps = min(wake_ps, step.now_ps + round(self.starvation_s * 1e12))
        elif step.replica.paused:
            self._take_turns(step, books, running, set(running))
        make_room(step, lambda request: (request.paused, notes[request].rank))
        head = next(books.candidates(step.now_ps), None) if limit != 0 else None
        cleared = False
        if head is not None and not step.preempted:
            cleared = clear_place(step, head, self._behind(step, notes, head), seat=False)
        step.serve_running()
        if not step.preempted or cleared:
            admit_listed(step, islice(books.candidates(step.now_ps), limit))
            for request, _ in step.admitted:
                books.leave(request)
        if step.replica.paused and not step.preempted and all(request.paused for request in step.running):
            self._go_on_with_one(step, books)
        for request in step.preempted:
            note = notes[request]
            note.served_ps = step.now_ps
            self._place(request, note, step.generated(request))
            books.join(request)
            self._starves_later(books, request, note)
        if step.waiting or step.replica.paused:
            step.hold = 1 if cleared else self._steps_alike(step, books, list(zip(running, left, strict=True)), crowded)
            step.wake_at_ps = wake_ps
        else:
            step.hold = FOREVER

    @staticmethod
    def _behind(step: Step, notes: dict[Request, _Note], head: Request) -> Iterator[Request]:
        """Those who run and stand behind *head*, who pauses first, the last one first."""
        first = notes[head].rank
        behind = [(request.paused, rank, request) for request in step.running if (rank := notes[request].rank) > first]
        behind.sort(reverse=True)
        for _, _, request in behind:
            yield request

    def _go_on_with_one(self, step: Step, books: _Books) -> None:
        """All who run pause, and those for whom they pause find no room: the best of them goes on."""
        paused = [request for request in step.running if request.paused and request.busy_until_ps <= step.now_ps]
        if paused and step.seats > 0:
            step.resume(min(paused, key=lambda request: books.notes[request].rank))
            step.serve_running()

    @staticmethod
    def _all_stay(books: _Books, running: list[Request], seats: int) -> bool:
        """Whether all that run are surely among the *seats* best."""
        worst = max(books.notes[request].rank for request in running) if running else (0, 0, 0)
        return len(running) + bisect_left(books.waiting, worst, key=_rank) <= seats

    def _steps_alike(self, step: Step, books: _Books, left: list[tuple[Request, int]], crowded: bool) -> int:
        """For how many steps the plan stays: until somebody who runs falls (*left* says in how many tokens each does), or, where
        only the first who waits looks for a place, until somebody falls behind that one."""
        head = next(books.candidates(step.now_ps), None)
        notes = books.notes
        if crowded or step.replica.paused or head is None or books.waiting[0][1] is not head:
            falls = [tokens for request, tokens in left if not request.paused]
            return max(1, min(falls, default=2) - 1)
        if not step.stays_refused(head):
            return 1
        first = notes[head].rank
        return max(1, min([tokens - 1 for request, tokens in left if notes[request].rank < first], default=FOREVER))

    def _take_turns(self, step: Step, books: _Books, running: list[Request], best: set[Request]) -> None:
        for request in running:
            if not request.paused and request not in best:
                step.pause(request)
                books.notes[request].served_ps = step.now_ps
                self._starves_later(books, request, books.notes[request])
        for request in running:
            if request.paused and request in best and step.seats > 0 and request.busy_until_ps <= step.now_ps:
                step.resume(request)
