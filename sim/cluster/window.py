"""Which queries are measured, and when has the run seen enough?

Queries that arrive in [start, end) are measured. The start is a time, or the moment after the n-th query; the
end a time after the start, or the moment after the n-th measured query; so queries of one instant are never
torn apart. Arrivals go on after the end until every measured query has ended or *max_drain_ps* has passed;
what is open then is unfinished.
"""

from __future__ import annotations

from dataclasses import dataclass

FOREVER = 1 << 62


@dataclass(frozen=True)
class Measure:
    """The window as the scenario states it, in picoseconds or queries; without a length it is the whole
    source.
    """

    warmup_ps: int = 0
    warmup_queries: int | None = None
    """Warm-up as a number of queries; None: `warmup_ps` says it."""
    duration_ps: int | None = None
    queries: int | None = None
    max_drain_ps: int = FOREVER


class Window:
    """The window as it takes shape, and how many measured queries are still open.

    ``start_ps`` and ``end_ps`` are ``FOREVER`` until they are known. All times count from the start of the
    run.
    """

    __slots__ = ("_duration_ps", "_queries", "_warmup", "end_ps", "max_drain_ps", "open", "start_ps")

    def __init__(self, measure: Measure) -> None:
        self._warmup = measure.warmup_queries or 0
        self._queries = measure.queries or 0
        self._duration_ps = measure.duration_ps
        self.max_drain_ps = measure.max_drain_ps
        self.open = 0
        self.start_ps = self.end_ps = FOREVER
        if measure.warmup_queries is None:
            self._start(measure.warmup_ps)
        elif not measure.warmup_queries:
            self._start(0)

    def _start(self, start_ps: int) -> None:
        self.start_ps = start_ps
        if self._duration_ps is not None:
            self.end_ps = start_ps + self._duration_ps

    def arrived(self, now_ps: int) -> None:
        """A query arrived at *now_ps*."""
        if now_ps < self.start_ps:
            if self._warmup:
                self._warmup -= 1
                if not self._warmup:
                    self._start(now_ps + 1)
        elif now_ps < self.end_ps:
            self.open += 1
            if self._queries:
                self._queries -= 1
                if not self._queries:
                    self.end_ps = now_ps + 1

    def ended(self, arrived_ps: int) -> None:
        """A query that had arrived at *arrived_ps* ended."""
        if self.start_ps <= arrived_ps < self.end_ps:
            self.open -= 1
