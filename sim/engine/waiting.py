"""The waiting queue: in order of arrival with preempted requests in front, or by a key."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from typing import Any

from sim.engine.request import Request

Key = Callable[[Request], Any]


class WaitingQueue:
    """Requests that wait for their first or next admission.

    Without *key* it is first come, first served, and a preempted request goes to the front. With *key* it is a heap: the
    smallest (key, id) is the head, and a preempted request has no privilege. A request leaves from anywhere by ``remove``.
    """

    __slots__ = ("_gone", "_heap", "_key", "_queue")

    def __init__(self, key: Key | None = None) -> None:
        self._key = key
        self._queue: deque[Request] = deque()
        self._heap: list[tuple[Any, int, Request]] = []
        self._gone: set[int] = set()

    def __len__(self) -> int:
        return len(self._queue) if self._key is None else len(self._heap) - len(self._gone)

    def __iter__(self) -> Iterator[Request]:
        """All that wait, the head first."""
        if self._key is None:
            return iter(self._queue)
        return (request for _, _, request in sorted(self._heap, key=lambda e: e[:2]) if request.id not in self._gone)

    def push(self, request: Request) -> None:
        """A new arrival joins."""
        if self._key is None:
            self._queue.append(request)
        else:
            self._insert(request)

    def push_front(self, request: Request) -> None:
        """A preempted request comes back."""
        if self._key is None:
            self._queue.appendleft(request)
        else:
            self._insert(request)

    def _insert(self, request: Request) -> None:
        assert self._key is not None
        if request.id in self._gone:
            self._sweep()
        heappush(self._heap, (self._key(request), request.id, request))

    def _sweep(self) -> None:
        self._heap = [entry for entry in self._heap if entry[1] not in self._gone]
        self._gone.clear()
        heapify(self._heap)

    def head(self) -> Request:
        """Who is next; raise IndexError when nobody waits."""
        if self._key is None:
            return self._queue[0]
        while self._heap[0][1] in self._gone:
            self._gone.discard(heappop(self._heap)[1])
        return self._heap[0][2]

    def pop(self) -> Request:
        """Take the head out."""
        head = self.head()
        if self._key is None:
            return self._queue.popleft()
        heappop(self._heap)
        return head

    def remove(self, request: Request) -> None:
        """Take *request* out, wherever it stands."""
        if self._key is None:
            self._queue.remove(request)
        elif self._heap and self.head() is request:
            self.pop()
        else:
            self._gone.add(request.id)
            if len(self._gone) > 64 and 2 * len(self._gone) > len(self._heap):
                self._sweep()
