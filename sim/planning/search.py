"""Where a noisy monotone answer turns: bracketing, then bisection; never a grid.

A search is a generator: it yields the sizes (or rates) it wants judged, is sent whether they meet the targets,
and returns what it found. Whoever drives it may so drive many at once and run their points in one batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T", int, float)
Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Bracket:
    """Between what misses and what meets: ``misses`` is None where the smallest size already meets, ``meets``
    where the largest does not."""

    misses: float | None
    meets: float | None


def fewest(guess: int, most: int, least: int = 1) -> Generator[int, bool, Bracket]:
    """The fewest units, from *least* to *most*, that meet, when more units never do worse.

    From *guess* the step doubles until the answer lies between two sizes, then halves: about 2·log2 of the
    distance between guess and answer. The two neighbours of the answer have both been asked for.
    """
    bad: int | None = None
    good: int | None = None
    size = min(max(guess, least), most)
    step = 1
    while True:
        if (yield size):
            good = size
            if size == least or bad == size - 1:
                return Bracket(bad, good)
            target = size - step if bad is None else (bad + size) // 2
            size = max(target, least)
        else:
            bad = size
            if size == most or good == size + 1:
                return Bracket(bad, good)
            size = min(size + step, most) if good is None else (size + good) // 2
        step *= 2


def fewest_of_each(
    weights: Sizes, guess: int, most: int, costs: Sequence[float], least: int = 1
) -> Generator[Sizes, bool, Sizes | None]:
    """The fewest replicas of each pool: all pools grown together in the ratio of *weights*, from *least* times these,
    then each alone, the dearest first, made as small as the others allow. None when *most* times the weights misses."""
    common = fewest(guess, most, least)
    sent: bool | None = None
    factor: Bracket
    while True:
        try:
            n = next(common) if sent is None else common.send(sent)
        except StopIteration as stop:
            factor = stop.value
            break
        sent = yield tuple(n * weight for weight in weights)
    if factor.meets is None:
        return None
    sizes = [int(factor.meets) * weight for weight in weights]
    if len(sizes) == 1:
        return tuple(sizes)
    for index in sorted(range(len(sizes)), key=lambda place: -costs[place]):
        if sizes[index] == 1:
            continue
        alone = fewest(sizes[index] - 1, sizes[index] - 1)
        sent = None
        while True:
            try:
                n = next(alone) if sent is None else alone.send(sent)
            except StopIteration as stop:
                if stop.value.meets is not None:
                    sizes[index] = int(stop.value.meets)
                break
            sent = yield tuple(n if place == index else size for place, size in enumerate(sizes))
    return tuple(sizes)


def largest(start: float, *, precision: float = 0.02, most: float = 1e6) -> Generator[float, bool, Bracket]:
    """The largest rate that meets, when less load never does worse, to a ratio of 1 + *precision*.

    Returns a bracket whose ``meets`` is the rate found and ``misses`` the smallest one known to miss.
    """
    good: float | None = None
    bad: float | None = None
    rate, ratio = start, 1.5
    while True:
        if (yield rate):
            good = rate
        else:
            bad = rate
        if good is not None and bad is not None:
            if bad / good <= 1 + precision:
                return Bracket(bad, good)
            rate = math.sqrt(good * bad)
        elif good is not None:
            if good >= most:
                return Bracket(None, good)
            rate, ratio = good * ratio, ratio * 1.5
        else:
            assert bad is not None
            if bad <= start * 1e-4:
                return Bracket(bad, None)
            rate, ratio = bad / ratio, ratio * 1.5


def drive(search: Generator[T, bool, Bracket], test: Callable[[T], bool]) -> Bracket:
    """Run one search to its end."""
    try:
        size = next(search)
        while True:
            size = search.send(test(size))
    except StopIteration as stop:
        found: Bracket = stop.value
        return found


def drive_all(
    searches: Sequence[Generator[Sizes, bool, Sizes | None]],
    test: Callable[[list[tuple[int, Sizes]]], list[bool]],
) -> list[Sizes | None]:
    """Run searches side by side: in each round what all of them want is tested in one batch. *test* gets pairs
    of a search's number and its sizes."""
    found: list[Sizes | None] = [None] * len(searches)
    waiting: dict[int, Sizes] = {}
    for number, search in enumerate(searches):
        try:
            waiting[number] = next(search)
        except StopIteration as stop:
            found[number] = stop.value
    while waiting:
        batch = list(waiting.items())
        for (number, _), answer in zip(batch, test(batch), strict=True):
            try:
                waiting[number] = searches[number].send(answer)
            except StopIteration as stop:
                found[number] = stop.value
                del waiting[number]
    return found
