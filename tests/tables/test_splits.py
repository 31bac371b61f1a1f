"""Rows of runs behind which others joined the queue, against one row after the other."""

from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sim.results.sinks as sinks
from sim.results.growth import Run
from sim.results.sinks import SEGMENT_ROW, SegmentSink

BLOCKS = 500
small = st.integers(0, 9)


@st.composite
def runs(draw):
    """A run of steps, its patterns, and who joins behind it at which step, some after its end."""
    steps = draw(st.integers(1, 40))
    size = draw(st.integers(1, 5)) if steps > 1 else 0
    patterns = draw(st.lists(st.lists(small, min_size=size, max_size=size), min_size=3, max_size=3))
    takes, *parts = (array("H", pattern).tobytes() for pattern in patterns)
    reserved = draw(st.integers(0, 200))
    cached = draw(st.integers(0, BLOCKS - reserved))
    named = dict.fromkeys(SEGMENT_ROW, 0) | {
        "start_ps": draw(st.integers(0, 1 << 50)),
        "steps": steps,
        "step_ps": draw(st.integers(1, 1 << 30)),
        "step_growth_ps": draw(small),
        "decodes": draw(st.integers(1, 300)),
        "fresh": draw(small),
        "dropped": draw(small),
        "context": draw(st.integers(0, 1 << 20)),
        "reserved_blocks": reserved,
        "live_tokens": draw(st.integers(0, 1 << 20)),
        "running": draw(small),
        "waiting": draw(small),
        "preempted": draw(small),
        "cached_blocks": cached,
        "unused_blocks": draw(st.integers(400, 500)),
        "window_blocks": draw(small),
        "duplicate_blocks": draw(small),
    }
    run = Run(takes, draw(st.integers(0, size - 1)) if size else 0, *(parts if size and draw(st.booleans()) else ()))
    named["reserved_blocks_last"] = run.part(tuple(named.values()), 0, steps, BLOCKS)[13]
    upto = sorted(draw(st.lists(st.integers(0, 50), max_size=4)))
    return tuple(named.values()), run, [(step, 100 + number) for number, step in enumerate(upto)]


def one_by_one(sink, row, run, joined):
    """What the sink is to make of it: a row for each length of the queue."""
    done, steps, waiting = 0, row[1], row[SEGMENT_ROW.index("waiting")]
    for upto, longer in [*(each for each in joined if each[0] < steps), (steps, 0)]:
        if upto > done:
            part = run.part(row, done, upto, BLOCKS, waiting)
            rest = run.rest(done) if upto - done > 1 else []
            (sink.add_reserved if len(rest) > 2 else sink.add)(part, *rest)
            done = upto
        waiting = longer


@pytest.mark.parametrize("at_once", [0, 3, 1024])
@settings(max_examples=25)
@given(rows=st.lists(runs(), max_size=8))
def test_as_row_by_row(at_once, rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sinks, "_MANY", at_once)
        got, expected = SegmentSink(blocks=BLOCKS), SegmentSink(blocks=BLOCKS)
        for row, run, joined in rows:
            if joined and joined[0][0] < row[1]:
                got.join(joined)
            (got.add_reserved if run.unused else got.add)(row, *run.rest(0))
            one_by_one(expected, row, run, joined if joined and joined[0][0] < row[1] else [])
        assert got.packed() == expected.packed()
        assert np.array_equal(got.segments(), expected.segments())
        for number in range(len(expected)):
            assert got.growth().of(number) == expected.growth().of(number)


def test_rows_written_later_stand_behind():
    row = (0, 6, 10, 1, 4, 0, 0, 400, 0, 0, 0, 0, 28, 32, 404, 4, 1, 0, 0, 0, 0, 0)
    sink = SegmentSink(blocks=100)
    sink.join([(2, 5), (4, 6)])
    sink.add(row, array("H", [1, 0]).tobytes(), 1)
    assert sink.segments()[:, SEGMENT_ROW.index("waiting")].tolist() == [1, 5, 6]
    sink.add((1000, *row[1:]), array("H", [1, 0]).tobytes(), 1)
    sink.join([(3, 7)])
    sink.add((2000, *row[1:]), array("H", [1, 0]).tobytes(), 1)
    assert sink.segments()[:, SEGMENT_ROW.index("steps")].tolist() == [2, 2, 2, 6, 3, 3]
    sink.lose(1015)
    assert sink.segments()[:, SEGMENT_ROW.index("start_ps")].tolist()[:5] == [0, 21, 46, 1000, 1010]
    sink.forget_segments()
    assert not len(sink)
