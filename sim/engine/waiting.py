"""Waiting queues: in order of arrival with preempted requests in front, the same by client, or by a key."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator, KeysView
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import Any

from sim.engine.request import Request

Key = Callable[[Request], Any]
_REQUEST: Callable[[tuple[Any, int, Request]], Request] = itemgetter(2)


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
    """Smallest (key, id) first; a preempted request has no privilege. ``remove`` takes one out, wherever it stands.

    Who iterates sees the queue as it was when he began.
    """

    __slots__ = ("_entries", "_entry", "_first", "_shared", "key")

    def __init__(self, key: Key) -> None:
        self.key = key
        self._entries: list[tuple[Any, int, Request]] = []
        """In order; those before place ``_first`` have left."""
        self._entry: dict[Request, tuple[Any, int, Request]] = {}
        self._first = 0
        self._shared = False
        """Whether somebody may still iterate over ``_entries``: then it is not changed, but replaced."""

    def __len__(self) -> int:
        return len(self._entry)

    def __iter__(self) -> Iterator[Request]:
        """All that wait, the head first; who looks at few of many pays for few."""
        self._shared = True
        return map(_REQUEST, islice(self._entries, self._first, None))

    def push(self, request: Request) -> None:
        """A new arrival joins."""
        entry = self._entry[request] = (self.key(request), request.id, request)
        if self._shared:
            self._renew()
        insort(self._entries, entry, lo=self._first)

    push_front = push

    def head(self) -> Request:
        """Who is next; raise IndexError when nobody waits."""
        return self._entries[self._first][2]

    def remove(self, request: Request) -> None:
        """Take *request* out, wherever it stands."""
        entry = self._entry.pop(request)
        if self._entries[self._first] is entry:
            self._first += 1
            if self._first > 64 and 2 * self._first > len(self._entries):
                self._renew()
            return
        if self._shared:
            self._renew()
        del self._entries[bisect_left(self._entries, entry, lo=self._first)]

    def _renew(self) -> None:
        self._entries = self._entries[self._first :]
        self._first = 0
        self._shared = False


class ClientQueue:
    """First come, first served, a preempted request in front, and the first of each client at hand."""

    __slots__ = ("_back", "_by_client", "_front", "_size", "come_back")

    def __init__(self) -> None:
        self._by_client: dict[int, deque[tuple[int, Request]]] = {}
        self.come_back: set[int] = set()
        """Clients of whom nobody waited when a new request of theirs joined; for the scheduler to take note of and clear.
        Who is merely preempted brings no client back."""
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
        entries = self._by_client.get(request.client)
        if entries is None:
            self.come_back.add(request.client)
            entries = self._by_client[request.client] = deque()
        entries.append((self._back, request))

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
            self.come_back.discard(request.client)

    def clients(self) -> KeysView[int]:
        """Clients of whom somebody waits."""
        return self._by_client.keys()

    def head_of(self, client: int) -> Request:
        """Who stands first of *client*, whether or not it can be looked at now."""
        return self._by_client[client][0][1]

    def heads(self) -> list[Request]:
        """Who stands first of each client, whether or not it can be looked at now."""
        return [entries[0][1] for entries in self._by_client.values()]

    def first_of(self, client: int, now_ps: int) -> Request | None:
        """The first request of *client* that can be looked at now."""
        for _, request in self._by_client.get(client, ()):
            if request.busy_until_ps <= now_ps:
                return request
        return None

    def firsts(self, now_ps: int) -> dict[int, Request]:
        """The first request of each client that can be looked at now."""
        found: dict[int, Request] = {}
        for client, entries in self._by_client.items():
            head = entries[0][1]
            first = head if head.busy_until_ps <= now_ps else self.first_of(client, now_ps)
            if first is not None:
                found[client] = first
        return found


WaitingQueue = FcfsQueue | KeyQueue | ClientQueue
