"""Waiting queues: in order of arrival with preempted requests in front, the same by client, or by a key."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush, merge
from typing import Any

from sim.engine.request import Request

Key = Callable[[Request], Any]


class FcfsQueue(deque[Request]):
    """First come, first served; a preempted request goes to the front. ``remove`` takes one out, wherever it stands."""

    __slots__ = ()

    push = deque.append
    push_front = deque.appendleft

    def push_behind(self, request: Request, first: Callable[[Request], bool]) -> None:
        """*request* joins behind those at the front for whom *first* holds."""
        self.insert(next((place for place, other in enumerate(self) if not first(other)), len(self)), request)

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
        """All that wait, the head first; who looks at few of many pays for few."""
        heap, gone = self._heap.copy(), self._gone.copy()
        reached = [(heap[0][:2], 0)] if heap else []  # whose place is known, each with its place in the heap
        while reached:
            _, place = heappop(reached)
            _, number, request = heap[place]
            if number not in gone:
                yield request
            for child in (2 * place + 1, 2 * place + 2):
                if child < len(heap):
                    heappush(reached, (heap[child][:2], child))

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


class ClientQueue:
    """First come, first served, a preempted request in front, and the first of each client at hand."""

    __slots__ = ("_back", "_by_client", "_front", "_size")

    def __init__(self) -> None:
        self._by_client: dict[int, deque[tuple[int, Request]]] = {}
        self._front = self._back = self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Request]:
        """All that wait, the head first."""
        return (request for _, request in merge(*self._by_client.values()))

    def push(self, request: Request) -> None:
        """A new arrival joins."""
        self._size += 1
        self._back += 1
        self._by_client.setdefault(request.client, deque()).append((self._back, request))

    def push_front(self, request: Request) -> None:
        """A preempted request joins."""
        self._size += 1
        self._front -= 1
        self._by_client.setdefault(request.client, deque()).appendleft((self._front, request))

    def head(self) -> Request:
        """Who is next; raise IndexError when nobody waits."""
        if not self._by_client:
            raise IndexError("nobody waits")
        return min(entries[0] for entries in self._by_client.values())[1]

    def remove(self, request: Request) -> None:
        """Take *request* out, wherever it stands."""
        entries = self._by_client[request.client]
        for at, (_, other) in enumerate(entries):
            if other is request:
                del entries[at]
                break
        else:
            raise ValueError(f"{request} does not wait")
        self._size -= 1
        if not entries:
            del self._by_client[request.client]

    def first_of(self, client: int, now_ps: int) -> Request | None:
        """The first request of *client* that can be looked at now."""
        for _, request in self._by_client.get(client, ()):
            if request.busy_until_ps <= now_ps:
                return request
        return None

    def firsts(self, now_ps: int) -> dict[int, Request]:
        """The first request of each client that can be looked at now."""
        found = ((client, self.first_of(client, now_ps)) for client in self._by_client)
        return {client: request for client, request in found if request is not None}


WaitingQueue = FcfsQueue | KeyQueue | ClientQueue
