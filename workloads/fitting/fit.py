"""A trace turned into a spec: clients with their rates by window, their burstiness, and mixtures for their
lengths.

What is kept is fitted figures alone: names are replaced by numbers unless asked for, no row of the trace
survives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from workloads.arrivals import LONGEST_S
from workloads.bursts import GapMeter
from workloads.conversations import LATER, SINGLE
from workloads.drawn import chunks_of
from workloads.fitting.arrivals import SHOWN, Arrivals, Seen, arrivals_of
from workloads.fitting.lengths import FIT_ROWS, Sample, lengths_of
from workloads.fitting.plain import digits
from workloads.fitting.structure import extras_of, mean_turns, sessions_of
from workloads.held import Chunk, Held
from workloads.source import build
from workloads.spec import WorkloadSpec

FloatArray = npt.NDArray[np.float64]

_LEAST_ROWS = 200
"""Queries that make laws of lengths of their own."""
_LEAST_ARRIVALS = 20
"""Queries that make rates of their own."""
_MOST_MEMBERS = 120
_STREAM_WINDOWS = 288
_MOST_RATES = 20_000
"""Windows times groups: as many numbers as a YAML file may sensibly hold."""


@dataclass
class Fit:
    """The ``workload`` section as plain data, and what was assumed on the way."""

    workload: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    clients: tuple[str, ...] = ()
    """What the generator calls the client of each code of the trace; none for a burst."""


def fit(held: Held, *, window_s: float | None = None, keep_names: bool = False) -> Fit:
    """A generator of traffic like *held*: as many queries, window by window, client by client.

    Clients (or categories, where the trace names no clients) with at least 200 rows are fitted each by
    itself, up to 120 of them; those with at least 20 have rates of their own, and lengths together with all others.
    Windows last *window_s*, by default ten minutes in traces
    of two hours and more.
    """
    notes: list[str] = []
    first_s, last_s = held.first_s, held.last_s
    if last_s <= first_s:
        return _burst(held, notes)
    if last_s - first_s > LONGEST_S:
        rows = sum(int(np.searchsorted(chunk.arrived, first_s + LONGEST_S)) for chunk in held.chunks())
        notes.append(f"only the first {LONGEST_S / 86_400:g} days are fitted: a workload cannot last longer")
        held = held.first(rows)
        last_s = held.last_s
    groups = _groups(held, notes)
    given = window_s is not None
    if window_s is None:
        window_s = _window(last_s - first_s, len(held), len(groups.names))
    # Time is counted from the trace's own zero, unless traffic starts later than a window after it.
    begin_s = 0.0 if first_s < window_s else first_s
    window_s, whens = _windowed(held, groups, begin_s, last_s - begin_s, window_s)
    if len(set(groups.whose)) == 1 and not given:
        # One stream: shorter windows may carry what bursts a single renewal process cannot have.
        seconds = last_s - begin_s
        tries = [window_s, window_s / 4, max(seconds / _STREAM_WINDOWS, 50 * seconds / len(held), 1.0)]
        # Conversations and single queries swell together, which neither shows by itself.
        tries = [min(tries)] if len(groups.names) > 1 else sorted(set(tries), reverse=True)
        for shorter in [length for length in tries if length < window_s]:
            if len(whens) == 1 and whens[0].distance <= 0.5:
                break
            other_s, other = _windowed(held, groups, begin_s, seconds, shorter)
            if len(whens) > 1 or other[0].distance < whens[0].distance:
                window_s, whens = other_s, other
    members: dict[str, Any] = {}
    shown_of: dict[int, str] = {}
    pooled: dict[bool, dict[str, Any]] = {}
    for number, (name, when) in enumerate(zip(groups.names, whens, strict=True)):
        talks = groups.talks[number]
        if number < groups.large:
            lengths = lengths_of(_sample(held, groups.of == number))
        else:
            alike = [other for other in range(groups.large, len(groups.names)) if groups.talks[other] == talks]
            pooled[talks] = pooled.get(talks) or lengths_of(_sample(held, np.isin(groups.of, alike)))
            lengths = pooled[talks]
        shown = name if keep_names else f"client-{groups.whose[number] + 1}"
        shown_of[groups.whose[number]] = shown
        member = when.keys | {"lengths": lengths}
        if talks:
            assert held.structure is not None
            mine = np.flatnonzero(groups.of[1::2] == number)
            member["sessions"] = sessions_of(held.structure, mine, last_s)
            turns = mean_turns(member["sessions"])
            member["rates"] = [digits(rate * turns, 6) for rate in member["rates"]]
        if held.has_turns:
            member["client"] = shown
        if held.grouped_by == "category":
            member["category"] = shown
        members[f"{shown}, conversations" if talks else shown] = member
    workload: dict[str, Any] = {"queries": len(held), "profile": "day", "even_draws": True}
    if held.structure is not None:
        workload |= extras_of(held.structure, list(members.values()), notes)
    workload["clients"] = {"window": f"{window_s:.9g} s", "members": members}
    if held.has_turns:
        talking = sum(int(np.count_nonzero(chunk.turn)) for chunk in held.chunks() if chunk.turn is not None)
        _pace(workload, last_s, talking / len(held))
    return Fit(workload, notes, tuple(shown_of[whose] for whose in groups.client_of(len(held.names))))


def _pace(workload: dict[str, Any], last_s: float, talking: float) -> None:
    """Change the rates of the conversations of *workload*, *talking* of its queries, so that these come until *last_s*.

    Conversations that the trace ends in, and those that had begun before it, make the turns of a session fewer than
    they are, and the last of them come after the end.
    """
    for _ in range(3):
        source = build(WorkloadSpec.model_validate(workload | {"queries": 4 * workload["queries"]}), seed=0)
        reached = 0
        try:
            for chunk in chunks_of(source, most=1):
                reached += int(np.searchsorted(chunk.arrived, last_s, side="right"))
                if chunk.arrived[-1] > last_s:
                    break
        except OverflowError:
            # So few arrive that a block of them lasts beyond all time: there is nothing to be paced.
            return
        factor = 1.0 + (workload["queries"] / max(reached, 1) - 1.0) / talking
        if abs(factor - 1.0) < 0.002:
            return
        for member in workload["clients"]["members"].values():
            if "sessions" in member:
                member["rates"] = [digits(rate * max(factor, 0.2), 6) for rate in member["rates"]]


def _window(seconds: float, rows: int, groups: int) -> float:
    """Length of a window in s: ten minutes, shorter in short traces, longer where few arrive or there are too many to write."""
    window_s = 600.0 if seconds >= 7200 else float(np.clip(seconds / 12, 1.0, 600.0))
    most = max(min(_MOST_RATES / groups, rows / 5), 12)
    return window_s * max(1, math.ceil(seconds / window_s / most))


def _windowed(
    held: Held, groups: _Groups, begin_s: float, seconds: float, window_s: float
) -> tuple[float, list[Arrivals]]:
    """Whole windows of about *window_s* from *begin_s* on, how long these are, and the arrivals of each group.

    A part of a window at the end would be drawn out to its full length.
    """
    count = max(1, round(seconds / window_s))
    window_s = seconds / count * (1 + 1e-9)
    meter = GapMeter(window_s, tables=True)
    kept: list[list[FloatArray]] = [[] for _ in groups.names]
    rows = np.zeros(len(groups.names), np.int64)
    for chunk in held.chunks():
        new = slice(None) if chunk.turn is None else chunk.turn != LATER
        group, times = groups.of[codes_of(chunk)[new]], chunk.arrived[new] - begin_s
        meter.add(times, group)
        for index in np.flatnonzero(rows < SHOWN).tolist():
            mine = times[group == index]
            kept[index].append(mine)
            rows[index] += len(mine)
    sizes = np.zeros((len(groups.names), count), np.int64)
    cvs = np.full(sizes.shape, np.nan)
    window, group, size, cv = meter.groups()
    sizes[group, np.minimum(window, count - 1)] = size
    cvs[group, np.minimum(window, count - 1)] = cv
    whens = []
    for index, parts in enumerate(kept):
        times = np.concatenate(parts)
        # Whole windows of the first arrivals; at least one window, however many it holds.
        whole = np.cumsum(sizes[index])
        shown = int(whole[max(int(np.searchsorted(whole, min(len(times), SHOWN), side="right")) - 1, 0)])
        whens.append(arrivals_of(Seen(window_s, times[:shown], sizes[index], cvs[index])))
    return window_s, whens


def _burst(held: Held, notes: list[str]) -> Fit:
    notes.append("all queries arrive at once: fitted as a burst")
    arrivals = {"process": "burst", "size": len(held)}
    sample = _sample(held, np.ones(2 * len(held.names), np.bool_))
    return Fit({"arrivals": arrivals, "lengths": lengths_of(sample)}, notes)


def codes_of(chunk: Chunk) -> npt.NDArray[np.int64]:
    """Twice the client's code, and one more where a query belongs to a conversation."""
    talks = 0 if chunk.turn is None else chunk.turn != SINGLE
    return np.asarray(2 * chunk.client.astype(np.int64) + talks)


def _sample(held: Held, whose: npt.NDArray[np.bool_]) -> Sample:
    """Up to 400,000 rows of those whose code is true in *whose*, evenly from first to last; prompts of first turns."""
    total = sum(int(np.count_nonzero(whose[codes_of(chunk)])) for chunk in held.chunks())
    wanted = np.arange(total) if total <= FIT_ROWS else np.linspace(0, total - 1, FIT_ROWS).astype(np.int64)
    seen, parts = 0, []
    for chunk in held.chunks():
        mine = np.flatnonzero(whose[codes_of(chunk)])
        begin, end = np.searchsorted(wanted, [seen, seen + len(mine)])
        rows = mine[wanted[begin:end] - seen]
        seen += len(mine)
        none = np.zeros(0, np.int64)
        first = np.ones(len(rows), np.bool_) if chunk.turn is None else chunk.turn[rows] != LATER
        parts.append(
            (
                chunk.prompt[rows],
                chunk.output[rows],
                none if chunk.reasoning is None else chunk.reasoning[rows],
                first,
            )
        )
    prompt, output, reasoning, first = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Sample(
        prompt.astype(np.int64),
        output.astype(np.int64),
        reasoning.astype(np.int64) if held.split_known else None,
        first.astype(np.bool_),
    )


@dataclass(frozen=True)
class _Groups:
    """Who is fitted together: the group of each code (`codes_of`), the groups' names, whether they are conversations, and
    a number for each client.

    The first *large* ones have lengths of their own, the others have arrivals of their own and lengths in common.
    """

    of: npt.NDArray[np.int64]
    names: list[str]
    talks: list[bool]
    whose: list[int]
    large: int

    def client_of(self, clients: int) -> list[int]:
        """Number of the client that each of so many *clients* of the trace is in the generator."""
        found = np.maximum(self.of[0::2], self.of[1::2])[:clients]
        return [self.whose[group] if group >= 0 else self.whose[0] for group in found.tolist()]


def _groups(held: Held, notes: list[str]) -> _Groups:
    """Clients by themselves where they have rows enough, the largest first, and all others together."""
    sizes = np.zeros(2 * len(held.names), np.int64)
    for chunk in held.chunks():
        sizes += np.bincount(codes_of(chunk), minlength=len(sizes))
    order = np.argsort(-sizes, kind="stable")[:_MOST_MEMBERS]
    alone = order[sizes[order] >= _LEAST_ARRIVALS]
    large = int((sizes[alone] >= _LEAST_ROWS).sum())
    group = np.full(len(sizes), -1, np.int64)
    group[alone] = np.arange(len(alone))
    client = list(dict.fromkeys((alone // 2).tolist()))
    names = [held.names[code // 2] for code in alone.tolist()]
    talks = [code % 2 == 1 for code in alone.tolist()]
    whose = [client.index(code // 2) for code in alone.tolist()]
    rest = (group < 0) & (sizes > 0)
    for talking in (0, 1):
        if rest[talking::2].any():
            group[talking::2][rest[talking::2]] = len(names)
            names.append("others")
            talks.append(talking == 1)
            whose.append(len(client))
    if large < len(names) and len(names) > 1 + (held.has_turns):
        together = int(sizes[group >= large].sum())
        number = int(((group >= large) & (sizes > 0)).sum())
        notes.append(f"{number} small groups ({together:,} queries) share one law of lengths")
    return _Groups(group, names, talks, whose, large)
