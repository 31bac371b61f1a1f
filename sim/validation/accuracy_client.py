"""Clients as the real runs had them: open arrivals, a cap on requests in flight, closed loops, patience.

What a client does shapes the load as much as the engine does, so it is replayed too: a cap delays a request on the
client's side (its clock starts when it is sent), a closed loop sends the next request when one ends, a client that
gives up leaves work behind that the engine has done. Time is an integer of picoseconds.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sim.engine.replica import Replica
from sim.engine.request import Request
from sim.results.columns import Status
from sim.validation.accuracy_cases import FloatArray, IntArray

PS_PER_S = 10**12
FOREVER = 1 << 62


@dataclass(frozen=True)
class Load:
    """Requests in the order in which the client has them, and how it sends them."""

    sends_ps: IntArray
    """When the client means to send each; zero in a closed loop."""
    prompt_tokens: IntArray
    output_tokens: IntArray
    prompt: IntArray | None = None
    """Requests of the same number ask the same prompt; None: each its own."""
    in_flight_cap: int | None = None
    """The client holds requests back while so many are open: a closed loop is a cap with everything due at zero."""
    timeout_ps: int | None = None
    """A client gives up so long after it sent."""
    max_tokens: int | None = None
    """The client's limit on output tokens where answers end by themselves (-1: none); None: each asks for exactly its
    length, so that the engine foresees the end."""
    discarded: int = 0
    """First requests that are warm-up: sent before the others and not reported."""
    conversations: bool = False
    """Requests of the same number are rounds of one conversation: each prompt begins with the one before it."""

    def __len__(self) -> int:
        return len(self.sends_ps)


@dataclass(frozen=True)
class Replayed:
    """What the client saw of each request, in its order; seconds, NaN where there is nothing."""

    sent_s: FloatArray
    ttft_s: FloatArray
    e2e_s: FloatArray
    output_tokens: IntArray
    ok: np.ndarray[Any, np.dtype[np.bool_]]
    replica: IntArray
    end_s: float


Route = Callable[[Sequence[Replica], Request], int]


def to_first(replicas: Sequence[Replica], request: Request) -> int:
    """One replica needs no router."""
    return 0


def at_random(seed: int) -> Route:
    """Each request to a replica by chance: what a Kubernetes service does."""
    generator = np.random.default_rng(seed)
    return lambda replicas, request: int(generator.integers(len(replicas)))


def drive(
    replicas: Sequence[Replica],
    load: Load,
    *,
    front_end_ps: int = 0,
    route: Route = to_first,
) -> Replayed:
    """Send *load* to *replicas* and say what the client saw.

    *front_end_ps* passes between the client's clock and the engine's queue. Requests that never fit fail at once.
    """
    count = len(load)
    requests: list[Request | None] = [None] * count
    sent = [-1] * count
    due = load.sends_ps.tolist()
    prompts, outputs = load.prompt_tokens.tolist(), load.output_tokens.tolist()
    shared = load.prompt.tolist() if load.prompt is not None else None
    cap = load.in_flight_cap or FOREVER
    warm = load.discarded
    following = open_ = 0
    submissions: deque[tuple[int, int]] = deque()
    deadlines: deque[tuple[int, int]] = deque()
    ends: list[tuple[int, int]] = []
    done = [False] * count
    failed = [False] * count
    end_ps = [-1] * count
    now = 0

    def finish(number: int) -> None:
        nonlocal open_
        if not done[number]:
            done[number] = True
            end_ps[number] = now
            open_ -= 1

    while True:
        # The earliest of: a request is due and may be sent, one reaches the engine, a step ends, patience ends.
        blocked = following >= count or open_ >= cap or (warm and following == warm and open_ > 0)
        send = FOREVER if blocked else max(due[following], now)
        reach = submissions[0][0] if submissions else FOREVER
        while ends and replicas[ends[0][1]].next_end_ps != ends[0][0]:
            heapq.heappop(ends)
        step = ends[0][0] if ends else FOREVER
        while deadlines and done[deadlines[0][1]]:
            deadlines.popleft()
        patience = deadlines[0][0] if deadlines else FOREVER
        now_next = min(send, reach, step, patience)
        if now_next == FOREVER:
            break
        now = now_next
        touched: set[int] = set()
        if step == now:
            while ends and ends[0][0] == now:
                _, index = heapq.heappop(ends)
                replica = replicas[index]
                if replica.next_end_ps != now:
                    continue
                touched.add(index)
                for request in replica.complete(now):
                    finish(request.query)
        while deadlines and deadlines[0][0] <= now:
            number = deadlines.popleft()[1]
            if done[number]:
                continue
            failed[number] = True
            waiting = requests[number]
            if waiting is not None:
                replicas[waiting.replica].cancel(waiting, now, Status.TIMED_OUT)
                touched.add(waiting.replica)
            finish(number)
        while following < count and open_ < cap and due[following] <= now:
            if warm and following == warm and open_ > 0:
                break
            number, following = following, following + 1
            sent[number] = now
            open_ += 1
            submissions.append((now + front_end_ps, number))
            if load.timeout_ps is not None:
                deadlines.append((now + load.timeout_ps, number))
        while submissions and submissions[0][0] <= now:
            number = submissions.popleft()[1]
            if done[number]:
                continue
            request = Request(
                number,
                arrived_ps=now,
                prompt_tokens=prompts[number],
                output_tokens=outputs[number],
                max_tokens=outputs[number] if load.max_tokens is None else load.max_tokens,
                query=number,
                prefix_group=None if shared is None else ("prompt", shared[number]),
                prefix_len=0 if shared is None else prompts[number],
            )
            index = request.replica = route(replicas, request)
            requests[number] = request
            if replicas[index].never_fits(request):
                failed[number] = True
                finish(number)
                continue
            replicas[index].submit(request, now)
            touched.add(index)
        for index in sorted(touched):
            end = replicas[index].plan(now)
            if end is not None:
                heapq.heappush(ends, (end, index))
    return _seen(requests, sent, end_ps, failed, outputs, warm)


def _seen(
    requests: Sequence[Request | None],
    sent: Sequence[int],
    end_ps: Sequence[int],
    failed: Sequence[bool],
    outputs: Sequence[int],
    warm: int,
) -> Replayed:
    first = np.array([-1 if one is None else one.first_token_ps for one in requests], dtype=np.int64)[warm:]
    sent_ps = np.array(sent, dtype=np.int64)[warm:]
    ended = np.array(end_ps, dtype=np.int64)[warm:]
    ok = ~np.array(failed, dtype=bool)[warm:] & (ended >= 0)
    with np.errstate(invalid="ignore"):
        ttft = np.where(ok & (first >= 0), (first - sent_ps) / PS_PER_S, np.nan)
        e2e = np.where(ok, (ended - sent_ps) / PS_PER_S, np.nan)
    return Replayed(
        sent_s=sent_ps / PS_PER_S,
        ttft_s=ttft,
        e2e_s=e2e,
        output_tokens=np.array(outputs, dtype=np.int64)[warm:],
        ok=ok,
        replica=np.array([-1 if one is None else one.replica for one in requests], dtype=np.int64)[warm:],
        end_s=float(ended.max(initial=0)) / PS_PER_S,
    )
