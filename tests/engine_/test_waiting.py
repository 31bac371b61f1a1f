"""Waiting queues: the order, and who comes out of the middle."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from sim.engine.request import Request
from sim.engine.waiting import ClientQueue, FcfsQueue, KeyQueue


def _request(number: int, client: int) -> Request:
    return Request(number, arrived_ps=0, prompt_tokens=1, output_tokens=1, client=client)


def test_a_queue_by_client_is_first_come_first_served_and_knows_each_clients_first() -> None:
    rng = random.Random(5)
    plain, by_client = FcfsQueue(), ClientQueue()
    for number in range(2_000):
        choice = rng.random()
        if choice < 0.45:
            request = _request(number, rng.randrange(4))
            plain.push(request)
            by_client.push(request)
        elif choice < 0.6:
            request = _request(number, rng.randrange(4))
            plain.push_front(request)
            by_client.push_front(request)
        elif plain:
            request = plain.head() if choice < 0.8 else rng.choice(list(plain))
            assert by_client.head() is plain.head()
            request.busy_until_ps = 1 if choice > 0.98 else -1
            if choice < 0.98:
                plain.remove(request)
                by_client.remove(request)
        assert list(by_client) == list(plain)
        assert len(by_client) == len(plain)
        firsts: dict[int, Request] = {}
        for request in plain:
            if request.busy_until_ps <= 0:
                firsts.setdefault(request.client, request)
        assert by_client.firsts(0) == firsts
        heads: dict[int, Request] = {}
        for request in plain:
            heads.setdefault(request.client, request)
        assert by_client.heads() == [by_client.head_of(client) for client in by_client.clients()]
        assert {request.client: request for request in by_client.heads()} == heads
    by_client.push(_request(1, 0))
    with pytest.raises(ValueError, match="does not wait"):
        by_client.remove(_request(1, 0))
    with pytest.raises(IndexError):
        ClientQueue().head()


def test_a_queue_by_key_is_sorted_and_whoever_iterates_sees_it_as_it_was() -> None:
    rng = random.Random(6)
    keys: dict[Request, int] = {}
    queue = KeyQueue(lambda request: keys[request])
    waiting: list[Request] = []
    seen: list[tuple[Iterator[Request], list[Request]]] = []
    for number in range(1_500):
        if rng.random() < (0.7 if number < 700 else 0.3):
            request = _request(number, 0)
            keys[request] = rng.randrange(40)
            (queue.push if rng.random() < 0.5 else queue.push_front)(request)
            waiting = sorted([*waiting, request], key=lambda each: (keys[each], each.id))
        elif waiting:
            request = queue.head() if rng.random() < 0.6 else rng.choice(waiting)
            queue.remove(request)
            waiting.remove(request)
        assert len(queue) == len(waiting)
        if waiting:
            assert queue.head() is waiting[0]
        if rng.random() < 0.2:
            seen.append((iter(queue), waiting.copy()))
        if len(seen) > 5:
            for iterator, expected in seen:
                assert list(iterator) == expected
            seen.clear()
    while waiting:
        queue.remove(waiting.pop())
    with pytest.raises(IndexError):
        queue.head()
    with pytest.raises(KeyError):
        queue.remove(_request(0, 0))


def test_a_client_comes_back_by_a_new_request_where_nobody_of_his_waits() -> None:
    queue = ClientQueue()
    first, second, other = _request(0, 7), _request(1, 7), _request(2, 8)
    queue.push_front(other)
    assert queue.come_back == set()  # it was preempted, and was here before
    queue.push(_request(3, 8))
    assert queue.come_back == set()
    queue.push(first)
    assert queue.come_back == {7}
    queue.push(second)
    queue.remove(first)
    assert queue.come_back == {7}
    queue.remove(second)
    assert queue.come_back == set()
    queue.push(first)
    queue.come_back.clear()
    queue.push(second)
    assert queue.come_back == set()
