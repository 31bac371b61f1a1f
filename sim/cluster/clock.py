"""When does what happen, and in which order within one instant?

SimPy keeps the time; the order inside an instant is ours, so that no event id of SimPy decides anything.
Whatever falls due at one instant is gathered first and then handled phase by phase:

1. step completions (pool, replica)
2. failures and recoveries (pool, replica)
3. control ticks and state refreshes
4. strategy reactions (request)
5. cancels (request)
6. arrivals and routing (query, sample)

again and again until none is left; then every replica that was touched makes its plan (pool, replica). A plan
that ends at the same instant starts the round once more.

Nothing here is a SimPy process: an `Alarm` is a SimPy event that is scheduled again each time it is set,
which costs a third of a process and a tenth of an interrupt. An alarm that is set anew before it rang leaves
its former entry in SimPy's queue; that entry is recognised by its time and dropped. One alarm that
`move` sets may wait beside the queue: none of its moves leaves an entry behind.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

import simpy
from simpy.events import NORMAL

COMPLETION, FAILURE, TICK, REACTION, CANCEL, ARRIVAL = range(6)
PHASES = 6
NEVER = -1
FOREVER_PS = 1 << 100

Action = Callable[[], object]
_order = attrgetter("order")


class Planner(Protocol):
    """What is planned at the end of an instant; *order* is its place among the others, *alarm* rings when its plan ends."""

    order: int
    alarm: Alarm

    def plan(self, now_ps: int, quiet_until_ps: int) -> int | None:
        """When the plan ends; None: there is none. Nothing that is set happens before *quiet_until_ps*, and nobody else
        plans now, so whoever plans may go on alone up to it, this moment left out."""
        ...


class Alarm(simpy.Event):
    """Something that happens at a time that can be moved: *action* is called in *phase*, by *order* within
    it.

    Over time an alarm is *idle* (``due_ps`` is ``NEVER``), *set* (``due_ps`` is when it rings) or *gathered*
    (its instant has come, and it waits for its turn; ``due_ps`` is ``NEVER`` again, so it may be set for
    later by whoever is handled first). Two alarms of one phase must not share an *order* at one instant.
    """

    def __init__(self, clock: Clock, phase: int, order: int, action: Action) -> None:
        super().__init__(clock._env)
        # As simpy.Timeout does: the event is triggered from the start, scheduling it is all that is needed.
        self._ok = True
        self._value = None
        self.phase = phase
        self.order = order
        self.action = action
        self.due_ps = NEVER


class _Item(NamedTuple):
    """Something to do within the instant under way."""

    order: int
    action: Action


class Clock:
    """Integer time in picoseconds over one SimPy environment, and the tie rule of this module.

    ``now_ps`` is the present instant. ``pulse``, when given, is called every 1,024 instants (progress,
    wall-clock limits); it must not touch the simulation.
    """

    def __init__(self, pulse: Callable[[], None] | None = None) -> None:
        self._env = simpy.Environment(0)
        self._queue: list[Any] = self._env._queue
        self._event_ids = self._env._eid
        self._gathered: list[list[Alarm | _Item]] = [[] for _ in range(PHASES)]
        self._beside: Alarm | None = None  # what waits beside SimPy's queue …
        self._beside_ps = FOREVER_PS  # … and when it rings; FOREVER_PS when there is none
        self._touched: list[Planner] = []
        self.touch: Callable[[Planner], None] = self._touched.append
        """Have a planner plan when the instant is quiet; to be asked once an instant."""
        self._handling = False
        self._joined = False  # something joined the instant under way
        self._pulse = pulse
        self._stopped = False
        self.alone = True
        """Whether a planner may go on alone, see `Planner.plan`; not where the end may come from outside at any time."""
        self.now_ps = 0
        self.instants = 0

    # ------------------------------------------------------------------ what others ask of it

    def alarm(self, phase: int, order: int, action: Action) -> Alarm:
        """A new idle alarm."""
        return Alarm(self, phase, order, action)

    def set(self, alarm: Alarm, time_ps: int) -> None:
        """Let *alarm* ring at *time_ps*, and at no other time; raise a ValueError for a time in the past."""
        if alarm.due_ps == time_ps:
            return
        now_ps = self.now_ps
        if time_ps > now_ps:
            alarm.due_ps = time_ps
            # NOTE: inlined from simpy.Environment.schedule() for performance reasons
            heappush(self._queue, (time_ps, NORMAL, next(self._event_ids), alarm))
        elif time_ps < now_ps:
            raise ValueError(f"time would run back: {time_ps} ps asked for at {now_ps} ps")
        elif self._handling:
            alarm.due_ps = NEVER
            self._gathered[alarm.phase].append(alarm)
            self._joined = True
        else:
            alarm.due_ps = time_ps
            self._env.schedule(alarm, NORMAL, 0)

    def move(self, alarm: Alarm, time_ps: int) -> None:
        """The same for an alarm that is moved more often than it rings."""
        beside = self._beside
        if (beside is alarm or beside is None) and time_ps > self.now_ps:
            self._beside = alarm
            self._beside_ps = alarm.due_ps = time_ps
        else:
            self.set(alarm, time_ps)

    def unset(self, alarm: Alarm) -> None:
        """Let *alarm* not ring."""
        alarm.due_ps = NEVER

    def at(self, time_ps: int, phase: int, order: int, action: Action) -> Alarm:
        """Do *action* once at *time_ps*; return its alarm, so that it can be moved or unset."""
        alarm = Alarm(self, phase, order, action)
        self.set(alarm, time_ps)
        return alarm

    def soon(self, phase: int, order: int, action: Action) -> None:
        """Do *action* within the instant under way, in its turn."""
        assert self._handling, "soon() is for the instant under way; use at()"
        self._gathered[phase].append(tuple.__new__(_Item, (order, action)))  # in half the time of its constructor
        self._joined = True

    def run(self) -> None:
        """Run until `stop` is called or nothing is left to happen."""
        env, queue, touched, pulse = self._env, self._queue, self._touched, self._pulse
        self._handling = True
        while not self._stopped:
            now_ps = self._beside_ps
            if queue and (head := queue[0])[0] <= now_ps:
                if head[0] == now_ps:  # they share an instant, and are gathered together
                    env.schedule(self._beside, NORMAL, now_ps - env._now)  # type: ignore[arg-type]
                    self._beside, self._beside_ps = None, FOREVER_PS
                # NOTE: inlined from simpy.Environment.step() for performance reasons; an alarm never fails
                heappop(queue)
                env._now = now_ps = head[0]
                alarm = head[3]
                if queue and queue[0][0] <= now_ps:
                    self._gather(alarm, now_ps)
                    continue
            elif now_ps < FOREVER_PS:
                alarm = self._beside
                env._now = now_ps
                self._beside = None
                self._beside_ps = FOREVER_PS
            else:
                break
            if alarm.due_ps != now_ps:
                continue  # superseded
            # An instant that begins with this alarm alone, as most do.
            # NOTE: the same as _gather() and _handle(), without looking for more, for performance reasons
            alarm.due_ps = NEVER
            self.now_ps = now_ps
            alarm.action()
            if len(touched) == 1 and not self._joined:
                quiet_ps = self._beside_ps
                if queue and (next_ps := queue[0][0]) < quiet_ps:
                    quiet_ps = next_ps
                planner = touched.pop()
                alarm = planner.alarm
                due_ps = planner.plan(now_ps, quiet_ps if self.alone else 0)
                if due_ps is None:
                    alarm.due_ps = NEVER
                elif due_ps == alarm.due_ps:
                    pass
                elif due_ps > now_ps and ((beside := self._beside) is None or beside is alarm):
                    # NOTE: inlined from move() for performance reasons
                    self._beside = alarm
                    self._beside_ps = alarm.due_ps = due_ps
                else:
                    self.move(alarm, due_ps)
            if touched or self._joined:
                self._handle()
                continue
            self.instants = instants = self.instants + 1
            if not instants & 1023 and pulse is not None:
                pulse()
        self._handling = False

    def pulse(self, pulse: Callable[[], None]) -> None:
        """Call *pulse* now and then, as the class says."""
        self._pulse = pulse

    def stop(self) -> None:
        """End `run` after the instant under way; what is set for later never happens."""
        self._stopped = True
        self.alone = False

    def resume(self) -> None:
        """Let `run` go on after a `stop`."""
        self._stopped = False

    # ------------------------------------------------------------------ how an instant is handled

    def _gather(self, alarm: Alarm, now_ps: int) -> None:
        """*alarm* rings, and others do in the same instant."""
        queue, due = self._queue, False
        while True:
            if alarm.due_ps == now_ps:  # else it is superseded
                alarm.due_ps = NEVER
                self._gathered[alarm.phase].append(alarm)
                due = True
            if not queue or queue[0][0] > now_ps:
                break
            alarm = heappop(queue)[3]
        if due:
            self.now_ps = now_ps
            self._handle()

    def _handle(self) -> None:
        gathered = self._gathered
        while True:
            self._joined = False
            for bucket in gathered:
                while bucket:
                    left = len(bucket)
                    if left > 1:
                        bucket.sort(key=_order, reverse=True)
                    while left:
                        left -= 1
                        bucket.pop().action()
                        if len(bucket) != left:  # something joined this phase: it takes its place by order
                            break
            if self._joined:
                continue  # perhaps in a phase that was over; if not, the next round finds nothing
            if self._touched:
                touched = self._touched.copy()
                self._touched.clear()
                alone = len(touched) == 1 and self.alone
                quiet_ps = self._next_ps() if alone else 0
                if len(touched) > 1:
                    touched.sort(key=_order)
                for planner in touched:
                    due_ps = planner.plan(self.now_ps, quiet_ps)
                    if due_ps is None:
                        planner.alarm.due_ps = NEVER
                    elif due_ps != planner.alarm.due_ps:
                        self.move(planner.alarm, due_ps)
            if not self._joined and not self._touched:
                break
        self._done()

    def _next_ps(self) -> int:
        """When something rings next, at the earliest."""
        queue, beside_ps = self._queue, self._beside_ps
        return queue[0][0] if queue and queue[0][0] < beside_ps else beside_ps

    def _done(self) -> None:
        self.instants += 1
        if self._pulse is not None and not self.instants & 1023:
            self._pulse()
