"""All that is measured of a trace in one pass over its rows, in a few MB whatever its length."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from workloads.bursts import CountMeter, GapMeter, Moments
from workloads.held import Chunk, Held
from workloads.tally import Tally

SCALES_S = (1.0, 10.0, 60.0, 600.0)
SPLIT_BINS = 50
_LEAST_COVERED = 0.2
_HOUR_S = 3600.0
_DAYS = 1.5
"""Days of a trace whose hours are laid upon each other."""


class Portrait:
    """Tallies of lengths and meters of arrivals over one trace.

    *window_s* is the length of a window, *scales_s* are those of the dispersion curve; *names* decode client codes.
    Where each is *known_as* somebody, queries are counted by these and by window.
    """

    def __init__(
        self,
        window_s: float,
        scales_s: Iterable[float],
        *,
        names: tuple[str, ...],
        grouped_by: str,
        split_known: bool,
        known_as: tuple[str, ...] = (),
    ) -> None:
        self.names = names
        self.grouped_by = grouped_by
        self.split_known = split_known
        self.window_s = window_s
        self.queries = 0
        self.first_s = self.last_s = 0.0
        self.prompt, self.output, self.reasoning, self.answer = Tally(), Tally(), Tally(), Tally()
        self.splits = np.zeros(SPLIT_BINS, np.int64)
        self.gaps = Moments()
        self.by_client = GapMeter(window_s)
        self.known_as = tuple(dict.fromkeys(known_as))
        self._known = np.array([self.known_as.index(name) for name in known_as], np.int64)
        self.by_window_and_client = np.zeros((len(self.known_as), 0), np.int64)
        self.counts = {scale: CountMeter(scale) for scale in SCALES_S}
        self.curve = [CountMeter(scale) for scale in scales_s]
        self.by_window = np.zeros(0, np.int64)
        self.first_window = 0
        """Number of the window that ``by_window`` starts with, from time zero."""
        self.by_hour = np.zeros(24, np.int64)
        """Queries by the hour of the day, of the trace's own clock."""
        self.sizes = np.zeros(len(names), np.int64)
        self.tokens = np.zeros(len(names))
        self._resident = 0.0

    def add(self, chunk: Chunk) -> None:
        """Take in the next rows."""
        arrived, prompt, output = chunk.arrived, chunk.prompt, chunk.output
        if not len(arrived):
            return
        if self.queries:
            self.gaps.add(np.diff(arrived, prepend=self.last_s))
        else:
            self.first_s = float(arrived[0])
            self.first_window = int(self.first_s / self.window_s)
            self.gaps.add(np.diff(arrived))
        self.queries += len(arrived)
        self.last_s = float(arrived[-1])
        self.prompt.add(prompt)
        self.output.add(output)
        if chunk.reasoning is not None and self.split_known:
            self.reasoning.add(chunk.reasoning)
            self.answer.add(output - chunk.reasoning)
            share = chunk.reasoning / np.maximum(output, 1)
            self.splits += np.histogram(share, bins=SPLIT_BINS, range=(0.0, 1.0))[0]
        self.by_client.add(arrived, chunk.client)
        for meter in (*self.counts.values(), *self.curve):
            meter.add(arrived)
        window = np.bincount((arrived / self.window_s).astype(np.int64) - self.first_window)
        if len(window) > len(self.by_window):
            self.by_window = np.pad(self.by_window, (0, len(window) - len(self.by_window)))
        self.by_window[: len(window)] += window
        self.by_hour += np.bincount((arrived / _HOUR_S).astype(np.int64) % 24, minlength=24)
        if self.known_as:
            self._count_by_client(arrived, self._known[chunk.client])
        self.sizes += np.bincount(chunk.client, minlength=len(self.names))
        self.tokens += np.bincount(chunk.client, weights=output, minlength=len(self.names))
        decoded = output.astype(np.float64)
        self._resident += float((decoded * (prompt + decoded / 2)).sum())

    def _count_by_client(self, arrived: npt.NDArray[np.float64], whose: npt.NDArray[np.int64]) -> None:
        window = (arrived / self.window_s).astype(np.int64) - self.first_window
        table = self.by_window_and_client
        if window[-1] >= table.shape[1]:
            table = np.pad(table, ((0, 0), (0, int(window[-1]) + 1 - table.shape[1])))
        width = table.shape[1]
        table += np.bincount(whose * width + window, minlength=table.size).reshape(table.shape)
        self.by_window_and_client = table

    @property
    def seconds(self) -> float:
        """From the first arrival to the last."""
        return self.last_s - self.first_s

    @property
    def rate(self) -> float:
        """Arrivals per second; infinite for a burst."""
        return (self.queries - 1) / self.seconds if self.seconds > 0 else float("inf")

    @property
    def rates(self) -> npt.NDArray[np.float64]:
        """Queries per second of each window; the last one up to the last arrival, and left out where that is soon."""
        found = self.by_window / self.window_s
        covered = self.last_s / self.window_s - (self.first_window + len(found) - 1)
        if len(found) > 1 and covered < _LEAST_COVERED:
            return np.asarray(found[:-1])
        if len(found) > 1:
            found[-1] /= min(covered, 1.0)
        return np.asarray(found)

    @property
    def hourly_rates(self) -> npt.NDArray[np.float64] | None:
        """Queries per second in each hour of the day over all days; None for traces of less than a day and a half."""
        if self.seconds < _DAYS * 24 * _HOUR_S:
            return None
        edges = np.arange(np.floor(self.first_s / _HOUR_S), np.ceil(self.last_s / _HOUR_S) + 1) * _HOUR_S
        covered = np.diff(edges.clip(self.first_s, self.last_s))
        seconds = np.bincount((edges[:-1] / _HOUR_S).astype(np.int64) % 24, covered, minlength=24)
        return np.asarray(self.by_hour / np.maximum(seconds, 1.0))

    @property
    def resident_tokens(self) -> float:
        """KV tokens of a request in the mean over its decoding, weighted by how long that takes.

        By Little's law, rate times mean output tokens times time per output token is how many requests are
        resident, and this is what each of them holds: sum(o (p + o / 2)) / sum(o).
        """
        return self._resident / self.output.sum if self.output.sum else float("nan")

    @property
    def lengths(self) -> dict[str, Tally]:
        """Tallies by name: prompt, output, and reasoning and answer where the split is known."""
        found = {"prompt": self.prompt, "output": self.output}
        return found | ({"reasoning": self.reasoning, "answer": self.answer} if self.split_known else {})


def window_for(seconds: float) -> float:
    """A length of window in s that suits a trace of *seconds*: ten minutes, less for short and more for long
    ones."""
    if seconds < 7200:
        return float(np.clip(seconds / 12, 1.0, 600.0))
    return 600.0 * max(1, int(np.ceil(seconds / 600 / 288)))


def scales_for(seconds: float) -> npt.NDArray[np.float64]:
    """Lengths of intervals for the curve of dispersion."""
    return np.asarray(np.geomspace(max(0.1, seconds / 3e6), max(seconds / 20, 0.2), 24))


def portrait(held: Held, *, beside: Portrait | None = None, known_as: tuple[str, ...] = ()) -> Portrait:
    """That of a trace in memory; with the windows and scales of another one where it stands *beside* it."""
    seconds = held.last_s - held.first_s if len(held) else 0.0
    found = Portrait(
        window_for(seconds) if beside is None else beside.window_s,
        scales_for(seconds) if beside is None else [meter.scale_s for meter in beside.curve],
        names=held.names,
        grouped_by=held.grouped_by,
        split_known=held.split_known,
        known_as=known_as,
    )
    for chunk in held.chunks():
        found.add(chunk)
    return found
