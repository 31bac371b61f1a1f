"""Prefill and decode on different replicas: two legs of one request, and the KV that goes from one to the other.

As vLLM's connectors do it. A request that is routed to a replica of a prefill pool is computed there as its *first leg*: the
prompt and one token, which is thrown away. Its blocks are kept. The request then goes to a replica of a decode pool of the
same model, which reserves blocks for the prompt when it can, and only then is the KV copied: first come, first served, on the
links of both replicas. When the copy is there the prefill replica lets its blocks go, and the decode replica computes the
prompt's last token, which yields the first token that the client sees.

A first leg that is preempted while its token is in flight ends with nothing kept: then the decode replica computes the prompt
itself. A leg has a row of its own with the role ``prefill``. Whatever is lost of either leg is lost for both: the request is sent
again from the beginning. Legs of one query are placed each by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from sim.cluster.clock import ARRIVAL, REACTION, Clock
from sim.cluster.dispatch import place
from sim.cluster.shell import Shell
from sim.engine.request import KV_TO_COME, NO_KV_TO_COME, Request
from sim.policies.routing import Choose
from sim.results.columns import Role, Status

if TYPE_CHECKING:
    from sim.cluster.gateway import Gateway

PS_PER_S = 1e12


@dataclass(frozen=True)
class Link:
    """What one GPU's network link does; a replica has as many as it has GPUs."""

    bytes_per_s: float
    latency_ps: int = 0
    """From the order for a copy to its first byte, and no matter how many are under way."""


@dataclass
class _Pair:
    """A request on its way through both legs."""

    request: Request
    leg: Request
    source: int
    """Replica of the first leg."""
    target: int = -1
    """Replica of the second leg, -1 until it is chosen."""
    kept: bool = False
    """The source keeps its blocks."""
    copying: bool = False
    """The copy was ordered."""
    links_until_ps: int = 0
    """When it lets go of both links."""


class Handover:
    """Takes requests through prefill and decode pools, on behalf of a gateway's dispatcher.

    *block_bytes* holds, by pool, the size of a KV block on a whole replica.
    """

    def __init__(
        self,
        clock: Clock,
        gateway: Gateway,
        *,
        link: Link,
        block_bytes: Sequence[int],
        choose: Choose,
    ) -> None:
        self._clock = clock
        self._gateway = gateway
        self._link = link
        self._block_bytes = block_bytes
        self._choose = choose
        self._of_request: dict[int, _Pair] = {}
        self._of_leg: dict[int, _Pair] = {}
        self._legs_of_sessions: dict[int, Request] = {}
        self._parked: list[_Pair] = []
        self._out_free_ps: dict[int, int] = {}
        self._in_free_ps: dict[int, int] = {}
        self._decoders: dict[str, tuple[int, ...]] = {}
        self._one_of_each: dict[str, tuple[Shell, ...]] = {}
        self.transfers = 0
        self.bytes_moved = 0

    # ------------------------------------------------------------------ who is there

    def membership_changed(self) -> None:
        """Replicas came or went."""
        found: dict[str, list[int]] = {}
        pools: dict[str, dict[str, Shell]] = {}
        for shell in self._gateway.shells:
            info = shell.info
            if info.role == "decode":
                pools.setdefault(info.model, {}).setdefault(info.pool, shell)
                if shell.accepting:
                    found.setdefault(info.model, []).append(info.index)
        self._decoders = {model: tuple(indices) for model, indices in found.items()}
        self._one_of_each = {model: tuple(shells.values()) for model, shells in pools.items()}
        parked, self._parked = self._parked, []
        for pair in parked:
            self._place_soon(pair)

    # ------------------------------------------------------------------ the first leg

    def begin(self, request: Request, index: int) -> str | None:
        """Start *request* on replica *index* of a prefill pool; return why it can never be served, if so."""
        gateway = self._gateway
        shells = gateway.shells
        leg = self._make_leg(request)
        why = shells[index].engine.never_fits(leg)
        if why is not None:
            return why
        model = shells[index].info.model
        refusals = [shell.engine.never_fits(request) for shell in self._one_of_each[model]]
        if all(refusal is not None for refusal in refusals):
            return refusals[0]
        gateway.tally.requests += 1
        pair = _Pair(request, leg, index)
        self._of_request[request.id] = self._of_leg[leg.id] = pair
        if request.session >= 0:
            self._legs_of_sessions[request.query] = leg
        gateway.dispatch.send_leg(leg, index)
        info = shells[index].info
        request.pool, request.replica = info.pool_index, info.replica
        return None

    def _make_leg(self, request: Request) -> Request:
        leg = Request(
            self._gateway.tally.requests,
            arrived_ps=self._clock.now_ps,
            prompt_tokens=request.prompt_tokens,
            output_tokens=1,
            max_tokens=1,
            query=request.query,
            sample=request.sample,
            role=Role.PREFILL,
            priority=request.priority,
            category=request.category,
            client=request.client,
            session=request.session,
            prefix_group=request.prefix_group,
            prefix_len=request.prefix_len,
        )
        leg.keeps_kv = True
        leg.predicted_tokens = 1
        leg.deadline_ps = request.deadline_ps
        if request.parent is not None:
            leg.parent = self._legs_of_sessions.pop(request.parent.query, None)
        return leg

    def leg_ended(self, leg: Request) -> None:
        """An engine is done with a first leg: its KV is kept there, unless it was taken back."""
        gateway = self._gateway
        pair = self._of_leg[leg.id]
        if leg.status == Status.COMPLETED:
            _throw_token_away(leg)
            pair.kept = leg.keeps_kv
            gateway.requests.take(leg)
            if not pair.kept:
                gateway.dispatch.forget(leg)
            if gateway.settle_lingering(pair.request):  # its client left while the last step was paid
                self._leave_source(pair)
                self._drop(pair)
            else:
                self._place_soon(pair)
            return
        gateway.requests.take(leg)
        gateway.dispatch.forget(leg)
        self._drop(pair)
        gateway.settle_lingering(pair.request)

    # ------------------------------------------------------------------ the second leg

    def _place_soon(self, pair: _Pair) -> None:
        self._clock.soon(ARRIVAL, place(pair.request), partial(self._place, pair))

    def _place(self, pair: _Pair) -> None:
        request, gateway = pair.request, self._gateway
        if self._of_request.get(request.id) is not pair:
            return  # lost or taken back meanwhile
        shells = gateway.shells
        candidates = self._decoders.get(shells[pair.source].info.model, ())
        if not candidates:
            self._parked.append(pair)
            return
        view: Any = gateway.dispatch.view_of(candidates)
        index = self._choose(view, request)
        if index not in candidates:
            gateway.dispatch.wrong(index, candidates)
        if shells[index].engine.never_fits(request) is not None:
            fits = tuple(i for i in candidates if shells[i].engine.never_fits(request) is None)
            if not fits:
                self._parked.append(pair)
                return
            index = self._choose(gateway.dispatch.view_of(fits), request)
            if index not in fits:
                gateway.dispatch.wrong(index, fits)
        pair.target = index
        request.awaits_kv = KV_TO_COME if pair.kept else NO_KV_TO_COME
        cut = request.truncated
        gateway.dispatch.send_leg(request, index)
        request.truncated = request.truncated or cut
        if not pair.kept:
            self._drop(pair)

    def reserved(self, request: Request, blocks: int) -> None:
        """A decode replica has set blocks aside for *request*, *blocks* of which are to be copied."""
        pair = self._of_request[request.id]
        source, target, now_ps = pair.source, pair.target, self._clock.now_ps
        shells = self._gateway.shells
        size = blocks * self._block_bytes[shells[target].info.pool_index]
        gpus = min(shells[source].info.gpus, shells[target].info.gpus)
        busy_ps = round(size / (self._link.bytes_per_s * gpus) * PS_PER_S)
        start_ps = max(now_ps, self._out_free_ps.get(source, 0), self._in_free_ps.get(target, 0))
        self._out_free_ps[source] = self._in_free_ps[target] = pair.links_until_ps = start_ps + busy_ps
        pair.copying = True
        self.transfers += 1
        self.bytes_moved += size
        # at least a picosecond: what comes at the very instant of a plan was not there when it was made
        end_ps = start_ps + max(1, busy_ps + self._link.latency_ps)
        self._clock.at(end_ps, REACTION, pair.leg.id, partial(self._arrived, pair))

    def _arrived(self, pair: _Pair) -> None:
        if pair.kept:
            self._let_go(pair)
        request, shell = pair.request, self._gateway.shells[pair.target]
        if self._of_request.get(request.id) is not pair:
            return  # it was lost or taken back meanwhile
        self._drop(pair)
        shell.touch()
        shell.engine.land(request, self._clock.now_ps)

    # ------------------------------------------------------------------ what ends early

    def under_way(self, request: Request) -> bool:
        """Whether *request* is between its submission to a prefill pool and the arrival of its KV."""
        return request.id in self._of_request

    def cancel(self, request: Request, status: Status) -> bool:
        """Take *request* back, whose KV has not come; True when it ended at once."""
        pair = self._of_request[request.id]
        gateway = self._gateway
        now_ps = self._clock.now_ps
        if pair.leg.status == Status.UNFINISHED:
            if not gateway.shells[pair.source].cancel(pair.leg, status):
                return False  # `leg_ended` follows
            gateway.requests.take(pair.leg)
            gateway.dispatch.forget(pair.leg)
        elif pair.target >= 0:
            gateway.dispatch.forget(request)
            self._drop(pair)
            self._leave_source(pair)
            return gateway.shells[pair.target].cancel(request, status)
        else:
            self._leave_source(pair)
        self._drop(pair)
        request.status, request.finished_ps = status, now_ps
        return True

    def lost(self, index: int) -> None:
        """Replica *index* is gone. First legs end with it; copies from it never come, copies to it have no use."""
        gateway, now_ps = self._gateway, self._clock.now_ps
        for pair in sorted(self._of_request.values(), key=_by_leg):
            if index not in (pair.source, pair.target):
                continue
            if pair.leg.status == Status.UNFINISHED:
                pair.leg.status, pair.leg.finished_ps = Status.FAILED, now_ps
                gateway.requests.take(pair.leg)
                gateway.dispatch.forget(pair.leg)
                self._drop(pair)
                if pair.request.status == Status.UNFINISHED:
                    gateway.retries.lose(pair.request)
                continue
            if pair.target >= 0:
                gateway.dispatch.forget(pair.request)
            if index == pair.source:
                pair.kept = False
                gateway.dispatch.forget(pair.leg)
            self._drop(pair)
            if index == pair.source:
                if pair.target >= 0:
                    gateway.shells[pair.target].cancel(pair.request, Status.FAILED)
            elif pair.kept:
                self._let_go(pair)  # its copy, under way or not, ends with the target
            gateway.retries.lose(pair.request)
        for leg_id in [key for key, pair in self._of_leg.items() if pair.source == index and pair.kept]:
            pair = self._of_leg.pop(leg_id)  # a copy that nobody wants any more
            pair.kept = False
            gateway.dispatch.forget(pair.leg)
        self._free_links()

    def _free_links(self) -> None:
        """New copies follow those that are still to come; what was ordered keeps its time."""
        self._out_free_ps, self._in_free_ps = {}, {}
        for pair in (*self._of_request.values(), *self._of_leg.values()):
            if pair.copying:
                for free_ps, end in ((self._out_free_ps, pair.source), (self._in_free_ps, pair.target)):
                    free_ps[end] = max(free_ps.get(end, 0), pair.links_until_ps)

    def withdraw(self, request: Request) -> bool:
        """Take the first leg of *request* back before its first step, so that it can be sent elsewhere; True if so."""
        pair = self._of_request[request.id]
        leg, gateway = pair.leg, self._gateway
        if leg.status != Status.UNFINISHED or leg.first_scheduled_ps >= 0:
            return False
        if not gateway.shells[pair.source].cancel(leg, Status.CANCELLED):
            return False
        gateway.dispatch.forget(leg)
        gateway.requests.take(leg)
        self._drop(pair)
        return True

    def finish(self) -> None:
        """The run is over: first legs that are open leave their rows."""
        for pair in sorted(self._of_leg.values(), key=_by_leg):
            if pair.leg.status == Status.UNFINISHED:
                pair.leg.known = pair.leg.prompt_tokens
                self._gateway.requests.take(pair.leg)

    def _leave_source(self, pair: _Pair) -> None:
        """What the source keeps is of no use: it goes back at once, or when the copy that is under way ends."""
        if pair.kept and not pair.copying:
            self._let_go(pair)

    def _let_go(self, pair: _Pair) -> None:
        pair.kept = False
        self._of_leg.pop(pair.leg.id, None)
        shell = self._gateway.shells[pair.source]
        shell.touch()
        shell.engine.let_go(pair.leg, self._clock.now_ps)
        self._gateway.dispatch.forget(pair.leg)

    def _drop(self, pair: _Pair) -> None:
        self._of_request.pop(pair.request.id, None)
        if not pair.kept:
            self._of_leg.pop(pair.leg.id, None)


def _by_leg(pair: _Pair) -> int:
    return pair.leg.id


def _throw_token_away(leg: Request) -> None:
    """The token of a first leg reaches nobody: the decode replica computes it again."""
    leg.known = leg.prompt_tokens
    leg.dropped_tokens += 1
    leg.first_answer_ps = -1


class DecodeShell(Shell):
    """The shell of a replica that takes KV from others: tells the handover what its engine has reserved."""

    __slots__ = ("handover",)

    handover: Handover

    def plan(self, now_ps: int, quiet_until_ps: int) -> int | None:
        """See `Shell.plan`."""
        # what is reserved must be heard of when it is: only with an empty queue may the engine go on alone
        next_end_ps = super().plan(now_ps, 0 if self.engine.waiting else quiet_until_ps)
        reservations = self.engine.reservations
        if reservations:
            told = reservations.copy()
            reservations.clear()
            for request, blocks in told:
                self.handover.reserved(request, blocks)
        return next_end_ps
