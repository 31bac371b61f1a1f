"""Waiting queues: in order of arrival with preempted requests in front, or by a key."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from typing import Any

from sim.engine.request import Request

Key = Callable[[Request], Any]


class FcfsQueue(deque[Request]):
    """First come, first served; a preempted request goes to the front. ``remove`` takes one out, wherever it stands."""

    __slots__ = ()

    push = deque.append
    push_front = deque.appendleft

    def head(self) -> Request:
        """Who is next; raise IndexError when nobody waits."""
        return self[0]


class KeyQueue:
    """Smallest (key, id) first; a preempted request has no privilege. ``remove`` takes one out, wherever it stands."""

    __slots__ = ("_gone", "_heap", "_key")

    def __init__(self, key: Key) -> None:
        self._key = key
        self._heap: list[tuple[Any, int, Request]] = []
        self._gone: set[int] = set()

    def __len__(self) -> int:
        return len(self._heap) - len(self._gone)

    def __iter__(self) -> Iterator[Request]:
        """All that wait, the head first."""
        return (request for _, _, request in sorted(self._heap, key=lambda e: e[:2]) if request.id not in self._gone)

    def push(self, request: Request) -> None:
        """A new arrival joins."""
        if request.id in self._gone:
            self._sweep()
        heappush(self._heap, (self._key(request), request.id, request))

    push_front = push

    def head(self) -> Request:
        """Who is next; raise IndexError when nobody waits."""
        while self._heap[0][1] in self._gone:
            self._gone.discard(heappop(self._heap)[1])
        return self._heap[0][2]

    def remove(self, request: Request) -> None:
        """Take *request* out, wherever it stands."""
        if self.head() is request:
            heappop(self._heap)
            return
        self._gone.add(request.id)
        if len(self._gone) > 64 and 2 * len(self._gone) > len(self._heap):
            self._sweep()

    def _sweep(self) -> None:
        self._heap = [entry for entry in self._heap if entry[1] not in self._gone]
        self._gone.clear()
        heapify(self._heap)


WaitingQueue = FcfsQueue | KeyQueue
