"""Segments in one form, however the engine went: the longest runs of like steps, cut at the edges of the window.

Stepping gives a row a step, fast-forward rows of many, cut where something was planned. Here neighbours are joined
wherever the next step is like the one before, by a rule that looks at two neighbouring steps only: so both modes end in
the same rows. No run reaches over an edge of the measured window, and a step that does is a row of its own, so sums over
the window are exact. All of it is done in whole numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.results.growth import RunGrowth, ended_before
from sim.results.sinks import SEGMENT_ROW, SegmentSink, columns_of

IntArray = NDArray[np.int64]
Rows = dict[str, IntArray]

AREAS = ("reserved", "cached", "unused", "window", "duplicate")
"""Parts of the KV blocks whose sum over time is kept: with a reference; without one but in the prefix cache; reserved
and not reached by tokens; of sliding windows; held several times over."""

_CHUNK = 1 << 21


def canonical(sink: SegmentSink, edges_ps: Sequence[int]) -> Rows:
    """The rows of *sink* in order of time, with ``<part>_sum`` (over the steps) and ``<part>_moment`` (over the steps,
    each times its number within the row) of every part in AREAS."""
    parts, growth = _cut(sink.segments(), sink.growth(), sink.blocks, edges_ps)
    rows: Rows = dict(zip(SEGMENT_ROW, columns_of(parts), strict=True))
    _add_sums(rows, growth, sink.blocks)
    start = rows["start_ps"]
    if (start[1:] < start[:-1]).any():
        order = np.argsort(start, kind="stable")
        rows = {name: column[order] for name, column in rows.items()}
    return _join(rows, edges_ps)


def area_ps(rows: Rows, part: str) -> NDArray[np.float64]:
    """Blocks of *part* times picoseconds, of each row; rounded only now."""
    first = rows["step_ps"].astype(np.float64) * rows[f"{part}_sum"]
    area: NDArray[np.float64] = first + rows["step_growth_ps"].astype(np.float64) * rows[f"{part}_moment"]
    return area


def _ends(rows: Rows) -> IntArray:
    steps = rows["steps"]
    ends: IntArray = rows["start_ps"] + steps * rows["step_ps"] + rows["step_growth_ps"] * (steps * (steps - 1) // 2)
    return ends


def _cut(
    segments: IntArray, growth: RunGrowth, blocks: int, edges_ps: Sequence[int]
) -> tuple[list[IntArray], RunGrowth]:
    """Rows that reach over an edge, cut before and after the step that does; few do. The rows come in several parts."""
    rows = dict(zip(SEGMENT_ROW, segments.T, strict=True))
    ends = _ends(rows)
    over = np.zeros(len(ends), dtype=bool)
    for edge in edges_ps:
        over |= (rows["start_ps"] < edge) & (edge < ends) & (rows["steps"] > 1)
    if not over.any():
        return [segments], growth
    parts: list[IntArray] = []
    grown = RunGrowth()
    rows_done = count = 0
    for number in [*np.flatnonzero(over).tolist(), len(segments)]:
        # the rows before it stay as they are
        parts.append(segments[rows_done:number])
        growth.copy(grown, rows_done, number, count - rows_done)
        count += number - rows_done
        rows_done = number + 1
        if number == len(segments):
            break
        old = tuple(segments[number].tolist())
        start, steps, step_ps, step_growth_ps = old[:4]
        run = growth.of(number)
        cuts = {0, steps}
        for edge in edges_ps:
            done = ended_before(old, edge)
            whole = start + done * step_ps + step_growth_ps * (done * (done - 1) // 2)
            if start < edge < int(ends[number]):
                cuts |= {done, done + (whole < edge)}
        for first, end in itertools.pairwise(sorted(cuts)):
            parts.append(np.array([run.part(old, first, end, blocks)], dtype=np.int64))
            if run.takes and end - first > 1:
                grown.add(count, *run.moved(first))
                if run.unused:
                    grown.add_parts(run.unused, run.window)
            count += 1
    return parts, grown


def _add_sums(rows: Rows, growth: RunGrowth, blocks: int) -> None:
    steps = rows["steps"]
    pairs = steps * (steps - 1) // 2
    for part in AREAS:
        rows[f"{part}_sum"] = steps * rows[f"{part}_blocks"]
        rows[f"{part}_moment"] = pairs * rows[f"{part}_blocks"]
    if not growth.rows:
        return
    numbers = np.array(growth.rows, dtype=np.int64)
    length, at = np.array(growth.length, dtype=np.int64), np.array(growth.at, dtype=np.int64)
    takes = np.frombuffer(growth.takes, dtype=np.uint16).copy()
    grown = _Grown(takes, length, at, steps[numbers])
    total, summed, moment = grown.sums()
    rows["reserved_sum"][numbers] += summed
    rows["reserved_moment"][numbers] += moment
    cached = rows["cached_blocks"][numbers]
    plain = blocks - rows["reserved_blocks"][numbers] - cached
    evicting = (cached > 0) & (total > plain)
    at_once = evicting & (plain <= 0)
    rows["cached_sum"][numbers[at_once]] -= summed[at_once]
    rows["cached_moment"][numbers[at_once]] -= moment[at_once]
    later = np.flatnonzero(evicting & (plain > 0))
    summed, moment = grown.sums_beyond(later, plain[later])
    rows["cached_sum"][numbers[later]] -= summed
    rows["cached_moment"][numbers[later]] -= moment
    if growth.parts:
        place = np.flatnonzero(np.isin(numbers, np.array(list(growth.parts))))
        for part, which, sign in (("unused", 0, -1), ("window", 1, 1)):
            pattern = b"".join(growth.parts[row][which] for row in numbers[place].tolist())
            values = np.frombuffer(pattern, dtype=np.uint16)
            _, summed, moment = _Grown(values, length[place], at[place], steps[numbers[place]]).sums()
            rows[f"{part}_sum"][numbers[place]] += sign * summed
            rows[f"{part}_moment"][numbers[place]] += sign * moment


class _Grown:
    """Patterns of many rows, one after the other, and sums over the steps of each row in closed form."""

    def __init__(self, values: NDArray[np.uint16], length: IntArray, at: IntArray, steps: IntArray) -> None:
        self.values, self.length, self.at, self.steps = values, length, at, steps
        self.begins = np.concatenate([[0], np.cumsum(length)[:-1]])

    def sums(self) -> tuple[IntArray, IntArray, IntArray]:
        """Of what each row has grown by at its steps: at the last one, over all, and each times its number."""
        length, steps = self.length, self.steps
        rounds, rest = np.divmod(steps - 1, length)
        whole, more = self._alike(rest) if (length == length[0]).all() else self._of_any_length(rest)
        # An entry taken n times is taken at step, step + length, …: sums over these, then over all entries.
        total = rounds * whole[0] + more[0]
        linear, square = length * (rounds * (rounds - 1) // 2), length * (rounds * (rounds - 1))
        cubic = length**2 * ((rounds - 1) * rounds * (2 * rounds - 1) // 6)
        ones = rounds * whole[1] + linear * whole[0] + more[1] + length * rounds * more[0]
        squares = rounds * whole[2] + square * whole[1] + cubic * whole[0]
        squares += more[2] + 2 * length * rounds * more[1] + (length * rounds) ** 2 * more[0]
        return total, steps * total - ones, total * (steps * (steps - 1) // 2) - (squares - ones) // 2

    def _alike(self, rest: IntArray) -> tuple[list[IntArray], list[IntArray]]:
        """Σ values, Σ values·step and Σ values·step², over all entries and over the first *rest* steps, where all patterns
        are of one length."""
        size = int(self.length[0])
        values = self.values.reshape(-1, size)
        # half the bytes are half the time; where sums of size³ entries might not fit, whole width
        narrow: Any = np.int32 if len(values) and int(values.max()) * (size + 1) ** 3 < 1 << 31 else np.int64
        values = values.astype(narrow, copy=False)
        places = np.arange(size)
        step = ((places[:, None] - places) % size).astype(narrow)[self.at]
        once_more = values * (step < rest[:, None])
        step += 1
        square = step * step
        return tuple(  # type: ignore[return-value]
            [
                part.sum(axis=1, dtype=np.int64),
                np.einsum("ij,ij->i", part, step).astype(np.int64),
                np.einsum("ij,ij->i", part, square).astype(np.int64),
            ]
            for part in (values, once_more)
        )

    def _of_any_length(self, rest: IntArray) -> tuple[list[IntArray], list[IntArray]]:
        """The same for patterns of several lengths."""
        length, values = self.length, self.values.astype(np.int64)
        step = np.repeat(self.at + self.begins, length) - np.arange(len(values))
        step += (step < 0) * np.repeat(length, length)
        once_more = step < np.repeat(rest, length)
        step += 1
        moments = [values, values * step]
        moments.append(moments[1] * step)
        whole = [np.add.reduceat(moment, self.begins) for moment in moments]
        return whole, [np.add.reduceat(moment * once_more, self.begins) for moment in moments]

    def sums_beyond(self, places: IntArray, limits: IntArray) -> tuple[IntArray, IntArray]:
        """For the rows at *places*: sums of what they have grown by beyond *limits*, step by step."""
        summed, moment = np.zeros(len(places), dtype=np.int64), np.zeros(len(places), dtype=np.int64)
        bounds = np.searchsorted(np.cumsum(self.steps[places]), np.arange(0, self.steps[places].sum() + _CHUNK, _CHUNK))
        for first, end in zip(bounds, [*bounds[1:], len(places)], strict=True):
            if end <= first:
                continue
            some = places[first:end]
            steps = self.steps[some]
            begins = np.concatenate([[0], np.cumsum(steps)[:-1]])
            of = np.repeat(np.arange(len(some)), steps)
            number = np.arange(len(of)) - begins[of]
            taken = self.values[
                self.begins[some][of] + (self.at[some][of] - number + 1) % self.length[some][of]
            ].astype(np.int64)
            taken[begins] = 0
            grown = np.cumsum(taken)
            grown -= grown[begins][of]
            beyond = np.maximum(0, grown - limits[first:end][of])
            summed[first:end] = np.add.reduceat(beyond, begins)
            moment[first:end] = np.add.reduceat(beyond * number, begins)
        return summed, moment


_SAME = ("decodes", "step_growth_ps", "running", "waiting", "duplicate_blocks")
_GROWING = ("context", "live_tokens")
_OF_LAST = ("dropped", "reserved_blocks_last")


def _join(rows: Rows, edges_ps: Sequence[int]) -> Rows:
    """Neighbours joined wherever the next step is like the one before."""
    if len(rows["start_ps"]) < 2:
        return rows
    before = {name: column[:-1] for name, column in rows.items()}
    after = {name: column[1:] for name, column in rows.items()}
    steps = before["steps"]
    ends = _ends(before)
    like = (
        (before["chunks"] == 0)
        & (after["chunks"] == 0)
        & (before["chunk_tokens"] + after["chunk_tokens"] == 0)
        & (ends == after["start_ps"])
    )
    like &= (after["fresh"] == 0) & (before["dropped"] == 0) & (after["preempted"] == 0)
    like &= after["step_ps"] == before["step_ps"] + before["step_growth_ps"] * steps
    for name in _SAME:
        like &= before[name] == after[name]
    for name in _GROWING:
        like &= after[name] == before[name] + before["decodes"] * steps
    last_began = ends - before["step_ps"] - before["step_growth_ps"] * (steps - 1)
    first_ends = after["start_ps"] + after["step_ps"]
    for edge in edges_ps:
        like &= ~((last_began < edge) & (edge < first_ends))
    starts = np.concatenate([[0], np.flatnonzero(~like) + 1])
    lasts = np.concatenate([starts[1:] - 1, [len(rows["start_ps"]) - 1]])
    passed = np.cumsum(rows["steps"]) - rows["steps"]
    offset = passed - np.repeat(passed[starts], lasts - starts + 1)
    if len(starts) == len(rows["start_ps"]):
        return rows
    joined = {name: rows[name][lasts if name in _OF_LAST else starts] for name in SEGMENT_ROW}
    joined["steps"] = np.add.reduceat(rows["steps"], starts)
    for part in AREAS:
        joined[f"{part}_sum"] = np.add.reduceat(rows[f"{part}_sum"], starts)
        moments = rows[f"{part}_moment"] + offset * rows[f"{part}_sum"]
        joined[f"{part}_moment"] = np.add.reduceat(moments, starts)
    return joined
