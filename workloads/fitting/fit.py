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
from workloads.fitting.arrivals import SHOWN, Arrivals, Seen, arrivals_of
from workloads.fitting.lengths import FIT_ROWS, Sample, lengths_of
from workloads.held import Held

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
    if len(groups.names) == 1:
        # One stream: shorter windows may carry what bursts a single renewal process cannot have.
        seconds = last_s - begin_s
        tries = [window_s, window_s / 4, max(seconds / _STREAM_WINDOWS, 50 * seconds / len(held), 1.0)]
        for shorter in [] if given else sorted({length for length in tries if length < window_s}, reverse=True):
            if whens[0].distance <= 0.5:
                break
            other_s, other = _windowed(held, groups, begin_s, seconds, shorter)
            if other[0].distance < whens[0].distance:
                window_s, whens = other_s, other
    members: dict[str, Any] = {}
    pooled: dict[str, Any] | None = None
    for number, (name, when) in enumerate(zip(groups.names, whens, strict=True)):
        if number < groups.large:
            lengths = lengths_of(_sample(held, groups.of == number))
        else:
            pooled = pooled or lengths_of(_sample(held, groups.of >= groups.large))
            lengths = pooled
        members[name if keep_names else f"client-{number + 1}"] = when.keys | {"lengths": lengths}
        if held.grouped_by == "category":
            members[name if keep_names else f"client-{number + 1}"]["category"] = name
    workload = {
        "queries": len(held),
        "profile": "day",
        "even_draws": True,
        "clients": {"window": f"{window_s:.9g} s", "members": members},
    }
    return Fit(workload, notes)


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
        group, times = groups.of[chunk.client], chunk.arrived - begin_s
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
    sample = _sample(held, np.ones(len(held.names), np.bool_))
    return Fit({"arrivals": arrivals, "lengths": lengths_of(sample)}, notes)


def _sample(held: Held, whose: npt.NDArray[np.bool_]) -> Sample:
    """Up to 400,000 rows of the clients for which *whose* is true, evenly from first to last."""
    total = sum(int(np.count_nonzero(whose[chunk.client])) for chunk in held.chunks())
    wanted = np.arange(total) if total <= FIT_ROWS else np.linspace(0, total - 1, FIT_ROWS).astype(np.int64)
    seen, parts = 0, []
    for chunk in held.chunks():
        mine = np.flatnonzero(whose[chunk.client])
        begin, end = np.searchsorted(wanted, [seen, seen + len(mine)])
        rows = mine[wanted[begin:end] - seen]
        seen += len(mine)
        none = np.zeros(0, np.int64)
        parts.append(
            (chunk.prompt[rows], chunk.output[rows], none if chunk.reasoning is None else chunk.reasoning[rows])
        )
    prompt, output, reasoning = (np.concatenate(column).astype(np.int64) for column in zip(*parts, strict=True))
    return Sample(prompt, output, reasoning if held.split_known else None)


@dataclass(frozen=True)
class _Groups:
    """Who is fitted together: the group of each client code, and the groups' names.

    The first *large* ones have lengths of their own, the others have arrivals of their own and lengths in common.
    """

    of: npt.NDArray[np.int64]
    names: list[str]
    large: int


def _groups(held: Held, notes: list[str]) -> _Groups:
    """Clients by themselves where they have rows enough, the largest first, and all others together."""
    sizes = np.zeros(len(held.names), np.int64)
    for chunk in held.chunks():
        sizes += np.bincount(chunk.client, minlength=len(sizes))
    order = np.argsort(-sizes, kind="stable")[:_MOST_MEMBERS]
    alone = order[sizes[order] >= _LEAST_ARRIVALS]
    large = int((sizes[alone] >= _LEAST_ROWS).sum())
    group = np.full(len(sizes), len(alone), np.int64)
    group[alone] = np.arange(len(alone))
    names = [held.names[code] for code in alone.tolist()]
    rest = (group == len(alone)) & (sizes > 0)
    if rest.any():
        names.append("others")
    if large < len(names) and len(names) > 1:
        together = int(sizes[group >= large].sum())
        notes.append(
            f"{int(((group >= large) & (sizes > 0)).sum())} small groups ({together:,} queries) share one law of lengths"
        )
    return _Groups(group, names, large)
