"""Multi-level feedback queue with skip-join, memory taken by turns, and a starvation guard."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import accumulate
from typing import ClassVar

from sim.engine.request import Request
from sim.engine.settings import EngineSettings
from sim.engine.step import FOREVER, Step
from sim.engine.waiting import KeyQueue
from sim.policies.batching import clear_place, make_room_by, victims_for
from sim.policies.schedulers import scheduler

Rank = tuple[int, int, int]
"""Level, arrival, number: the smallest goes first."""
TOP = -1
"""The level of those that have starved."""
_NOWHERE = (-1, 0, 0)


class _Order:
    """Ranks the requests of one engine; the key of its queue."""

    def __init__(self, policy: Mlfq) -> None:
        self._quanta = quanta = [policy.quantum_tokens << level for level in range(policy.levels)]
        self._borders = [list(accumulate(quanta[first:-1])) for first in range(policy.levels)]
        """By the level at which a request joins: the output after which it falls, and falls again."""
        self._prompts = [(tokens + 1) * policy.prompt_tokens_per_token for tokens in quanta[:-1]]
        """From which prompt on a request joins below each level."""
        self.lifted: dict[Request, int] = {}
        """Who has starved and stands at the top, until its output is so many tokens."""
        self.joined: list[Request] = []
        """Who has joined the queue, or paused, since somebody asked who starves."""
        self._many = 1_024
        self._known: dict[Request, tuple[int, int, int]] = {}
        """What `place` found last."""

    def __call__(self, request: Request) -> Rank:
        """The rank of a *request* that joins the queue."""
        self.joined.append(request)
        if len(self.joined) > self._many:  # nobody has asked, since hardly anybody waits
            self.joined = [
                other for other in self.joined if other.finished_ps < 0 and (other.paused or not other.running)
            ]
            self._many = 1_024 + 2 * len(self.joined)
        return self.rank(request, _output_before(request))

    def rank(self, request: Request, generated: int) -> Rank:
        """The rank of *request*, whose output is *generated* tokens."""
        return (self.place(request, generated)[1], request.arrived_ps, request.id)

    def place(self, request: Request, generated: int) -> tuple[int, int, int]:
        """Where *request* stands, whose output is *generated* tokens: until which output, its level, and how many quanta it has
        used up."""
        known = self._known.get(request)
        if known is not None and generated < known[0]:
            return known
        known = self._known[request] = self._find_place(request, generated)
        if len(self._known) > 4_096 + 2 * len(self.lifted):
            self._known = {other: place for other, place in self._known.items() if other.finished_ps < 0}
        return known

    def _find_place(self, request: Request, generated: int) -> tuple[int, int, int]:
        until = self.lifted.get(request, 0) if self.lifted else 0
        if until > generated:
            return until, TOP, TOP
        first = bisect_right(self._prompts, request.prompt_tokens)
        borders = self._borders[first]
        used = bisect_right(borders, generated)
        if used < len(borders):
            return borders[used], first + used, used
        begun, quantum = borders[-1] if borders else 0, self._quanta[-1]
        more = (generated - begun) // quantum
        return begun + (more + 1) * quantum, first + used, used + more

    def lift(self, request: Request, generated: int) -> None:
        """*request* has starved: it goes to the top for one quantum of its level."""
        self.lifted = {other: tokens for other, tokens in self.lifted.items() if other.finished_ps < 0}
        self.lifted[request] = until = generated + self._quanta[self.place(request, generated)[1]]
        self._known[request] = until, TOP, TOP

    def starved(self, request: Request) -> bool:
        """Whether *request*, which waits, stands at the top."""
        return self.lifted.get(request, 0) > _output_before(request)

    def used_up(self, request: Request, generated: int) -> bool:
        """Whether *request*, which runs, has used up a quantum since it came in."""
        return self.place(request, generated)[2] > self._find_place(request, _output_before(request))[2]

    def lowest(self, step: Step) -> list[Request]:
        """All who run at the lowest level that anybody is at."""
        # NOTE: a loop of its own, for performance reasons: asked whenever blocks are short
        known, lowest = self._known, TOP
        found: list[Request] = []
        for request, tokens in zip(step.running, step.generated_by_all(), strict=True):
            until, level, _ = known.get(request, _NOWHERE)
            if tokens >= until:
                level = self.place(request, tokens)[1]
            if level > lowest:
                lowest, found = level, [request]
            elif level == lowest:
                found.append(request)
        return found

    def places(self, step: Step) -> list[tuple[Request, int, tuple[int, int, int]]]:
        """All who run, in order of admission: the request, its output, its place."""
        known, place = self._known, self.place
        return [
            (request, tokens, found if (found := known.get(request)) and tokens < found[0] else place(request, tokens))
            for request, tokens in zip(step.running, step.generated_by_all(), strict=True)
        ]


def _output_before(request: Request) -> int:
    """Output tokens of *request* when it was preempted last."""
    return max(0, request.peak + 1 - request.prompt_tokens) + request.probe_tokens


@dataclass
class _Starving:
    """Who does not run, by the moment at which it starves, and some who run again."""

    entries: list[tuple[int, int, Request]] = field(default_factory=list)
    not_before_ps: int = 0
    """When somebody may be lifted again."""


@scheduler("mlfq")
@dataclass(frozen=True)
class Mlfq:
    """FastServe (Wu et al., 2023): a multi-level feedback queue that needs no prediction. A request starts at the
    level whose quantum covers its prefill (skip-join), and falls by a level when it has used its quantum up; the
    quantum doubles from level to level. The best by (level, arrival) enters first; where seats are short it takes
    the seat of a worse one, which pauses and keeps its blocks until somebody better needs them. Who runs is not
    thrown out for a newcomer, which waits: what is computed again is lost to all, and those thrown out would do the
    same to others (the paper forbids it, too, and swaps). Where running requests need blocks, the worst level
    yields, of those who has computed least. Who has not run for ``starvation_s`` goes to the top for one quantum of its
    level, one request every ``starvation_s / levels``, and may take the blocks of those that have used up a quantum
    since they came in. Quanta are output tokens; ``prompt_tokens_per_token`` of a prompt count as one."""

    quantum_tokens: int = 128
    levels: int = 6
    prompt_tokens_per_token: int = 64
    starvation_s: float = 60.0
    serves_all_when_nobody_waits: ClassVar[bool] = True
    serves_all_then_admits_heads: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("quantum_tokens", "levels", "prompt_tokens_per_token"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.starvation_s <= 0:
            raise ValueError(f"starvation_s must be above 0, not {self.starvation_s}")

    def queue_order(self, settings: EngineSettings) -> _Order:
        """By rank, which changes while a request waits only when it is lifted."""
        return _Order(self)

    def schedule(self, step: Step) -> None:
        order = _order(step)
        step.wake_at_ps = self._lift(step, order)
        make_room_by(step, self.who_yields)
        seated = None
        if not step.preempted and (step.replica.paused or step.seats <= 0):
            seated = self._take_turns(step, order)
            make_room_by(step, self.who_yields)
        if step.preempted:  # nobody enters where blocks were short
            step.serve_running()
            return
        head, cleared = step.next_candidate(), False
        if head is not None and step.seats > 0 and self._takes_blocks(step, order, head):
            cleared = clear_place(step, head, self._victims(step, order, head), seat=False)
        alike = FOREVER
        if step.replica.paused or step.seats <= 0 or (head is not None and self._takes_blocks(step, order, head)):
            alike = self._until_a_turn_ends(step, order)
        step.serve_running()
        step.admit_heads()
        if step.replica.paused and not step.preempted and all(request.paused for request in step.running):
            self._go_on_with_one(step, order)
        step.wake_on_arrival = step.wake_on_new_head = True  # even where no seat is free
        if not step.waiting and not step.replica.paused:
            return
        busy = bool(step.waiting) and step.waiting.head().busy_until_ps > step.now_ps
        if cleared or step.preempted or busy or (seated is not None and not seated.running):
            step.hold = 1
        else:
            step.hold = min(step.hold, alike)

    def who_yields(self, step: Step) -> Request:
        """Who pauses, then who is at the lowest level, of those who has computed least."""
        order, computed = _order(step), step.computed
        if step.replica.paused:
            standing = [(each.paused, level, each) for each, _, (_, level, _) in order.places(step)]
            lowest = max(each[:2] for each in standing)
            found = [each for *place, each in standing if (*place,) == lowest]
        else:
            found = order.lowest(step)
        return found[0] if len(found) == 1 else min(found, key=lambda each: (computed(each), -each.id))

    def displaces(self, step: Step, head: Request) -> bool:
        """Whether *head* would take a seat, or blocks of somebody who has had his turn."""
        return not self.displaces_after(step, head)

    def displaces_after(self, step: Step, head: Request) -> int:
        """For how many steps it would not."""
        order = _order(step)
        if step.seats <= 0:
            first = order.rank(head, _output_before(head))
            if any((level, each.arrived_ps, each.id) > first for each, _, (_, level, _) in order.places(step)):
                return 0
        elif not self._takes_blocks(step, order, head):
            return FOREVER
        elif victims_for(step, head, self._victims(step, order, head), seat=False) is not None:
            return 0
        return self._until_a_turn_ends(step, order)

    @staticmethod
    def _takes_blocks(step: Step, order: _Order, head: Request) -> bool:
        """Whether *head* may take blocks from anybody at all."""
        return bool(step.replica.paused) or (bool(order.lifted) and order.starved(head))

    @staticmethod
    def _until_a_turn_ends(step: Step, order: _Order) -> int:
        """In how many steps the next of those that run will have used up a quantum."""
        return min([until - own for each, own, (until, _, _) in order.places(step) if not each.paused], default=FOREVER)

    @staticmethod
    def _victims(step: Step, order: _Order, head: Request) -> Iterator[Request]:
        """Whose blocks *head* may take, in the order in which they yield."""
        first, starved = order.rank(head, _output_before(head)), order.starved(head)
        behind = [
            (request.paused, level, -step.computed(request), request.id, request)
            for request, tokens, (_, level, _) in order.places(step)
            if (request.paused or (starved and order.used_up(request, tokens)))
            and (level, request.arrived_ps, request.id) > first
        ]
        behind.sort(reverse=True)
        for *_, request in behind:
            yield request

    def _lift(self, step: Step, order: _Order) -> int:
        """Lift the one that has starved longest, if it is time; return when it may be next."""
        now_ps, patience_ps = step.now_ps, round(self.starvation_s * 1e12)
        if not step.waiting and not step.replica.paused:
            return now_ps + patience_ps
        starving: _Starving = step.memory.get("starving") or step.memory.setdefault("starving", _Starving())
        entries = starving.entries
        for request in order.joined:
            if not request.running or request.paused:
                heappush(entries, (_stopped_ps(request) + patience_ps, request.id, request))
        order.joined = []
        while entries:
            at_ps, _, request = entries[0]
            runs = request.finished_ps >= 0 or (request.running and not request.paused)
            generated = step.generated(request)
            if runs or _stopped_ps(request) + patience_ps != at_ps or order.lifted.get(request, 0) > generated:
                heappop(entries)
                continue
            next_ps = max(starving.not_before_ps, at_ps)
            if now_ps < next_ps:
                return min(next_ps, now_ps + patience_ps)
            heappop(entries)
            waits = not request.running
            if waits:
                step.waiting.remove(request)
            order.lift(request, generated)
            if waits:
                step.waiting.push(request)
            starving.not_before_ps = now_ps + patience_ps // self.levels
        return now_ps + patience_ps

    def _take_turns(self, step: Step, order: _Order) -> Request | None:
        """Seats are short: the best of those that run or pause have them, and of those that wait the first, if it finds room;
        return that one, if it has one."""
        ranked = [
            ((level, request.arrived_ps, request.id), request) for request, _, (_, level, _) in order.places(step)
        ]
        seated = sorted(each for each in ranked if not each[1].paused)
        now_ps, seats = step.now_ps, step.seats
        claims = [each for each in ranked if each[1].paused and each[1].busy_until_ps <= now_ps]
        head = step.next_candidate()
        victims = self._victims(step, order, head) if head is not None else ()
        if head is not None and victims_for(step, head, victims, seat=False) is not None:
            claims.append((order.rank(head, _output_before(head)), head))
        found: Request | None = None
        for rank, request in sorted(claims):
            if seats > 0:
                seats -= 1
            elif seated and seated[-1][0] > rank:
                loser = seated.pop()[1]
                step.pause(loser)
                order.joined.append(loser)
            else:
                break
            if request.paused:
                step.resume(request)
            else:
                found = request
        return found

    def _go_on_with_one(self, step: Step, order: _Order) -> None:
        """All who run pause, and those for whom they pause find no room: the best of them goes on."""
        rank, generated = order.rank, step.generated
        paused = [(rank(each, generated(each)), each) for each in step.running if each.busy_until_ps <= step.now_ps]
        if paused and step.seats > 0:
            step.resume(min(paused)[1])
            step.serve_running()


def _order(step: Step) -> _Order:
    assert isinstance(step.waiting, KeyQueue)
    order = step.waiting.key
    assert isinstance(order, _Order)
    return order


def _stopped_ps(request: Request) -> int:
    """When *request* ran last; of one that never ran, its arrival."""
    return max(request.arrived_ps, request.busy_until_ps)
