"""The tie rule: what happens in which order within one instant, and what never happens."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cluster.clock import ARRIVAL, CANCEL, COMPLETION, FAILURE, NEVER, PHASES, REACTION, TICK, Clock


class Plan:
    def __init__(self, order: int, log: list) -> None:
        self.order = order
        self.log = log
        self.alarm = Clock().alarm(COMPLETION, order, lambda: None)

    def plan(self, now_ps: int, quiet_until_ps: int) -> None:
        self.log.append(("plan", self.order))


@given(st.permutations([(phase, order) for phase in range(PHASES) for order in range(3)]))
def test_an_instant_is_handled_by_phase_and_order_whatever_was_set_first(items) -> None:
    clock, log = Clock(), []
    for phase, order in items:
        clock.at(10, phase, order, lambda p=phase, o=order: log.append((p, o)))
    clock.run()
    assert log == sorted(items)
    assert clock.instants == 1


def test_long_ago_set_and_just_set_alarms_of_one_instant_keep_the_rule() -> None:
    """Plain SimPy would handle the arrival first when the completion was scheduled later."""
    clock, log = Clock(), []
    clock.at(100, ARRIVAL, 0, lambda: log.append("arrival"))
    clock.at(99, TICK, 0, lambda: clock.at(100, COMPLETION, 0, lambda: log.append("completion")))
    clock.run()
    assert log == ["completion", "arrival"]


def test_plans_come_last_in_order_and_may_start_the_round_again() -> None:
    clock, log = Clock(), []

    class Zero(Plan):
        def plan(self, now_ps: int, quiet_until_ps: int) -> None:
            super().plan(now_ps, quiet_until_ps)
            if len(log) < 6:
                clock.soon(COMPLETION, 0, lambda: (log.append("again"), clock.touch(self)))

    zero, other = Zero(1, log), Plan(0, log)
    clock.at(5, ARRIVAL, 0, lambda: (clock.touch(zero), clock.touch(other), log.append("arrival")))
    clock.run()
    assert log == ["arrival", ("plan", 0), ("plan", 1), "again", ("plan", 1), "again", ("plan", 1)]


def test_what_joins_an_instant_waits_for_its_phase() -> None:
    clock, log = Clock(), []

    def cancel() -> None:
        log.append("cancel")
        clock.soon(REACTION, 0, lambda: log.append("reaction"))
        clock.soon(ARRIVAL, 1, lambda: log.append("arrival 1"))

    clock.at(7, CANCEL, 0, cancel)
    clock.at(7, ARRIVAL, 2, lambda: log.append("arrival 2"))
    clock.run()
    assert log == ["cancel", "arrival 1", "arrival 2", "reaction"]


def test_an_arrival_that_joins_during_the_arrivals_takes_its_place_by_order() -> None:
    clock, log = Clock(), []

    def first() -> None:
        log.append(0)
        clock.soon(ARRIVAL, 1, lambda: log.append(1))

    clock.at(7, ARRIVAL, 0, first)
    clock.at(7, ARRIVAL, 2, lambda: log.append(2))
    clock.run()
    assert log == [0, 1, 2]


def test_a_moved_alarm_rings_once_at_its_last_time() -> None:
    clock, log = Clock(), []
    alarm = clock.alarm(COMPLETION, 0, lambda: log.append(clock.now_ps))
    clock.set(alarm, 100)
    clock.at(10, TICK, 0, lambda: clock.set(alarm, 50))
    clock.at(20, TICK, 0, lambda: clock.set(alarm, 100))
    clock.at(100, FAILURE, 0, lambda: log.append("after"))
    clock.run()
    assert log == [100, "after"]


def test_what_waits_beside_the_queue_goes_by_the_same_order() -> None:
    clock, log = Clock(), []
    done = clock.alarm(COMPLETION, 0, lambda: log.append("completion"))
    other = clock.alarm(COMPLETION, 1, lambda: log.append("other completion"))
    clock.at(5, ARRIVAL, 0, lambda: log.append("arrival"))
    for alarm in (other, done):
        clock.move(alarm, 9)
        clock.move(alarm, 5)
    clock.run()
    assert log == ["completion", "other completion", "arrival"]
    assert clock.instants == 1
    clock.move(done, 7)
    clock.unset(done)
    clock.run()
    assert len(log) == 3


def test_an_unset_alarm_is_silent_and_may_be_set_again() -> None:
    clock, log = Clock(), []
    alarm = clock.alarm(TICK, 0, lambda: log.append(clock.now_ps))
    clock.set(alarm, 5)
    clock.unset(alarm)
    assert alarm.due_ps == NEVER
    clock.at(6, ARRIVAL, 0, lambda: clock.set(alarm, 9))
    clock.run()
    assert log == [9]


def test_an_alarm_may_set_itself_again_for_the_same_and_for_a_later_instant() -> None:
    clock, log = Clock(), []

    def ring() -> None:
        log.append(clock.now_ps)
        if len(log) < 6:
            clock.set(alarm, clock.now_ps + len(log) % 2)

    alarm = clock.alarm(ARRIVAL, 0, ring)
    clock.set(alarm, 0)
    clock.run()
    assert log == [0, 1, 1, 2, 2, 3]


def test_a_planners_alarm_rings_when_its_plan_ends() -> None:
    clock, rung = Clock(), []

    class Plans(Plan):
        def plan(self, now_ps: int, quiet_until_ps: int) -> int | None:
            return next(ends)

    def ring() -> None:
        rung.append(clock.now_ps)
        clock.touch(one)

    one, ends = Plans(0, []), iter([7, 9, 9, 9, 12, None, 20])
    one.alarm = clock.alarm(COMPLETION, 0, ring)
    for moment in (5, 6, 8, 15):  # plans end at 7, which becomes 9, 9; there at once and at 12; never; at 20
        clock.at(moment, ARRIVAL, 0, lambda: clock.touch(one))
    with pytest.raises(StopIteration):
        clock.run()
    assert rung == [9, 9, 12, 20]


def test_a_planner_without_a_plan_has_a_silent_alarm() -> None:
    clock, rung = Clock(), []

    class Plans(Plan):
        def plan(self, now_ps: int, quiet_until_ps: int) -> int | None:
            return self.ends.pop(0)

    both = []
    for number in range(2):
        one = Plans(number, [])
        one.alarm = clock.alarm(COMPLETION, number, lambda n=number: rung.append((clock.now_ps, n)))
        one.ends = [9 + number, None]
        both.append(one)
    clock.at(5, ARRIVAL, 0, lambda: [clock.touch(one) for one in both])
    clock.at(8, ARRIVAL, 0, lambda: [clock.touch(one) for one in both])
    clock.run()
    assert rung == []
    assert [one.ends for one in both] == [[], []]


def test_time_never_runs_back() -> None:
    clock = Clock()
    clock.at(10, TICK, 0, lambda: clock.at(9, TICK, 0, print))
    with pytest.raises(ValueError, match="time would run back"):
        clock.run()


def test_stop_ends_the_run_after_the_instant() -> None:
    clock, log = Clock(), []
    clock.at(1, TICK, 0, lambda: (clock.stop(), clock.at(2, TICK, 0, lambda: log.append("late"))))
    clock.at(1, ARRIVAL, 0, lambda: log.append("same instant"))
    clock.run()
    assert log == ["same instant"]
    assert clock.now_ps == 1


def test_an_error_in_an_action_is_not_swallowed() -> None:
    clock = Clock()

    def broken() -> None:
        raise RuntimeError("mine")

    clock.at(1, TICK, 0, broken)
    with pytest.raises(RuntimeError, match="mine"):
        clock.run()


@given(st.integers(0, 10_000))
def test_random_moves_ring_as_a_plain_list_says(seed: int) -> None:
    """Alarms moved about at random ring exactly when the last setting said, and time is monotone."""
    rng = random.Random(seed)
    clock = Clock()
    expected, rung = {}, []
    alarms = [clock.alarm(COMPLETION, index, lambda i=index: ring(i)) for index in range(5)]

    def ring(index: int) -> None:
        rung.append((clock.now_ps, index))
        assert expected.pop(index) == clock.now_ps
        shuffle()

    def shuffle() -> None:
        if len(rung) > 40:
            return
        for index in range(5):
            if rng.random() < 0.5 and expected.get(index) != clock.now_ps:  # gathered already: it will ring
                expected[index] = clock.now_ps + rng.randrange(1, 6)
                put = clock.move if index % 2 else clock.set
                put(alarms[index], expected[index])

    clock.at(0, TICK, 0, shuffle)
    clock.run()
    assert not expected
    assert rung == sorted(rung)


def test_a_planner_knows_until_when_nothing_comes() -> None:
    clock, told = Clock(), []

    class Asks(Plan):
        def plan(self, now_ps: int, quiet_until_ps: int) -> None:
            assert now_ps == clock.now_ps
            told.append((now_ps, self.order, quiet_until_ps > now_ps, quiet_until_ps))

    one, two = Asks(0, []), Asks(1, [])
    clock.at(5, ARRIVAL, 0, lambda: clock.touch(one))
    clock.at(9, ARRIVAL, 0, lambda: (clock.touch(one), clock.touch(two)))
    clock.at(20, ARRIVAL, 0, lambda: (clock.touch(one), clock.stop()))
    clock.run()
    assert told[0] == (5, 0, True, 9)
    assert [each[2] for each in told[1:]] == [False, False, False], "another plans in this instant, or the run stops"
